"""What a potential file says about itself is physical, or refused by the name of the field."""

import copy
import math

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from openmm_cgkd.cli.commands import app
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.metadata import (
    PotentialMetadata,
    read_metadata,
    tensornet_settings,
)
from tests.cases import hostile
from tests.cases.potential import CONFIG, CUTOFF, MASSES, NAMES, PRIOR, metadata, rewritten
from tests.cases.potential import write_toy_potential as write

BONDED = {
    "molecules": [{"beads": ["CHO", "CL"], "bonds": [[0, 1]]}],
    "bonds": [{"types": ["CHO", "CL"], "constant": 1e4, "length": 0.3}],
    "angles": [{"types": ["CHO", "CL", "CHO"], "constant": 10.0, "cosine": -0.5}],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "student.pt")


def prior(**changes):
    return {"prior": {**PRIOR.as_dict(), "type_names": list(NAMES), **changes}}


def bonded(path, value):
    """The prior with one value of its bonds replaced, by the path to it."""
    content = copy.deepcopy(BONDED)
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return prior(bonded=content)


def network(**changes):
    return {"network": {**CONFIG.model_dump(), **changes}}


CONTACT = PRIOR.contact
BAD = [
    ({"masses": [*MASSES[:2], math.nan]}, r"masses\.2"),
    ({"masses": [*MASSES[:2], math.inf]}, r"masses\.2"),
    ({"masses": [*MASSES[:2], -1.0]}, r"masses\.2"),
    ({"masses": [*MASSES[:2], 0.0]}, r"masses\.2"),
    ({"masses": MASSES[:2]}, "masses"),
    ({"masses": [*MASSES[:2], "heavy"]}, r"masses\.2"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"temperature": -300.0}, "temperature"),
    ({"temperature": 0.0}, "temperature"),
    ({"cutoff": math.nan}, "cutoff"),
    ({"cutoff": math.inf}, "cutoff"),
    ({"cutoff": 0.0}, "cutoff"),
    ({"cutoff": 1e6}, "cutoff"),
    ({"cutoff": 0.9}, "network: the cutoff of the network, 0.8 nm, is not 0.9 nm"),
    ({"type_names": ["CHO", "CL", "CL"]}, "type_names"),
    ({"type_names": ["CHO", "CL", ""]}, r"type_names\.2"),
    ({"type_names": [str(k) for k in range(101)]}, "type_names"),
    ({"type_names": []}, "type_names"),
    ({"version": "three"}, "format version"),
    ({"kind": "quick"}, "kind"),
    ({"script": "import os"}, "script"),
    (prior(contact=[[math.nan] * 3] * 3), r"prior: contact\.0\.0"),
    (prior(contact=[[1e9] * 3] * 3), r"prior: contact\.0\.0"),
    (prior(contact=[[0.4] * 3] * 2), "prior: contact is not a table"),
    (prior(contact=[[0.4, 0.5, 0.4], [0.4] * 3, [0.4] * 3]), "prior: contact is not symmetric"),
    (prior(force=math.nan), "prior: force"),
    (prior(force="300"), "prior: force"),
    (prior(p=1.0), "prior: p"),
    (prior(distance=0.0), "prior: distance"),
    (prior(stiffness=-1.0), "prior: stiffness: got -1"),
    (prior(stiffness=100.0), "prior: stiffness 100 kJ/mol/nm.2 is below 299"),
    (prior(type_names=["A", "B", "C"]), "prior: its bead types"),
    (prior(hook="x"), "prior: hook"),
    (bonded(("bonds", 0, "constant"), math.inf), r"prior: bonded\.bonds\.0\.constant"),
    (bonded(("bonds", 0, "length"), -0.3), r"prior: bonded\.bonds\.0\.length"),
    (bonded(("bonds", 0, "types"), ["CHO", "X"]), "'X', which is no bead type"),
    (bonded(("angles", 0, "cosine"), 1.5), r"prior: bonded\.angles\.0\.cosine"),
    (bonded(("molecules", 0, "bonds"), [[0, 2]]), "does not join"),
    (bonded(("molecules", 0, "beads"), []), r"bonded\.molecules\.0\.beads"),
    (network(channels=10**9), "network: channels"),
    (network(channels=0), "network: channels"),
    (network(channels="8"), "network: channels"),
    (network(layers=10**6), "network: layers"),
    (network(radial_functions=10**9), "network: radial_functions"),
    (network(cutoff="0.8 nm"), "network: cutoff"),
    (network(cutoff="1 nanometer**9**9**9"), "network: cutoff"),
    (network(cutoff=0.8), "network: cutoff"),
    (network(scale=math.nan), "network: its scale"),
    (network(attention=True), "network: attention"),
]


@pytest.mark.parametrize(("changes", "field"), BAD)
def test_fields_that_are_not_physical(file, tmp_path, changes, field):
    bad = rewritten(file, tmp_path / "bad.pt", hashed=True, **changes)
    with pytest.raises(ModelFileError, match=f"bad.pt: .*{field}") as caught:
        read_metadata(bad)
    assert len(str(caught.value)) < 500
    if "version" not in changes:
        with pytest.raises(ValidationError):
            metadata(**changes)


def test_good_ones():
    for changes in (
        prior(bonded=BONDED),
        prior(stiffness=None),
        {"temperature": 1},
        {"masses": [1, 2, 3]},
    ):
        metadata(**changes)
    described = CONFIG.model_dump()
    exact = CUTOFF * (1 + 1e-12)  # ten digits of it stand in the description
    assert tensornet_settings(described, exact).cutoff == exact
    assert PotentialMetadata.model_validate(metadata().model_dump()) == metadata()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "cannot be read"),
        (b'{"format": ' + b"[" * 500 + b"]" * 500 + b"}", "nested too deep"),
        (b'{"version": ' + b"9" * 100_000 + b"}", "cannot be read"),
        (b'{"x": "' + b" " * 2**22 + b'"}', "larger than 4 MB"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "not a potential"),
        (b"", "cannot be read"),
    ],
)
def test_text_that_is_no_metadata(file, tmp_path, text, reason):
    members = {"archive/code/a.py": b"", "archive/extra/metadata.json": text}
    with pytest.raises(ModelFileError, match=reason):
        read_metadata(hostile.zipped(tmp_path / "bad.pt", members))


def test_the_command_line_says_it_in_one_sentence(tmp_path):
    (tmp_path / "bomb.pt").write_bytes(hostile.bomb(2**23))
    command = ["timestep", str(tmp_path / "bomb.pt"), "--frames", "tests/data/0.1/frames.h5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "bomb.pt: is not a TorchScript file that can be read" in " ".join(result.output.split())
    assert "Traceback" not in result.output
