"""Conditional mean forces: all-atom runs with the beads held, the mapped force averaged over all else.

The mapped force of a centre-of-mass map averages to minus the gradient of the potential of mean force (Noid et al.,
J. Chem. Phys. 2008, 128, 244114); what is averaged away here is the mapping noise that force matching cannot remove.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from .. import __version__
from ..config import SystemConfig, dump
from ..exceptions import CGKDError, ConfigError, SimulationError
from ..files import file_hash, replacing, write_text
from ..mapping import Mapping, bond_order, make_whole, mapping_from_config
from ..mean_forces import CHECKS, MeanForces, write_mean_forces
from ..progress import log_to, progress
from .backmap import add_restraint, place_molecules, relax
from .build import atomic_charges, build_topology, create_system
from .run import langevin_simulation, phase_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """Mean force on every bead of one configuration; arrays of shape (n_beads, 3).

    Attributes
    ----------
    positions : ndarray, nm
        Mean positions, a little off the restraint's centres where the force pulls.
    forces, standard_error : ndarray, kJ/mol/nm
    """

    positions: np.ndarray
    forces: np.ndarray
    standard_error: np.ndarray


def sample_mean_force(
    simulation: app.Simulation, mapping: Mapping, beads: np.ndarray, duration: float, interval: float, blocks: int
) -> Estimate:
    """Average the mapped force of a restrained, equilibrated run.

    A bead sits off its restraint centre X0 by F/k on average. Giving the force to the mean position instead of X0
    removes the error of first order in 1/k; what is left is of the order of the force's curvature times kT/k.

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
        Blocks for the standard error; their means must be independent, so each must outlast the force correlation.
    """
    constant = simulation.context.getParameter("restraint_constant")
    timestep = simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
    steps = max(1, round(interval / timestep))
    samples = max(1, round(duration / blocks / (steps * timestep)))
    sums = np.zeros((2, blocks, *beads.shape))
    for block in range(blocks):
        for _ in range(samples):
            simulation.step(steps)
            state = simulation.context.getState(positions=True, forces=True)
            positions = mapping.map_positions(state.getPositions(asNumpy=True)._value)
            forces = mapping.map_forces(state.getForces(asNumpy=True)._value)
            sums[0, block] += positions
            sums[1, block] += forces + constant * (positions - beads)  # without the restraint's own force
    means = sums / samples
    mean = means.mean(axis=1)
    return Estimate(mean[0], mean[1], means[1].std(axis=0, ddof=1) / np.sqrt(blocks))


def run_mean_forces(config: SystemConfig, trajectory: Path, folder: Path, count: int, share: float) -> Path:
    """Estimate mean forces at `count` configurations of an all-atom trajectory; resumable.

    Each run starts from the atoms of its configuration, so that slow internal motion (torsions that take longer than
    the run) is as in equilibrium. Some configurations are sampled again, with another restraint constant and from
    atoms that were put anew around the same beads: differences beyond the standard errors betray what was too slow.

    Parameters
    ----------
    config : SystemConfig
        Its ``mean_force`` section is the protocol.
    trajectory : path
        All atoms in the order of the configuration, in a format of MDTraj: ``production.xtc`` of the all-atom stage.
    folder : path
        Gets one file per configuration and, at the end, ``mean_forces.h5``.
    count : int
        Configurations, evenly spaced.
    share : float
        They come from this last share of the trajectory: the part that training holds out.

    Returns
    -------
    path
        The file of mean-force frames.

    Raises
    ------
    ConfigError
        If the trajectory is not of this system, too short, or the folder holds estimates made with other settings.
    SimulationError
        If a restrained run fails.
    """
    snapshots = _read_snapshots(config, trajectory, count, share)
    folder.mkdir(parents=True, exist_ok=True)
    protocol = config.mean_force
    with log_to(folder / "meanforce.log"):
        _check_same_settings(config, trajectory, folder)
        runs = _Restrained(config, snapshots, folder)
        every = max(1, count // max(1, protocol.check_frames))
        checked = list(range(0, count, every))[: protocol.check_frames]
        with progress("mean forces", count) as meter:
            for done, index in enumerate(range(count)):
                runs.estimate(index, checked=index in checked)
                meter.update(done + 1)
        main = runs.gather("main", list(range(count)), protocol.restraint_constant)
        constants = {"other_constant": protocol.check_constant, "other_start": protocol.restraint_constant}
        checks = {name: runs.gather(name, checked, constants[name]) for name in CHECKS if checked}
        path = folder / "mean_forces.h5"
        write_mean_forces(path, main, checks)
        for line in summary(main, checks):
            logger.info(line)
    return path


def summary(main: MeanForces, checks: dict[str, MeanForces]) -> list[str]:
    """What a user wants to know of the estimates: magnitude and error per bead type, and what the checks say."""
    lines = []
    for index, name in enumerate(main.beads.type_names):
        beads = main.beads.types == index
        error = np.sqrt((main.standard_error[:, beads] ** 2).mean())
        magnitude = np.sqrt(max(0.0, main.variance(beads)))
        lines.append(f"{name}: mean force {magnitude:.1f} kJ/mol/nm (rms per component), standard error {error:.1f}")
    for name, check in checks.items():
        found = agreement(main, check)
        lines.append(
            f"{name.replace('_', ' ')}: slope {found['slope']:.3f}({found['slope_error']:.3f}), "
            f"differences {found['difference']:.1f} kJ/mol/nm (rms) where standard errors make {found['expected']:.1f}"
        )
    return lines


def agreement(main: MeanForces, check: MeanForces) -> dict[str, float]:
    """Compare two estimates at the same configurations.

    Returns
    -------
    dict
        ``slope``, with ``slope_error``: <F1 F2> / <F1^2>, noise subtracted; 1 if they estimate the same force.
        ``difference``: root mean square of F1 - F2 per component; ``expected``: what the standard errors make of it; kJ/mol/nm.
    """
    rows = np.searchsorted(main.time, check.time)
    first, second = main.forces[rows].astype(float), check.forces.astype(float)
    noise, other = (float((m.astype(float) ** 2).mean()) for m in (main.standard_error[rows], check.standard_error))
    signal = (first**2).mean() - noise
    error = np.sqrt((noise + other) * signal + 2 * noise * other) / signal / np.sqrt(first.size)
    return {
        "slope": float((first * second).mean() / signal),
        "slope_error": float(error),
        "difference": float(np.sqrt(((first - second) ** 2).mean())),
        "expected": float(np.sqrt(noise + other)),
    }


def _check_same_settings(config: SystemConfig, trajectory: Path, folder: Path) -> None:
    """Estimates in a folder belong to one protocol and one trajectory."""
    settings = (
        f"{dump(config, folder)}trajectory_sha256: {file_hash(trajectory)}\n"
        f"force_field_sha256: {file_hash(config.path(config.force_field))}\n"
    )
    path = folder / "settings.yaml"
    if path.exists() and path.read_text() != settings:
        raise ConfigError(f"{folder}: holds mean forces made with other settings or atoms (see settings.yaml); use another folder.")
    write_text(path, settings)


def _read_snapshots(config: SystemConfig, path: Path, count: int, share: float) -> mdtraj.Trajectory:
    """`count` configurations, evenly spaced over the last share of a trajectory, molecules whole."""
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    if not path.exists():
        raise ConfigError(f"{path}: no such file; give a trajectory of all atoms, such as production.xtc of 'cgkd reference'.")
    try:
        trajectory = mdtraj.load(str(path), top=topology)
    except Exception as error:  # MDTraj raises many types on foreign files
        raise ConfigError(f"{path}: is not a trajectory of the {topology.n_atoms} atoms of {config.name} ({error}).") from error
    if trajectory.unitcell_vectors is None:
        raise ConfigError(f"{path}: holds no periodic box; restrained runs need it.")
    first = len(trajectory) - round(share * len(trajectory))
    if count > len(trajectory) - first:
        held = len(trajectory) - first
        raise ConfigError(
            f"{path}: its last {share:g} holds {held} configurations, {count} were asked for; lower --frames or raise --last."
        )
    chosen = trajectory[np.linspace(first, len(trajectory) - 1, count).round().astype(int)]
    bonds = bond_order(topology)
    chosen.xyz = np.stack([make_whole(x, box, bonds) for x, box in zip(chosen.xyz, chosen.unitcell_vectors, strict=True)])
    return chosen


class _Restrained:
    """Restrained runs at configurations of one system."""

    def __init__(self, config: SystemConfig, snapshots: mdtraj.Trajectory, folder: Path) -> None:
        self.config, self.snapshots, self.folder = config, snapshots, folder
        self.topology = build_topology(config)

    def _file(self, kind: str, index: int) -> Path:
        return self.folder / f"{kind}-{index:04d}.npz"

    def estimate(self, index: int, checked: bool) -> None:
        """Run one configuration, unless its estimates are there."""
        protocol = self.config.mean_force
        kinds = ("main", *CHECKS) if checked else ("main",)
        if all(self._file(kind, index).exists() for kind in kinds):
            return
        try:
            simulation, mapping, beads = self._simulation(index)
            reference = self.config.reference
            temperature = self.config.temperature * unit.kelvin
            seed = phase_seed(reference.seed, "mean force", index)
            context = simulation.context
            for kind in kinds:
                context.setParameter("restraint_constant", protocol.restraint_constant)
                if kind == "main":
                    context.setPositions(self.snapshots.xyz[index])
                    context.applyConstraints(1e-6)
                    context.setVelocitiesToTemperature(temperature, seed)
                elif kind == "other_constant":
                    context.setParameter("restraint_constant", protocol.check_constant)
                else:
                    box = self.snapshots.unitcell_vectors[index].astype(float)
                    placed = place_molecules(self.config, self.topology, mapping, beads, box, seed)
                    relax(simulation, placed, reference.annealing_temperature, reference.annealing, self.config.temperature, 0, seed)
                simulation.step(round(protocol.equilibration / reference.timestep))
                self._sample(kind, index, simulation, mapping, beads)
        except CGKDError:
            raise
        except (openmm.OpenMMException, ValueError) as error:
            raise SimulationError(f"Restrained run {index} failed: {error}; lower the time step or restraint_constant.") from error

    def _sample(self, kind: str, index: int, simulation: app.Simulation, mapping: Mapping, beads: np.ndarray) -> None:
        protocol = self.config.mean_force
        found = sample_mean_force(simulation, mapping, beads, protocol.sampling, protocol.sample_interval, protocol.blocks)
        with replacing(self._file(kind, index)) as fresh, open(fresh, "wb") as file:
            np.savez(file, positions=found.positions, forces=found.forces, standard_error=found.standard_error)
        logger.info("configuration %d, %s: standard error %.1f kJ/mol/nm (rms)", index, kind, np.sqrt((found.standard_error**2).mean()))

    def _simulation(self, index: int) -> tuple[app.Simulation, Mapping, np.ndarray]:
        self.topology.setPeriodicBoxVectors(self.snapshots.unitcell_vectors[index] * unit.nanometer)
        system = create_system(self.config, self.topology)
        mapping = mapping_from_config(self.config, self.snapshots.topology, atomic_charges(system))
        mapping.check_constraints(system)
        beads = mapping.map_positions(self.snapshots.xyz[index].astype(float))
        add_restraint(system, mapping, beads, self.config.mean_force.restraint_constant)
        seed = phase_seed(self.config.reference.seed, "mean force", index)
        return langevin_simulation(self.config, system, self.topology, seed), mapping, beads

    def gather(self, kind: str, indices: list[int], constant: float) -> MeanForces:
        """All estimates of one kind."""
        parts = [np.load(self._file(kind, index)) for index in indices]
        arrays = {name: np.stack([part[name] for part in parts]) for name in ("positions", "forces", "standard_error")}
        attributes = {
            "system": self.config.name,
            "temperature": self.config.temperature,
            "restraint_constant": constant,
            "configuration": dump(self.config),
            "force_field_sha256": file_hash(self.config.path(self.config.force_field)),
            "versions": f"openmm_cgkd {__version__}, openmm {openmm.__version__}",
        }
        beads = mapping_from_config(self.config, self.snapshots.topology).topology
        box, time = self.snapshots.unitcell_vectors[indices], self.snapshots.time[indices]
        return MeanForces(**arrays, box=box, time=time, beads=beads, attributes=attributes)
