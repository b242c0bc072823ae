"""Processes that work on one thing."""

import os
import time
from pathlib import Path

import pytest

from openmm_cgkd.exceptions import ExecutionError
from openmm_cgkd.execution.processes import run_together
from openmm_cgkd.utils.progress import Report


def share(folder: Path, rank: int, report: Report) -> None:
    """Rank 1 fails; rank 0 would wait for it until its parent ends it."""
    if rank == 0:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    while not (folder / "pid").exists():
        time.sleep(0.1)
    raise OSError("no luck")


def test_one_failing_share_ends_all(tmp_path):
    with pytest.raises(ExecutionError, match="OSError: no luck"):
        run_together([(share, (tmp_path, rank)) for rank in range(2)], lambda part, note: None, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
