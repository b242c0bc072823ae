"""What can be compared: trajectories of beads and files of mapped frames."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.scale import check_scale
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.simulation.outputs import log_column
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.files import file_hash

from .curves import FEWEST_FRAMES
from .speed import Speed, speed_of_frames, speed_of_trajectory
from .trajectory import read_trajectory

# relative; beyond it the two runs are at different states and differ for that reason alone
_VOLUME_TOLERANCE = 0.01
# shares of the time of a run, and of its frames: a gap so long, so near to the middle, cuts it
_LONG_GAP, _NEAR = 0.1, 0.15
_NO_TIMES = (
    "The time between frames is not known: neither the file nor a state.csv beside it tells."
)
_CHARGE_TOLERANCE = 1e-3  # elementary charge
logger = logging.getLogger(__name__)

_TRAJECTORIES = ("trajectory.dcd", "trajectory.xtc")


@dataclass(frozen=True)
class Source:
    """A trajectory of beads, all-atom or coarse-grained.

    Attributes
    ----------
    label : str
        Name of the model; sources of the same label are independent trainings of it.
    path : Path
        The file that it was read from.
    identity : str
        SHA-256 of its content.
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    names : list of str
        Type of every bead, cut to four characters as in a PDB file.
    type_names : tuple of str
        Bead types in the order of reports.
    times : ndarray, shape (n_frames,), ps, or None
        None if they are not known.
    attributes : dict
        Provenance, of mapped frames.
    runs : tuple of int
        Numbers of frames of independent runs that stand one after the other; empty for a single
        run. `path` is that of the first run, `identity` the SHA-256 of their identities.
    charges : ndarray, shape (n_beads,), elementary charge, or None
        Of mapped frames; a trajectory says nothing of charges.
    speed : Speed or None
        Of the run; None if it is not known.
    untimed : str
        Why there are no times, where there are none.
    """

    label: str
    path: Path
    identity: str
    positions: np.ndarray
    boxes: np.ndarray
    names: list[str]
    type_names: tuple[str, ...]
    times: np.ndarray | None
    attributes: dict[str, Any]
    runs: tuple[int, ...] = ()
    charges: np.ndarray | None = None
    speed: Speed | None = None
    untimed: str = _NO_TIMES

    def __len__(self) -> int:
        return len(self.positions)

    def separate(self) -> list[Source]:
        """The independent runs, each as a source."""
        if not self.runs:
            return [self]
        edges = [0, *accumulate(self.runs)]
        return [
            replace(
                self,
                positions=self.positions[first:last],
                boxes=self.boxes[first:last],
                times=None if self.times is None else self.times[first:last],
                runs=(),
            )
            for first, last in pairwise(edges)
        ]

    @cached_property
    def beads(self) -> BeadTopology:
        """Beads as the names tell; a trajectory says nothing of masses and molecules."""
        types = np.array([self.type_names.index(name) for name in self.names])
        return BeadTopology(
            self.type_names, types, np.full(len(types), np.nan), np.arange(len(types))
        )

    def stretches(self) -> tuple[float, list[slice]] | None:
        """Usual time between frames (ps), and the stretches of frames that are so far apart.

        None if the times are not known or do not increase; `no_times` says why.
        """
        if self.times is None or len(self.times) < 2:
            return None
        steps = np.diff(self.times)
        usual = float(np.median(steps))
        if not usual > 0:
            return None
        # a file may keep times in single precision
        gaps = np.flatnonzero(np.abs(steps - usual) > 1e-3 * usual + 1e-6 * abs(self.times[-1])) + 1
        edges = [0, *gaps.tolist(), len(self.times)]
        return usual, [slice(start, stop) for start, stop in pairwise(edges)]

    @property
    def no_times(self) -> str:
        """Why `stretches` is None."""
        if self.times is None:
            return self.untimed
        return "The times of the frames do not increase; write them in order of time."

    @cached_property
    def _long_gaps(self) -> list[int]:
        """First frames after long gaps in time, whose two sides remember least of each other."""
        found = self.stretches()
        if found is None or self.times is None:
            return []
        long = _LONG_GAP * (self.times[-1] - self.times[0])
        starts = [part.start for part in found[1][1:]]
        return [start for start in starts if self.times[start] - self.times[start - 1] > long]

    def pieces(self) -> list[int]:
        """Numbers of frames of the independent runs, and of pieces of them beside long gaps.

        A piece with less than a tenth of the frames of its run is not cut off.
        """
        found = []
        for run in self.separate():
            edges, few = [0], _LONG_GAP * len(run)
            for start in run._long_gaps:
                if min(start - edges[-1], len(run) - start) >= max(few, FEWEST_FRAMES):
                    edges.append(start)
            found += [stop - start for start, stop in pairwise([*edges, len(run)])]
        return found

    @property
    def middle(self) -> float:
        """Share of the frames before the place where a single run is cut into halves.

        That is the longest gap in time near the middle, if it is long.
        """
        n, times = len(self), self.times
        near = [start for start in self._long_gaps if abs(start / n - 0.5) < _NEAR]
        if times is None or not near:
            return 0.5
        return max(near, key=lambda start: times[start] - times[start - 1]) / n

    def frames(self, chosen: np.ndarray) -> list[Frame]:
        """Some of the configurations."""
        names = np.array(self.names)
        return [Frame(self.positions[k], self.boxes[k], names) for k in chosen]


def check_comparable(all_atom: Source, model: Source) -> None:
    """Refuse a trajectory of other beads, in another unit, of another volume, or of few frames.

    Raises
    ------
    AnalysisError, FramesError
    """
    if all_atom.names != model.names:
        raise AnalysisError(
            f"{model.path}: holds other beads ({_composition(model.names)}) than the all-atom"
            f" frames ({_composition(all_atom.names)}), or in another order; compare runs of the"
            " same system."
        )
    check_scale(
        model.path, model.positions[0], model.boxes[0], all_atom.positions[0], all_atom.boxes[0]
    )
    volumes = [float(np.abs(box_volume(boxes)).mean()) for boxes in (all_atom.boxes, model.boxes)]
    if abs(volumes[1] / volumes[0] - 1) > _VOLUME_TOLERANCE:
        raise AnalysisError(
            f"{model.path}: the mean box volume is {volumes[1]:.3f} nm^3 in the trajectory and "
            f"{volumes[0]:.3f} nm^3 in the all-atom frames; simulate at the all-atom density."
        )
    for what, source in (("all-atom frames", all_atom), ("frames of the trajectory", model)):
        n = len(source)
        if n < FEWEST_FRAMES:
            raise AnalysisError(
                f"{source.path}: {n} {what} are too few for standard errors, which need at least"
                f" {FEWEST_FRAMES}; simulate longer or save frames more often."
            )


def _composition(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"


def joined_source(sources: Sequence[Source]) -> Source:
    """Independent runs of the same beads as one source, with a gap in time between them.

    Raises
    ------
    AnalysisError
        As `check_comparable`, or if their beads have different charges.
    """
    first, *others = sources
    if not others:
        return first
    for other in others:
        check_comparable(first, other)
    charges = _common_charges(sources)
    identity = hashlib.sha256("".join(source.identity for source in sources).encode()).hexdigest()
    times, untimed = None, _NO_TIMES
    found = [source.stretches() for source in sources]
    intervals = [each[0] for each in found if each is not None]
    if len(intervals) < len(sources):
        untimed = next(
            f"{source.path}: {source.no_times}"
            for source, each in zip(sources, found, strict=True)
            if each is None
        )
    elif np.ptp(intervals) > 1e-3 * intervals[0]:
        told = " and ".join(f"{interval:g}" for interval in intervals)
        untimed = f"The runs have frames every {told} ps; save all of them alike."
        logger.warning("all-atom dynamics are left out. %s", untimed)
    else:
        known = [np.asarray(source.times, dtype=float) for source in sources]
        # as far apart as all of them are long: no usual time between frames is that long
        gap, pieces = sum(float(each[-1] - each[0]) + 1.0 for each in known), [known[0]]
        for each in known[1:]:
            pieces.append(each - each[0] + pieces[-1][-1] + gap)
        times = np.concatenate(pieces)
    return replace(
        first,
        identity=identity,
        positions=np.concatenate([source.positions for source in sources]),
        boxes=np.concatenate([source.boxes for source in sources]),
        times=times,
        runs=tuple(len(source) for source in sources),
        charges=charges,
        speed=next((source.speed for source in sources if source.speed), None),
        untimed=untimed,
    )


def _common_charges(sources: Sequence[Source]) -> np.ndarray | None:
    """Charges of the beads from whichever runs know them; zeros mean that they are not known."""
    first = None
    for source in sources:
        if source.charges is None or not np.any(source.charges):
            continue
        if first is None:
            first = source
            continue
        assert first.charges is not None
        apart = np.abs(source.charges - first.charges)
        if apart.max() > _CHARGE_TOLERANCE:
            k = int(apart.argmax())
            raise AnalysisError(
                f"{source.path}: bead {k} ({source.names[k]}) has the charge"
                f" {source.charges[k]:.3f}, in {first.path} {first.charges[k]:.3f}; compare runs of"
                " one force field."
            )
    return sources[0].charges if first is None else first.charges


def source_of_frames(frames: Frames, path: Path, label: str = "AA") -> Source:
    """Mapped frames as a source."""
    names = [name[:4] for name in frames.beads.names]
    type_names = tuple(name[:4] for name in frames.beads.type_names)
    return Source(
        label,
        path,
        frames.identity,
        frames.positions,
        frames.box,
        names,
        type_names,
        frames.time,
        frames.attributes,
        charges=frames.beads.charges,
        speed=speed_of_frames(frames.attributes, path),
    )


def read_source(path: Path | str, label: str = "") -> Source:
    """Read a trajectory, the folder that holds it, or a file of mapped frames.

    Parameters
    ----------
    path : path
        A folder with ``simulation/trajectory.dcd`` (or xtc), or with the trajectory itself; an HDF5
        file of mapped frames; or a trajectory that MDTraj reads with ``topology.pdb``, or a PDB
        file of its own name, beside it.
    label : str
        Name of the folder or of the file if empty.

    Raises
    ------
    AnalysisError
        If there is no trajectory, no topology, or it cannot be read.
    FramesError, RecordError
        If a file of mapped frames, or the ``simulation.json`` beside a trajectory, is not valid.
    """
    path = Path(path)
    if path.is_dir():
        label = label or path.resolve().name
        path = _trajectory_in(path)
    if not path.exists():
        raise AnalysisError(
            f"{path}: no such file or folder; name a run folder, a trajectory or a file of mapped"
            " frames."
        )
    if h5py.is_hdf5(path):
        return source_of_frames(read_frames(path), path, label or path.stem)
    topology = next(
        (
            file
            for file in (path.with_name("topology.pdb"), path.with_suffix(".pdb"))
            if file.exists()
        ),
        None,
    )
    if topology is None:
        raise AnalysisError(
            f"{path}: has no topology beside it; put a PDB file of the beads there as topology.pdb."
        )
    positions, boxes, names, times = read_trajectory(path, topology)
    times = _logged_times(path, len(positions)) if times is None else times
    return Source(
        label or path.stem,
        path,
        file_hash(path),
        positions,
        boxes,
        names,
        tuple(dict.fromkeys(names)),
        times,
        {},
        speed=speed_of_trajectory(path),
    )


def _trajectory_in(folder: Path) -> Path:
    for parent in (folder / "simulation", folder):
        for name in _TRAJECTORIES:
            if (parent / name).exists():
                return parent / name
    raise AnalysisError(
        f"{folder}: holds no trajectory (simulation/trajectory.dcd or .xtc); run 'cgkd simulate'"
        " first."
    )


def _logged_times(path: Path, n_frames: int) -> np.ndarray | None:
    """Times of the frames from the log of the simulation beside them, if it fits."""
    log = path.with_name("state.csv")
    times = log_column(log, "Time") if log.exists() else np.zeros(0)
    return times if len(times) == n_frames else None
