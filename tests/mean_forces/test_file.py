"""The file of mean forces, and the error of the slope between two estimates."""

import dataclasses

import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.mean_forces.file import (
    Estimates,
    MeanForces,
    read_mean_forces,
    write_mean_forces,
)
from tests.cases.flips import outcomes
from tests.cases.frames import BEADS, TRICLINIC, N, edited


def slopes(frames: int, beads: int, together: int, repeats: int = 400) -> tuple[float, float]:
    """Scatter of the slope over repeats, and the root mean square of its stated error.

    Forces of 30, errors of 30 and 20 kJ/mol/nm; so many beads in a row err alike.
    """
    random = np.random.default_rng(8)
    shape = (frames, beads, 3)
    found = []
    for _ in range(repeats):
        truth = random.normal(0, 30, shape)
        errors = [
            np.repeat(random.normal(0, width, (frames, beads // together, 3)), together, axis=1)
            for width in (30, 20)
        ]
        if together > 1:
            truth = np.repeat(truth[:, ::together], together, axis=1)
        given = (truth + errors[0], truth + errors[1], np.full(shape, 30.0), np.full(shape, 20.0))
        found.append(Estimates(*given).agreement())
    scatter = np.std([each["slope"] for each in found])
    return scatter, np.sqrt(np.mean([each["slope_error"] ** 2 for each in found]))


@pytest.mark.parametrize("frames", [2, 40])
def test_error_of_independent_components(frames):
    scatter, error = slopes(frames, 120, 1)
    assert error == pytest.approx(scatter, rel=0.15)


def test_beads_that_err_together():
    """Independent components would make the error smaller by the root of six."""
    scatter, error = slopes(40, 120, 6)
    assert error == pytest.approx(scatter, rel=0.15)


def test_slope_is_one_on_average():
    random = np.random.default_rng(9)
    truth = random.normal(0, 30, (40, 200, 3))
    shape = truth.shape
    given = (truth + random.normal(0, 30, shape), truth + random.normal(0, 20, shape))
    found = Estimates(*given, np.full(shape, 30.0), np.full(shape, 20.0)).agreement()
    assert abs(found["slope"] - 1) < 4 * found["slope_error"] < 0.1
    assert found["difference"] == pytest.approx(found["expected"], rel=0.05)


@pytest.mark.parametrize(
    ("frames", "together", "slope"), [(10, 1, 1.0), (20, 6, 1.0), (20, 6, 0.9), (2, 1, 1.0)]
)
def test_error_bars_of_the_slope_hold_the_truth_as_often_as_they_say(frames, together, slope):
    """With signals whose size differs between beads, as forces in a liquid do."""
    random, beads, z = np.random.default_rng(10), 120, []
    few = (frames, beads // together, 3)
    for _ in range(400):
        truth = random.normal(0, 30, few) * np.exp(0.5 * random.normal(size=(*few[:2], 1)))
        first, second = truth + random.normal(0, 30, few), slope * truth + random.normal(0, 20, few)
        given = [np.repeat(each, together, axis=1) for each in (first, second)]
        shape = given[0].shape
        found = Estimates(*given, np.full(shape, 30.0), np.full(shape, 20.0)).agreement()
        z.append((found["slope"] - slope) / found["slope_error"])
    # 68.3 % within one error; 400 repeats scatter by 2.3 %
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.07)
    assert np.std(z) == pytest.approx(1, abs=0.15)
    assert abs(np.mean(z)) < 0.2


@pytest.fixture
def mean_forces() -> MeanForces:
    random = np.random.default_rng(3)
    positions, forces = random.normal(size=(2, 3, N, 3)).astype("f4")
    error = np.abs(random.normal(size=forces.shape)).astype("f4")
    attributes = {"temperature": 363.15, "starts": 4, "start_products": np.eye(2), "system": "x"}
    box = np.repeat(TRICLINIC[None], 3, axis=0)
    return MeanForces(positions, forces, error, box, np.arange(3.0), BEADS, attributes)


def test_flipped_bits(tmp_path, mean_forces):
    path = tmp_path / "mean_forces.h5"
    check = Estimates(
        mean_forces.forces, mean_forces.positions, mean_forces.standard_error, mean_forces.forces
    )
    write_mean_forces(path, mean_forces, {"other_start": check})
    found = outcomes(path, read_mean_forces, 200)
    assert found["refused"] > 20
    assert found["refused"] + found["same"] == 200, found


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("forces", np.nan, "forces of frame 1 are not finite; make the file again with 'cgkd mean"),
        ("box", np.inf, "box of frame 1 are not finite"),
        ("box", 0.0, "the box of frame 1 has no volume"),
        ("time", np.nan, "time of frame 1 are not finite"),
        ("standard_error", -1.0, "has standard errors below zero"),
    ],
)
def test_values_that_are_not_physical(tmp_path, mean_forces, name, value, message):
    values = getattr(mean_forces, name).copy()
    values[1] = value
    path = tmp_path / "mean_forces.h5"
    write_mean_forces(path, dataclasses.replace(mean_forces, **{name: values}))
    with pytest.raises(FramesError, match=message):
        read_mean_forces(path)


def test_shapes_that_do_not_fit(tmp_path, mean_forces):
    path = tmp_path / "mean_forces.h5"
    write_mean_forces(path, mean_forces)
    with edited(path) as file:
        del file["box"]
        file["box"] = TRICLINIC
    with pytest.raises(FramesError, match=r"box have shape \(3, 3\) .* expected \(3, 3, 3\)"):
        read_mean_forces(path)
