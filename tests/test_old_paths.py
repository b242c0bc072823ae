"""Import paths that the documentation of 0.1 names still lead to the same objects."""

import importlib
from importlib.metadata import entry_points

import pytest

MOVED = [
    ("analysis.angles", "ADF", "analysis.observables.angles"),
    ("analysis.angles", "CDF", "analysis.observables.angles"),
    ("analysis.neighborhood", "Frame", "analysis.observables.neighbors"),
    ("frames", "read_frames", "frames.frames"),
    ("metadata", "read_metadata", "potential.metadata"),
    ("runtime.cgpotential", "CGPotential", "simulation.cgpotential"),
    ("runtime.cgpotential", "bead_topology_to_openmm", "simulation.topology"),
    ("runtime.committee", "EnsemblePotential", "simulation.ensemble"),
    ("runtime.pythonforce", "PotentialFunction", "simulation.python_force"),
    ("units", "to_float", "utils.units"),
]


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_old_path_leads_to_the_same_object(old, name, new):
    before, after = (importlib.import_module(f"openmm_cgkd.{module}") for module in (old, new))
    assert getattr(before, name) is getattr(after, name)


def test_old_path_of_the_plug_in_of_openmm_ml():
    pytest.importorskip("openmmml")
    from openmm_cgkd.mlpotential import CGPotentialFactory
    from openmm_cgkd.simulation import openmmml

    assert CGPotentialFactory is openmmml.CGPotentialFactory


def test_entry_points_load():
    (script,) = entry_points(group="console_scripts", name="cgkd")
    assert callable(script.load())
    (plugin,) = entry_points(group="openmmml.potentials", name="cgkd")
    pytest.importorskip("openmmml")
    assert plugin.load().__name__ == "CGPotentialFactory"
