"""What numba compiles, kept on disk where that is possible."""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile

logger = logging.getLogger(__name__)

_told = False


class CacheFile(IndexDataCacheFile):
    """One file for each compiled function, which says of which it is.

    numba numbers the files of one function and keeps the numbers in an index, without a lock. Two
    processes can give one number to two signatures, and later ones would run the other code.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write what was compiled."""
        # bytes, which are read only where version and source are the same
        content = self._dump((key, data))
        self._save_data(self._name(key), (self._version, self._source_stamp, content))

    def load(self, key: Any) -> Any:
        """What was compiled, None if nothing is kept."""
        try:
            version, stamp, content = self._load_data(self._name(key))
        except FileNotFoundError:
            return None
        if (version, stamp) != (self._version, self._source_stamp):
            return None
        kept, data = pickle.loads(content)
        return data if kept == key else None

    def flush(self) -> None:
        """Nothing: what is compiled next overwrites its file."""

    def _name(self, key: Any) -> str:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self._index_name.removesuffix("nbi") + f"{name}.nbc"


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
    if file := getattr(cache, "_cache_file", None):  # absent where nothing can be kept
        file.__class__ = CacheFile
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
