"""How much of what a potential misses of the mean forces would simple further forces explain?

The difference between mean forces and a potential's forces is fitted with candidates, one at a
time: more of the potential's own force, Coulomb forces between charged beads (particle-mesh Ewald),
their part beyond the cutoff, and the best pair forces between all types of beads. Each
configuration is predicted by a fit to all the others, so more parameters do not look better for
being more. What none of them explains is many-body, or an error of the mean forces that all their
starts share. Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from openmm_cgkd import CGPotential
from openmm_cgkd.analysis.observables.neighbors import Frame, near_pairs
from openmm_cgkd.exceptions import CGKDError
from openmm_cgkd.mean_forces.file import MeanForces, read_mean_forces
from openmm_cgkd.mean_forces.pair_correction import pair_forces
from openmm_cgkd.potential.metadata import read_metadata
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.statistics import jackknife_error
from openmm_cgkd.utils.units import COULOMB_CONSTANT

SYSTEM = Path(__file__).resolve().parents[2] / "systems" / "ethaline"


@dataclass(frozen=True)
class Explained:
    """What a candidate explains of the squared error.

    Attributes
    ----------
    share : float
        Of the squared error freed of that of the mean forces; predicted, so noise alone makes it
        negative.
    error : float
        Standard error of `share`, by jackknife over configurations.
    rmse : float
        What would be left, kJ/mol/nm.
    """

    share: float
    error: float
    rmse: float


def forces_of(system: openmm.System, mean_forces: MeanForces) -> np.ndarray:
    """Forces in all configurations, shape (n_frames, n_beads, 3), kJ/mol/nm.

    Evaluated on the Reference platform, in double precision.
    """
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    found = []
    for positions, box in zip(mean_forces.positions, mean_forces.box, strict=True):
        context.setPeriodicBoxVectors(*box.astype(float))
        context.setPositions(positions)
        found.append(
            context.getState(forces=True)
            .getForces(asNumpy=True)
            .value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        )
    return np.array(found)


def coulomb_forces(mean_forces: MeanForces) -> np.ndarray:
    """Forces between charged beads by particle-mesh Ewald.

    Shape (n_frames, n_beads, 3), kJ/mol/nm.
    """
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*mean_forces.box[0].astype(float))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(min(1.0, largest_r_max(mean_forces.box)))
    force.setEwaldErrorTolerance(1e-5)
    for charge in mean_forces.beads.charges:
        system.addParticle(1.0)
        force.addParticle(charge, 1.0, 0.0)
    system.addForce(force)
    return forces_of(system, mean_forces)


def direct_coulomb(mean_forces: MeanForces, cutoff: float) -> np.ndarray:
    """Coulomb forces between beads closer than the cutoff alone.

    Shape (n_frames, n_beads, 3), kJ/mol/nm.
    """
    beads, found = mean_forces.beads, np.zeros(mean_forces.positions.shape)
    for k, (positions, box) in enumerate(zip(mean_forces.positions, mean_forces.box, strict=True)):
        first, second, vectors, distances = near_pairs(Frame(positions, box, beads.types), cutoff)
        on_second = (
            COULOMB_CONSTANT * beads.charges[first] * beads.charges[second] / distances**3
        )[:, None] * vectors
        np.add.at(found[k], second, on_second)
        np.add.at(found[k], first, -on_second)
    return found


def explained(missing: np.ndarray, standard_error: np.ndarray, candidate: np.ndarray) -> Explained:
    """How much of the missing forces a candidate explains where it was not fitted.

    Parameters
    ----------
    missing : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Mean force less that of the potential.
    standard_error : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Of the mean forces.
    candidate : ndarray, shape (n_frames, n_beads, 3) or (n_frames, n_beads, 3, n_parameters)
    """
    n_frames = len(missing)
    design = candidate.reshape(n_frames, missing[0].size, -1)
    target = missing.reshape(n_frames, -1)
    products, right_hand_sides = (
        np.einsum("kij,kil->kjl", design, design, optimize=True),
        np.einsum("kij,ki->kj", design, target),
    )
    left = np.empty(n_frames)
    for k in range(n_frames):
        weights = np.linalg.lstsq(
            products.sum(0) - products[k],
            right_hand_sides.sum(0) - right_hand_sides[k],
            rcond=1e-10,
        )[0]
        left[k] = ((target[k] - design[k] @ weights) ** 2).sum()
    before, noise = (
        (target**2).sum(1),
        (standard_error.astype(float) ** 2).reshape(n_frames, -1).sum(1),
    )
    table = np.stack([before - left, before - noise, left - noise], axis=1)

    def share(means: np.ndarray) -> float:
        return float(means[0] / means[1])

    return Explained(
        share(table.mean(0)),
        jackknife_error(table, share),
        math.sqrt(max(0.0, table[:, 2].sum() / target.size)),
    )


def explain(potential: Path, mean_forces: MeanForces) -> tuple[float, dict[str, Explained]]:
    """RMSE of the potential, kJ/mol/nm, and what each candidate explains of its square."""
    topology = bead_topology_to_openmm(mean_forces.beads, mean_forces.box[0])
    own = forces_of(CGPotential(potential).createSystem(topology), mean_forces)
    missing, error = mean_forces.forces - own, mean_forces.standard_error
    cutoff, far = read_metadata(potential).cutoff, 0.9 * largest_r_max(mean_forces.box)
    coulomb = coulomb_forces(mean_forces)
    candidates: dict[str, Callable[[], np.ndarray]] = {
        "its own force, rescaled": lambda: own,
        "Coulomb": lambda: coulomb,
        f"Coulomb beyond {cutoff:g} nm": lambda: coulomb - direct_coulomb(mean_forces, cutoff),
        f"pair forces to {cutoff:g} nm": lambda: pair_forces(mean_forces, cutoff),
        f"pair forces to {far:.2f} nm": lambda: pair_forces(mean_forces, far),
    }
    rmse = math.sqrt(max(0.0, float((missing**2).mean() - (error.astype(float) ** 2).mean())))
    return rmse, {
        name: explained(missing, error, candidate()) for name, candidate in candidates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.denoising.explain_residual", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--potential",
        type=Path,
        default=SYSTEM / "student.pt",
        help="exported potential (that of ethaline)",
    )
    parser.add_argument(
        "--mean-forces",
        type=Path,
        default=SYSTEM / "mean_forces.h5",
        help="of 'cgkd meanforce' (those of ethaline)",
    )
    given = parser.parse_args()
    try:
        mean_forces = read_mean_forces(given.mean_forces)
        rmse, found = explain(given.potential, mean_forces)
    except CGKDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"RMSE against {len(mean_forces)} configurations of mean forces: {rmse:.1f} kJ/mol/nm\n")
    print(
        "| candidate | share of the squared error explained | RMSE left, kJ/mol/nm |\n| --- | --- |"
        " --- |"
    )
    for name, each in found.items():
        print(f"| {name} | {each.share:.4f} ± {each.error:.4f} | {each.rmse:.1f} |")
    print(json.dumps({"rmse": rmse, **{name: each.share for name, each in found.items()}}))


if __name__ == "__main__":
    main()
