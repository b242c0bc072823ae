"""What all observables share.

Frames are added one by one; parts of a trajectory add up to the whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from openmm_cgkd.exceptions import AnalysisError

from .neighbors import Frame, Neighbors


class Observable(ABC):
    """A quantity accumulated over frames; memory does not grow with their number.

    A subclass keeps its settings in the attributes named by `_settings` and what it accumulates in
    those named by `_sums`, which add up. It sets these to zero in `_reset` and adds to them in
    `_add`.
    """

    _settings: ClassVar[tuple[str, ...]]
    _sums: ClassVar[tuple[str, ...]]

    def compute(self, frame: Frame, reset: bool = True, neighbors: Neighbors | None = None) -> Self:
        """Add one frame; ``reset=False`` keeps the frames before it.

        Parameters
        ----------
        frame : Frame
        reset : bool
        neighbors : Neighbors, optional
            Of this frame, at least as far as the observable looks; saves the search when several
            observables see the same frame.

        Raises
        ------
        AnalysisError
            If the frame lacks the beads that the observable is about.
        BoxError
            If a distance is above half the smallest box height.
        """
        if reset:
            self._reset()
        self._add(frame, neighbors)
        return self

    @abstractmethod
    def _reset(self) -> None: ...

    @abstractmethod
    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None: ...

    @property
    @abstractmethod
    def values(self) -> np.ndarray:
        """The result."""

    @property
    @abstractmethod
    def bin_width(self) -> float:
        """Width of a bin of `density`, or area of a cell, in the units of its axes."""

    @property
    def density(self) -> np.ndarray:
        """What is compared with another run."""
        return self.values

    @property
    def weights(self) -> np.ndarray | float:
        """Times `density` gives a probability distribution, up to a factor."""
        return 1.0

    def _setting(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._settings)

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """The observable over all frames of several parts.

        Raises
        ------
        AnalysisError
            If the parts differ in their settings, or there is none.
        """
        parts = list(parts)
        if len({part._setting() for part in parts}) != 1:
            raise AnalysisError(
                f"Got {len(parts)} parts of {cls.__name__} to merge; give at least one, all of the"
                f" same {', '.join(cls._settings)}."
            )
        total = cls(*parts[0]._setting())
        for name in cls._sums:
            setattr(total, name, sum(getattr(part, name) for part in parts))
        return total

    def without(self, part: Self) -> Self:
        """The observable over all frames but those of a part."""
        rest = type(self)(*self._setting())
        for name in self._sums:
            setattr(rest, name, getattr(self, name) - getattr(part, name))
        return rest


ObservableT = TypeVar("ObservableT", bound=Observable)


def accumulate_blocks(
    make: Callable[[], Sequence[ObservableT]],
    frames: Sequence[Frame],
    parts: int,
    cutoff: float | dict[tuple, float] | None,
    update: Callable[[int], None] | None = None,
) -> list[list[ObservableT]]:
    """Observables of contiguous stretches of time, equal to within one frame.

    Parameters
    ----------
    make : callable
        Makes fresh observables, always the same ones.
    frames : sequence of Frame
    parts : int
        Number of stretches.
    cutoff : float or dict, nm
        Largest distance at which the observables need neighbours, see `Neighbors`; None if they
        need none.
    update : callable, optional
        Called with the number of frames done.

    Returns
    -------
    list of list
        For every observable its parts in time; ``merged`` of them is the observable over all
        frames.

    Raises
    ------
    AnalysisError
        If there are fewer frames than parts; else as the observables.
    """
    if len(frames) < parts:
        raise AnalysisError(
            f"{len(frames)} frames cannot be cut into {parts} time blocks; give a longer trajectory"
            " or fewer blocks."
        )
    stretches = []
    for stretch in np.array_split(np.arange(len(frames)), parts):
        observables = list(make())
        for k in stretch:
            neighbors = None if cutoff is None else Neighbors(frames[k], cutoff)
            for observable in observables:
                observable.compute(frames[k], reset=False, neighbors=neighbors)
        stretches.append(observables)
        if update is not None:
            update(int(stretch[-1]) + 1)
    return [list(column) for column in zip(*stretches, strict=True)]
