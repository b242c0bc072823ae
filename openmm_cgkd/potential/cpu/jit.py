"""Compilation of the simulation kernels by numba, kept on disk until their source changes."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch

from openmm_cgkd.potential.compile_cache import compiled_once

from .simd import WIDEST


def source_stamp(*paths: Path) -> str:
    """SHA-256 of source files."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


_HERE = Path(__file__).parent
# the kernels also compile in the layout of the weights and the options of the compiler
_STAMP = source_stamp(
    *sorted(_HERE.glob("*.py")), _HERE.parent / "weights.py", _HERE.parent / "compile_cache.py"
)


def compiled(**options: bool) -> Callable[[Callable], Callable]:
    """Decorator: `compiled_once`, anew whenever a source file of the kernels changes.

    Parameters
    ----------
    **options : bool
        Of `numba.njit`: ``parallel``, ``fastmath``.
    """

    def decorate(function: Callable) -> Callable:
        dispatcher = compiled_once(function, **options)
        cache = dispatcher._cache
        # numba asks only whether the file of the function itself has changed, but compiles into it
        # what it calls from other files: without this, a new version of one file could run,
        # silently, with the old version of another
        if file := getattr(cache, "_cache_file", None):  # absent where nothing can be kept
            file._source_stamp = _STAMP
        cache._index_key = functools.partial(_index_key, function)
        cache.load_overload = _after_threads(cache.load_overload)
        return dispatcher

    return decorate


def _index_key(function: Callable, signature: Any, codegen: Any) -> tuple:
    """What a compiled function is found by in its file, besides the source.

    numba would take all that a function inside a function refers to, other compiled functions
    included, which are never the same in two processes. Only the numbers make a difference, those
    of the module included that depend on the processor.
    """
    return signature, codegen.magic_tuple(), WIDEST, _numbers(function)


def _numbers(function: Callable) -> tuple:
    """Numbers that a function inside a function refers to, itself or by functions it calls."""
    values = (cell.cell_contents for cell in function.__closure__ or ())
    return tuple(_numbers(x.py_func) if hasattr(x, "py_func") else x for x in values)


def _after_threads(load: Callable) -> Callable:
    """Start numba's threads before a function is loaded or compiled.

    A function that calls a parallel one does so itself, but not if it was compiled in a process
    that had the parallel one from disk, as where two processes compile side by side (numba 0.68
    loses `reload_init` of what it loads). It would jump to address zero.
    """

    @functools.wraps(load)
    def load_after_threads(signature: Any, context: Any) -> Any:
        _start_threads()
        return load(signature, context)

    return load_after_threads


def _start_threads() -> None:
    # over OpenMP, numba sets the number of threads of all that uses OpenMP, PyTorch included
    before = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(before)


class _Threads(threading.local):
    number = 0


_threads = _Threads()


def follow_torch() -> None:
    """Let the loops that this thread calls use as many threads as PyTorch may.

    So ``OMP_NUM_THREADS`` and `torch.set_num_threads` count for them, too. ``NUMBA_NUM_THREADS`` is
    numba's own way to say it and goes before.
    """
    number = torch.get_num_threads()
    if number == _threads.number:  # asked at every evaluation, and numba takes its time
        return
    _threads.number = number
    if "NUMBA_NUM_THREADS" not in os.environ:
        _start_threads()
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
