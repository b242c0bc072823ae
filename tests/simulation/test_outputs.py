"""What a run writes is complete or absent."""

import mdtraj
import numpy as np
import pytest
from openmm import app

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.simulation.outputs import write_topology


def beads(*names: str) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    for name in names:
        topology.addAtom(name, None, topology.addResidue(name, chain))
    return topology


@pytest.mark.parametrize("before", [None, "whole"])
def test_an_interrupted_topology_leaves_nothing(tmp_path, monkeypatch, before):
    path = tmp_path / "topology.pdb"
    if before:
        path.write_text(before)
    left = list(tmp_path.iterdir())

    def interrupt(file: str) -> None:
        raise KeyboardInterrupt(file)

    monkeypatch.setattr(mdtraj.formats, "PDBTrajectoryFile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_topology(path, beads("A", "B"), np.zeros((2, 3)), np.eye(3))
    assert list(tmp_path.iterdir()) == left
    assert not before or path.read_text() == before


def test_a_refused_topology_leaves_nothing(tmp_path):
    with pytest.raises(SimulationError, match="Bead type LONGER becomes"):
        write_topology(tmp_path / "topology.pdb", beads("LONGER"), np.zeros((1, 3)), None)
    assert not list(tmp_path.iterdir())


def test_a_topology_keeps_names_and_places(tmp_path):
    path, given = tmp_path / "topology.pdb", beads("HEAD", "A1")
    found = write_topology(path, given, np.arange(6.0).reshape(2, 3), 9 * np.eye(3))
    for each in (found, mdtraj.load_topology(path)):
        assert [atom.name for atom in each.atoms] == ["HEAD", "A1"]
        assert {atom.element for atom in each.atoms} == {mdtraj.element.virtual}
    assert mdtraj.load(path).xyz[0].ravel() == pytest.approx(np.arange(6.0))
    assert [each.name for each in tmp_path.iterdir()] == ["topology.pdb"]
