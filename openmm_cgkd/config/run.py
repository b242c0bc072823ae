"""The sections of run.yaml: what to do with a fluid."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from openmm_cgkd.utils.units import (
    Duration,
    ForceConstant,
    Length,
    Pressure,
    Rate,
    Time,
)

from .execution import ExecutionConfig
from .section import YOUNGER, ConfigFile, RelativePath, Section, load

logger = logging.getLogger(__name__)

_MANY = 10_000_000  # frames, epochs: more is a slip of the pen


class SplitConfig(Section):
    """Split of the frames into contiguous time blocks; gaps part training from held-out blocks."""

    validation: float = Field(
        0.1, gt=0, lt=1, description="share of frames that chooses the checkpoint"
    )
    test: float = Field(0.1, gt=0, lt=1, description="share of frames held out from everything")
    gap: Duration = Field(
        "5 picosecond", description="frames dropped on each side of a held-out block"
    )


class ModelConfig(Section):
    """TensorNet of torchmd-net with per-bead energies."""

    channels: int = Field(64, gt=0, le=4096)
    layers: int = Field(1, ge=0, le=32)
    cutoff: Length = "1.0 nanometer"
    radial_functions: int = Field(32, gt=1, le=4096)


class PriorConfig(Section):
    """Pair repulsion that switches on where the all-atom RDF vanishes: exponential, then linear."""

    threshold: float = Field(0.001, gt=0, description="t is the first r with g(r) above this")
    p: float = Field(
        0.05, ge=1e-9, lt=1, description="force at t as a share of the mean force component"
    )
    distance: Length = Field(
        "0.015 nanometer",
        gt=1e-6,
        le=100,
        description="inside t by this much the force is the mean component",
    )
    stiffness: ForceConstant = Field(
        "30000 kilojoule/mole/nanometer**2",
        description="largest slope of the force: beyond, it is linear",
        json_schema_extra=dict(YOUNGER),
    )


class TrainingConfig(Section):
    """One optimisation."""

    epochs: int = Field(30, gt=0, le=_MANY)
    batch_size: int = Field(4, gt=0, le=_MANY)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warm_up: float = Field(
        0.05, ge=0, lt=1, description="share of all steps over which the learning rate rises"
    )
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="fall to 0, or halve after patience/2 epochs without improvement"
    )
    patience: int = Field(
        8, gt=0, le=_MANY, description="epochs without improvement before training stops"
    )
    gradient_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="of the average of the weights, which is the result; 0: last weights",
    )
    precision: Literal["float32", "float64", "tf32"] = Field(
        "float32", description="of the training; tf32 acts on GPUs alone"
    )
    devices: int = Field(
        1, gt=0, le=4096, description="GPUs, or processes without a GPU, that share every batch"
    )

    @model_validator(mode="after")
    def _batches_are_shared_equally(self) -> Self:
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of devices {self.devices}; every"
                " device takes an equal share"
            )
        return self


class TeachersConfig(Section):
    """Ensemble of force-matching teachers.

    Members differ by seed and, with ``resample: blocks``, by the frames that they see.
    """

    count: int = Field(8, gt=0, le=1000)
    resample: Literal["blocks", "none"] = Field(
        "blocks",
        description="each member sees blocks of the training frames drawn with replacement, or"
        " every frame",
        json_schema_extra=dict(YOUNGER),
    )
    blocks: int = Field(20, gt=1, le=_MANY, description="number of time blocks to draw from")
    training: TrainingConfig = TrainingConfig()


class LossWeights(Section):
    """Weights of the distillation loss; each term is scaled by the variance of its target."""

    force: float = Field(1.0, ge=0)
    energy: float = Field(0.0, ge=0, description="total energy per bead, up to a constant")
    bead_energy: float = Field(0.1, ge=0, description="per-bead energies")

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if self.force == self.energy == self.bead_energy == 0:
            raise ValueError(
                "all loss weights are 0; set at least one of force, energy, bead_energy above 0"
            )
        return self


class ExtraConfig(Section):
    """Configurations beyond the all-atom frames that the teachers label for the student, too."""

    trajectories: list[RelativePath] = Field(
        [], description="student or teacher MD, DCD or XTC, beads in the order of the frames"
    )
    snapshots: int = Field(
        100, gt=0, le=_MANY, description="evenly spaced ones of every trajectory, at most"
    )
    perturbed: int = Field(
        0, ge=0, le=_MANY, description="training frames whose beads are displaced at random"
    )
    displacement: Length = "0.01 nanometer"


class OnPolicyConfig(Section):
    """Rounds of on-policy training.

    In each the student simulates, the teachers label what it visits, and the student is trained
    again.
    """

    rounds: int = Field(0, ge=0, le=1000)
    production: Time = Field(
        "20 picosecond", description="of every round; the other settings are those of simulation"
    )
    snapshots: int = Field(100, gt=0, le=_MANY, description="per round")


class StudentConfig(Section):
    """The distilled model, or direct force matching for comparison."""

    targets: Literal["ensemble", "single", "noisy"] = Field(
        "ensemble",
        description=(
            "labels: teacher mean, the first teacher alone, or the mapped forces themselves"
        ),
    )
    weights: LossWeights = LossWeights()
    model: ModelConfig | None = Field(None, description="as the teachers' if absent")
    training: TrainingConfig = TrainingConfig()
    spread_weights: bool = Field(
        False, description="beads on which the teachers disagree count less in the loss"
    )
    max_spread: float = Field(
        2.0,
        gt=0,
        description=(
            "bound on the teachers' disagreement in configurations beyond the frames, see"
            " physics.md"
        ),
    )
    extra: ExtraConfig = ExtraConfig()
    on_policy: OnPolicyConfig = OnPolicyConfig()

    @model_validator(mode="after")
    def _noisy_has_no_energy(self) -> Self:
        if self.targets == "noisy" and (self.weights.energy or self.weights.bead_energy):
            raise ValueError(
                "mapped all-atom frames carry no CG energy; with targets: noisy set energy and"
                " bead_energy to 0"
            )
        if self.targets == "noisy" and (self.beyond_frames or self.spread_weights):
            raise ValueError(
                "extra, on_policy and spread_weights need labels of teachers; with targets: noisy"
                " leave them out"
            )
        return self

    @model_validator(mode="after")
    def _totals_have_something_to_compare_with(self) -> Self:
        if self.weights.energy and self.training.batch_size < 2:
            raise ValueError(
                "weights.energy compares the frames of a batch, and batch_size is 1; set batch_size"
                " to 2 or more"
            )
        return self

    @property
    def beyond_frames(self) -> bool:
        """Whether the student learns configurations beyond the all-atom frames."""
        return bool(self.extra.trajectories or self.extra.perturbed or self.on_policy.rounds)


class CommitteeConfig(Section):
    """Watch how far the teachers disagree on the forces along the student's trajectory."""

    interval: Time = "1 picosecond"
    max_ratio: float = Field(
        1.5, gt=0, description="alarm above this multiple of the largest disagreement in the labels"
    )
    action: Literal["warn", "stop"] = "warn"


def _or_auto(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": "auto"})


class SimulationConfig(Section):
    """Coarse-grained molecular dynamics."""

    timestep: Time | None = Field(
        None,
        description="what 'cgkd timestep' recommends, if absent or 'auto'",
        json_schema_extra=_or_auto,
    )
    friction: Rate = "1 / picosecond"
    pressure: Pressure | None = Field(
        None, description="of a Monte Carlo barostat; constant volume if absent"
    )
    equilibration: Duration = "5 picosecond"
    production: Time = "100 picosecond"
    frame_interval: Time = "0.2 picosecond"
    platform: str | None = Field(None, description="OpenMM platform; the fastest one if absent")
    trajectory: Literal["dcd", "xtc"] = "dcd"
    max_temperature_ratio: float = Field(
        3.0, gt=1, description="the run stops above this multiple of the set temperature"
    )
    committee: CommitteeConfig | None = Field(
        None, description="watch the teachers' disagreement; not watched if absent"
    )
    other_temperature: bool = Field(
        False,
        description="run although the potential was made at another temperature",
        json_schema_extra=dict(YOUNGER),
    )

    @field_validator("timestep", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value


class ComparisonConfig(Section):
    """Structure and dynamics, CG against all-atom."""

    bins: int = Field(150, gt=1, le=100_000)
    r_max: Length | None = Field(None, description="half the smallest box height if absent")
    angle_bins: int = Field(60, gt=1, le=100_000)
    shell_frames: int | None = Field(
        None,
        ge=4,
        le=_MANY,
        description=(
            "frames at most, evenly spaced, for angles, coordination numbers, order and structure"
            " factors, which saves time and adds counting noise; all if absent"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _without_blocks(cls, data: Any) -> Any:
        """Older files may hold a number of blocks; now errors find how long theirs must be."""
        if not isinstance(data, dict) or "blocks" not in data:
            return data
        logger.warning("comparison.blocks has no effect any more: leave it out")
        return {name: value for name, value in data.items() if name != "blocks"}


class StabilityConfig(Section):
    """Independent coarse-grained runs from different all-atom frames.

    Their protocol is that of the simulation section.
    """

    replicas: int = Field(10, gt=0, le=10_000)
    duration: Time = "100 picosecond"
    window: Time = Field("5 picosecond", description="the temperature is averaged over this time")
    temperature_tolerance: float = Field(
        0.1, gt=0, description="largest relative excess of that average over the set temperature"
    )


class RunConfig(ConfigFile):
    """The whole pipeline on one fluid (run.yaml)."""

    usual_name = "run.yaml"

    system: RelativePath = Field(description="system.yaml of the fluid")
    folder: RelativePath = Field(description="results, logs and checkpoints")
    frames: RelativePath | None = Field(
        None, description="mapped all-atom frames; absent: run the all-atom stage"
    )
    second_frames: RelativePath | None = Field(
        None,
        description=(
            "mapped frames of a second, independent all-atom run, so that comparisons can tell"
            " errors from noise; absent: those of the all-atom stage, if it ran"
        ),
    )
    potential: RelativePath | None = Field(
        None, description="exported potential to simulate with; absent: the one that this run makes"
    )
    run_script: bool = Field(
        False,
        description="run the script in `potential` if its network is its maker's own; trust them",
    )
    max_frames: int | None = Field(
        None,
        gt=0,
        le=_MANY,
        description="use evenly spaced frames, at most this many, for training",
    )
    mean_forces: RelativePath | None = Field(
        None, description="mean-force frames, to report errors that are free of noise"
    )
    tensorboard: bool = Field(False, description="write metrics for TensorBoard, too")
    seed: int = Field(1, ge=1, lt=2**31)
    workers: int | None = Field(
        None, gt=0, le=4096, description="teachers trained side by side; one per core if absent"
    )
    execution: ExecutionConfig = ExecutionConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    prior: PriorConfig = PriorConfig()
    teachers: TeachersConfig = TeachersConfig()
    student: StudentConfig = StudentConfig()
    simulation: SimulationConfig = SimulationConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    stability: StabilityConfig = StabilityConfig()

    @model_validator(mode="after")
    def _potential_needs_frames(self) -> Self:
        if self.potential is not None and self.frames is None:
            raise ValueError(
                "potential needs frames beside it, which give beads, box and starting positions;"
                " set frames"
            )
        return self

    @model_validator(mode="after")
    def _spread_needs_teachers(self) -> Self:
        if self.teachers.count < 2 and (self.student.beyond_frames or self.student.spread_weights):
            raise ValueError(
                "one teacher has no spread, which extra, on_policy and spread_weights need; set"
                " teachers.count to 2 or more"
            )
        return self

    @property
    def run_folder(self) -> Path:
        return self.path(self.folder)


def load_run(path: Path | str) -> RunConfig:
    """Read a run.yaml."""
    return load(RunConfig, path)
