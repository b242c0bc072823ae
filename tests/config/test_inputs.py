"""Files that a run.yaml names."""

from pathlib import Path

import pytest

from openmm_cgkd.config.inputs import check_inputs
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import ConfigError

from ..cases.paths import ETHALINE


@pytest.mark.parametrize(
    ("field", "cure"),
    [
        ("frames", "make mapped frames"),
        ("second_frames", "make a second all-atom run"),
        ("potential", "export one"),
        ("mean_forces", "make them with 'cgkd meanforce'"),
    ],
)
def test_every_input_that_is_not_there_is_named_with_its_cure(tmp_path, field, cure):
    names = ("frames", "second_frames", "potential", "mean_forces")
    for name in names:
        tmp_path.joinpath(name).touch()
    run = RunConfig(
        system="absent.yaml", folder="results", **{name: tmp_path / name for name in names}
    )
    check_inputs(run)
    tmp_path.joinpath(field).unlink()
    with pytest.raises(ConfigError, match=rf"^{field}: {tmp_path / field}: no such file; {cure}"):
        check_inputs(run)
    check_inputs(run, [name for name in (*names, "folder", "seed") if name != field])


def test_inputs_that_a_run_does_not_name_are_not_missed():
    check_inputs(RunConfig(system=Path("absent.yaml"), folder=Path("results")))


@pytest.mark.parametrize(
    ("load", "given", "wanted"),
    [(load_run, "system.yaml", "run.yaml"), (load_system, "run.yaml", "system.yaml")],
)
def test_the_other_kind_of_file_is_told_from_a_field_that_is_missing(load, given, wanted):
    with pytest.raises(ConfigError) as caught:
        load(ETHALINE / given)
    assert str(caught.value) == (
        f"{ETHALINE / given}: has the fields of a {given}; give the path of a {wanted}."
    )
