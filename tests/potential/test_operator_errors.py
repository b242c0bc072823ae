"""Errors and Ctrl-C inside OpenMM's C++.

They would end the process if they left an operator; hence in processes of their own.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.potential import write_toy_potential

# in a process of its own: what is tested here, if wrong, is a segmentation fault
_SETUP = """
import os, signal, sys, threading, time
import numpy as np, openmm
from openmm import app
from tests.cases.potential import CUBIC, beads, liquid
from openmm_cgkd import CGPotential
from openmm_cgkd.simulation.explosion import openmm_message
from openmm_cgkd.potential import torch_ops
from openmm_cgkd.simulation.topology import bead_topology_to_openmm

types, positions = liquid()
topology = bead_topology_to_openmm(beads(types), CUBIC)
system = CGPotential(sys.argv[1]).createSystem(topology, boxVectors=CUBIC)
integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
simulation.context.setPositions(positions)
print("begins")

def energy():
    return simulation.context.getState(energy=True).getPotentialEnergy()._value

def message():
    try:
        return f"no error, {energy()} kJ/mol"
    except openmm.OpenMMException as error:
        return openmm_message(error)
"""


@pytest.fixture(scope="module", params=["portable", "fast"])
def model(request, tmp_path_factory) -> Path:
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt", request.param)


def lines(model: Path, script: str) -> list[str]:
    command = [sys.executable, "-c", _SETUP + script, str(model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, f"{result.returncode}\n{result.stderr}"
    _, _, told = result.stdout.partition("begins\n")  # other libraries greet before
    return told.splitlines()


def test_error_in_an_operator_is_a_sentence_and_the_next_step_works(model):
    script = """
before = energy()
evaluate = torch_ops.evaluate

def broken(*arguments):
    raise OSError("no room for compiled code")

torch_ops.evaluate = broken
print(message())
torch_ops.evaluate = evaluate
print(energy() == before)
"""
    assert lines(model, script) == ["OSError: no room for compiled code", "True"]


def test_beads_that_have_flown_apart_are_refused(model):
    """Beyond 2^51 boxes edges no longer come in pairs.

    Kernels would write beyond their arrays.
    """
    script = """
before = energy()
for scale in (1e13, 3e16, 1e200):
    simulation.context.setPositions(positions * scale)
    print(message())
simulation.context.setPositions(positions)
print(energy() == before)
"""
    refused = "Bead positions are not finite or beyond 1e+12 nm; use a smaller time step"
    assert lines(model, script) == [refused, refused, refused, "True"]


def test_control_c_interrupts_a_simulation_that_can_go_on(model):
    script = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
simulation.minimizeEnergy()
for run in (lambda: simulation.step(10**9), lambda: [integrator.step(20) for _ in range(10**9)]):
    for _ in range(3):
        begin = simulation.context.getStepCount()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            run()
        except KeyboardInterrupt:
            stepped = simulation.context.getStepCount() > begin
            print("interrupted", stepped, np.isfinite(energy()), sys.gettrace())
simulation.step(10)
print("on")
"""
    assert lines(model, script) == [*6 * ["interrupted True True None"], "on"]
