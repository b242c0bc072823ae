"""The file of the prior: its checksum, what it may hold, and old ones."""

import json

import pytest

from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.potential.bonded import BondedParameters
from openmm_cgkd.potential.prior import PriorParameters, read_prior, write_prior
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record
from tests.cases.flips import outcomes
from tests.cases.old_files import FOLDER

PRIOR = PriorParameters(
    ("A", "B"),
    [[0.31, 0.2999999999999999], [0.2999999999999999, 0.4]],
    213.7,
    0.05,
    0.015,
    BondedParameters(
        [{"beads": ["A", "B"], "bonds": [[0, 1]]}],
        [{"types": ["A", "B"], "constant": 1.5e4, "length": 0.25}],
        [],
    ),
)


def test_round_trip(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    assert read_prior(path) == PRIOR
    assert read_prior(path).identity == PRIOR.identity


def test_flipped_bits(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    found = outcomes(path, read_prior, 300)
    assert found["refused"] > 200
    assert found["refused"] + found["same"] == 300, found


def test_changed_by_hand(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    path.write_text(path.read_text().replace("213.7", "313.7"))
    with pytest.raises(TrainingError, match="checksum differs; delete it and run 'cgkd teach'"):
        read_prior(path)
    with pytest.raises(TrainingError, match="no such file; give a JSON file, or delete it and run"):
        read_prior(tmp_path / "none.json")


def test_old_file():
    """Without a checksum, and known to its labels by the SHA-256 of the file itself."""
    path = FOLDER / "prior.json"
    assert "sha256" not in path.read_text()
    assert read_prior(path).identity == file_hash(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contact": [[0.3, 0.4], [0.5, 0.6]]}, "contact is not a symmetric table of 2 bead types"),
        ({"contact": [[0.3]]}, "contact is not a symmetric table"),
        ({"contact": [[float("inf"), 0.3], [0.3, 0.3]]}, "negative or not finite"),
        ({"contact": [[-0.3, 0.3], [0.3, 0.3]]}, "negative or not finite"),
        ({"contact": "0.3"}, "contact is not a symmetric table"),
        ({"contact": [["0.3", "0.3"], ["0.3", "0.3"]]}, "contact is not a symmetric table"),
        ({"contact": [[0.3, 0.3], [0.3]]}, "is not a pair prior"),
        ({"force": float("inf")}, "are not those of a repulsion"),
        ({"force": "213"}, "is not a pair prior"),
        ({"p": 1.5}, "p = 1.5"),
        ({"p": 0}, "p = 0"),
        ({"distance": -0.015}, "distance = -0.015 nm"),
        ({"type_names": ["A", "A"]}, "the bead type names"),
        ({"type_names": None}, "is not a pair prior"),
        ({"more": 1}, "is not a pair prior"),
        ({"bonded": {"molecules": [], "bonds": [{"types": ["A", "B"]}], "angles": []}}, "is not a"),
        (
            {
                "bonded": {
                    "molecules": [],
                    "bonds": [],
                    "angles": [{"types": "AAA", "constant": float("nan"), "cosine": 0}],
                }
            },
            "bonds or angles hold numbers that are not finite",
        ),
    ],
)
def test_refused(tmp_path, change, message):
    for write in (write_record, lambda path, content: path.write_text(json.dumps(content))):
        write(tmp_path / "prior.json", {**PRIOR.as_dict(), **change})
        with pytest.raises(TrainingError, match=message):
            read_prior(tmp_path / "prior.json")
