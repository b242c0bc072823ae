"""The longest time step that is safe for a potential: measured, and recommended in a file.

What is recommended is the largest time step that passes (see `criteria`) together with all smaller
ones.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.box import smallest_height
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.lock import locked, locked_file
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.statistics import error_words

from .criteria import Measurement, TimestepSearch, objections, passing
from .figure import draw
from .integrate import Averages, Conservation, Integration, Start, Unstable
from .recommendation import FORMAT, VERSION, recommendation_path
from .same_structure import SameSampling, compare_sampling, time_block_rdfs

logger = logging.getLogger(__name__)

SPACING = 1.0  # ps between the states from which energy conservation is measured
# mean difference of RDFs by noise alone, above which even a difference that is hard to miss in a
# picture would pass
LARGEST_NOISE = 0.1
_FRAME_INTERVAL = 0.2  # ps between frames for radial distribution functions


def measure(
    integration: Integration,
    starts: list[Start],
    search: TimestepSearch,
    report: Callable[[float], None],
) -> list[Measurement]:
    """Integrate with one time step after the other; the first that explodes is the last one tried.

    Parameters
    ----------
    integration : Integration
    starts : list of Start
        Equilibrated.
    search : TimestepSearch
        With a duration `nvt`, see `TimestepSearch.long_enough`.
    report : callable
        Gets the number of time steps done.
    """
    assert search.nvt is not None
    found: list[Measurement] = []
    reference: Averages | None = None
    for done, timestep in enumerate(search.timesteps, start=1):
        try:
            conservation = integration.conservation(starts, timestep, search.nve)
            averages = integration.averages(starts[-1], timestep, search.nvt)
        except Unstable as error:
            found.append(Measurement(timestep, None, None, str(error), (f"explodes ({error})",)))
            logger.info("%g fs: explodes (%s)", timestep * 1e3, error)
            break
        reference = reference or averages
        broken = objections(conservation, averages, reference, integration.temperature, search)
        found.append(Measurement(timestep, conservation, averages, None, tuple(broken)))
        logger.info(
            "%g fs: drift %.2g +- %.2g kT/ns per bead, %.1f +- %s K (full step %.1f K), "
            "energy %.3f +- %s kT per bead; %s",
            timestep * 1e3, conservation.drift, conservation.drift_se, averages.temperature,
            error_words(averages.temperature_se, "temperature" not in averages.at_least, ".1f"),
            averages.full_step_temperature, averages.energy,
            error_words(averages.energy_se, "energy" not in averages.at_least, ".3f"),
            "; ".join(broken) or "passes",
        )  # fmt: skip
        report(done)
    return found


def validate(
    integration: Integration,
    start: Start,
    timestep: float,
    box: np.ndarray,
    names: list[str],
    search: TimestepSearch,
) -> SameSampling:
    """Compare the RDFs of Langevin dynamics with a time step and with half of it.

    Raises
    ------
    SimulationError
        If the runs are too short to tell.
    Unstable
        If the time step explodes after all.
    """
    found = []
    for step in (timestep, timestep / 2):
        states = integration.langevin(start, step, search.validation, _FRAME_INTERVAL)
        positions = np.array(
            [state.getPositions(asNumpy=True)._value for state in states], dtype=np.float32
        )
        settled = positions[len(positions) // 10 :]
        found.append(time_block_rdfs(settled, box, names, smallest_height(box) / 2, search.blocks))
    first, second = found
    result = compare_sampling(first, second, seed=search.seed)
    if result.p_value >= search.min_p_value and result.expected > LARGEST_NOISE:
        raise SimulationError(
            f"At {timestep * 1e3:g} fs and half of it {search.validation:g} ps cannot tell whether"
            f" the structure is the same: noise alone makes the RDFs differ by"
            f" {result.expected:.2g}, at most {LARGEST_NOISE:g} is allowed; lengthen the validation"
            " (--validation)."
        )
    return result


def search_timestep(model: Path, frames: Frames, search: TimestepSearch) -> Path:
    """Find the longest safe time step of a potential.

    Writes ``timestep.json``, ``timestep.csv`` and ``timestep.png`` beside it.

    Parameters
    ----------
    model : path
        Potential written by ``cgkd export``.
    frames : Frames
        The search starts from the last of them, at their temperature.
    search : TimestepSearch

    Returns
    -------
    path
        ``timestep.json``.

    Raises
    ------
    SimulationError
        If no time step passes, or the platform is not available.
    FolderInUseError
        If another run searches for the same potential, or writes into its folder.
    """
    with locked(model.parent, shared=True), locked_file(recommendation_path(model)):
        return _search(model, frames, search)


def _search(model: Path, frames: Frames, search: TimestepSearch) -> Path:
    potential = CGPotential(model, run_script=search.run_script)
    search = search.long_enough(frames.beads.n_beads)
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    system = potential.createSystem(topology, removeCMMotion=False)
    integration = Integration(
        system, frames.temperature, search.friction, search.platform, search.seed
    )
    logger.info("time step: equilibrating at %g fs", search.timesteps[0] * 1e3)
    starts = integration.starts(
        frames.positions[-1], search.timesteps[0], search.equilibration, search.states, SPACING
    )
    with progress("time steps", len(search.timesteps)) as meter:
        measurements = measure(integration, starts, search, meter.update)
    # the table and the picture tell most when nothing passes
    write_text(model.with_name("timestep.csv"), _table(measurements))
    with replacing(model.with_name("timestep.png")) as fresh:
        draw(fresh, measurements, search, frames.temperature)
    good = passing(measurements)
    tested: list[dict[str, Any]] = []
    if search.validate_structure:
        good, tested = _validated(integration, starts[-1], good, frames, search)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": file_hash(model),
        "timestep_ps": good[-1],
        "temperature": frames.temperature,
        "platform": integration.platform,
        "engine": potential.engine,
        "search": search.model_dump(mode="json"),
        "measurements": [asdict(measurement) for measurement in measurements],
        "validation": tested,
    }
    path = recommendation_path(model)
    write_record(path, content)
    logger.info("time step: %g fs recommended", good[-1] * 1e3)
    return path


def _validated(
    integration: Integration,
    start: Start,
    good: list[float],
    frames: Frames,
    search: TimestepSearch,
) -> tuple[list[float], list[dict[str, Any]]]:
    """Drop time steps, from the longest, until the structure is that at half the time step."""
    tested = []
    while good:
        result = validate(integration, start, good[-1], frames.box[-1], frames.beads.names, search)
        tested.append({"timestep": good[-1], **asdict(result)})
        logger.info(
            "time step: RDFs at %g and %g fs differ by %.4f, %.4f expected from noise, p = %.3f",
            good[-1] * 1e3, good[-1] * 5e2, result.difference, result.expected, result.p_value,
        )  # fmt: skip
        if result.p_value >= search.min_p_value:
            return good, tested
        good = good[:-1]
    raise SimulationError(
        "With every time step that passes, the structure differs from that at half the time step;"
        " try smaller ones."
    )


_COLUMNS = [
    "timestep_fs",
    *(f.name for f in fields(Conservation)),
    *(f.name for f in fields(Averages)),
    "objections",
]


def _table(measurements: list[Measurement]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _COLUMNS)
    table.writeheader()
    for found in measurements:
        numbers = (
            {**asdict(found.conservation), **asdict(found.averages)}
            if found.conservation and found.averages
            else {}
        )
        table.writerow(
            {
                "timestep_fs": f"{found.timestep * 1e3:g}",
                **numbers,
                "objections": "; ".join(found.objections),
            }
        )
    return text.getvalue()
