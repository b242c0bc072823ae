"""Compiled functions where the disk does not play along, in processes of their own."""

import os
import subprocess
import sys

_MODULE = """
import logging
import numpy as np
from openmm_cgkd.potential.compile_cache import compiled_once

logging.basicConfig(format="%(message)s")

def double(x):
    return 2 * x

def half(x):
    return x / 2

double, half = compiled_once(double), compiled_once(half, fastmath=True)
print(double(21.0), half(1.0), double.stats.cache_hits)
"""
_TOLD = "set NUMBA_CACHE_DIR to a folder that can be written"


def run(tmp_path, first="", **environment):
    (tmp_path / "functions.py").write_text(first + _MODULE)
    result = subprocess.run(
        [sys.executable, tmp_path / "functions.py"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_no_folder_that_can_be_written(tmp_path):
    """Said once. Root may write anywhere, so numba is left with one folder, below a file."""
    result = run(
        tmp_path,
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
        NUMBA_CACHE_DIR="/dev/null/cache",
    )
    assert result.stdout == "42.0 0.5 Counter()\n"
    assert result.stderr.count(_TOLD) == 1


def test_kept_on_disk_and_damaged(tmp_path):
    cache = tmp_path / "cache"
    assert run(tmp_path, NUMBA_CACHE_DIR=str(cache)).stdout == "42.0 0.5 Counter()\n"
    again = run(tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert "(float64,): 1" in again.stdout
    assert again.stderr == ""
    files = list(cache.rglob("*.nbc"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:50])
    damaged = run(tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert damaged.stdout == "42.0 0.5 Counter()\n"
    assert damaged.stderr.count(_TOLD) == 1
    whole = run(tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert "(float64,): 1" in whole.stdout


def test_disk_that_takes_no_more(tmp_path):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    result = run(tmp_path, limit, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert result.stdout == "42.0 0.5 Counter()\n"
    assert result.stderr.count(_TOLD) == 1
    assert "File too large" in result.stderr
