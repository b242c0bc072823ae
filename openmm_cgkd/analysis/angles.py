"""Old import path of `openmm_cgkd.analysis.observables.angles`."""

from openmm_cgkd.analysis.observables.angles import ADF, CDF

__all__ = ["ADF", "CDF"]
