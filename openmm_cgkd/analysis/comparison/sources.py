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
NO_TIMES = "The time between frames is not known: neither the file nor a state.csv beside it tells."
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

        None if the times are not known.
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
    def middle(self) -> float:
        """Share of the frames before the place where a single run is cut into halves.

        That is a long gap in time near the middle, whose two sides remember least of each other.
        """
        found = self.stretches()
        if found is None or self.times is None:
            return 0.5
        n, long = len(self), _LONG_GAP * (self.times[-1] - self.times[0])
        gaps = {part.start / n: self.times[part.start] - self.times[part.start - 1]
                for part in found[1][1:]}  # fmt: skip
        near = [share for share, gap in gaps.items() if gap > long and abs(share - 0.5) < _NEAR]
        return max(near, key=gaps.__getitem__, default=0.5)

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
        As `check_comparable`.
    """
    first, *others = sources
    if not others:
        return first
    for other in others:
        check_comparable(first, other)
    identity = hashlib.sha256("".join(source.identity for source in sources).encode()).hexdigest()
    times = None
    found = [source.stretches() for source in sources]
    intervals = [each[0] for each in found if each is not None]
    if len(intervals) == len(sources) and np.ptp(intervals) > 1e-3 * intervals[0]:
        logger.warning(
            "the all-atom runs have frames every %s ps: dynamics are left out, save both alike",
            " and ".join(f"{interval:g}" for interval in intervals),
        )
    elif all(source.times is not None for source in sources):
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
        speed=next((source.speed for source in sources if source.speed), None),
    )


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
