"""Restrained all-atom runs at one configuration of the beads.

They sample the mapped force, renew the conformations, and sample again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.allatom.backmap import add_restraint, set_restraint
from openmm_cgkd.allatom.build import build_topology, create_system
from openmm_cgkd.allatom.force_field import atomic_charges
from openmm_cgkd.allatom.phases import all_atom_simulation
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.utils.arrays import whole_arrays, write_arrays
from openmm_cgkd.utils.progress import Report
from openmm_cgkd.utils.seeds import derived_seed

logger = logging.getLogger(__name__)

_FRICTION = 5.0  # 1/ps; only averages count, and cooling needs a strong thermostat
_STAGES = 10  # of cooling
_STRONG = 10**6  # number of the start that is heated strongly
_HOTTER, _SLOWER = 2.5, 2.0  # its temperature and time of cooling over those of other starts
# K up to which the protocol's time step is taken; at 2000 K it makes ethaline explode
_FULL_STEP = 1000.0
# time steps of one heating after another, should it explode: one of fifty does at 2000 K, half at
# 5000 K
_SHORTER = (1.0, 0.5, 0.25)
_BLOCKS = 4  # of one run


@dataclass(frozen=True)
class Estimate:
    """Mean force on every bead over one run; arrays of shape (n_beads, 3).

    Attributes
    ----------
    positions : ndarray, nm
        Mean positions, a little off the restraint's centres where the force pulls.
    forces, standard_error : ndarray, kJ/mol/nm
        The error is from blocks of the run and does not know of anything slower than the run.
    energy : float, kJ/mol
        Mean potential energy without the restraint.
    """

    positions: np.ndarray
    forces: np.ndarray
    standard_error: np.ndarray
    energy: float


@dataclass(frozen=True)
class Configuration:
    """What a restrained run starts from.

    Attributes
    ----------
    index : int
    atoms : ndarray, shape (n_atoms, 3), nm
        Molecules whole.
    box : ndarray, shape (3, 3), nm
    checked : bool
        Whether it is sampled with the other restraint constant and after strong heating, too.
    """

    index: int
    atoms: np.ndarray
    box: np.ndarray
    checked: bool

    def missing(self, folder: Path, starts: int) -> bool:
        """Whether runs of this configuration are still to be done."""
        files = [start_file(folder, self.index, start) for start in range(starts)]
        checks = (
            [check_file(folder, self.index), heating_file(folder, self.index)]
            if self.checked
            else []
        )
        damaged = [path for path in [*files, *checks] if not whole_arrays(path)]
        return bool(damaged)


def start_file(folder: Path, index: int, start: int) -> Path:
    """Estimate of one start of one configuration."""
    return folder / f"configuration-{index:04d}-start-{start:02d}.npz"


def check_file(folder: Path, index: int) -> Path:
    """Estimates of one configuration with both restraint constants."""
    return folder / f"configuration-{index:04d}-check.npz"


def heating_file(folder: Path, index: int) -> Path:
    """Estimate of one configuration after strong heating."""
    return folder / f"configuration-{index:04d}-heating.npz"


def sample_mean_force(
    simulation: app.Simulation,
    mapping: Mapping,
    beads: np.ndarray,
    duration: float,
    interval: float,
    blocks: int = _BLOCKS,
) -> Estimate:
    """Average the mapped force of a restrained, equilibrated run.

    A bead sits off its restraint centre X0 by F/k on average. Giving the force to the mean position
    instead of X0 removes the error of first order in 1/k; what is left is of the order of the
    force's curvature times kT/k.

    Parameters
    ----------
    simulation : openmm.app.Simulation
        Its system holds the restraint of `backmap.add_restraint`.
    mapping : Mapping
    beads : ndarray, shape (n_beads, 3), nm
        Centres of the restraint.
    duration, interval : float
        ps
    blocks : int
        Blocks for the standard error; their means must be independent, so each must outlast the
        force correlation.
    """
    constant = simulation.context.getParameter("restraint_constant")
    timestep = simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
    steps = max(1, round(interval / timestep))
    samples = max(1, round(duration / blocks / (steps * timestep)))
    sums, energy = np.zeros((2, blocks, *beads.shape)), 0.0
    for block in range(blocks):
        for _ in range(samples):
            simulation.step(steps)
            state = simulation.context.getState(positions=True, forces=True, energy=True)
            positions = mapping.map_positions(state.getPositions(asNumpy=True)._value)
            forces = mapping.map_forces(state.getForces(asNumpy=True)._value)
            pull = constant * (positions - beads)
            sums[0, block] += positions
            sums[1, block] += forces + pull  # without the restraint's own force
            energy += state.getPotentialEnergy()._value - (pull * (positions - beads)).sum() / 2
    means = sums / samples
    mean = means.mean(axis=1)
    return Estimate(
        mean[0],
        mean[1],
        means[1].std(axis=0, ddof=1) / np.sqrt(blocks),
        energy / (samples * blocks),
    )


def as_check(control: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Fields of `Estimates` from three successive runs.

    The first two are under the same conditions; their difference gives the errors.

    Blocks of one run do not: what outlasts a block makes the run's own error look small, and then
    the slope is below 1 for two estimates that agree.
    """
    error = np.abs(first - control) / np.sqrt(2)
    return {"first": first, "second": second, "first_error": error, "second_error": error}


def run_configuration(
    config: SystemConfig,
    configuration: Configuration,
    folder: Path,
    report: Report,
) -> None:
    """Do the restrained runs of one configuration that are not there yet, or damaged.

    Raises
    ------
    SimulationError
        If a run fails.
    """
    runs = config.mean_force.starts + 2 * configuration.checked
    try:
        restrained = RestrainedRun(config, configuration)
        atoms = configuration.atoms
        for start in range(config.mean_force.starts):
            path = start_file(folder, configuration.index, start)
            if not whole_arrays(path):
                restrained.begin(start, atoms)
                write_arrays(
                    path,
                    vars(restrained.sample()) | {"atoms": restrained.atoms().astype(np.float32)},
                )
            atoms = np.load(path)["atoms"]
            report((start + 1) / runs, "")
        path = check_file(folder, configuration.index)
        if configuration.checked and not whole_arrays(path):
            restrained.begin(0, configuration.atoms)
            write_arrays(path, restrained.check_constant())
        path = heating_file(folder, configuration.index)
        if configuration.checked and not whole_arrays(path):
            restrained = RestrainedRun(config, configuration)
            restrained.begin(_STRONG, configuration.atoms)
            write_arrays(path, vars(restrained.sample()))
    except (openmm.OpenMMException, ValueError) as error:
        raise SimulationError(
            f"Restrained run of configuration {configuration.index} failed: {error}; lower the time"
            " step or restraint_constant."
        ) from error


class RestrainedRun:
    """The atoms of one configuration with its beads held."""

    def __init__(self, config: SystemConfig, configuration: Configuration) -> None:
        self.config, self.configuration, self.protocol = config, configuration, config.mean_force
        topology = build_topology(config)
        topology.setPeriodicBoxVectors(configuration.box * unit.nanometer)
        system = create_system(config, topology)
        self.mapping = mapping_from_config(
            config, mdtraj.Topology.from_openmm(topology), atomic_charges(system)
        ).for_system(system)
        self.beads = self.mapping.map_positions(configuration.atoms.astype(float))
        self.restraint = add_restraint(
            system, self.mapping, self.beads, self.protocol.restraint_constant
        )
        self.simulation = all_atom_simulation(config, system, topology, self._seed(0))
        self.simulation.integrator.setFriction(_FRICTION)

    def _seed(self, start: int) -> int:
        return derived_seed(
            self.config.reference.seed, "mean force", self.configuration.index, start
        )

    def begin(self, start: int, atoms: np.ndarray) -> None:
        """Begin a start: put the atoms at given positions and equilibrate.

        For all starts but the first, conformations are renewed before; for `_STRONG` thoroughly.
        """
        self._put(atoms)
        for step in _SHORTER if start else ():
            try:
                self._renew(start, step)
                break
            except openmm.OpenMMException:
                if step == _SHORTER[-1]:
                    raise
                self._put(atoms)
        self.run(
            self.config.temperature,
            self.protocol.equilibration,
            derived_seed(self._seed(start), "equilibration"),
        )

    def _put(self, atoms: np.ndarray) -> None:
        self.simulation.context.setPositions(atoms)
        self.simulation.context.applyConstraints(1e-6)

    def atoms(self) -> np.ndarray:
        """Positions of all atoms at this moment, molecules whole, nm."""
        return self.simulation.context.getState(positions=True).getPositions(asNumpy=True)._value

    def _renew(self, start: int, step: float) -> None:
        """Heat and cool.

        New velocities at every stage take out the heat that falling potential energy sets free.
        """
        protocol, seed, strong = self.protocol, self._seed(start), start == _STRONG
        hot = protocol.annealing_temperature * (_HOTTER if strong else 1)
        cooling = protocol.cooling * (_SLOWER if strong else 1)
        self.run(hot, protocol.annealing, seed, step)
        for stage in range(1, _STAGES):
            self.run(
                hot * (self.config.temperature / hot) ** (stage / _STAGES),
                cooling / _STAGES,
                derived_seed(seed, "cooling", stage),
                step,
            )

    def run(self, temperature: float, duration: float, seed: int, step: float = 1.0) -> None:
        """Run with fresh velocities.

        When hot, in steps in which atoms move no farther than at `_FULL_STEP`, times `step`.
        """
        timestep = (
            step * self.config.reference.timestep * min(1.0, np.sqrt(_FULL_STEP / temperature))
        )
        integrator, context = self.simulation.integrator, self.simulation.context
        integrator.setTemperature(temperature * unit.kelvin)
        integrator.setStepSize(timestep)
        context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
        self.simulation.step(round(duration / timestep))

    def sample(self) -> Estimate:
        return sample_mean_force(
            self.simulation,
            self.mapping,
            self.beads,
            self.protocol.sampling,
            self.protocol.sample_interval,
        )

    def check_constant(self) -> dict[str, np.ndarray]:
        """Mean forces at the same mean positions with both restraint constants.

        They come one after the other in one run.

        At one restraint centre the two constants would hold the beads at different places, with
        different forces. So the centre moves by the difference of F/k, with F from sampling of its
        own, whose noise is in neither estimate. That sampling is the control, too: by as much as it
        differs from the next with the same constant, the constants may differ.
        """
        equilibration = round(self.protocol.equilibration / self.config.reference.timestep)
        guide = self.sample()
        self.simulation.step(equilibration)
        first = self.sample()
        constant = self.protocol.check_constant
        self.beads = guide.positions - guide.forces / constant
        set_restraint(self.simulation.context, self.restraint, self.beads, constant)
        self.simulation.step(equilibration)
        return as_check(guide.forces, first.forces, self.sample().forces)
