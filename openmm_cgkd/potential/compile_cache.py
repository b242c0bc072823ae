"""What numba compiles, kept on disk where that is possible."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba

logger = logging.getLogger(__name__)

_told = False


def compiled_once(function: Callable, **options: bool) -> Any:
    """Compile without the interpreter's lock and keep the result on disk.

    Where no folder can be written, every process compiles anew; where a file is damaged, it is
    written again.

    Parameters
    ----------
    function : callable
    **options : bool
        Of `numba.njit`: ``parallel``, ``fastmath``.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        _tell(str(error))
    cache = dispatcher._cache
    cache.load_overload = _harmless(cache.load_overload, cache.flush)
    cache.save_overload = _harmless(cache.save_overload, cache.flush)
    return dispatcher


def _harmless(use: Callable, clear: Callable[[], None]) -> Callable:
    """Go on without the file where it cannot be used."""

    @functools.wraps(use)
    def use_or_not(*arguments: Any) -> Any:
        try:
            return use(*arguments)
        except Exception as error:  # whatever a damaged file makes of unpickling, or a full disk
            _tell(f"{type(error).__name__}: {error}")
            with suppress(OSError):
                clear()
            return None

    return use_or_not


def _tell(why: str) -> None:
    global _told
    if not _told:
        _told = True
        logger.warning(
            "compiled loops cannot be kept on disk (%s), so every process takes longer to start;"
            " set NUMBA_CACHE_DIR to a folder that can be written",
            why,
        )
