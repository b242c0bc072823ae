"""Dynamics of a potential from a mapped frame."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.exceptions import ConfigError, DiskError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.lock import locked, locked_file

from .cgpotential import CGPotential
from .committee import Committee, SpreadRange
from .dynamics import run_dynamics
from .ensemble import EnsemblePotential
from .start import Known
from .timestep.criteria import CAREFUL, TimestepSearch
from .timestep.recommendation import Recommendation, read_recommendation, recommendation_path
from .timestep.search import search_timestep
from .topology import bead_topology_to_openmm

logger = logging.getLogger(__name__)

_SEARCH_WAIT = 7200.0  # seconds for the search of another command: as long as one may take


def simulate(
    potential: CGPotential | EnsemblePotential | Path | str,
    frames: Frames,
    folder: Path | str,
    settings: SimulationConfig | None = None,
    *,
    start: int = -1,
    seed: int = 1,
    identity: str | None = None,
    committee: tuple[Committee, SpreadRange] | None = None,
) -> Path:
    """Langevin dynamics of beads: equilibrate, then write a trajectory.

    Call it again to continue after an interruption.

    Parameters
    ----------
    potential : CGPotential, EnsemblePotential or path
    frames : Frames
        They give beads, box, temperature and the configuration to start from.
    folder : path
        Gets the files that `run_dynamics` lists.
    settings : SimulationConfig, optional
        Without a time step the one recommended for the potential is taken; it is searched if there
        is none.
    start : int
        Frame to start from.
    seed : int
        Of velocities and of the thermostat.
    identity : str, optional
        Tells this potential and start from others; made from both if absent.
    committee : Committee and SpreadRange, optional
        Watches the run, see `run_dynamics`.

    Returns
    -------
    Path
        The trajectory.

    Raises
    ------
    ConfigError
        If intervals do not fit each other, an ensemble is given without a time step, or the
        potential was made for another temperature than that of the frames.
    SimulationError
        If the frames are not in nm, the run explodes or no time step is safe; trajectory and last
        good state are kept.
    """
    if isinstance(potential, Path | str):
        potential = CGPotential(potential)
    settings = settings or SimulationConfig()
    members = [potential] if isinstance(potential, CGPotential) else potential.members
    Known.of(potential).check_temperature(
        frames.temperature, "the frames have", settings.other_temperature
    )
    if settings.timestep is None:
        if isinstance(potential, EnsemblePotential):
            raise ConfigError("simulation.timestep: an ensemble has no recommended one; give one.")
        settings = with_timestep(
            settings, potential.file, lambda: frames, seed, potential.run_script
        )
    start = range(len(frames))[start]
    if identity is None:
        hashes = [file_hash(member.file) for member in members]
        model = hashes[0] if len(hashes) == 1 else hashes
        identity = json.dumps({"model": model, "frames": frames.identity, "start": start})
    topology = bead_topology_to_openmm(frames.beads, frames.box[start])
    return run_dynamics(
        potential.createSystem(topology),
        topology,
        frames.positions[start],
        Path(folder),
        settings,
        frames.temperature,
        seed,
        identity,
        committee,
        potential,
    )


def with_timestep(
    settings: SimulationConfig,
    model: Path,
    reader: Callable[[], Frames],
    seed: int = 1,
    run_script: bool = False,
) -> SimulationConfig:
    """Settings with a time step: their own, or the one recommended for a potential file.

    The recommended one is searched if there is none, from the frames that `reader` returns. A run
    that costs less than the search with a time step of 2 fs is made with that one instead.

    Raises
    ------
    SimulationError
        If no time step is safe.
    DiskError
        If the search, whose result lies beside the potential, cannot write there.
    """
    if settings.timestep is not None:
        return settings
    found = read_recommendation(model)
    if found is None:
        path, frames = recommendation_path(model), reader()
        search = TimestepSearch(
            friction=f"{settings.friction} / picosecond",
            platform=settings.platform,
            seed=seed,
            run_script=run_script,
            other_temperature=settings.other_temperature,
        )
        forces = search.forces(frames.beads.n_beads)
        steps = round((settings.equilibration + settings.production) / CAREFUL)
        if steps < forces:
            logger.info(
                "simulation.timestep is not given and %s is not there: %g fs is taken, with which"
                " this run needs %s steps, while the search for a longer one needs %s; 'cgkd"
                " timestep' makes it all the same",
                path.name, CAREFUL * 1e3, f"{steps:,}", f"{forces:,}",
            )  # fmt: skip
            return settings.model_copy(update={"timestep": CAREFUL})
        try:
            found = _searched(model, frames, search)
        except DiskError as error:
            # its cure is not the easiest
            reason = str(error).rpartition("; ")[0]
            raise DiskError(
                "simulation.timestep: is not given, and the search for one writes beside the"
                f" potential: {reason}; give simulation.timestep."
            ) from error
    timestep = None if found is None else found.timestep
    return settings.model_copy(update={"timestep": timestep})


def _searched(model: Path, frames: Frames, search: TimestepSearch) -> Recommendation | None:
    path = recommendation_path(model)
    with locked(model.parent, shared=True), locked_file(path, wait=_SEARCH_WAIT):
        found = read_recommendation(model)  # another command may have searched meanwhile
        if found is not None:
            return found
        logger.info("simulation.timestep is not given and %s is not there: searching", path.name)
        search_timestep(model, frames, search)
        return read_recommendation(model)
