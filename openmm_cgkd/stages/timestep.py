"""The time step of a run: the one it names, or the one recommended for its potential."""

from __future__ import annotations

import logging
from pathlib import Path

from openmm_cgkd.config.run import RunConfig, SimulationConfig, load_run
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.run_folder import RunFiles, RunFolder
from openmm_cgkd.simulation.timestep.criteria import TimestepSearch
from openmm_cgkd.simulation.timestep.recommendation import read_recommendation, recommendation_path
from openmm_cgkd.simulation.timestep.search import search_timestep

logger = logging.getLogger(__name__)


def simulation_settings(run: RunConfig) -> SimulationConfig:
    """The `simulation` section with a time step.

    The one that is written there, or the recommended one, which is searched now if there is none.

    Raises
    ------
    SimulationError
        If no time step is safe.
    """
    settings, model = run.simulation, RunFolder(run).model
    if settings.timestep is not None:
        return settings
    timestep = read_recommendation(model)
    if timestep is None:
        logger.info(
            "simulation.timestep is not given and %s is not there: searching",
            recommendation_path(model).name,
        )
        search = TimestepSearch(
            friction=f"{settings.friction} / picosecond", platform=settings.platform, seed=run.seed
        )
        search_timestep(model, read_frames(RunFolder(run).frames), search)
        timestep = read_recommendation(model)
    return settings.model_copy(update={"timestep": timestep})


def frames_of(model: Path, frames: Path | None) -> Frames:
    """Frames to start from: the file given, or that of the run in whose folder the potential lies.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    if frames is not None:
        return read_frames(frames)
    run_file = RunFiles(model.parent).run_file
    if not run_file.exists():
        raise ConfigError(
            f"{model}: has no run.yaml beside it; name mapped frames to start from with --frames."
        )
    return read_frames(RunFolder(load_run(run_file)).frames)
