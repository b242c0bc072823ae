"""Atoms for given beads: whole molecules placed on them, then all else relaxed around them."""

from __future__ import annotations

import warnings

import numpy as np
import openmm
from openmm import app, unit
from scipy.spatial.transform import Rotation

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.mapping import Mapping
from openmm_cgkd.utils.box import nearest_images

from .molecule_file import load_molecule

_TRIALS = 64  # orientations tried per molecule and sweep
SWEEPS = 3  # over all molecules
_CONTACT = 0.28  # nm, atoms of different molecules closer than this count as a clash
# iterations; with 300 an overlap in one of four liquids was left, and exploded
_MINIMIZATION = 1500
_SMALL_STEPS = 1.0  # ps with an eighth of the time step after the minimisation

RESTRAINT = "bead restraint"


def place_molecules(
    config: SystemConfig,
    topology: app.Topology,
    mapping: Mapping,
    beads: np.ndarray,
    box: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Put a rigid copy of every molecule on its beads.

    It is turned so that it clashes least with the molecules around it.

    A molecule of one bead keeps its orientation free and its centre of mass exact; with several
    beads it is superposed on them (Kabsch), and what freedom is left stays free.

    Parameters
    ----------
    config : SystemConfig
    topology : openmm.app.Topology
        One residue per molecule.
    mapping : Mapping
    beads : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm
    seed : int

    Returns
    -------
    ndarray, shape (n_atoms, 3), nm
        Whole molecules; overlaps are few but not excluded.
    """
    if beads.shape != (mapping.topology.n_beads, 3):
        raise MappingError(
            f"Expected beads of shape ({mapping.topology.n_beads}, 3), got {beads.shape}; the"
            " frames are of another system."
        )
    random = np.random.default_rng(seed)
    molecules = [_Molecule(config, mapping, residue) for residue in topology.residues()]
    positions = np.concatenate([m.orientations(beads[m.beads], 1, random)[0] for m in molecules])
    centers = np.stack([beads[m.beads].mean(axis=0) for m in molecules])
    radii = np.array([m.radius for m in molecules])
    for _ in range(SWEEPS):
        for k in random.permutation(len(molecules)):
            distance = np.linalg.norm(nearest_images(centers - centers[k], box), axis=1)
            near = np.flatnonzero(
                (distance < radii + radii[k] + _CONTACT) & (np.arange(len(molecules)) != k)
            )
            if len(near) == 0 or len(molecules[k].atoms) == 1:
                continue
            others = positions[np.concatenate([molecules[m].atoms for m in near])]
            now = positions[molecules[k].atoms]
            trials = np.concatenate(
                [now[None], molecules[k].orientations(beads[molecules[k].beads], _TRIALS, random)]
            )
            positions[molecules[k].atoms] = trials[np.argmin(_clash(trials, others, box))]
    return positions


def _clash(trials: np.ndarray, others: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Sum of squared overlaps of every trial, shape (n_trials,), nm^2."""
    d = nearest_images(trials[:, :, None] - others, box)
    overlap = np.maximum(0.0, _CONTACT - np.linalg.norm(d, axis=-1))
    return (overlap**2).sum(axis=(1, 2))


class _Molecule:
    """One molecule of the box: its atoms, its beads and the rigid template placed on them."""

    def __init__(
        self, config: SystemConfig, mapping: Mapping, residue: app.topology.Residue
    ) -> None:
        self.atoms = np.array([atom.index for atom in residue.atoms()])
        self.beads, owner = np.unique(mapping.bead_of_atom[self.atoms], return_inverse=True)
        template = (
            load_molecule(config, residue.name)
            .getPositions(asNumpy=True)
            .value_in_unit(unit.nanometer)
        )
        masses = mapping.atom_masses[self.atoms]
        total = np.bincount(owner, weights=masses)
        sites = np.stack(
            [np.bincount(owner, weights=masses * template[:, k]) / total for k in range(3)], axis=1
        )
        self._template, self._sites = template - sites.mean(axis=0), sites - sites.mean(axis=0)
        self.radius = np.linalg.norm(self._template, axis=1).max()

    def orientations(
        self, targets: np.ndarray, count: int, random: np.random.Generator
    ) -> np.ndarray:
        """Atom positions of `count` random placements, shape (count, n_atoms, 3), nm."""
        rotations = Rotation.random(count, random)
        if len(self.beads) > 1:
            centered = targets - targets.mean(axis=0)
            # beads on a line leave the turn about it free, as they should
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Optimal rotation")
                rotations = [
                    Rotation.align_vectors(centered, r.apply(self._sites))[0] * r for r in rotations
                ]
        return targets.mean(axis=0) + np.stack([r.apply(self._template) for r in rotations])


def add_restraint(
    system: openmm.System, mapping: Mapping, beads: np.ndarray, constant: float
) -> openmm.Force:
    """Hold every bead at its place by a harmonic potential.

    It is U = k/2 |X - X0|^2 with X the bead's centre of mass.

    Parameters
    ----------
    system : openmm.System
        All-atom system; the force is added to it.
    mapping : Mapping
    beads : ndarray, shape (n_beads, 3), nm
        X0. Without regard to the periodic box: start near them.
    constant : float
        k, kJ/mol/nm^2; it can be changed later as the context parameter ``restraint_constant``.
    """
    force = openmm.CustomCentroidBondForce(
        1, "0.5*restraint_constant*((x1-x0)^2 + (y1-y0)^2 + (z1-z0)^2)"
    )
    force.setName(RESTRAINT)
    force.addGlobalParameter("restraint_constant", constant)
    for name in ("x0", "y0", "z0"):
        force.addPerBondParameter(name)
    masses = mapping.atom_masses
    for bead, position in enumerate(beads):
        atoms = np.flatnonzero(mapping.bead_of_atom == bead)
        group = force.addGroup(
            [int(atom) for atom in atoms], [float(mass) for mass in masses[atoms]]
        )
        force.addBond([group], [float(x) for x in position])
    system.addForce(force)
    return force


def set_restraint(
    context: openmm.Context, restraint: openmm.Force, beads: np.ndarray, constant: float
) -> None:
    """Move the centres of a restraint of `add_restraint` and change its constant.

    Centres have shape (n_beads, 3) in nm, the constant is in kJ/mol/nm^2.
    """
    for bond, position in enumerate(beads):
        restraint.setBondParameters(bond, [bond], [float(x) for x in position])
    restraint.updateParametersInContext(context)
    context.setParameter("restraint_constant", constant)


def relax(
    simulation: app.Simulation,
    positions: np.ndarray,
    hot: float,
    hot_time: float,
    temperature: float,
    time: float,
    seed: int,
) -> None:
    """Bring placed molecules to equilibrium under their restraints.

    First minimise, then small steps, then hot, then at `temperature`.

    Parameters
    ----------
    simulation : openmm.app.Simulation
        With the restraint in its system and a Langevin integrator.
    positions : ndarray, shape (n_atoms, 3), nm
        As `place_molecules` gives.
    hot, temperature : float
        Kelvin. The hot part lets conformations and orientations forget how they were placed.
    hot_time, time : float
        ps
    seed : int
    """
    context, integrator = simulation.context, simulation.integrator
    context.setPositions(positions * unit.nanometer)
    simulation.minimizeEnergy(maxIterations=_MINIMIZATION)
    context.setVelocitiesToTemperature(hot * unit.kelvin, seed)
    timestep = integrator.getStepSize().value_in_unit(unit.picosecond)
    integrator.setTemperature(hot * unit.kelvin)
    integrator.setStepSize(timestep / 8)
    simulation.step(round(_SMALL_STEPS / (timestep / 8)))
    integrator.setStepSize(timestep)
    simulation.step(round(hot_time / timestep))
    integrator.setTemperature(temperature * unit.kelvin)
    simulation.step(round(time / timestep))
