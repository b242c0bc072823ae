"""Stage 4: the student, on the teachers' labels or, for comparison, on the mapped forces."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.potential.prior import PriorParameters, read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.distillation import distill
from openmm_cgkd.training.held_out import evaluate_student
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.resume import move_damaged_aside
from openmm_cgkd.training.task import BEST, CONSISTENCY, TEST
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.seeds import derived_seed

from .inputs import fit_prior_of, load_frames, mean_forces_of, refuse_stale


def train_student(run: RunConfig, round_: int = 0) -> Path:
    """Train the student, or go on training it.

    Writes the best checkpoint, the metrics, and ``consistency.json`` with the force-energy check to
    `RunFolder.student_of_round`. The final student, that of the last on-policy round, is compared
    with the test part: ``test.json``.

    Parameters
    ----------
    run : RunConfig
    round_ : int
        On-policy round, whose labels and those of the rounds before it exist; 0: before the first
        one.

    Returns
    -------
    Path
        The best checkpoint.

    Raises
    ------
    TrainingError
        If loss or gradient are not finite, memory runs out, a target does not vary, or forces are
        not the gradient of the energies.
    FramesError
        If labels are missing, belong to other frames, or are of other teachers than those in the
        run folder.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    folder, student = RunFolder(run), run.student
    model = student.model or run.model
    with folder.at_work("distill"):
        frames = load_frames(run)
        check_cutoff(frames.box, model.cutoff)
        noisy = student.targets == "noisy"
        sources = [] if noisy else _label_files(run, round_)
        for path in sources:  # refuses labels of other frames or teachers before any work
            refuse_stale(path, load_labels(path, frames).attributes, folder)
        prior = fit_prior_of(run, frames) if noisy else read_prior(folder.prior)
        inputs = {
            "frames": frames.identity,
            "labels": [file_hash(path) for path in sources],
            "prior": prior.as_dict(),
            "seed": run.seed,
            "split": run.split,
            # those are in the labels
            "student": student.model_dump(
                mode="json", exclude={"extra", "on_policy", "max_spread"}
            ),
            "model": model,
        }
        output = folder.student_of_round(round_)
        name = "distill" if round_ == 0 else f"distill-{round_:02d}"
        move_damaged_aside(output / BEST)
        stage = StageRecord(folder, name, inputs, [output / BEST, output / CONSISTENCY])
        if not stage.finished:
            distill(
                frames,
                sources,
                output,
                prior,
                model,
                student.training,
                student.weights,
                run.split,
                targets=student.targets,
                spread_weights=student.spread_weights,
                # not a teacher's seed: equal first weights would favour that teacher
                seed=derived_seed(run.seed, "student"),
                mean_forces=mean_forces_of(run),
                tensorboard=run.tensorboard,
                evaluate=False,
            )
            stage.finish()
        if round_ == student.on_policy.rounds:
            _evaluate(run, frames, sources, prior, output)
    return output / BEST


def _evaluate(
    run: RunConfig, frames: Frames, sources: list[Path], prior: PriorParameters, output: Path
) -> None:
    """Compare the final student with the test part; a step of its own, for mean forces may come
    after the training.
    """
    mean_forces = mean_forces_of(run)
    inputs = {
        "student": file_hash(output / BEST),
        "frames": frames.identity,
        # a file that is missing is refused below, by name
        "mean_forces": file_hash(mean_forces) if mean_forces and mean_forces.exists() else None,
    }
    stage = StageRecord(RunFolder(run), "test", inputs, [output / TEST])
    if not stage.finished:
        evaluate_student(
            output / BEST,
            frames,
            prior,
            sources[0] if sources else None,
            run.split,
            mean_forces=mean_forces,
        )
        stage.finish()


def _label_files(run: RunConfig, round_: int) -> list[Path]:
    """Labels of the frames, then those of configurations beyond them."""
    folder, extra = RunFolder(run), run.student.extra
    return [
        folder.labels,
        *([folder.extra_labels] if extra.trajectories or extra.perturbed else []),
        *(folder.on_policy_labels(k) for k in range(1, round_ + 1)),
    ]
