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


class SimulationError(CGKDError, RuntimeError):
    """A molecular dynamics run failed or exploded."""


class AnalysisError(CGKDError, ValueError):
    """An observable cannot be computed from the given trajectories."""
