"""Compilation of the simulation kernels by numba, kept on disk until their source changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def source_stamp(*paths: Path) -> str:
    """SHA-256 of source files."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


_HERE = Path(__file__).parent
# the kernels also compile in the layout of the weights
_STAMP = source_stamp(*sorted(_HERE.glob("*.py")), _HERE.parent / "weights.py")


def compiled(**options: bool) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit` without the interpreter's lock, its result cached.

    Parameters
    ----------
    **options : bool
        Of `numba.njit`: ``parallel``, ``fastmath``.
    """

    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        # numba asks only whether the file of the function itself has changed, but compiles into it
        # what it calls from other files: without this, a new version of one file could run,
        # silently, with the old version of another
        dispatcher._cache._cache_file._source_stamp = _STAMP
        dispatcher._cache.load_overload = _after_threads(dispatcher._cache.load_overload)
        return dispatcher

    return decorate


def _after_threads(load: Callable) -> Callable:
    """Start numba's threads before a function is loaded.

    A function that calls a parallel one does so itself, but not if it was compiled in a process
    that had the parallel one from disk, as where two processes compile side by side (numba 0.68
    loses `reload_init` of what it loads). It would jump to address zero.
    """

    def load_after_threads(signature: Any, context: Any) -> Any:
        numba.get_num_threads()
        return load(signature, context)

    return load_after_threads
