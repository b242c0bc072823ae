"""Predictions of the teachers for many configurations, part by part, so that memory stays constant.

Forces fix the energies only up to a constant per bead type, so every teacher's per-bead energies
are centred by bead type over the training frames before they are averaged. That constant is known
only after all frames; until then the energies of the single teachers wait on disk, beside the
finished means of the forces.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.utils.arrays import whole_arrays, write_arrays
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.progress import progress

from .ensemble import Ensemble
from .graphs import FrameGraphs
from .labels import LABELS, UNITS
from .predict import device, predict

BEADS_PER_PART = 50_000


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation over the teachers, the first axis.

    A single teacher has no spread.
    """
    values = values.astype(float)
    return values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)


class Parts:
    """Predictions of the ensemble for many configurations, on disk in parts.

    Finished parts survive an interruption; damaged ones are done again.

    Parameters
    ----------
    folder : path
        Holds one file per part until `clear`.
    fingerprint : str
        Identity of ensemble and configurations; parts of others are discarded.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        stamp = folder / "inputs"
        if not stamp.exists() or stamp.read_bytes() != fingerprint.encode():
            self.clear()
            write_text(stamp, fingerprint)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def compute(self, ensemble: Ensemble, frames: Frames, title: str, refuse: bool) -> None:
        """Predict what is missing.

        Parameters
        ----------
        refuse : bool
            Whether a value that is not finite is an error.
        """
        size, n_teachers = max(1, BEADS_PER_PART // frames.beads.n_beads), len(ensemble.networks)
        networks = [network.to(device()) for network in ensemble.networks]
        with progress(title, len(frames) * n_teachers, "predictions") as meter:
            for first in range(0, len(frames), size):
                part = frames[first : first + size]
                if not whole_arrays(self._path(first)):
                    graphs = FrameGraphs(part, ensemble.cutoff, ensemble.prior)
                    forces, energies = zip(
                        *(predict(network, graphs, range(len(part))) for network in networks),
                        strict=True,
                    )
                    self.write(first, np.stack(forces), np.stack(energies), refuse)
                meter.update((first + len(part)) * n_teachers)

    def write(self, first: int, forces: np.ndarray, energies: np.ndarray, refuse: bool) -> None:
        """Write one part.

        Parameters
        ----------
        first : int
            Index of its first configuration.
        forces : ndarray, shape (n_teachers, n, n_beads, 3), kJ/mol/nm
        energies : ndarray, shape (n_teachers, n, n_beads), kJ/mol
        refuse : bool
            As in `compute`.

        Raises
        ------
        TrainingError
            Naming teacher and frame of a value that is not finite.
        """
        for name, values in (("forces", forces), ("energies", energies)):
            bad = ~np.isfinite(values).reshape(*values.shape[:2], -1).all(axis=2)
            if refuse and bad.any():
                k, frame = np.argwhere(bad)[0]
                raise TrainingError(
                    f"The {name} of teacher {k} at frame {first + frame} are not finite; train that"
                    " teacher again."
                )
        mean, deviation = mean_and_spread(forces)
        spread = np.sqrt((deviation**2).mean(axis=-1))
        arrays = {
            "forces": mean,
            "force_spread": spread,
            "single_forces": forces[0],
            "energies": energies,
        }
        write_arrays(
            self._path(first), {name: values.astype("f4") for name, values in arrays.items()}
        )

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:09d}.npz"

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Index of the first configuration of a part, and its arrays.

        Their ``energies`` are (n_teachers, n, n_beads), not centred.
        """
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                yield int(path.stem), dict(arrays)


def energy_offsets(parts: Parts, types: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Mean energy of every bead type over the training frames, for every teacher.

    Shape (n_teachers, n_types), kJ/mol.
    """
    one_hot = np.eye(types.max() + 1)[types]  # (n_beads, n_types)
    total: np.ndarray | float = 0.0
    for first, part in parts:
        chosen = (
            training[(training >= first) & (training < first + part["energies"].shape[1])] - first
        )
        total = total + part["energies"][:, chosen].sum(axis=1, dtype=float) @ one_hot
    return total / (len(training) * one_hot.sum(axis=0).clip(min=1))


def write_parts(
    file: h5py.File, parts: Parts, offsets: np.ndarray, frames: Frames, kept: np.ndarray
) -> None:
    """Write labels of the kept configurations to an HDF5 file, part by part.

    Parameters
    ----------
    offsets : ndarray, shape (n_teachers, n_types), kJ/mol
        Energies to subtract.
    kept : ndarray of bool, shape (n_frames,)
    """
    n, n_beads, types = int(kept.sum()), frames.beads.n_beads, frames.beads.types
    for name, unit in UNITS.items():
        shape = (n_beads, 3) if name.endswith("forces") else (n_beads,)
        file.create_dataset(
            name, (n, *shape), "f4", chunks=(1, *shape), compression="gzip", shuffle=True
        )
        file[name].attrs["unit"] = unit
    written = 0
    for first, part in parts:
        chosen = kept[first : first + len(part["forces"])]
        centered = part["energies"].astype(float) - offsets[:, None, types]
        energies, energy_spread = mean_and_spread(centered)
        arrays = {
            **part,
            "energies": energies,
            "energy_spread": energy_spread,
            "single_energies": centered[0],
        }
        place = slice(written, written + int(chosen.sum()))
        for name in UNITS:
            file[name][place] = arrays[name][chosen]
        written = place.stop
    file.attrs.update({**LABELS.attributes, "type_names": list(frames.beads.type_names)})
    file.attrs.update({"energy_offsets": offsets, "prior included": "no"})
