"""Errors of the package: one base class, each error also the fitting builtin."""


class CGKDError(Exception):
    """Base class; the command line prints its message as one sentence and exits with code 2."""


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


class AnalysisError(CGKDError, ValueError):
    """An observable cannot be computed from the given trajectories."""
