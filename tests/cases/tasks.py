"""Tasks for tests of the execution, in a module that workers can import."""

import os
import signal
import time
from pathlib import Path

from openmm_cgkd.exceptions import ExplosionError, TrainingError
from openmm_cgkd.utils.lock import locked


def square(number, folder, report):
    """Square a number and say where it ran.

    Waits for the other task, so that two are known to run side by side.
    """
    Path(folder, f"started-{number}").touch()
    while len(list(Path(folder).glob("started-*"))) < 2:
        time.sleep(0.05)
    report(0.5, "half way")
    time.sleep(1.2)  # more than the interval at which reports are read
    return (
        number**2,
        os.getpid(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        os.environ["OMP_NUM_THREADS"],
    )


def killed_once(name, folder, report):
    marker = Path(folder, f"killed-{name}")
    if name == "victim" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def fail(kind, report):
    if kind == "ours":
        raise TrainingError("The loss is not finite.")
    if kind == "stubborn":
        raise ExplosionError("The simulation stopped.", "exploded", 1.0)  # cannot be pickled
    if kind == "exits":
        os._exit(7)
    if kind == "library":
        raise KeyError("weights")
    return kind


def hold_lock(folder, report):
    """Work in a locked folder until asked to end."""
    with locked(folder):
        Path(folder, "at-work").write_text(str(os.getpid()))
        try:
            while True:
                time.sleep(0.1)
        finally:
            Path(folder, "saved").touch()


def run_forever(marker, report):
    Path(marker).write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)
        report(1.0, "")
