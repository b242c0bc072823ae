"""Frames of another fluid than system.yaml describes are refused before any work."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.stages.same_fluid import check_same_fluid
from tests.cases.fluids import ETHALINE


@pytest.fixture(scope="module")
def frames() -> Frames:
    return read_frames(ETHALINE / "frames.h5")[:2]


def system(tmp_path: Path, **changes) -> Path:
    """system.yaml of ethaline with other fields."""
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    for molecule in data["molecules"]:
        molecule["structure"] = str(ETHALINE / molecule["structure"])
    data["force_field"] = str(ETHALINE / data["force_field"])
    (tmp_path / "system.yaml").write_text(yaml.safe_dump(data | changes))
    return tmp_path / "system.yaml"


def beads(**selections: str) -> list[dict]:
    return [
        {"type": name, "molecule": name, "selection": selections.get(name, "all")}
        for name in ("CHO", "CL", "EGL")
    ]


def molecules(**counts: int) -> list[dict]:
    return [
        {"name": name, "structure": str(ETHALINE / f"molecules/{name}.pdb"), "count": counts[name]}
        for name in ("CHO", "CL", "EGL")
    ]


def test_frames_of_the_fluid(frames, tmp_path):
    check_same_fluid(ETHALINE / "system.yaml", frames, Path("frames.h5"))
    check_same_fluid(system(tmp_path), frames, Path("frames.h5"))
    check_same_fluid(tmp_path / "absent.yaml", frames, Path("frames.h5"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": "300 K"}, r"frames have temperature 363\.15 K, .* has 300 K"),
        (
            {"molecules": molecules(CHO=60, CL=60, EGL=119)},
            r"the molecules 60 CHO, 60 CL, 120 EGL, .* has 60 CHO, 60 CL, 119 EGL",
        ),
        ({"beads": [dict(b, type=b["type"][:2]) for b in beads()]}, r"has 60 CH, 60 CL, 120 EG"),
        (
            {"beads": beads(EGL="name C1 C2 O1 O2"), "force_map": "optimal"},
            r"the selections .*EGL 'all', .* has .*EGL 'name C1 C2 O1 O2'",
        ),
    ],
)
def test_another_fluid_is_refused(frames, tmp_path, changes, message):
    with pytest.raises(FramesError, match=message):
        check_same_fluid(system(tmp_path, **changes), frames, Path("frames.h5"))


def test_frames_of_a_mapping_file_are_of_their_molecules(frames, tmp_path):
    mapped = dataclasses.replace(
        frames, attributes={**frames.attributes, "options": json.dumps({"mapping": "abc"})}
    )
    check_same_fluid(ETHALINE / "system.yaml", mapped, Path("frames.h5"))
    others = system(tmp_path, molecules=molecules(CHO=60, CL=60, EGL=119))
    with pytest.raises(FramesError, match=r"have the molecules 60 CHO, 60 CL, 120 EGL"):
        check_same_fluid(others, mapped, Path("frames.h5"))


def test_other_masses_are_refused(frames, tmp_path):
    """Frames that do not say how they were made: united atoms weigh more than their carbon."""
    heavy = dataclasses.replace(frames.beads, masses=frames.beads.masses + 2.0)
    others = dataclasses.replace(frames, beads=heavy, attributes={"temperature": 363.15})
    with pytest.raises(FramesError, match=r"a mass of CHO 106\.\d+ dalton, .* has 104\.\d+ dalton"):
        check_same_fluid(system(tmp_path), others, Path("frames.h5"))


def test_beads_of_a_mapping_file_are_not_those_of_the_configuration(frames, tmp_path):
    others = dataclasses.replace(
        frames, attributes={**frames.attributes, "options": json.dumps({"mapping": "hash"})}
    )
    path = system(tmp_path, beads=beads(EGL="name C1 C2 O1 O2"))
    check_same_fluid(path, others, Path("frames.h5"))
    assert np.isfinite(others.positions).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("options", "[" * 1000, "the attribute options of the frames, line 1: values are nested"),
        ("options", "[1, 2]", r"the attribute options of the frames is \[1, 2\], not a mapping"),
        ("configuration", "beads: 5", "has the selections 5|the selections 5, "),
        ("configuration", "a: b: c", "the attribute configuration of the frames, line 1"),
    ],
)
def test_attributes_of_strangers(frames, tmp_path, name, text, message):
    others = dataclasses.replace(frames, attributes={**frames.attributes, name: text})
    with pytest.raises(FramesError, match=message):
        check_same_fluid(system(tmp_path), others, Path("frames.h5"))
