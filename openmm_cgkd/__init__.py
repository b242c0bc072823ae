"""Coarse-grained force fields by knowledge distillation, run inside OpenMM.

The public names are listed in `__all__` and imported on first use, so that ``import openmm_cgkd``
stays light. In the order of the pipeline:

`read_frames` and `MappedReporter` give mapped all-atom frames, `fit_prior` the fixed part of the
potential, `train_ensemble` the teachers, `label_frames` their labels, `distill` the student,
`export_potential` its files. `CGPotential` and `EnsemblePotential` make OpenMM systems from them,
`validate_potential` checks them, `simulate` runs them and `compare` compares the trajectory with
all-atom. `CustomNetwork` puts a user's own network in place of TensorNet. `load_run` and `run_all`
do all this by a run.yaml.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

# Read by libgomp, which torch and numba load later. Its threads spin while they wait, unless told
# not to: half as fast again for a small fluid on an idle machine, but a hundred times slower, not
# five, where other programs want the same cores
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("openmm_cgkd")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from .allatom.reporter import MappedReporter
    from .analysis.comparison.compare import compare
    from .config.run import (
        ComparisonConfig,
        LossWeights,
        ModelConfig,
        PriorConfig,
        SimulationConfig,
        SplitConfig,
        TeachersConfig,
        TrainingConfig,
        load_run,
    )
    from .frames.frames import Frames, read_frames
    from .potential.custom_network import CustomNetwork
    from .potential.export import export_potential
    from .potential.prior import fit_prior
    from .simulation.cgpotential import CGPotential
    from .simulation.ensemble import EnsemblePotential
    from .simulation.simulate import simulate
    from .stages.workflow import run_all
    from .testing.validate import validate_potential
    from .training.distillation import distill
    from .training.ensemble import train_ensemble
    from .training.labeling import label_frames

_HOMES = {
    "Frames": "frames.frames",
    "read_frames": "frames.frames",
    "MappedReporter": "allatom.reporter",
    "fit_prior": "potential.prior",
    "train_ensemble": "training.ensemble",
    "label_frames": "training.labeling",
    "distill": "training.distillation",
    "export_potential": "potential.export",
    "CustomNetwork": "potential.custom_network",
    "CGPotential": "simulation.cgpotential",
    "EnsemblePotential": "simulation.ensemble",
    "validate_potential": "testing.validate",
    "simulate": "simulation.simulate",
    "compare": "analysis.comparison.compare",
    "load_run": "config.run",
    "run_all": "stages.workflow",
    "ModelConfig": "config.run",
    "PriorConfig": "config.run",
    "SplitConfig": "config.run",
    "TrainingConfig": "config.run",
    "TeachersConfig": "config.run",
    "LossWeights": "config.run",
    "SimulationConfig": "config.run",
    "ComparisonConfig": "config.run",
}

__all__ = [
    "Frames",
    "read_frames",
    "MappedReporter",
    "fit_prior",
    "train_ensemble",
    "label_frames",
    "distill",
    "export_potential",
    "CustomNetwork",
    "CGPotential",
    "EnsemblePotential",
    "validate_potential",
    "simulate",
    "compare",
    "load_run",
    "run_all",
    "ModelConfig",
    "PriorConfig",
    "SplitConfig",
    "TrainingConfig",
    "TeachersConfig",
    "LossWeights",
    "SimulationConfig",
    "ComparisonConfig",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
