"""Compiled functions that come from disk, in processes of their own."""

import os
import subprocess
import sys

import pytest

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
