"""A small exported potential and configurations of beads.

For tests of the export and of the runtime.
"""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openmm
import torch
from torchmdnet.models.model import TorchMD_Net, create_model

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.potential.export import write_potential
from openmm_cgkd.potential.metadata import PotentialMetadata, content_hash
from openmm_cgkd.potential.network import TensorNetEnergies, network_arguments
from openmm_cgkd.potential.prior import PriorParameters

CUTOFF = 0.8
NAMES = ("CHO", "CL", "EGL")
MASSES = (104.17, 35.45, 62.07)
CONTACT = np.array([[0.43, 0.39, 0.42], [0.39, 0.41, 0.40], [0.42, 0.40, 0.44]])
# some pairs of `liquid` are beyond the bend, some not
PRIOR = PriorParameters(NAMES, CONTACT.tolist(), 300.0, 0.05, 0.015, stiffness=1e4)
CONFIG = ModelConfig(channels=8, layers=1, cutoff=f"{CUTOFF} nanometer", radial_functions=8)
CUBIC = 2.0 * np.eye(3)
TRICLINIC = np.array([[2.2, 0, 0], [0.4, 2.1, 0], [-0.3, 0.5, 2.0]])
BOXES = {"cubic": CUBIC, "triclinic": TRICLINIC, "open": None}


def torchmd_network(scale: float = 30.0) -> TorchMD_Net:
    """torchmd-net's own model with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = create_model(network_arguments(CONFIG, len(NAMES)), std=torch.tensor(scale))
        # biases that start at zero would hide a dropped term
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def metadata(**changes) -> PotentialMetadata:
    content = {
        "type_names": list(NAMES),
        "masses": list(MASSES),
        "cutoff": CUTOFF,
        "prior": asdict(PRIOR),
        "network": CONFIG.model_dump(),
    }
    return PotentialMetadata(**{**content, **changes})


def liquid(
    n: int = 30, box: np.ndarray | None = CUBIC, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Types and positions of beads that do not overlap: sites of a 4 x 4 x 4 lattice, shaken."""
    rng = np.random.default_rng(seed)
    sites = rng.permutation(
        np.stack(np.meshgrid(*3 * [np.arange(4)], indexing="ij"), axis=-1).reshape(-1, 3)
    )[:n]
    positions = (sites + rng.uniform(-0.15, 0.15, (n, 3))) / 4 @ (CUBIC if box is None else box)
    return rng.integers(0, len(NAMES), n), positions


def beads(types: np.ndarray) -> BeadTopology:
    return BeadTopology(NAMES, types, np.array(MASSES)[types], np.arange(len(types)))


def write_toy_potential(path: Path, kind: str = "portable") -> Path:
    types, positions = liquid()
    return write_potential(
        path,
        TensorNetEnergies(torchmd_network()),
        PRIOR,
        metadata(kind=kind),
        types,
        positions,
        CUBIC,
    )


def rewritten(source, target, edit=lambda name, content: content, hashed=False, **changes):
    """Copy of a potential file with edited records and changed metadata.

    `hashed`: with a hash that fits.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        records = {
            name.removeprefix(f"{root}/"): edit(name, old.read(name)) for name in old.namelist()
        }
        data = {**json.loads(records["extra/metadata.json"]), **changes}
        if hashed:
            data["content_sha256"] = content_hash(records, data)
        records["extra/metadata.json"] = json.dumps(data).encode()
        for name, content in records.items():
            new.writestr(f"{root}/{name}", content)
    return target


def working_platforms() -> list[str]:
    """Platforms on which a context can be created here.

    OpenCL and CUDA load without a device, too.
    """
    found = []
    for k in range(openmm.Platform.getNumPlatforms()):
        system = openmm.System()
        system.addParticle(1.0)
        try:
            openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(k))
        except openmm.OpenMMException:
            continue
        found.append(openmm.Platform.getPlatform(k).getName())
    return found


def images(
    positions: np.ndarray, box: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs i < j within the cutoff and their vectors.

    By trying 125 images of beads inside the box.
    """
    cells = np.stack(np.meshgrid(*3 * [np.arange(-2, 3)], indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = np.zeros((1, 3)) if box is None else cells @ box
    if box is not None:
        fractional = positions @ np.linalg.inv(box)
        positions = (fractional - np.floor(fractional)) @ box
    first, second, vectors = [], [], []
    for i in range(len(positions)):
        for j in range(i + 1, len(positions)):
            candidates = positions[j] - positions[i] + shifts
            near = candidates[np.linalg.norm(candidates, axis=1) < CUTOFF]
            first += [i] * len(near)
            second += [j] * len(near)
            vectors += list(near)
    return np.array(first, dtype=int), np.array(second, dtype=int), np.array(vectors).reshape(-1, 3)


def prior_energy_and_forces(
    types: np.ndarray, positions: np.ndarray, box: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The repulsion of `PRIOR` written out, each pair once."""
    first, second, vectors = images(positions, box)
    r = np.linalg.norm(vectors, axis=1)
    pair_energy, pair_force = wall(r, CONTACT[types[first], types[second]])
    forces = np.zeros_like(positions)
    np.add.at(forces, second, (pair_force / r)[:, None] * vectors)
    np.add.at(forces, first, -(pair_force / r)[:, None] * vectors)
    return float(pair_energy.sum()), forces


def wall(
    r: np.ndarray, t: np.ndarray, prior: PriorParameters = PRIOR
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force of pairs at distances r.

    U(r) = (s p / a) exp(a (t - r)), a = ln(1/p) / d, down to the distance at which U'' = K; from
    there on the force has the slope K.
    """
    a = np.log(1 / prior.p) / prior.distance
    if prior.stiffness is None:
        edge = np.full_like(r, -np.inf)
    else:
        edge = t - np.log(prior.stiffness / (prior.force * prior.p * a)) / a
    force = prior.force * prior.p * np.exp(a * (t - np.maximum(r, edge)))
    if prior.stiffness is None:
        return force / a, force
    inside = np.maximum(edge - r, 0)
    energy = force / a + force * inside + prior.stiffness * inside**2 / 2
    return energy, force + prior.stiffness * inside
