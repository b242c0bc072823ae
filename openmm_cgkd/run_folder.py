"""Where a run keeps its files, and which stages are finished."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .config.run import RunConfig
from .config.section import dump
from .utils.files import write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; stages talk through these files only."""

    config: RunConfig

    @property
    def root(self) -> Path:
        return self.config.run_folder

    @property
    def reference(self) -> Path:
        return self.root / "reference"

    @property
    def frames(self) -> Path:
        """Mapped all-atom frames.

        The file named in the configuration, or the product of the all-atom stage.
        """
        if self.config.frames is not None:
            return self.config.path(self.config.frames)
        return self.reference / "frames.h5"

    @property
    def prior(self) -> Path:
        return self.root / "prior.json"

    def teacher(self, k: int) -> Path:
        """Folder of one ensemble member."""
        return self.root / "teachers" / f"{k:02d}"

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

    def student_of_round(self, k: int) -> Path:
        """Folder of the student's training in an on-policy round; 0: before the first one."""
        return self.on_policy(k) / "student" if k else self.root / "student"

    @property
    def student(self) -> Path:
        """Folder of the final student's training."""
        return self.student_of_round(self.config.student.on_policy.rounds)

    @property
    def model(self) -> Path:
        """The exported TorchScript file.

        The one named in the configuration, or the product of the export stage.
        """
        if self.config.potential is not None:
            return self.config.path(self.config.potential)
        return self.root / "student.pt"

    @property
    def simulation(self) -> Path:
        return self.root / "simulation"

    @property
    def comparison(self) -> Path:
        return self.root / "comparison"

    def tasks(self, stage: str) -> Path:
        """Folder for tracebacks and logs of a stage's tasks side by side."""
        return self.root / "tasks" / stage

    def log(self, stage: str) -> Path:
        return self.root / "logs" / f"{stage}.log"


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
        self._stamp = folder.root / "stages" / f"{name}.json"
        self._inputs = json.loads(json.dumps(inputs, default=_plain))
        write_text(folder.root / "run.yaml", dump(folder.config, folder.root))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs.

        Partial work carries it, so that work of other inputs is never resumed.
        """
        return hashlib.sha256(json.dumps(self._inputs, sort_keys=True).encode()).hexdigest()

    @property
    def finished(self) -> bool:
        if not self._stamp.exists() or not all(path.exists() for path in self.outputs):
            return False
        same = json.loads(self._stamp.read_text()) == self._inputs
        logger.info(
            "%s: %s",
            self.name,
            "finished before, skipped" if same else "inputs have changed, running again",
        )
        return same

    def finish(self) -> None:
        write_text(self._stamp, json.dumps(self._inputs, indent=1))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
