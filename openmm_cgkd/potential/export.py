"""Stage 5: self-contained TorchScript files with their metadata.

The portable file holds network, prior and neighbour search in plain PyTorch operations:
``torch.jit.load`` runs it where neither this package nor torchmd-net is installed. The fast file
calls this package's operators, which ``import openmm_cgkd.operators`` registers. Both hold the
weights once more as plain tensors: `CGPotential` reads these and runs no script of a file.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from openmm_cgkd.exceptions import MappingError, ModelFileError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.lock import locked_file
from openmm_cgkd.utils.progress import progress

from .checkpoint import load_checkpoint
from .custom_network import CustomNetwork
from .forces import cutoff_of, energies_and_forces
from .metadata import FILE_NAME, WEIGHTS, PotentialMetadata, content_hash
from .modules import script_fast, script_portable
from .network import TensorNetEnergies
from .pairs import find_pairs
from .prior import Prior, PriorParameters
from .stored_prior import first_mistake
from .stored_weights import packed

logger = logging.getLogger(__name__)

# allowed relative difference between the file and the model it was made from; the fast file
# computes in single precision
_TOLERANCE = {"portable": 1e-5, "fast": 1e-4}


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
            raise MappingError(
                f"Bead type {name} has no beads in the frames, so its mass is unknown; remove the"
                " type."
            )
        if np.ptp(found) > 1e-3:
            raise MappingError(
                f"Beads of type {name} weigh {found.min():g} to {found.max():g} dalton; give them"
                " different types."
            )
        masses.append(float(found[0]))
    return masses


def export_potential(
    checkpoint: Path | str,
    path: Path | str,
    frames: Frames,
    prior: PriorParameters,
    custom: CustomNetwork | None = None,
    *,
    fast: bool = True,
) -> Path:
    """Write the potential of a trained network: a portable file and, beside it, a fast one.

    Parameters
    ----------
    checkpoint : path
        ``best.pt`` of a teacher or a student.
    path : path
        Of the portable file; `fast_path` says where the fast one goes.
    frames : Frames
        Frames of the same beads. They give masses, temperature, the name of the fluid and, with the
        last frame, the configuration at which the files are checked.
    prior : PriorParameters
        The one of the training.
    custom : CustomNetwork, optional
        As in `load_checkpoint`. A user's own network has no fast file: the compiled loops know
        TensorNet alone.
    fast : bool
        Write the fast file, too.

    Returns
    -------
    Path
        The portable file.

    Raises
    ------
    ModelFileError
        If the checkpoint is missing or damaged, checkpoint, frames and prior do not fit each other,
        or a written file fails its check.
    MappingError
        As `type_masses`.
    """
    path = Path(path)
    network, stored = load_checkpoint(Path(checkpoint), custom)
    try:
        metadata = PotentialMetadata(
            type_names=list(stored["type_names"]),
            masses=type_masses(frames.beads),
            cutoff=cutoff_of(network),
            prior=prior.as_dict(),
            network={**stored["model"], "scale": stored["scale"]},
            system=str(frames.attributes.get("system", "")),
            temperature=frames.temperature,
            training=stored["training"],
            frames_sha256=stored["frames"],
            checkpoint_sha256=file_hash(Path(checkpoint)),
        )
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: cannot be written, because of {first_mistake(error)}; give frames, prior and"
            " checkpoint of one training."
        ) from error
    files: dict[Literal["portable", "fast"], Path] = {"portable": path}
    if fast and custom is None:
        files["fast"] = fast_path(path)
    beads, last = frames.beads, frames[-1:]
    with locked_file(path), progress("export", len(files), "files") as meter:
        for done, (kind, file) in enumerate(files.items(), start=1):
            write_potential(
                file,
                network,
                prior,
                metadata.model_copy(update={"kind": kind}),
                beads.types,
                last.positions[0],
                last.box[0],
                beads.bonds,
            )
            logger.info("%s potential written to %s", kind, file)
            meter.update(done)
    return path


def write_potential(
    path: Path | str,
    network: nn.Module,
    prior: PriorParameters,
    metadata: PotentialMetadata,
    types: np.ndarray,
    positions: np.ndarray,
    box: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> Path:
    """Write one potential file and check that it computes what the network computes.

    Parameters
    ----------
    path : path
        Complete or absent afterwards.
    network : TensorNetEnergies
        Or, for a portable file, any module of the same protocol, see `custom_network`.
    prior : PriorParameters
    metadata : PotentialMetadata
        Its `kind` says which file is written.
    types : ndarray, shape (n_beads,)
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, optional
    bonds : ndarray, shape (n_bonds, 2), optional
        With `types`, `positions` and `box` the configuration of the check. Needed if the prior has
        bonds.

    Raises
    ------
    ModelFileError
        If metadata and network disagree, or the file fails the check.
    """
    path, cutoff = Path(path), cutoff_of(network)
    if tuple(metadata.type_names) != tuple(prior.type_names) or not np.isclose(
        metadata.cutoff, cutoff
    ):
        raise ModelFileError(
            f"{path}: metadata (types {metadata.type_names}, cutoff {metadata.cutoff:g} nm) do not"
            f" fit the potential (types {list(prior.type_names)}, cutoff {cutoff:g} nm);"
            " make the metadata from the same run."
        )
    copied = copy.deepcopy(network)
    scripted = script_portable(prior, copied)
    if metadata.kind == "fast":
        if not isinstance(copied, TensorNetEnergies):
            raise ModelFileError(
                f"{path}: a fast file holds TensorNet alone, not {type(copied).__name__}; write a"
                " portable one."
            )
        scripted = script_fast(prior, copied, scripted)
    weights = packed(copied) if isinstance(copied, TensorNetEnergies) else None
    bonds = np.zeros((0, 2), dtype=np.int64) if bonds is None else np.asarray(bonds)
    fixed = Prior(prior, cutoff, np.asarray(types), bonds)
    with replacing(path) as fresh:
        _save(scripted, weights, fresh, metadata)
        _check(
            fresh,
            copied,
            fixed,
            np.asarray(types),
            np.asarray(positions, dtype=np.float64),
            box,
            bonds,
            metadata.kind,
        )
    return path


def fast_path(path: Path) -> Path:
    """Where the fast file of a potential is written: beside the portable one."""
    return path.with_name(f"{path.stem}-fast{path.suffix}")


def _save(
    scripted: torch.jit.ScriptModule,
    weights: bytes | None,
    path: Path,
    metadata: PotentialMetadata,
) -> None:
    """Save without debug records: they hold this package's source and where it was installed."""
    whole = io.BytesIO()
    torch.jit.save(scripted, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        entries = [
            entry for entry in source.infolist() if not entry.filename.endswith(".debug_pkl")
        ]
        root = entries[0].filename.partition("/")[0]
        records = {entry.filename.removeprefix(f"{root}/"): source.read(entry) for entry in entries}
        if weights is not None:
            records[WEIGHTS] = weights
        hashed = metadata.model_copy(
            update={"content_sha256": content_hash(records, metadata.model_dump())}
        )
        records[f"extra/{FILE_NAME}"] = json.dumps(hashed.model_dump(), indent=1).encode()
        for name, content in records.items():
            target.writestr(zipfile.ZipInfo(f"{root}/{name}"), content)


def _check(
    path: Path,
    network: nn.Module,
    prior: Prior,
    types: np.ndarray,
    positions: np.ndarray,
    box: np.ndarray | None,
    bonds: np.ndarray,
    kind: str,
) -> None:
    """Compare the file with the eager model in double precision.

    The eager model has the loops of the training and another neighbour search.
    """
    loaded, tolerance = torch.jit.load(str(path)), _TOLERANCE[kind]
    if kind == "portable":
        loaded = loaded.double()
    kinds, at = (
        torch.as_tensor(types, dtype=torch.int64),
        torch.tensor(positions, requires_grad=True),
    )
    loaded.set_types(kinds)
    loaded.set_bonds(torch.from_numpy(bonds))
    energy = (
        loaded(at)
        if box is None
        else loaded(at, torch.as_tensor(np.asarray(box, dtype=np.float64)))
    )
    (gradient,) = torch.autograd.grad(energy, at)

    pairs = find_pairs(positions, box, loaded.cutoff)
    first, second, shifts = (
        torch.from_numpy(array) for array in (pairs.first, pairs.second, pairs.shifts)
    )
    energies, forces = energies_and_forces(
        copy.deepcopy(network).double(), kinds, at, first, second, shifts
    )
    prior_energy, prior_forces = prior.energy_and_forces(positions, box, pairs)
    expected, forces = (
        energies.detach().sum() + prior_energy,
        forces + torch.from_numpy(prior_forces),
    )
    scale = energies.detach().abs().sum() + abs(prior_energy)
    wrong_energy = float((energy.detach() - expected).abs() / scale.clamp(min=1e-30))
    wrong_force = float((gradient + forces).abs().max() / forces.abs().max().clamp(min=1e-30))
    if not (wrong_energy < tolerance and wrong_force < tolerance):
        raise ModelFileError(
            f"The exported potential differs from its model by {wrong_energy:.1e} in energy and"
            f" {wrong_force:.1e} in forces (relative, allowed {tolerance:g}), so it was not"
            " written; please report this."
        )
    logger.info(
        "exported file against model, relative: energy %.1e, forces %.1e", wrong_energy, wrong_force
    )
