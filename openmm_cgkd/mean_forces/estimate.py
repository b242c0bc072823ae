"""Conditional mean forces: mapped forces of all-atom runs in which the beads are held.

The mapped force of a centre-of-mass map averages to minus the gradient of the potential of mean
force (Noid et al., J. Chem. Phys. 2008, 128, 244114); what is averaged away here is the mapping
noise that force matching cannot remove. Part of that noise is slow: conformations and hydrogen
bonds that outlive any affordable run. Hence many short runs per configuration, each with the
conformations of the one before renewed at high temperature, and standard errors from the scatter
between them and from how long they remember.
"""

from __future__ import annotations

import logging
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import unit

from openmm_cgkd import __version__
from openmm_cgkd.allatom.build import build_topology, create_system
from openmm_cgkd.allatom.force_field import atomic_charges
from openmm_cgkd.config.section import dump
from openmm_cgkd.config.system import MeanForceConfig, SystemConfig
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.frames.gromacs_files import check_headers
from openmm_cgkd.mapping.mapping import mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from openmm_cgkd.utils.appended import check_written
from openmm_cgkd.utils.files import file_hash, write_text
from openmm_cgkd.utils.foreign import reading, without_native_output
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.progress import log_to, progress

from .file import Estimates, MeanForces, write_mean_forces
from .pair_correction import correct_pair_part
from .restrained import Configuration, check_file, heating_file, run_configuration, start_file

logger = logging.getLogger(__name__)


def run_mean_forces(
    config: SystemConfig, trajectory: Path, folder: Path, count: int, share: float
) -> Path:
    """Estimate mean forces at `count` configurations of an all-atom trajectory.

    The work can be resumed; configurations are done side by side.

    The first start of a configuration has the conformations of the trajectory, a fair sample; each
    other one renews those of the start before by heating and cooling. That makes forces between
    pairs too large, so these are taken from the first starts (`correct_pair_part`).

    Three checks go into the file: ``other_constant`` compares restraint constants, ``other_start``
    the first starts with all the others, and ``other_heating`` all starts with one from 2.5 times
    the temperature, cooled twice as slowly: what the starts share because heating did not renew it,
    that one does not, so its slope is the share of the variance that is a function of the beads.

    Parameters
    ----------
    config : SystemConfig
        Its ``mean_force`` section is the protocol. With more starts than before, the new ones are
        added.
    trajectory : path
        All atoms in the order of the configuration, in a format of MDTraj: ``production.xtc`` of
        the all-atom stage.
    folder : path
        Gets one file per run and, at the end, ``mean_forces.h5``.
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
        If the trajectory is not of this system, too short, or the folder holds estimates made with
        other settings.
    ExecutionError
        If restrained runs fail.
    """
    snapshots = _read_snapshots(config, trajectory, count, share)
    protocol = config.mean_force
    every = max(1, count // max(1, protocol.check_frames))
    checked = list(range(0, count, every))[: protocol.check_frames]
    with locked(folder), log_to(folder / "meanforce.log"):
        _check_same_settings(config, trajectory, folder)
        tasks = {}
        for index in range(count):
            configuration = Configuration(
                index, snapshots.xyz[index], snapshots.unitcell_vectors[index], index in checked
            )
            if configuration.missing(folder, protocol.starts):
                tasks[f"configuration-{index:04d}"] = (config, configuration, folder.resolve())
        parts = dict.fromkeys(tasks, 0.0)
        with progress("mean forces", count, "configurations", count - len(tasks)) as meter:

            def report(name: str, share: float, note: str = "") -> None:
                parts[name] = share
                meter.update(count - len(tasks) + sum(parts.values()), note)

            map_tasks(
                run_configuration,
                tasks,
                protocol.execution,
                folder,
                on_result=lambda name, result: report(name, 1.0),
                on_report=report,
            )
        path = folder / "mean_forces.h5"
        main, checks = _gather(config, snapshots, folder, count, checked)
        write_mean_forces(path, main, checks)
        for line in summary(main, checks):
            logger.info(line)
    return path


def summary(main: MeanForces, checks: dict[str, Estimates]) -> list[str]:
    """What a user wants to know of the estimates.

    Magnitude and error by bead type, and what the checks say.
    """
    lines = []
    for index, name in enumerate(main.beads.type_names):
        beads = main.beads.types == index
        error = np.sqrt((main.standard_error[:, beads] ** 2).mean())
        magnitude = np.sqrt(max(0.0, main.variance(beads)))
        lines.append(
            f"{name}: mean force {magnitude:.1f} kJ/mol/nm (rms per component), standard error"
            f" {error:.1f}"
        )
    for name, check in checks.items():
        found = check.agreement()
        lines.append(
            f"{name.replace('_', ' ')}: slope {found['slope']:.3f}({found['slope_error']:.3f}),"
            f" differences {found['difference']:.1f} kJ/mol/nm (rms) where standard errors make"
            f" {found['expected']:.1f}"
        )
    return lines


def start_products(starts: np.ndarray) -> np.ndarray:
    """Mean product of the forces of any two starts, shape (n_starts, n_starts).

    Forces have shape (n_frames, n_starts, n_beads, 3).
    """
    return np.einsum("fibx,fjbx->ij", starts, starts) / starts[:, 0].size


def mean_and_error(starts: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over starts and its standard error.

    Each start goes on from the atoms of the one before.

    A start remembers something of those before it, so the scatter between starts is less than what
    their mean can be wrong by. Starts half of all or more apart share the mean force alone: their
    product, averaged over the beads of a type, is its square, and what the square of the mean over
    starts has beyond that is its squared error. The scatter says how this is spread over beads.

    Parameters
    ----------
    starts : ndarray, shape (n_frames, n_starts, n_beads, 3)
    types : ndarray, shape (n_beads,)

    Returns
    -------
    mean, error : ndarray, shape (n_frames, n_beads, 3)
    """
    count = starts.shape[1]
    mean, error = starts.mean(axis=1), starts.std(axis=1, ddof=1) / np.sqrt(count)
    apart = np.subtract.outer(np.arange(count), np.arange(count)) >= count / 2
    for kind in np.unique(types):
        products = start_products(starts[:, :, types == kind])
        excess, scatter = (
            products.mean() - products[apart].mean(),
            (error[:, types == kind] ** 2).mean(),
        )
        error[:, types == kind] *= np.sqrt(max(1.0, excess / scatter))
    return mean, error


def _gather(
    config: SystemConfig, snapshots: mdtraj.Trajectory, folder: Path, count: int, checked: list[int]
) -> tuple[MeanForces, dict[str, Estimates]]:
    protocol = config.mean_force
    runs = [
        [np.load(start_file(folder, index, start)) for start in range(protocol.starts)]
        for index in range(count)
    ]
    forces = np.array([[run["forces"] for run in row] for row in runs])
    positions = np.array([[run["positions"] for run in row] for row in runs]).mean(axis=1)
    energies = np.array([[float(run["energy"]) for run in row] for row in runs])
    excess = energies[:, 1:].mean() - energies[:, 0].mean()
    logger.info(
        "potential energy of renewed conformations: %.0f kJ/mol above that of the trajectory's",
        excess,
    )
    topology = build_topology(config)
    topology.setPeriodicBoxVectors(snapshots.unitcell_vectors[0] * unit.nanometer)
    beads = mapping_from_config(
        config, snapshots.topology, atomic_charges(create_system(config, topology))
    ).topology
    mean, error = mean_and_error(forces, beads.types)
    scatter = forces.std(axis=1, ddof=1) / np.sqrt(protocol.starts)
    apart = []
    for kind, name in enumerate(beads.type_names):
        of_kind = beads.types == kind
        products = start_products(forces[:, :, of_kind])
        apart.append([np.diagonal(products, lag).mean() for lag in range(protocol.starts)])
        factor = np.sqrt((error[:, of_kind] ** 2).mean() / (scatter[:, of_kind] ** 2).mean())
        logger.info(
            "%s: what starts remember makes the standard error %.2f times that of independent"
            " starts",
            name,
            factor,
        )
    attributes = {
        "system": config.name,
        "temperature": config.temperature,
        "restraint_constant": protocol.restraint_constant,
        "starts": protocol.starts,
        "renewed_energy_excess": excess,
        "start_products": np.array(apart),
        "configuration": dump(config),
        "force_field_sha256": file_hash(config.path(config.force_field)),
        "versions": f"openmm_cgkd {__version__}, openmm {openmm.__version__}",
    }
    main = MeanForces(
        positions, mean, error, snapshots.unitcell_vectors, snapshots.time, beads, attributes
    )
    if corrected := correct_pair_part(main, forces[:, 0]):
        main = corrected.mean_forces
        main.attributes.update(
            fair_pair_forces=corrected.ratio, fair_pair_forces_error=corrected.error
        )
        logger.info(
            "pair forces of the first starts, taken over: %.3f(%.3f) of those of the mean",
            corrected.ratio,
            corrected.error,
        )
    else:
        logger.info(
            "too few beads or configurations to take pair forces from the first starts alone;"
            " heating leaves them too large"
        )
    checks = {}
    if protocol.starts > 2:
        # the first start has no scatter of its own; as equals, all starts share that of the others
        rest_scatter = forces[:, 1:].std(axis=1, ddof=1)
        rest, rest_error = mean_and_error(forces[:, 1:], beads.types)
        checks["other_start"] = Estimates(rest, forces[:, 0], rest_error, rest_scatter)
    if checked:
        found = [np.load(check_file(folder, index)) for index in checked]
        checks["other_constant"] = Estimates(
            **{name: np.stack([part[name] for part in found]) for name in found[0]}
        )
        strong = np.stack([np.load(heating_file(folder, index))["forces"] for index in checked])
        checks["other_heating"] = Estimates(
            mean[checked], strong, error[checked], forces[checked].std(axis=1, ddof=1)
        )
    return main, checks


def _check_same_settings(config: SystemConfig, trajectory: Path, folder: Path) -> None:
    """Estimates in a folder belong to one protocol and one trajectory."""
    # the number of starts and where they run may change between a run and its continuation
    usual = MeanForceConfig()
    free = {name: getattr(usual, name) for name in ("starts", "check_frames", "execution")}
    same = config.model_copy(update={"mean_force": config.mean_force.model_copy(update=free)})
    settings = (
        f"{dump(same, folder)}trajectory_sha256: {file_hash(trajectory)}\n"
        f"force_field_sha256: {file_hash(config.path(config.force_field))}\n"
    )
    path = folder / "settings.yaml"
    # a run that was refused before its first result binds nobody
    if any(folder.glob("*.npz")) and path.exists() and path.read_text() != settings:
        raise ConfigError(
            f"{folder}: holds mean forces made with other settings or atoms (see settings.yaml);"
            " use another folder."
        )
    write_text(path, settings)


def _read_snapshots(
    config: SystemConfig, path: Path, count: int, share: float
) -> mdtraj.Trajectory:
    """`count` evenly spaced configurations of the last share of a trajectory, molecules whole."""
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file; give a trajectory of all atoms, such as production.xtc of 'cgkd"
            " reference'."
        )
    if path.name == "production.xtc":
        check_written(path, path.with_suffix(".json"))
    what = f"a trajectory of the {topology.n_atoms} atoms of {config.name}"
    with reading(path, what, "give one, such as production.xtc", ConfigError):
        check_headers(path, topology.n_atoms)
        with without_native_output():
            trajectory = mdtraj.load(str(path), top=topology)
        if not np.isfinite(trajectory.xyz).all():
            raise ValueError("positions are not finite")
    if trajectory.unitcell_vectors is None:
        raise ConfigError(f"{path}: holds no periodic box; restrained runs need it.")
    first = len(trajectory) - round(share * len(trajectory))
    if count > len(trajectory) - first:
        held = len(trajectory) - first
        raise ConfigError(
            f"{path}: its last {share:g} holds {held} configurations, {count} were asked for; lower"
            " --frames or raise --last."
        )
    chosen = trajectory[np.linspace(first, len(trajectory) - 1, count).round().astype(int)]
    whole = WholeMolecules(bond_order(topology), topology.n_atoms)
    chosen.xyz = np.stack(
        [whole(x, box) for x, box in zip(chosen.xyz, chosen.unitcell_vectors, strict=True)]
    )
    return chosen
