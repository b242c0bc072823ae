"""What the denoising benchmark trains.

A `TrainingSet` is everything that is trained on one set of noisy frames: teachers, students and
direct force matching.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse

DIRECT, TEACHER, ENSEMBLE, STUDENT = "direct", "teacher", "ensemble", "student F+e"
EXTRA = f"{STUDENT}, extra"
LABELS = "labels"
NOISE_FREE = "trained on true forces"
WITH_SIZE = (DIRECT, TEACHER, ENSEMBLE, STUDENT)  # variants shown by number of frames
KNOWN, FLUID = "known truth", "ethaline"
_WEIGHTS = {
    DIRECT: {"force": 1, "energy": 0, "bead_energy": 0},
    "student F": {"force": 1, "energy": 0, "bead_energy": 0},
    "student F+E": {"force": 1, "energy": 0.1, "bead_energy": 0},
    STUDENT: {"force": 1, "energy": 0, "bead_energy": 0.1},
    EXTRA: {"force": 1, "energy": 0, "bead_energy": 0.1},
}
ALL = tuple(_WEIGHTS)
ORDER = (LABELS, DIRECT, TEACHER, ENSEMBLE, "student F", "student F+E", STUDENT, EXTRA)  # of tables
_VALIDATION, _TEST = 0.16, 0.04  # of the frames; the package's own test part is not used here
_MOST_EPOCHS = 64  # few noisy frames are learnt by heart long before
# of a frame of ethaline, which has more beads and neighbours, in frames of the known truth
_FLUID_COST = 4.5
_SEEDS_APART = (
    1000  # members of one ensemble took consecutive seeds when the shipped tables were made
)


@dataclass(frozen=True)
class Settings:
    """Extent of the benchmark.

    Attributes
    ----------
    levels : tuple of float
        Noise of the labels in multiples of the RMS true force.
    seeds : int
    frames : int
        Frames for training and validation.
    sizes : tuple of int
        Numbers of frames for the data efficiency, at the noise `size_level`.
    size_level : float
    held_out : int
        Frames of another trajectory, with true forces.
    trajectories : int
        For training, from different starts.
    teachers : int
    passes : int
        Frames that a training sees in all; with fewer frames it has more epochs.
    fluid_frames, fluid_epochs : int
        Of the fluid with measured mean forces.
    """

    levels: tuple[float, ...] = (1, 3, 10)
    seeds: int = 3
    frames: int = 200
    sizes: tuple[int, ...] = (50, 100, 200, 400)
    size_level: float = 3
    held_out: int = 64
    trajectories: int = 4
    teachers: int = 8
    passes: int = 1920
    fluid_frames: int = 1000
    fluid_epochs: int = 2


FULL = Settings()
QUICK = Settings(
    levels=(3,),
    seeds=2,
    frames=50,
    sizes=(25, 50),
    held_out=16,
    trajectories=1,
    teachers=2,
    passes=120,
    fluid_frames=40,
    fluid_epochs=1,
)
# in the form of run.yaml
_KNOWN_MODEL = {"channels": 16, "layers": 1, "cutoff": "0.8 nanometer", "radial_functions": 16}
_FLUID_MODEL = {"channels": 16, "layers": 1, "cutoff": "0.9 nanometer", "radial_functions": 16}
_KNOWN_TRAINING = {"batch_size": 8, "learning_rate": 0.01}
_FLUID_TRAINING = {"batch_size": 4, "learning_rate": 0.005}


@dataclass(frozen=True)
class TrainingSet:
    """Everything that is trained on one set of frames with one seed, in a process of its own.

    Attributes
    ----------
    data : str
        `KNOWN` or `FLUID`.
    noise : float or None
        Level of the known noise.
    seed, frames : int
    folder : Path
    teachers : RunConfig or None
        Run of the ensemble, if one is wanted.
    variants : dict of str to RunConfig
        Run of every student and of direct force matching.
    mean_forces : Path
        True or mean forces on held-out configurations.
    """

    data: str
    noise: float | None
    seed: int
    frames: int
    folder: Path
    teachers: RunConfig | None
    variants: dict[str, RunConfig]
    mean_forces: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def costs(self) -> dict[str, float]:
        """Work of every training by its name, in passes over a frame of the known truth."""
        passes = {
            name: run.student.training.epochs * (2 if name == EXTRA else 1)
            for name, run in self.variants.items()
        }
        if self.teachers is not None:
            ensemble = self.teachers.teachers
            passes = {
                f"{TEACHER} {k}": ensemble.training.epochs for k in range(ensemble.count)
            } | passes
        beads = 1 if self.data == KNOWN else _FLUID_COST
        return {name: epochs * beads * self.frames for name, epochs in passes.items()}


def plan_training_set(
    folder: Path,
    files: tuple[Path, Path],
    data: str,
    noise: float | None,
    seed: int,
    frames: int,
    variants: tuple[str, ...],
    settings: Settings,
) -> TrainingSet:
    """One training set with the given variants; students bring the ensemble with them.

    Parameters
    ----------
    folder : Path
        Of the benchmark.
    files : pair of Path
        Noisy frames, and mean forces.
    """
    name = (
        f"noise-{noise:g}-seed-{seed}-frames-{frames}" if data == KNOWN else f"{data}-seed-{seed}"
    )
    base = _base(files, data, seed, frames, settings)
    # errors after every epoch take time, and only the picture of these trainings shows them
    if data == KNOWN and (noise, seed, frames) != (settings.size_level, 1, settings.frames):
        del base["mean_forces"]

    def run(part: str, student: str) -> RunConfig:
        changes = {"folder": f"cells/{name}/{part}", "student": _student(base, student)}
        return parse(RunConfig, base | changes, "configuration of the benchmark", folder)

    runs = {
        variant: run(variant.replace(",", "").replace(" ", "-"), variant) for variant in variants
    }
    # label_frames labels the extra configurations of its run, too
    teachers = (
        run("teachers", EXTRA if EXTRA in variants else STUDENT)
        if set(variants) - {DIRECT}
        else None
    )
    return TrainingSet(data, noise, seed, frames, folder / "cells" / name, teachers, runs, files[1])


def _base(
    files: tuple[Path, Path], data: str, seed: int, frames: int, settings: Settings
) -> dict[str, Any]:
    known = data == KNOWN
    epochs = (
        min(_MOST_EPOCHS, round(settings.passes / training_frames(frames)))
        if known
        else settings.fluid_epochs
    )
    # direct force matching and teachers learn the noise in the end: the best epoch by validation
    # counts, and the rest is not done
    training = (_KNOWN_TRAINING if known else _FLUID_TRAINING) | {
        "epochs": epochs,
        "patience": max(4, epochs // 4),
    }
    split = {"validation": _VALIDATION, "test": _TEST, "gap": "0 picosecond"} if known else {}
    return {
        "system": "system.yaml",
        "frames": str(files[0]),
        "mean_forces": str(files[1]),
        "max_frames": frames,
        "seed": _SEEDS_APART * seed,
        "split": split,
        "model": _KNOWN_MODEL if known else _FLUID_MODEL,
        "teachers": {"count": settings.teachers, "blocks": 20, "training": training},
    }


def training_frames(frames: int) -> int:
    """Training part of so many frames of the known truth."""
    return frames - round(frames * _VALIDATION) - round(frames * _TEST)


def _student(base: dict[str, Any], variant: str) -> dict[str, Any]:
    training = base["teachers"]["training"]
    student = {
        "targets": "noisy" if variant == DIRECT else "ensemble",
        "weights": _WEIGHTS[variant],
        "training": training,
    }
    if variant == EXTRA:  # twice the configurations and half the epochs: as many optimisation steps
        student["extra"] = {
            "perturbed": training_frames(base["max_frames"]),
            "displacement": "0.02 nanometer",
        }
        student["training"] = training | {"epochs": -(-training["epochs"] // 2)}
    return student


def known_training_sets(
    folder: Path, noisy: dict[tuple[float, int], Path], truth: Path, settings: Settings
) -> list[TrainingSet]:
    """All training sets of the known truth.

    Parameters
    ----------
    noisy : dict
        Frames by noise level and seed; level 0 are the true forces.
    truth : Path
        True forces of held-out frames, as mean forces.
    """
    training_sets = []
    for (level, seed), file in noisy.items():
        files = (file, truth)
        variants = ALL if level else (DIRECT,)
        training_sets.append(
            plan_training_set(
                folder, files, KNOWN, level, seed, settings.frames, variants, settings
            )
        )
        if level == settings.size_level:
            for size in settings.sizes:
                if size != settings.frames:
                    training_sets.append(
                        plan_training_set(
                            folder, files, KNOWN, level, seed, size, (DIRECT, STUDENT), settings
                        )
                    )
    return training_sets


def fluid_training_sets(
    folder: Path, frames: Path, mean_forces: Path, settings: Settings
) -> list[TrainingSet]:
    """All training sets of a fluid with measured mean forces.

    Seeds change the initial networks; the noise of the frames stays.
    """
    files = (frames, mean_forces)
    variants = tuple(variant for variant in ALL if variant != EXTRA)
    return [
        plan_training_set(
            folder, files, FLUID, None, seed, settings.fluid_frames, variants, settings
        )
        for seed in range(1, settings.seeds + 1)
    ]
