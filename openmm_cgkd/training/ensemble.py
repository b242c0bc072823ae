"""The ensemble of force-matching teachers: training it, and reading it back.

Members differ by seed and by resampled training blocks if these are asked for, and train side by
side; see `execution.tasks` for what that asks of a script.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from openmm_cgkd.config.execution import ExecutionConfig
from openmm_cgkd.config.run import (
    ModelConfig,
    PriorConfig,
    SplitConfig,
    TeachersConfig,
)
from openmm_cgkd.config.section import fingerprint
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.execution.processes import cores
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.split import apply_split
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.custom_network import CustomNetwork, NetworkSettings, describe_network
from openmm_cgkd.potential.forces import cutoff_of
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.potential.prior import PriorParameters, fit_prior
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.lock import ORPHAN, locked
from openmm_cgkd.utils.progress import Report, log_to, progress
from openmm_cgkd.utils.seeds import derived_seed

from .batches import frames_of_teacher
from .graphs import FrameGraphs
from .mean_force_test import load_mean_force_test
from .predict import predict
from .resume import is_finished
from .targets import mapped_targets, target_variances
from .task import BEST, FORCES_ONLY, TrainingTask

logger = logging.getLogger(__name__)


def drawn_frames(teachers: TeachersConfig) -> dict[str, int]:
    """For records: what tells which training frames the teachers see."""
    return {"blocks": teachers.blocks} if teachers.resample == "blocks" else {}


@dataclass(frozen=True)
class Ensemble:
    """Trained teachers and the prior that they share.

    Attributes
    ----------
    checkpoints : list of path
    networks : list of module
    prior : PriorParameters
    hashes : list of str
        SHA-256 of the teachers' checkpoints.
    """

    checkpoints: list[Path]
    networks: list[nn.Module]
    prior: PriorParameters
    hashes: list[str]

    @property
    def cutoff(self) -> float:
        """Largest cutoff of the teachers, nm."""
        return max(cutoff_of(network) for network in self.networks)


def load_ensemble(
    checkpoints: Sequence[Path | str],
    prior: PriorParameters,
    frames: Frames,
    custom: CustomNetwork | None = None,
) -> Ensemble:
    """Read trained teachers.

    Parameters
    ----------
    checkpoints : sequence of path
        One ``best.pt`` per teacher.
    prior : PriorParameters
        The one they were trained with.
    frames : Frames
        The ones they were trained on.
    custom : CustomNetwork, optional
        As in `load_checkpoint`.

    Raises
    ------
    ModelFileError
        If a checkpoint is missing or damaged.
    FramesError
        If a teacher was trained on other frames.
    """
    paths = [Path(path) for path in checkpoints]
    networks, identity = [], frames.identity
    for path in paths:
        network, content = load_checkpoint(path, custom)
        if content["frames"] != identity:
            raise FramesError(
                f"{path}: this teacher was trained on other frames; run 'cgkd teach' again or"
                " restore max_frames and frames."
            )
        networks.append(network)
    return Ensemble(paths, networks, prior, [file_hash(path) for path in paths])


def ensemble_forces(ensemble: Ensemble, graphs: FrameGraphs) -> np.ndarray:
    """Forces of every teacher at a few configurations.

    Shape (n_teachers, n_frames, n_beads, 3), kJ/mol/nm.
    """
    with torch.no_grad():
        return np.stack(
            [predict(network, graphs, range(len(graphs)))[0] for network in ensemble.networks]
        )


@dataclass(frozen=True)
class EnsembleTask:
    """What every member of an ensemble shares; can be sent to another process.

    Attributes
    ----------
    folder : path
        Holds one folder per member.
    reader : callable
        Returns the frames.
    prior, model, teachers, split, seed, mean_forces, tensorboard
        As in `train_ensemble`.
    """

    folder: Path
    reader: Callable[[], Frames]
    prior: PriorParameters
    model: NetworkSettings
    teachers: TeachersConfig
    split: SplitConfig
    seed: int
    mean_forces: Path | None
    tensorboard: bool

    def member_folder(self, k: int) -> Path:
        """Folder of member `k`."""
        return self.folder / f"{k:02d}"

    def fingerprint(self, k: int, frames_identity: str) -> str:
        """Identity of everything that the result of member `k` depends on."""
        return fingerprint(
            {
                "frames": frames_identity,
                "seed": self.seed,
                "split": self.split,
                "model": describe_network(self.model),
                "prior": self.prior.as_dict(),
                **drawn_frames(self.teachers),
                "training": self.teachers.training,
                "member": k,
            }
        )


@dataclass(frozen=True)
class InMemory:
    """Frames as their own reader; a process that gets it gets a copy of the frames."""

    frames: Frames

    def __call__(self) -> Frames:
        return self.frames


def train_ensemble(
    frames: Frames,
    folder: Path | str,
    prior: PriorParameters | PriorConfig | None = None,
    model: NetworkSettings | None = None,
    teachers: TeachersConfig | None = None,
    split: SplitConfig | None = None,
    *,
    seed: int = 1,
    mean_forces: Path | str | None = None,
    workers: int | None = None,
    execution: ExecutionConfig | None = None,
    reader: Callable[[], Frames] | None = None,
    tasks: Path | str | None = None,
    tensorboard: bool = False,
) -> Ensemble:
    """Train the teachers; finished members are kept, half-finished ones resumed.

    Parameters
    ----------
    frames : Frames
        Mapped all-atom frames.
    folder : path
        Gets one folder per member: ``00/best.pt``, ``00/metrics.csv`` and so on.
    prior : PriorParameters or PriorConfig, optional
        Fitted to the training frames by `fit_prior` if it is absent or only its settings are given.
    model : ModelConfig or CustomNetwork, optional
    teachers : TeachersConfig, optional
        Number of members, resampling, optimisation.
    split : SplitConfig, optional
    seed : int
        Of the first member; those of the others count on.
    mean_forces : path, optional
        Mean-force frames, to report errors that are free of noise.
    workers : int, optional
        Members that train side by side; one per core, or one on a GPU, if absent.
    execution : ExecutionConfig, optional
    reader : callable, optional
        How a process gets the frames, such as ``functools.partial(read_frames, path)``; a copy of
        `frames` is sent to each if absent.
    tasks : path, optional
        For tracebacks and logs of the processes, ``folder / "tasks"`` if absent.
    tensorboard : bool
        Also write the metrics for TensorBoard.

    Raises
    ------
    ExecutionError
        If a member fails again and again; the others are finished first and kept.
    TrainingError
        If there are fewer training frames than blocks.
    BoxError
        If the cutoff exceeds half the smallest box height.
    FramesError
        If the frames are too few to split, or the mean forces do not fit them.
    """
    folder, model = Path(folder), model or ModelConfig()
    teachers, split = teachers or TeachersConfig(), split or SplitConfig()
    check_cutoff(frames.box, model.cutoff)
    parts = apply_split(frames, split)
    # refuses too few frames before any work
    frames_of_teacher(teachers, parts.training, seed)
    if not isinstance(prior, PriorParameters):
        prior = fit_prior(frames[parts.training], prior)
    logger.info(
        "teachers: %d members, %d training, %d validation and %d test frames of %d beads",
        teachers.count, len(parts.training), len(parts.validation), len(parts.test),
        frames.beads.n_beads,
    )  # fmt: skip
    mean_forces = None if mean_forces is None else Path(mean_forces)
    # logs the noise floor
    load_mean_force_test(mean_forces, frames, model.cutoff, prior, parts)
    task = EnsembleTask(
        folder, reader or InMemory(frames), prior, model, teachers, split, seed, mean_forces,
        tensorboard,
    )  # fmt: skip
    with locked(folder):
        _train_members(
            task,
            frames.identity,
            workers,
            execution or ExecutionConfig(),
            folder / "tasks" if tasks is None else Path(tasks),
        )
    return load_ensemble(
        [task.member_folder(k) / BEST for k in range(teachers.count)],
        prior,
        frames,
        model if isinstance(model, CustomNetwork) else None,
    )


def train_member(task: EnsembleTask, k: int, report: Report) -> Path:
    """Train member `k` of an ensemble in this process; `report` as in `fit`."""
    frames = task.reader()
    parts = apply_split(frames, task.split)
    graphs = FrameGraphs(frames, task.model.cutoff, task.prior)
    targets = mapped_targets(graphs)
    seed = derived_seed(task.seed, "teacher", k)
    training = TrainingTask(
        folder=task.member_folder(k),
        graphs=graphs,
        targets=targets,
        training=frames_of_teacher(task.teachers, parts.training, seed),
        validation=parts.validation,
        variances=target_variances(targets, parts.training),
        model=task.model,
        weights=FORCES_ONLY,
        settings=task.teachers.training,
        seed=seed,
        fingerprint=task.fingerprint(k, frames.identity),
        identity=frames.identity,
        metadata={
            "role": "teacher",
            "member": k,
            "targets": "noisy",
            **drawn_frames(task.teachers),
        },
        mean_forces=load_mean_force_test(
            task.mean_forces, frames, task.model.cutoff, task.prior, parts
        ),
        tensorboard=task.tensorboard,
    )
    from .fit import fit  # Lightning, which only training needs

    return fit(training, report)


def _train_and_log(task: EnsembleTask, k: int, threads: int, report: Report) -> None:
    """`train_member` in a process of its own, whose log goes to the member's folder."""
    torch.set_num_threads(threads)
    folder = task.member_folder(k)
    with locked(folder, wait=ORPHAN), log_to(folder / "train.log"):
        train_member(task, k, report)


def members_at_once(
    teachers: TeachersConfig, execution: ExecutionConfig, workers: int | None = None
) -> int | None:
    """Members that train side by side on this machine; None leaves it to Parsl."""
    if workers or execution.backend == "parsl":
        return workers
    # one network at a time fills a GPU's queue; CPU members are independent jobs
    return 1 if torch.cuda.is_available() else max(1, cores() // teachers.training.devices)


def threads_per_member(
    teachers: TeachersConfig, execution: ExecutionConfig, workers: int | None = None
) -> int:
    """Threads of each member.

    Independent of which members are finished, because rounding depends on threads.
    """
    at_once = (
        len(execution.accelerators) or members_at_once(teachers, execution, workers) or cores()
    )
    return max(1, cores() // min(at_once, teachers.count))


def _train_members(
    task: EnsembleTask,
    frames_identity: str,
    workers: int | None,
    execution: ExecutionConfig,
    folder: Path,
) -> None:
    """Train every member that is not finished; one that fails is tried again, the others go on."""
    count, epochs = task.teachers.count, float(task.teachers.training.epochs)
    names = [f"teacher-{k:02d}" for k in range(count)]
    done = {
        name: epochs
        if is_finished(task.member_folder(k), task.fingerprint(k, frames_identity))
        else 0.0
        for k, name in enumerate(names)
    }
    threads = threads_per_member(task.teachers, execution, workers)
    missing = {name: (task, k, threads) for k, name in enumerate(names) if done[name] == 0}
    with progress("teachers", count * epochs, "epochs", sum(done.values())) as meter:

        def report(name: str, share: float, note: str) -> None:
            done[name] = share * epochs
            meter.update(sum(done.values()), note)

        def finished(name: str, _: None) -> None:
            report(name, 1.0, "")

        map_tasks(
            _train_and_log,
            missing,
            execution,
            folder,
            members_at_once(task.teachers, execution, workers),
            finished,
            report,
        )
