"""States of simulations, and what else a file that should hold one may hold."""

import openmm
import pytest

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.utils.state_file import read_state


@pytest.fixture
def context():
    system = openmm.System()
    system.addParticle(1.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    found = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    found.setPositions([[1.0, 2.0, 3.0]])
    return found


def test_state_reads_back(context, tmp_path):
    state = context.getState(positions=True)
    path = tmp_path / "state.xml"
    path.write_text(openmm.XmlSerializer.serialize(state))
    assert read_state(path).getPositions()[0] == state.getPositions()[0]


def test_nothing_but_a_state_is_made(context, tmp_path, monkeypatch):
    path = tmp_path / "state.xml"
    path.write_text(openmm.XmlSerializer.serialize(context.getSystem()))
    monkeypatch.setattr(
        openmm.XmlSerializer, "deserialize", lambda text: pytest.fail("made what the file holds")
    )
    with pytest.raises(SimulationError, match=r"state\.xml: is not a state"):
        read_state(path)


@pytest.mark.parametrize("kind", ["State", "System", "Force", "HarmonicBondForce"])
@pytest.mark.parametrize(
    "disguise",
    [
        '<?xml version="1.0" ?><State type="{kind}" version="1"><Force type="TorchForce"/></State>',
        '<State type="{kind}"><Positions><Force type="TorchForce"/></Positions></State>',
        '<?xml <System ?><State type="System" version="1">{kind}</State>',
        '<State><State type="{kind}"/></State>',
        '<!DOCTYPE State [<!ENTITY a "{kind}">]><State type="System">&a;</State>',
        '<State version="1"><Positions/></State><!-- {kind} -->',
    ],
)
def test_disguised_objects_are_not_made(tmp_path, monkeypatch, kind, disguise):
    """OpenMM makes what the attribute type of the root names, whatever the tag is."""
    path = tmp_path / "state.xml"
    path.write_text(disguise.format(kind=kind))
    monkeypatch.setattr(
        openmm.XmlSerializer, "deserialize", lambda text: pytest.fail("made what the file holds")
    )
    with pytest.raises(SimulationError, match=r"state\.xml: is not a state"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"<State", b"\xff\xfe", b"<State><Positions/>"])
def test_damaged_state_is_named(tmp_path, content):
    path = tmp_path / "state.xml"
    path.write_bytes(content)
    with pytest.raises(SimulationError, match=r"state\.xml: is not a state"):
        read_state(path)
