"""Errors of the package: one base class, each error also the fitting builtin."""

import re

_LONG_WORD = re.compile(r"\S{301,}")
_LONGEST = 4000  # characters of a message


class CGKDError(Exception):
    """Base class; the command line prints its message as one sentence and exits with code 2.

    Messages hold names from files of strangers. So what is no printable character is written as an
    escape sequence, and the middle of a very long word is left out.
    """

    def __str__(self) -> str:
        message = "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
            for c in super().__str__()
        )
        message = _LONG_WORD.sub(lambda found: _shortened(found[0], 300), message)
        return _shortened(message, _LONGEST)


def _shortened(text: str, most: int) -> str:
    half = most // 2 - 3
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


class ConfigError(CGKDError, ValueError):
    """A configuration file or option is not valid."""


class MappingError(CGKDError, ValueError):
    """The atoms-to-beads map does not fit the system."""


class ForceFieldError(CGKDError, ValueError):
    """The all-atom force field lacks a parameter or does not fit the molecules."""


class FramesError(CGKDError, ValueError):
    """A file of mapped frames or labels is missing, foreign, damaged or does not fit."""


class BoxError(CGKDError, ValueError):
    """A periodic box does not fit the cutoff or the topology."""


class TrainingError(CGKDError, RuntimeError):
    """Training cannot go on."""


class ModelFileError(CGKDError, ValueError):
    """A potential file is missing, foreign or does not fit the topology."""


class CompatibilityError(CGKDError, ImportError):
    """The installed libraries cannot run the potential."""


class ConformanceError(CGKDError, AssertionError):
    """A potential fails checks of `openmm_cgkd.testing.validate`, or they cannot be made."""


class SimulationError(CGKDError, RuntimeError):
    """A molecular dynamics run failed or exploded."""


class ExplosionError(SimulationError):
    """A molecular dynamics run reached a state that is not physical.

    Attributes
    ----------
    kind : str
        "non-finite" or "exploded" (far too hot).
    time : float, ps
    """

    def __init__(self, message: str, kind: str, time: float) -> None:
        super().__init__(message)
        self.kind, self.time = kind, time


class ExecutionError(CGKDError, RuntimeError):
    """Independent tasks failed; `failures` holds the error of each by its name."""

    def __init__(self, message: str, failures: dict[str, BaseException] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or {}


class DiskError(CGKDError, OSError):
    """A file cannot be written or read: the disk is full, a permission or the folder is missing."""


class FolderInUseError(CGKDError, RuntimeError):
    """Another run works in the folder."""


class RecordError(CGKDError, ValueError):
    """A small file that the package keeps is missing, changed or damaged."""


class AnalysisError(CGKDError, ValueError):
    """An observable cannot be computed from the given trajectories."""
