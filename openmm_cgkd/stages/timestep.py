"""The time step of a run: the one it names, or the one recommended for its potential."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.run import RunConfig, SimulationConfig, load_run
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.run_folder import RunFiles, RunFolder
from openmm_cgkd.simulation.simulate import with_timestep

from .inputs import all_frames


def simulation_settings(run: RunConfig) -> SimulationConfig:
    """The `simulation` section with a time step, see `with_timestep`."""
    folder = RunFolder(run)
    return with_timestep(
        run.simulation, folder.model, lambda: all_frames(run), run.seed, run.run_script
    )


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
    return all_frames(load_run(run_file))
