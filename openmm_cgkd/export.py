"""Stage 5: one self-contained TorchScript file with its metadata.

The file holds network, prior and neighbour search in plain PyTorch operations: ``torch.jit.load`` runs it where
neither this package nor torchmd-net is installed.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .config import RunConfig
from .exceptions import MappingError, ModelFileError
from .files import file_hash, replacing
from .frames import read_frames
from .mapping import BeadTopology
from .metadata import FILE_NAME, VERSION, PotentialMetadata
from .potential.model import SumModel, energies_and_forces
from .potential.neighbors import find_pairs
from .potential.prior import PairRepulsion, PriorParameters
from .potential.tensornet import TensorNetEnergies
from .progress import log_to, progress
from .run_folder import RunFolder, Stage
from .training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-5  # allowed relative difference between the file and the model it was made from


def box_numbers(boxvectors: Tensor, cutoff: float) -> list[float]:
    """Non-zero numbers ax, bx, by, cx, cy, cz of a box in OpenMM's reduced form, checked against the cutoff."""
    rows: list[list[float]] = boxvectors.detach().to(torch.device("cpu"), torch.float64).tolist()
    a, b, c = rows[0], rows[1], rows[2]
    if a[1] != 0.0 or a[2] != 0.0 or b[2] != 0.0:
        raise RuntimeError("Box vectors must be in OpenMM's reduced form: a along x, b in the xy plane.")
    volume = a[0] * b[1] * c[2]
    # area of the face spanned by two vectors; height = volume / area
    area_bc = ((b[1] * c[2]) ** 2 + (b[0] * c[2]) ** 2 + (b[0] * c[1] - b[1] * c[0]) ** 2) ** 0.5
    area_ca = ((a[0] * c[2]) ** 2 + (a[0] * c[1]) ** 2) ** 0.5
    height = min(volume / area_bc, min(volume / area_ca, c[2]))
    if height < 2.0 * cutoff * (1.0 - 1e-6):  # OpenMM passes boxes in single precision on some platforms
        raise RuntimeError(f"The smallest box height of {height} nm is below twice the cutoff of {cutoff} nm; use a larger box.")
    return [a[0], b[0], b[1], c[0], c[1], c[2]]


def _image_shifts(x: Tensor, y: Tensor, z: Tensor, box: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest-image differences; in reduced form right for all distances up to half the smallest box height."""
    ax, bx, by, cx, cy, cz = box[0], box[1], box[2], box[3], box[4], box[5]
    images = torch.round(z / cz)
    z = z - images * cz
    if cy != 0.0:
        y = y - images * cy
    if cx != 0.0:
        x = x - images * cx
    images = torch.round(y / by)
    y = y - images * by
    if bx != 0.0:
        x = x - images * bx
    return x - torch.round(x / ax) * ax, y, z


def _near_pairs(positions: Tensor, box: list[float], cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs i < j closer than the cutoff; blocks of rows keep memory small for many beads."""
    n = positions.shape[0]
    columns = positions.t().contiguous()
    x, y, z = columns[0], columns[1], columns[2]
    rows = max(1, 32768 // max(n, 1))
    found: list[Tensor] = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        dx = x[start:].unsqueeze(0) - x[start:stop].unsqueeze(1)  # (rows, n - start)
        dy = y[start:].unsqueeze(0) - y[start:stop].unsqueeze(1)
        dz = z[start:].unsqueeze(0) - z[start:stop].unsqueeze(1)
        if len(box) > 0:
            dx, dy, dz = _image_shifts(dx, dy, dz, box)
        near = (dx * dx + dy * dy + dz * dz < cutoff * cutoff).triu(1)
        found.append(torch.nonzero(near) + start)
    pairs = torch.cat(found) if len(found) > 0 else torch.zeros(0, 2, dtype=torch.int64, device=positions.device)
    return pairs[:, 0].contiguous(), pairs[:, 1].contiguous()


class ExportedPotential(nn.Module):
    """Energy of beads from positions alone: neighbour search, prior and network in one scriptable module.

    Parameters
    ----------
    prior : PairRepulsion
        Evaluated in the type of the positions: it is steep, single precision would cost it five digits.
    network : TensorNetEnergies
        Evaluated in the type of its weights.
    """

    def __init__(self, prior: PairRepulsion, network: TensorNetEnergies) -> None:
        super().__init__()
        self.prior, self.network = prior, network
        self.n_types = prior.n_types
        self.cutoff = network.cutoff
        self.register_buffer("types", torch.zeros(0, dtype=torch.int64))

    @torch.jit.export
    def set_types(self, types: Tensor) -> None:
        """Say which bead is of which type: int64, shape (n_beads,)."""
        if types.dim() != 1 or bool(((types < 0) | (types >= self.n_types)).any()):
            raise RuntimeError(f"Bead types must be one row of integers from 0 to {self.n_types - 1}.")
        self.types = types.to(self.types.device, torch.int64)

    def forward(self, positions: Tensor, boxvectors: Tensor | None = None) -> Tensor:
        """Potential energy.

        Parameters
        ----------
        positions : Tensor, shape (n_beads, 3), nm
            Any floating type and device; differences between beads are taken in that type before the network's.
        boxvectors : Tensor, shape (3, 3), nm, optional
            Rows are the box vectors in OpenMM's reduced form; absent for open boundaries.

        Returns
        -------
        Tensor, scalar, kJ/mol
            In the type and on the device of the positions.
        """
        if positions.shape[0] != self.types.shape[0]:
            raise RuntimeError(f"Got positions of {positions.shape[0]} beads, types of {self.types.shape[0]}; call set_types.")
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError("Bead positions are not finite; use a smaller time step.")
        here = positions.to(self.network.scale.device)
        box: list[float] = []
        if boxvectors is not None:
            box = box_numbers(boxvectors, self.cutoff)
        first, second = _near_pairs(here.detach(), box, self.cutoff)
        vectors = here.index_select(0, second) - here.index_select(0, first)  # (n_pairs, 3)
        if len(box) > 0:
            x, y, z = _image_shifts(vectors[:, 0], vectors[:, 1], vectors[:, 2], box)
            vectors = torch.stack([x, y, z], dim=1)
        learned = self.network(self.types, first, second, vectors.to(self.network.scale.dtype))
        energies = self.prior(self.types, first, second, vectors) + learned.to(vectors.dtype)
        return energies.sum().to(positions.device)


def type_masses(beads: BeadTopology) -> list[float]:
    """Mass of a bead of each type, dalton.

    Raises
    ------
    MappingError
        If beads of one type differ in mass, or a type has no bead.
    """
    masses = []
    for k, name in enumerate(beads.type_names):
        found = beads.masses[beads.types == k]
        if len(found) == 0:
            raise MappingError(f"Bead type {name} has no beads in the frames, so its mass is unknown; remove the type.")
        if np.ptp(found) > 1e-3:
            raise MappingError(f"Beads of type {name} weigh {found.min():g} to {found.max():g} dalton; give them different types.")
        masses.append(float(found[0]))
    return masses


def export_potential(
    path: Path | str,
    network: TensorNetEnergies,
    prior: PriorParameters,
    metadata: PotentialMetadata,
    types: np.ndarray,
    positions: np.ndarray,
    box: np.ndarray | None = None,
) -> Path:
    """Write a potential file, after checking that what was written computes what the network computes.

    Parameters
    ----------
    path : path
        Complete or absent afterwards.
    network : TensorNetEnergies
    prior : PriorParameters
    metadata : PotentialMetadata
    types : ndarray, shape (n_beads,)
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, optional
        With `types` and `positions` the configuration of the check.

    Raises
    ------
    ModelFileError
        If metadata and network disagree, or the file fails the check.
    """
    path = Path(path)
    if tuple(metadata.type_names) != tuple(prior.type_names) or not np.isclose(metadata.cutoff, network.cutoff):
        raise ModelFileError(
            f"{path}: metadata (types {metadata.type_names}, cutoff {metadata.cutoff:g} nm) do not fit the potential "
            f"(types {list(prior.type_names)}, cutoff {network.cutoff:g} nm); make the metadata from the same run."
        )
    model = ExportedPotential(prior.build(network.cutoff), copy.deepcopy(network)).cpu().eval().requires_grad_(False)
    scripted = torch.jit.script(model)
    with replacing(path) as fresh:
        _save(scripted, fresh, metadata)
        _check(fresh, SumModel(model.prior, model.network), np.asarray(types), np.asarray(positions, dtype=np.float64), box)
    return path


def _save(scripted: torch.jit.ScriptModule, path: Path, metadata: PotentialMetadata) -> None:
    """Save without debug records: they hold this package's source and where it was installed."""
    whole = io.BytesIO()
    torch.jit.save(scripted, whole, _extra_files={FILE_NAME: json.dumps(metadata.model_dump(), indent=1)})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry, source.read(entry))


def _check(path: Path, model: SumModel, types: np.ndarray, positions: np.ndarray, box: np.ndarray | None) -> None:
    """Compare the file with the eager model, fused kernels and other neighbour search included, in double precision."""
    loaded = torch.jit.load(str(path)).double()
    kinds, at = torch.as_tensor(types, dtype=torch.int64), torch.tensor(positions, requires_grad=True)
    loaded.set_types(kinds)
    energy = loaded(at) if box is None else loaded(at, torch.as_tensor(np.asarray(box, dtype=np.float64)))
    (gradient,) = torch.autograd.grad(energy, at)

    pairs = find_pairs(positions, box, loaded.cutoff)
    first, second, shifts = (torch.from_numpy(array) for array in (pairs.first, pairs.second, pairs.shifts))
    energies, forces = energies_and_forces(copy.deepcopy(model).double(), kinds, at, first, second, shifts)
    wrong_energy = float((energy - energies.sum()).detach().abs() / energies.detach().abs().sum().clamp(min=1e-30))
    wrong_force = float((gradient + forces).abs().max() / forces.abs().max().clamp(min=1e-30))
    if not (wrong_energy < _TOLERANCE and wrong_force < _TOLERANCE):
        raise ModelFileError(
            f"The exported potential differs from its model by {wrong_energy:.1e} in energy and {wrong_force:.1e} in forces "
            f"(relative, allowed {_TOLERANCE:g}), so it was not written; please report this."
        )
    logger.info("exported file against model, relative: energy %.1e, forces %.1e", wrong_energy, wrong_force)


def export_student(run: RunConfig) -> Path:
    """Write the student of a run as `RunFolder.model`.

    Returns
    -------
    path

    Raises
    ------
    ModelFileError
        If the student has not been trained, or the written file fails its check.
    """
    folder = RunFolder(run)
    checkpoint = folder.student / "best.pt"
    with log_to(folder.log("export")):
        for path, stage in ((checkpoint, "distill"), (folder.prior, "teach")):
            if not path.exists():
                raise ModelFileError(f"{path}: no such file; run 'cgkd {stage}' first.")
        inputs = {"checkpoint": file_hash(checkpoint), "prior": file_hash(folder.prior), "format": VERSION}
        stage = Stage(folder, "export", inputs, [folder.model])
        if stage.finished:
            return folder.model
        network, stored = load_checkpoint(checkpoint)
        frames = read_frames(folder.frames)
        prior = PriorParameters(**json.loads(folder.prior.read_text()))
        metadata = PotentialMetadata(
            type_names=list(stored["type_names"]),
            masses=type_masses(frames.beads),
            cutoff=network.cutoff,
            prior=asdict(prior),
            network={**stored["model"], "scale": stored["scale"]},
            system=str(frames.attributes.get("system", "")),
            temperature=frames.temperature,
            training=stored["training"],
            frames_sha256=stored["frames"],
            checkpoint_sha256=inputs["checkpoint"],
        )
        with progress("export", 1) as meter:
            export_potential(folder.model, network, prior, metadata, frames.beads.types, frames.positions[-1], frames.box[-1])
            meter.update(1)
        stage.finish()
        logger.info("potential written to %s", folder.model)
    return folder.model
