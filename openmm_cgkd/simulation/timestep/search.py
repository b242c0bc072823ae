"""The longest time step that is safe for a potential: measured, and recommended in a file.

What is recommended is the largest time step that passes (see `criteria`).
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.start import Known
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.box import smallest_height
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.lock import locked, locked_file
from openmm_cgkd.utils.progress import duration_words, progress
from openmm_cgkd.utils.records import write_record
from openmm_cgkd.utils.statistics import error_words

from .criteria import Judgment, Measurement, TimestepSearch, fit_laws, judge, recommended
from .figure import draw
from .integrate import Averages, Integration, Start, Unstable
from .recommendation import FORMAT, VERSION, recommendation_path
from .same_structure import SameSampling, compare_sampling, time_block_rdfs

logger = logging.getLogger(__name__)

_R_MAX = 1.5  # nm, of RDFs, where the box is large enough


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
    ConfigError
        If the potential was made for another temperature than that of the frames.
    SimulationError
        If no time step passes, or the platform is not available.
    FolderInUseError
        If another run searches for the same potential, or writes into its folder.
    """
    with locked(model.parent, shared=True), locked_file(recommendation_path(model)):
        return _search(model, frames, search)


def _search(model: Path, frames: Frames, search: TimestepSearch) -> Path:
    potential = CGPotential(model, run_script=search.run_script)
    Known.of(potential).check_temperature(
        frames.temperature, "the frames have", search.other_temperature
    )
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    system = potential.createSystem(topology, removeCMMotion=False)
    integration = Integration(
        system, frames.temperature, search.friction, search.platform, search.seed
    )
    duration, total = search.long_enough(frames.beads.n_beads), search.forces(frames.beads.n_beads)
    integration.begin(frames.positions[-1])
    _announce(integration, search, duration, total)
    with progress("time step search", total, "forces") as meter:
        start = integration.equilibrated(search.timesteps[0], search.equilibration)
        done = round(search.equilibration / search.timesteps[0])

        def report(note: str, forces: int) -> None:
            nonlocal done
            done += forces
            meter.update(done, note)

        box, names = frames.box[-1], frames.beads.names
        measurements = measure(integration, start, search, duration, box, names, report)
    judgments = judge(measurements, frames.temperature, search)
    # the table and the picture tell most when nothing passes
    write_text(model.with_name("timestep.csv"), _table(measurements, judgments))
    with replacing(model.with_name("timestep.png")) as fresh:
        draw(fresh, measurements, judgments, search, frames.temperature)
    best = recommended(measurements, judgments, search)
    laws = zip(("temperature", "energy"), fit_laws(measurements, frames.temperature), strict=True)
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": file_hash(model),
        "timestep_ps": best.timestep,
        "temperature_error": best.temperature_error,
        "temperature_error_se": best.temperature_error_se,
        "temperature": frames.temperature,
        "platform": integration.platform,
        "engine": potential.engine,
        "duration_ps": duration,
        "search": search.model_dump(mode="json"),
        "laws": {name: None if law is None else asdict(law) for name, law in laws},
        "measurements": [asdict(measurement) for measurement in measurements],
        "judgments": [asdict(judgment) for judgment in judgments],
    }
    path = recommendation_path(model)
    write_record(path, content)
    logger.info(
        "time step: %g fs recommended, configurational temperature off by %s",
        best.timestep * 1e3, best.words,
    )  # fmt: skip
    return path


def measure(
    integration: Integration,
    start: Start,
    search: TimestepSearch,
    duration: float,
    box: np.ndarray,
    names: list[str],
    report: Callable[[str, int], None] = lambda note, forces: None,
) -> list[Measurement]:
    """Integrate with one time step after the other; the first that explodes is the last one tried.

    Parameters
    ----------
    integration : Integration
    start : Start
        Equilibrated.
    search : TimestepSearch
    duration : float, ps
        Of every run.
    box : ndarray, shape (3, 3), nm
    names : list of str
        Type name of every bead.
    report : callable
        Gets what is being done, and the number of forces evaluated since the last call.

    Raises
    ------
    SimulationError
        If the runs are too short to compare structures.
    """
    found: list[Measurement] = []
    reference: np.ndarray | None = None
    for timestep in search.timesteps:
        note = f"{timestep * 1e3:g} fs"
        try:
            averages, positions = integration.sample(
                start, timestep, duration, partial(report, note)
            )
        except Unstable as error:
            found.append(Measurement(timestep, None, failure=str(error)))
            logger.info("%g fs: explodes (%s)", timestep * 1e3, error)
            break
        r_max = min(smallest_height(box) / 2, _R_MAX)
        curves = time_block_rdfs(positions, box, names, r_max, search.blocks)
        structure = None
        if reference is None:
            reference = curves
            _check_length(curves, search, duration)
        else:
            structure = compare_sampling(reference, curves, search.min_p_value, search.seed)
        found.append(Measurement(timestep, averages, structure))
        logger.info("%s", _words(found[-1], integration.temperature))
    return found


def _announce(
    integration: Integration, search: TimestepSearch, duration: float, total: int
) -> None:
    """Say what the search will cost."""
    seconds = integration.seconds_per_force(search.timesteps[0])
    logger.info(
        "time step search: %d time steps of %g to %g fs, %g ps each on %s: %s forces of %.2g ms,"
        " about %s",
        len(search.timesteps), search.timesteps[0] * 1e3, search.timesteps[-1] * 1e3, duration,
        integration.platform, f"{total:,}", seconds * 1e3, duration_words(seconds * total),
    )  # fmt: skip


def _check_length(curves: np.ndarray, search: TimestepSearch, duration: float) -> None:
    """Refuse runs that are too short to compare structures, before all others are made."""
    halves = compare_sampling(curves[::2], curves[1::2], search.min_p_value, search.seed)
    # halves are half as long as the runs that are to be compared
    seen = halves.detectable / math.sqrt(2)
    if seen > search.max_structure_error:
        needed = duration * (seen / search.max_structure_error) ** 2
        raise SimulationError(
            f"Runs of {duration:g} ps are too short to compare structures: differences of RDFs"
            f" would be seen from {seen:.2g} on, not from {search.max_structure_error:g}; about"
            f" {needed:.2g} ps are needed (--duration)."
        )


def _words(found: Measurement, temperature: float) -> str:
    """A line for the log."""
    averages = found.averages
    assert averages is not None

    def number(name: str, form: str, unit: float = 1.0, origin: float = 0.0) -> str:
        value, error = getattr(averages, name), getattr(averages, f"{name}_se")
        plateau = name not in averages.at_least
        return f"{(value - origin) * unit:{form}} +- {error_words(error * unit, plateau, form)}"

    hot = number("configurational", ".2f", 100 / temperature, temperature)
    line = (
        f"{found.timestep * 1e3:g} fs: configurational temperature off by {hot} %, kinetic"
        f" {number('kinetic', '.1f')} K, energy {number('energy', '.3f')} kT per bead"
    )
    if found.structure is not None:
        line += (
            f", RDFs differ by {found.structure.difference:.4f} (p = {found.structure.p_value:.3f})"
        )
    return line


_OF_JUDGMENT = [f.name for f in fields(Judgment) if f.name not in ("timestep", "objections")]
_COLUMNS = [
    "timestep_fs",
    *(f.name for f in fields(Averages)),
    *_OF_JUDGMENT,
    *(f.name for f in fields(SameSampling)),
    "objections",
]


def _table(measurements: list[Measurement], judgments: list[Judgment]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _COLUMNS)
    table.writeheader()
    for found, judgment in zip(measurements, judgments, strict=True):
        row: dict[str, Any] = {"timestep_fs": f"{found.timestep * 1e3:g}"}
        if found.averages:
            row |= {**asdict(found.averages), "at_least": " ".join(found.averages.at_least)}
            row |= {name: getattr(judgment, name) for name in _OF_JUDGMENT}
        if found.structure:
            row |= asdict(found.structure)
        table.writerow({**row, "objections": "; ".join(judgment.objections)})
    return text.getvalue()
