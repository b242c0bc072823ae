"""Compiled functions that come from disk, and their threads, in processes of their own."""

import os
import subprocess
import sys

import numba
import pytest

from openmm_cgkd.potential.cpu.jit import compiled
from tests.cases.paths import ROOT
from tests.cases.potential import write_toy_potential

_SETUP = """
import numpy as np
from openmm_cgkd.potential.cpu import lists, neighbors
from openmm_cgkd.utils.box import kernel_box
positions, box = np.random.default_rng(0).random((200, 3)) * 3, kernel_box((3 * np.eye(3)).tolist())
"""
_PARALLEL = """
of_cells = neighbors.sorted_by_cell(positions, box, 1.0)
row = np.zeros(201, np.int64)
neighbors.count_neighbors(*of_cells, box, 1.0, row[1:])
row = row.cumsum()
neighbors.fill_neighbors(*of_cells, box, 1.0, row, np.empty(row[-1], np.int32))
print(row[-1])
"""
_CALLER = "print(len(lists.neighbor_list(positions, 3 * np.eye(3), 1.0).column))"


@pytest.mark.slow
def test_caller_of_a_parallel_function_that_was_on_disk(tmp_path):
    """Compiled one after the other by two processes, as when the first is killed.

    A third process has both functions from disk.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = []
    for step in (_PARALLEL, _CALLER, _CALLER):
        result = subprocess.run(
            [sys.executable, "-c", _SETUP + step],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found.append(int(result.stdout))
    assert found == 3 * [found[0]]
    assert len(list(tmp_path.rglob("neighbors.find_neighbors*.nbc"))) == 1


def _times(n):
    @compiled()
    def inner(x):
        return n * x

    @compiled()
    def outer(x):
        return inner(x) + 1

    return outer


def test_functions_of_one_source_are_kept_by_their_numbers(monkeypatch, tmp_path):
    """The kernels are one source for all widths of vectors."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for hits in (0, 1):  # the second time as in another process: other objects
        functions = [_times(n) for n in (2, 3)]
        assert [function(10) for function in functions] == [21, 31]
        assert [sum(function.stats.cache_hits.values()) for function in functions] == 2 * [hits]


def _scaled(n):
    @compiled()
    def scaled(x):
        return n * x

    return scaled


def test_two_processes_that_save_at_once(monkeypatch, tmp_path):
    """One saves between the first and the last write of another, of which it knows nothing."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    first, second = _scaled(2), _scaled(3)
    other, replace = [second], os.replace

    def replace_late(source, target):
        if other and str(target).endswith(".nbc"):
            for index in tmp_path.rglob("*.nbi"):  # as if it had been read before it was written
                index.unlink()
            other.pop()(10)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_late)
    assert (first(10), second(10)) == (20, 30)
    assert not other
    again = [_scaled(n) for n in (2, 3)]
    assert [function(10) for function in again] == [20, 30]
    assert [sum(function.stats.cache_hits.values()) for function in again] == [1, 1]


def test_vectors_of_other_widths_are_other_functions(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    _scaled(2)(10)
    monkeypatch.setattr("openmm_cgkd.potential.cpu.jit.WIDEST", 4)
    narrow = _scaled(2)
    narrow(10)
    assert not narrow.stats.cache_hits


_THREADS = """
import hashlib, os, sys
import torch
before = torch.get_num_threads()
import numba, openmm
from openmm_cgkd import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from tests.cases.potential import CUBIC, beads, liquid

types, positions = liquid()
topology = bead_topology_to_openmm(beads(types), CUBIC)
system = CGPotential(sys.argv[1]).createSystem(topology, boxVectors=CUBIC)
made = torch.get_num_threads()
platform = openmm.Platform.getPlatform("CPU")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})
context.setPositions(positions)

def evaluate():
    state = context.getState(energy=True, forces=True)
    bits = state.getForces(asNumpy=True)._value.tobytes()
    return state.getPotentialEnergy()._value.hex(), hashlib.sha256(bits).hexdigest()

found = evaluate()
print("threads", before, made, torch.get_num_threads(), numba.get_num_threads(),
      platform.getPropertyValue(context, "Threads"), *found)
torch.set_num_threads(1)
context.setPositions(positions)
again = evaluate()
print("threads", torch.get_num_threads(), numba.get_num_threads(), again == found)
"""


def test_loops_use_the_threads_that_the_user_wants(tmp_path):
    """Those of PyTorch or numba's own, and the number changes neither PyTorch's nor a result."""
    model = write_toy_potential(tmp_path / "student.pt", "fast")
    plain = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    environments = [{}, {"OMP_NUM_THREADS": "1"}, {"NUMBA_NUM_THREADS": "1"}]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _THREADS, model],
            env={**plain, **environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    results = set()
    for process, environment in zip(processes, environments, strict=True):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        first, second = (
            line.split()[1:] for line in output.splitlines() if line.startswith("threads ")
        )
        before, made, after, loops, openmm_threads, *found = first
        assert before == made == after
        assert openmm_threads == "1"
        if "OMP_NUM_THREADS" in environment:
            assert before == "1"
        assert loops == environment.get("NUMBA_NUM_THREADS", before)
        assert second == ["1", "1", "True"]
        results.add(tuple(found))
    assert len(results) == 1
