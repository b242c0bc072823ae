"""Conformance kit for potentials in OpenMM."""

from .validate import Check, ValidationReport, validate_potential

__all__ = ["Check", "ValidationReport", "validate_potential"]
