"""What a study consists of: variants of one run, their folders, configurations and costs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_cgkd.config.run import ModelConfig, RunConfig, TrainingConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.utils.box import box_volume

# in the form of run.yaml; every variant has this architecture and this training
_TRAINING = {"epochs": 3, "batch_size": 4, "learning_rate": 0.002}
BASE: dict[str, Any] = {
    "model": {"channels": 24, "layers": 1, "cutoff": "1.0 nanometer", "radial_functions": 24},
    "teachers": {"count": 8, "blocks": 20, "training": _TRAINING},
    "student": {"training": _TRAINING},
    "simulation": {
        "timestep": "10 femtosecond",
        "equilibration": "5 picosecond",
        "production": "200 picosecond",
        "frame_interval": "0.2 picosecond",
    },
    "stability": {"replicas": 8, "duration": "20 picosecond", "window": "5 picosecond"},
}
# everything runs, nothing is learnt
_QUICK_TRAINING = {"epochs": 1, "batch_size": 2, "learning_rate": 0.002}
QUICK: dict[str, Any] = {
    "max_frames": 40,
    "split": {"gap": "0 picosecond"},
    "model": {"channels": 8, "layers": 1, "cutoff": "0.8 nanometer", "radial_functions": 12},
    "teachers": {"count": 2, "blocks": 4, "training": _QUICK_TRAINING},
    "student": {"training": _QUICK_TRAINING},
    "simulation": {
        "timestep": "2 femtosecond",
        "equilibration": "0.1 picosecond",
        "production": "1 picosecond",
        "frame_interval": "0.02 picosecond",
    },
    "comparison": {"bins": 50, "shell_frames": 8},
    "stability": {"replicas": 1, "duration": "0.4 picosecond", "window": "0.1 picosecond"},
}
WEIGHTS = {
    "F": {"force": 1, "energy": 0, "bead_energy": 0},
    "F+E": {"force": 1, "energy": 0.1, "bead_energy": 0},
    "F+e": {"force": 1, "energy": 0, "bead_energy": 0.1},
}
DIRECT = {"student": {"targets": "noisy", "weights": WEIGHTS["F"]}}
DISTILLED = {"student": {"targets": "ensemble", "weights": WEIGHTS["F+e"]}}
# of the production: every step costs as many evaluations as there are teachers
COMMITTEE_SHARE = 0.25
SEEDS_APART = 1000  # members of one ensemble took consecutive seeds when the study was made


@dataclass(frozen=True)
class Variant:
    """One way to make a potential.

    Attributes
    ----------
    name : str
        Also of its folder.
    changes : dict
        Of the study's configuration, in the form of run.yaml.
    teachers : str or None
        Folder of the ensemble that it needs; variants that name the same one share it.
    committee : bool
        The ensemble's mean itself runs, without a student.
    family, label : str
        Variants of one family are a series in the picture of errors over costs; the label is that
        of a point.
    """

    name: str
    changes: dict[str, Any]
    teachers: str | None = None
    committee: bool = False
    family: str = ""
    label: str = ""


@dataclass(frozen=True)
class VariantRun:
    """One variant with one training seed, in a run folder of its own."""

    seed: int
    variant: Variant
    run: RunConfig
    teachers: RunConfig | None

    @property
    def name(self) -> str:
        return f"seed-{self.seed}-{self.variant.name}"


@dataclass(frozen=True)
class Study:
    """All variants of a fluid with all training seeds.

    Attributes
    ----------
    folder : Path
        Results, and one folder per seed and variant.
    data : dict
        Configuration common to all, with absolute paths.
    variants : tuple of Variant
    seeds : int
    """

    folder: Path
    data: dict[str, Any]
    variants: tuple[Variant, ...]
    seeds: int

    def run(self, seed: int, name: str, changes: dict[str, Any]) -> RunConfig:
        """Configuration of one run folder."""
        data = merge(self.data, changes) | {
            "seed": SEEDS_APART * seed,
            "folder": f"seed-{seed}/{name}",
        }
        return parse(RunConfig, data, "configuration of the study", self.folder)

    def variant_runs(self) -> list[VariantRun]:
        """All variant runs of the first seed, then those of the second, and so on.

        So an unfinished study has whole seeds.
        """
        found = []
        for seed in range(1, self.seeds + 1):
            for variant in self.variants:
                # variants that share an ensemble differ in these alone
                shared = {
                    name: value
                    for name, value in variant.changes.items()
                    if name not in ("student", "simulation")
                }
                teachers = self.run(seed, variant.teachers, shared) if variant.teachers else None
                found.append(
                    VariantRun(
                        seed, variant, self.run(seed, variant.name, variant.changes), teachers
                    )
                )
        return found


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes on top of a configuration, section by section."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = merge(base[name], value) if both else value
    return merged


def study_variants(common: RunConfig) -> list[Variant]:
    """The variants of the paper, and the control without a teacher."""
    found = [Variant("direct", DIRECT)]
    for targets in ("single", "ensemble"):
        for labels, weights in WEIGHTS.items():
            found.append(
                Variant(
                    f"{targets}-{labels}",
                    {"student": {"targets": targets, "weights": weights}},
                    "teachers",
                )
            )
    shorter = {
        "simulation": {
            "production": f"{COMMITTEE_SHARE * common.simulation.production!r} picosecond"
        }
    }
    return [*found, Variant("committee", shorter, "teachers", committee=True)]


def ablation_variants(common: RunConfig, frames: Frames, kind: str) -> list[Variant]:
    """One setting changed at a time; `kind` is "direct" or "distilled".

    The latter has an on-policy round, too.
    Fewer frames are seen more often, so that the number of optimisation steps stays. Cutoffs that
    the box does not allow, and values that the base has already, are left out.
    """
    model, epochs = common.model, common.teachers.training.epochs
    used = min(common.max_frames or len(frames), len(frames))
    changes: dict[str, dict[str, Any]] = {"base": {}}
    for channels in sorted({16, 24, 32, 48} - {model.channels}):
        changes[f"channels-{channels}"] = {"model": {"channels": channels}}
    for factor in (2, 4):
        changes[f"epochs-{factor * epochs}"] = _epochs(factor * epochs)
    for cutoff in (0.8, 1.0, 1.2, 1.4):
        if abs(cutoff - model.cutoff) > 1e-6 and cutoff <= frames.smallest_height / 2:
            changes[f"cutoff-{cutoff}"] = {"model": {"cutoff": f"{cutoff} nanometer"}}
    for parts in (4, 2):
        changes[f"frames-{used // parts}"] = {
            "max_frames": used // parts,
            **_epochs(parts * epochs),
        }
    changes["layers-2"] = {"model": {"layers": 2}}
    for functions in sorted({12, 24, 48} - {model.radial_functions}):
        changes[f"radial-{functions}"] = {"model": {"radial_functions": functions}}
    changes["prior-soft"] = {"prior": {"distance": "0.05 nanometer"}}
    changes["prior-far"] = {"prior": {"threshold": 0.1}}
    student = DIRECT if kind == "direct" else DISTILLED
    if kind == "direct":
        return [Variant(name, merge(change, student)) for name, change in changes.items()]
    found = [
        Variant(name, merge(change, student), f"{name}-teachers")
        for name, change in changes.items()
    ]
    return [
        *found,
        Variant(
            "on-policy", merge(student, {"student": {"on_policy": {"rounds": 1}}}), "base-teachers"
        ),
    ]


def _epochs(number: int) -> dict[str, Any]:
    return {
        "teachers": {"training": {"epochs": number}},
        "student": {"training": {"epochs": number}},
    }


def choose(variants: Iterable[Variant], names: list[str] | None) -> tuple[Variant, ...]:
    """The variants of these names; all without names.

    Raises
    ------
    ConfigError
        If there is no such variant.
    """
    known = {variant.name: variant for variant in variants}
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"--only: there is no variant {name}; choose among {', '.join(known)}."
            )
    return tuple(variant for name, variant in known.items() if names is None or name in names)


@dataclass(frozen=True)
class Costs:
    """Seconds of work on all cores, by measurements on the processor of docs/performance.md.

    Attributes
    ----------
    n_frames, n_beads : int
    density : float, 1/nm^3
    """

    n_frames: int
    n_beads: int
    density: float

    @classmethod
    def of(cls, frames: Frames) -> Costs:
        n_beads = frames.beads.n_beads
        return cls(len(frames), n_beads, n_beads / float(box_volume(frames.box[0])))

    def teachers(self, run: RunConfig) -> float:
        labels = run.teachers.count * self._frames(run) * self._pass(run.model) / 4
        return run.teachers.count * self.training(run, run.teachers.training) + labels / _cores()

    def variant_run(self, variant_run: VariantRun) -> dict[str, float]:
        """By the stages of `variant_runs.work`."""
        run, protocol = variant_run.run, variant_run.run.simulation
        step = (
            (run.teachers.count if variant_run.variant.committee else 1)
            * 0.075
            * self._pass(run.student.model or run.model)
            / _cores()
        )
        per_ps = step / (protocol.timestep or 0.005)
        seconds = {
            "simulate": per_ps * (protocol.equilibration + protocol.production),
            "compare": 7 / _cores(),
            "errors": 5 / _cores(),
        }
        if variant_run.variant.committee:
            return seconds
        stability = per_ps * run.stability.replicas * run.stability.duration
        return {
            "train": self.training(run, run.student.training, run.student.model),
            **seconds,
            "stability": stability,
        }

    def _frames(self, run: RunConfig) -> int:
        return min(run.max_frames or self.n_frames, self.n_frames)

    def training(
        self, run: RunConfig, training: TrainingConfig, model: ModelConfig | None = None
    ) -> float:
        """One training of `model`, the teachers' if absent, on all cores."""
        # validation needs no gradient of the weights
        share = 1 - run.split.test - 0.75 * run.split.validation
        once = share * self._frames(run) * self._pass(model or run.model) / _cores()
        return training.epochs * once

    def _pass(self, model: ModelConfig) -> float:
        """Seconds of one core to train on one frame once: pairs take most of it."""
        pairs = 0.1 + 0.9 * model.cutoff**3 * self.density / 9.9
        return (
            self.n_beads
            / 240
            * pairs
            * (0.55 + 0.45 * model.layers)
            * (0.02 + 0.0037 * model.channels)
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
