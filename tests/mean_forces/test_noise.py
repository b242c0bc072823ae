"""Noise floor, against frames whose noise is known."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_cgkd.cli.commands import app
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames, write_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mean_forces.file import MeanForces, write_mean_forces
from openmm_cgkd.mean_forces.noise import noise_floor

SIGNAL, NOISE = np.array([100.0, 40.0]), np.array([250.0, 300.0])  # kJ/mol/nm, per type


@pytest.fixture
def known():
    random = np.random.default_rng(1)
    types = np.arange(30) % 2
    beads = BeadTopology(("A", "B"), types, np.ones(30), np.arange(30))
    truth = random.normal(0, SIGNAL[types][:, None], (200, 30, 3))
    labels = truth + random.normal(0, NOISE[types][:, None], truth.shape)
    box, time = np.tile(3 * np.eye(3), (200, 1, 1)), np.arange(200.0)
    frames = Frames(labels * 0, labels, box, time, np.arange(200), beads, {"temperature": 300.0})
    error = np.full((60, 30, 3), 50.0)
    estimates = truth[:60] + random.normal(0, 50.0, error.shape)
    return frames, MeanForces(
        error * 0, estimates, error, box[:60], time[:60], beads, {"temperature": 300.0}
    )


def test_known_noise_is_found(known):
    floors = noise_floor(*known)
    assert [floor.name for floor in floors] == ["A", "B", "all"]
    for floor, signal, noise in zip(floors, SIGNAL, NOISE, strict=False):
        assert abs(floor.mean_force - signal**2) < 4 * floor.mean_force_error
        assert abs(floor.noise / noise**2 - 1) < 0.06
        assert abs(floor.share - noise**2 / (noise**2 + signal**2)) < 0.03
    assert 0.2 * SIGNAL[0] ** 2 > floors[0].mean_force_error > 0.01 * SIGNAL[0] ** 2


def test_the_exact_model_has_the_loss_of_the_floor(known):
    frames, mean_forces = known
    labels = (
        np.random.default_rng(2).normal(0, 1, (2000, 30, 3)) * NOISE[frames.beads.types][:, None]
    )
    noise_only = replace(frames, forces=labels)
    loss_of_exact_model = (labels**2).mean()  # of a model that predicts the mean, here zero
    floor = noise_floor(
        noise_only,
        replace(
            mean_forces,
            forces=mean_forces.forces * 0,
            standard_error=mean_forces.standard_error * 0,
        ),
    )[-1]
    assert floor.noise == pytest.approx(loss_of_exact_model)
    assert floor.share == pytest.approx(1)


def test_foreign_mean_forces_are_refused(known):
    frames, mean_forces = known
    other = BeadTopology(("A", "B"), np.zeros(30, int), np.ones(30), np.arange(30))
    with pytest.raises(FramesError, match="30 A, 0 B"):
        noise_floor(frames, replace(mean_forces, beads=other))
    with pytest.raises(FramesError, match="at 350 K"):
        noise_floor(frames, replace(mean_forces, attributes={"temperature": 350.0}))
    one = {
        name: getattr(mean_forces, name)[:1]
        for name in ("positions", "forces", "standard_error", "box", "time")
    }
    with pytest.raises(FramesError, match="one configuration"):
        noise_floor(frames, replace(mean_forces, **one))


def test_command(known, tmp_path):
    write_frames(known[0], tmp_path / "frames.h5")
    write_mean_forces(tmp_path / "mean.h5", known[1])
    result = CliRunner().invoke(
        app, ["noise", str(tmp_path / "frames.h5"), "--meanforce", str(tmp_path / "mean.h5")]
    )
    assert result.exit_code == 0
    rows = {
        line.split()[0]: line.split()
        for line in result.stdout.splitlines()
        if line.split()[:1] in (["A"], ["B"], ["all"])
    }
    assert abs(float(rows["B"][-3]) - 300**2 / (300**2 + 40**2)) < 0.02
    result = CliRunner().invoke(
        app, ["noise", str(tmp_path / "frames.h5"), "--meanforce", str(tmp_path / "frames.h5")]
    )
    assert result.exit_code == 2
