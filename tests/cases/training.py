"""Small known-truth data for the training tests.

Soft spheres of two types with noise on their forces.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from openmm_cgkd.config.run import ModelConfig, RunConfig, StudentConfig, TrainingConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.frames.frames import Frames, FrameWriter
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.targets import Targets, mapped_targets, target_variances
from openmm_cgkd.training.task import FORCES_ONLY, TrainingTask

BOX = 1.9 * np.eye(3)
SIGMA = np.array([[0.40, 0.45], [0.45, 0.50]])  # nm
EPSILON = np.array([[1.0, 3.0], [3.0, 1.5]])  # kJ/mol
CUTOFF = 0.9  # nm


def make_beads(n: int) -> BeadTopology:
    return BeadTopology(("A", "B"), np.arange(n) % 2, np.full(n, 50.0), np.arange(n))


def true_forces(positions: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Lennard-Jones forces, shifted to zero at the cutoff, of one configuration (n, 3)."""
    delta = positions[:, None] - positions[None]
    delta -= np.round(delta / BOX[0, 0]) * BOX[0, 0]
    distance = np.linalg.norm(delta, axis=-1) + 1e9 * np.eye(len(positions))
    sigma, epsilon = SIGMA[types[:, None], types[None]], EPSILON[types[:, None], types[None]]

    def slope(r):
        return 24 * epsilon / r * (2 * (sigma / r) ** 12 - (sigma / r) ** 6)

    size = np.where(distance < CUTOFF, slope(distance) - slope(np.full_like(distance, CUTOFF)), 0.0)
    return (size[..., None] * delta / distance[..., None]).sum(1)


def _configuration(types: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Random insertion without overlaps below 0.92 sigma."""
    placed = np.empty((0, 3))
    while len(placed) < len(types):
        trial = random.random(3) * BOX[0, 0]
        delta = placed - trial
        delta -= np.round(delta / BOX[0, 0]) * BOX[0, 0]
        if (
            np.linalg.norm(delta, axis=1) > 0.92 * SIGMA[types[: len(placed)], types[len(placed)]]
        ).all():
            placed = np.vstack([placed, trial])
    return placed


def make_frames(
    n_frames: int, n_beads: int, noise: float, seed: int = 0
) -> tuple[Frames, np.ndarray]:
    """Frames with Gaussian noise of `noise` times the RMS force, and the forces without it."""
    random = np.random.default_rng(seed)
    beads = make_beads(n_beads)
    positions = np.stack([_configuration(beads.types, random) for _ in range(n_frames)])
    truth = np.stack([true_forces(frame, beads.types) for frame in positions])
    noisy = truth + random.normal(size=truth.shape) * noise * np.sqrt(np.mean(truth**2))
    index, boxes = np.arange(n_frames), np.repeat(BOX[None], n_frames, 0)
    frames = Frames(
        positions.astype("f4"),
        noisy.astype("f4"),
        boxes,
        index.astype(float),
        index,
        beads,
        {"temperature": 300.0},
    )
    return frames, truth


def write_frames(path: Path, frames: Frames) -> None:
    with FrameWriter(path, frames.beads, frames.attributes) as writer:
        for k in range(len(frames)):
            writer.append(
                frames.positions[k],
                frames.forces[k],
                frames.box[k],
                frames.time[k],
                int(frames.step[k]),
            )


def make_run(folder: Path, frames: Frames, **changes) -> RunConfig:
    """A run configuration of the smallest useful size, with the frames written to its folder."""
    if not (folder / "frames.h5").exists():
        write_frames(folder / "frames.h5", frames)
    training = {"epochs": 1, "batch_size": 4, "patience": 50}
    data = {
        "system": "system.yaml",
        "folder": "run",
        "frames": "frames.h5",
        "workers": 2,
        "split": {"gap": "0 ps"},
        "model": {"channels": 8, "layers": 1, "cutoff": f"{CUTOFF} nm", "radial_functions": 8},
        "teachers": {"count": 2, "blocks": 4, "training": training},
        "student": {"training": training},
    }
    return parse(RunConfig, data | changes, "test", folder)


SMALL = ModelConfig(channels=8, layers=1, cutoff=f"{CUTOFF} nm", radial_functions=8)


def make_task(
    folder: Path, graphs: FrameGraphs, targets: Targets | None = None, **changes
) -> TrainingTask:
    """A small optimisation on all frames of `graphs`; `changes` replaces fields."""
    targets = targets or mapped_targets(graphs)
    split = split_frames(graphs.frames.time, 0.1, 0.1, 0)
    task = TrainingTask(
        folder=folder,
        graphs=graphs,
        targets=targets,
        training=split.training,
        validation=split.validation,
        variances=target_variances(targets, split.training),
        model=SMALL,
        weights=FORCES_ONLY,
        settings=TrainingConfig(epochs=4, batch_size=5),
        seed=7,
        fingerprint="these inputs",
        identity=graphs.frames.identity,
        metadata={"targets": "noisy"},
    )
    return dataclasses.replace(task, **changes)


def ignore(epochs: float, note: str) -> None:
    """A report that nobody reads."""


def change_student(run: RunConfig, **changes) -> RunConfig:
    """The same run with another student."""
    return run.model_copy(
        update={
            "student": StudentConfig.model_validate(run.student.model_dump(mode="json") | changes)
        }
    )
