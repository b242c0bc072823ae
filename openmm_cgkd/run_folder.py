"""Where a run keeps its files, and which stages are finished."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .config.run import RunConfig, load_run
from .config.section import dump, plain_inputs
from .exceptions import ConfigError, RecordError
from .utils.files import write_text
from .utils.lock import locked, locked_file
from .utils.progress import log_to
from .utils.records import read_record, write_record

logger = logging.getLogger(__name__)

_RUN_FILE_WAIT = 10.0  # seconds; another command writes it in a moment


class RunFiles:
    """Paths in the folder of a run; stages talk through these files only.

    Parameters
    ----------
    root : path
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run_file(self) -> Path:
        """The configuration as the last stage has read it."""
        return self.root / "run.yaml"

    @property
    def reference(self) -> Path:
        return self.root / "reference"

    @property
    def prior(self) -> Path:
        return self.root / "prior.json"

    @property
    def teachers(self) -> Path:
        """Folder of the ensemble."""
        return self.root / "teachers"

    def teacher(self, k: int) -> Path:
        """Folder of one ensemble member."""
        return self.teachers / f"{k:02d}"

    def teacher_potential(self, k: int) -> Path:
        """Potential file of one ensemble member, for the committee."""
        return self.teacher(k) / "potential.pt"

    @property
    def labels(self) -> Path:
        return self.root / "labels.h5"

    @property
    def extra_labels(self) -> Path:
        """Labels of configurations beyond the all-atom frames."""
        return self.root / "extra.h5"

    def on_policy(self, k: int) -> Path:
        """Folder of one on-policy round, from 1."""
        return self.root / "on_policy" / f"{k:02d}"

    def on_policy_labels(self, k: int) -> Path:
        """Labels of the configurations of one on-policy round."""
        return self.on_policy(k) / "labels.h5"

    def student_of_round(self, k: int) -> Path:
        """Folder of the student's training in an on-policy round; 0: before the first one."""
        return self.on_policy(k) / "student" if k else self.root / "student"

    @property
    def exported(self) -> Path:
        """Potential file of the export stage."""
        return self.root / "student.pt"

    @property
    def simulation(self) -> Path:
        return self.root / "simulation"

    @property
    def simulation_report(self) -> Path:
        """Speed and mean temperature."""
        return self.simulation / "simulation.json"

    @property
    def comparison(self) -> Path:
        return self.root / "comparison"

    @property
    def comparison_report(self) -> Path:
        """Errors and scores."""
        return self.comparison / "comparison.json"

    @property
    def stability(self) -> Path:
        return self.root / "stability"

    @property
    def stability_report(self) -> Path:
        """What became of every replica."""
        return self.stability / "stability.json"

    @property
    def survival(self) -> Path:
        """Share of the replicas that are still physical, against time."""
        return self.stability / "survival.csv"

    def stage(self, name: str) -> Path:
        """Inputs of a finished stage."""
        return self.root / "stages" / f"{name}.json"

    def tasks(self, stage: str) -> Path:
        """Folder for tracebacks and logs of a stage's tasks side by side."""
        return self.root / "tasks" / stage

    def log(self, stage: str) -> Path:
        return self.root / "logs" / f"{stage}.log"

    @contextmanager
    def at_work(
        self, stage: str, output: Path | None = None, reads: Sequence[Path] = ()
    ) -> Iterator[None]:
        """Hold the locks of a stage and write its log.

        Parameters
        ----------
        stage : str
        output : path, optional
            The only folder that the stage writes into, which it has for itself; the rest of the run
            it shares with other stages that read it. The whole run if absent.
        reads : sequence of path
            Folders that other such stages write into, and that must not change meanwhile.

        Raises
        ------
        FolderInUseError
            If another run works in one of the folders, which are left as they are.
        DiskError
            If a file cannot be written, here or within the block.
        """
        with ExitStack() as locks:
            locks.enter_context(locked(self.root, shared=output is not None))
            for folder in reads:
                locks.enter_context(locked(folder, shared=True))
            if output is not None:
                locks.enter_context(locked(output))
            locks.enter_context(log_to(self.log(stage)))
            yield


class RunFolder(RunFiles):
    """Files of a run by its configuration, which may name some that lie elsewhere.

    Parameters
    ----------
    config : RunConfig
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.run_folder)
        self.config = config

    @property
    def frames(self) -> Path:
        """Mapped all-atom frames.

        The file named in the configuration, or the product of the all-atom stage.
        """
        if self.config.frames is not None:
            return self.config.path(self.config.frames)
        return self.reference / "frames.h5"

    @property
    def independent_frames(self) -> list[Path]:
        """Mapped frames of further all-atom runs, which comparisons take beside `frames`."""
        if self.config.second_frames is not None:
            return [self.config.path(self.config.second_frames)]
        if self.config.frames is not None:
            return []
        return sorted(self.reference.glob("run_*/frames.h5"))

    @property
    def student(self) -> Path:
        """Folder of the final student's training."""
        return self.student_of_round(self.config.student.on_policy.rounds)

    @property
    def model(self) -> Path:
        """The potential file: the one named in the configuration, or that of the export stage."""
        if self.config.potential is not None:
            return self.config.path(self.config.potential)
        return self.exported


def _says(path: Path, content: str) -> bool:
    """Whether a run.yaml means the same: it may be the user's own, with its comments."""
    if not path.exists():
        return False
    try:
        return dump(load_run(path), path.parent) == content
    except ConfigError:
        return False


class StageRecord:
    """A stage of a run: knows whether it has been finished with the same inputs.

    Parameters
    ----------
    folder : RunFolder
    name : str
    inputs : dict
        Everything the result depends on, as JSON-ready values or configuration sections.
    outputs : list of path
        Files whose presence, together with the same inputs, makes the stage finished.
    """

    def __init__(
        self, folder: RunFolder, name: str, inputs: dict[str, Any], outputs: list[Path]
    ) -> None:
        self.name, self.outputs = name, outputs
        self._stamp = folder.stage(name)
        self._inputs = plain_inputs(inputs)
        # stages that work side by side write it, too
        with locked_file(folder.run_file, wait=_RUN_FILE_WAIT):
            content = dump(folder.config, folder.root)
            if not _says(folder.run_file, content):
                write_text(folder.run_file, content)

    @property
    def finished(self) -> bool:
        if not self._stamp.exists() or not all(path.exists() for path in self.outputs):
            return False
        try:
            same = read_record(self._stamp) == self._inputs
        except RecordError as error:
            logger.warning("%s The stage %s runs again.", error, self.name)
            return False
        logger.info(
            "%s: %s",
            self.name,
            "finished before, skipped" if same else "inputs have changed, running again",
        )
        return same

    def finish(self) -> None:
        write_record(self._stamp, self._inputs)
