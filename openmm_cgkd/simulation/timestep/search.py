"""The longest time step that is safe for a potential: measure, recommend, and remember beside the
potential.

A time step passes when energy at constant energy drifts no faster than `max_drift`, and the kinetic
temperature (half-step, see `integration`) and the mean potential energy under Langevin dynamics are
off by no more than their bounds, each with two standard errors added. What is recommended is the
largest time step that passes together with all smaller ones.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from openmm_cgkd.config.run import RunConfig, SimulationConfig, describe_mistake, load_run
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.simulation.cgpotential import CGPotential, bead_topology_to_openmm
from openmm_cgkd.utils.box import smallest_height
from openmm_cgkd.utils.files import file_hash, replacing, write_text
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.units import Duration, Rate, Time

from .integrate import Averages, Conservation, Integration, Start, Unstable
from .same_structure import SameSampling, block_rdfs, compare_sampling

logger = logging.getLogger(__name__)

FORMAT, VERSION = "openmm_cgkd time step", 1
_SPACING = 1.0  # ps between the states from which energy conservation is measured
_SHORTEST = 20  # ps of Langevin dynamics, for the potential energy, whatever the number of beads
_FRAME_INTERVAL = 0.2  # ps between frames for radial distribution functions


class TimestepSearch(BaseModel):
    """Settings of the search; quantities carry a unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    timesteps: list[Time] = Field(
        [f"{k} femtosecond" for k in range(2, 16, 2)], min_length=2, description="time steps to try"
    )
    friction: Rate = "1 / picosecond"
    equilibration: Duration = "5 picosecond"
    states: int = Field(4, ge=2, description="starts for energy conservation, 1 ps apart")
    nve: Time = Field("4 picosecond", description="at constant energy, from each start")
    nvt: Time | None = Field(
        None,
        description=(
            "Langevin dynamics with each time step; absent: long enough for the temperature"
        ),
    )
    blocks: int = Field(
        10, ge=2, description="time blocks for standard errors and for the test of the structure"
    )
    max_drift: float = Field(1.0, gt=0, description="of the total energy per bead, kT/ns")
    max_temperature_error: float = Field(
        0.02, gt=0, description="of the kinetic temperature, relative"
    )
    max_energy_error: float = Field(
        0.1,
        gt=0,
        description="of the mean potential energy per bead, kT, against the smallest time step",
    )
    validate_structure: bool = Field(
        False, description="compare the structure with that at half the time step"
    )
    validation: Time = Field(
        "100 picosecond", description="Langevin dynamics with the time step, and with half of it"
    )
    min_p_value: float = Field(
        0.01, gt=0, lt=1, description="of the test that the structure is unchanged"
    )
    seed: int = Field(1, ge=1, lt=2**31)
    platform: str | None = Field(None, description="OpenMM platform; the fastest one if absent")

    @field_validator("timesteps")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        return sorted(set(values))

    def long_enough(self, n_beads: int) -> Self:
        """With a duration `nvt` if it has none: for a standard error of the temperature of a fifth
        of its bound.

        The variance of the temperature of N beads is 2/(3N) T^2 and the thermostat alone lets it
        decay as exp(-2 friction t), so the variance of its mean over a time t is 2/(3N friction t)
        T^2; collisions only make it smaller.
        """
        if self.nvt is not None:
            return self
        duration = 2 / (3 * n_beads * self.friction * (self.max_temperature_error / 5) ** 2)
        return self.model_copy(update={"nvt": math.ceil(max(duration, _SHORTEST))})

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from values that may be absent (None).

        Raises
        ------
        ConfigError
            Naming the field, the value and the cure.
        """
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(describe_mistake("time step search", error)) from error


@dataclass(frozen=True)
class Measurement:
    """What one time step does; `failure` says why there are no numbers, `objections` which
    bounds are broken.
    """

    timestep: float
    conservation: Conservation | None
    averages: Averages | None
    failure: str | None
    objections: tuple[str, ...] = ()


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
    report : callable
        Gets the number of time steps done.
    """
    found: list[Measurement] = []
    for done, timestep in enumerate(search.timesteps, start=1):
        try:
            conservation = integration.conservation(starts, timestep, search.nve)
            averages = integration.averages(starts[-1], timestep, search.nvt, search.blocks)
        except Unstable as error:
            found.append(Measurement(timestep, None, None, str(error), (f"explodes ({error})",)))
            logger.info("%g fs: explodes (%s)", timestep * 1e3, error)
            break
        reference = found[0].averages if found else averages
        broken = _objections(conservation, averages, reference, integration.temperature, search)
        found.append(Measurement(timestep, conservation, averages, None, tuple(broken)))
        logger.info(
            "%g fs: drift %.2g +- %.2g kT/ns per bead, %.1f +- %.1f K (full step %.1f K), "
            "energy %.3f +- %.3f kT per bead; %s",
            timestep * 1e3, conservation.drift, conservation.drift_se, averages.temperature,
            averages.temperature_se, averages.full_step_temperature, averages.energy,
            averages.energy_se, "; ".join(broken) or "passes",
        )  # fmt: skip
        report(done)
    return found


def _objections(
    conservation: Conservation,
    averages: Averages,
    reference: Averages,
    temperature: float,
    search: TimestepSearch,
) -> list[str]:
    shift = averages.energy - reference.energy
    shift_se = (
        math.hypot(averages.energy_se, reference.energy_se) if reference is not averages else 0.0
    )
    hot, hot_se = averages.temperature / temperature - 1, averages.temperature_se / temperature
    checks = [
        (
            "energy drift",
            conservation.drift,
            conservation.drift_se,
            search.max_drift,
            " kT/ns per bead",
            1,
        ),
        ("kinetic temperature off by", hot, hot_se, search.max_temperature_error, " %", 100),
        ("potential energy off by", shift, shift_se, search.max_energy_error, " kT per bead", 1),
    ]
    return [
        f"{name} {value * factor:.2g} +- {error * factor:.2g}{unit}, allowed {bound * factor:g}"
        for name, value, error, bound, unit, factor in checks
        if not abs(value) + 2 * error <= bound
    ]


def passing(measurements: list[Measurement]) -> list[float]:
    """Time steps that pass together with all smaller ones, ascending.

    Raises
    ------
    SimulationError
        If there are none.
    """
    good = []
    for measurement in measurements:
        if measurement.objections:
            break
        good.append(measurement.timestep)
    if not good:
        first = measurements[0]
        raise SimulationError(
            f"No time step passes, already {first.timestep * 1e3:g} fs does not"
            f" ({'; '.join(first.objections)}); try smaller ones, longer runs if the errors are"
            " large, or a better trained potential."
        )
    return good


def validate(
    integration: Integration,
    start: Start,
    timestep: float,
    box: np.ndarray,
    names: list[str],
    search: TimestepSearch,
) -> SameSampling:
    """Compare the radial distribution functions of Langevin dynamics with a time step and with half
    of it.

    Raises
    ------
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
        found.append(block_rdfs(settled, box, names, smallest_height(box) / 2, search.blocks))
    return compare_sampling(*found, seed=search.seed)


# --- the search on a potential file ---------------------------------------------------------------


def recommendation_path(model: Path) -> Path:
    """Where the recommended time step of a potential is kept."""
    return model.with_name("timestep.json")


def search_timestep(model: Path, frames: Frames, search: TimestepSearch) -> Path:
    """Find the longest safe time step of a potential; writes ``timestep.json``, ``timestep.csv``
    and ``timestep.png`` beside it.

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
    """
    potential, search = CGPotential(model), search.long_enough(frames.beads.n_beads)
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    system = potential.createSystem(topology, removeCMMotion=False)
    integration = Integration(
        system, frames.temperature, search.friction, search.platform, search.seed
    )
    logger.info("time step: equilibrating at %g fs", search.timesteps[0] * 1e3)
    starts = integration.starts(
        frames.positions[-1], search.timesteps[0], search.equilibration, search.states, _SPACING
    )
    with progress("time steps", len(search.timesteps)) as meter:
        measurements = measure(integration, starts, search, meter.update)
    # the table and the picture tell most when nothing passes
    write_text(model.with_name("timestep.csv"), _table(measurements))
    with replacing(model.with_name("timestep.png")) as fresh:
        from .figure import draw

        draw(fresh, measurements, search, frames.temperature)
    good, tested = passing(measurements), []
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
    write_text(path, json.dumps(content, indent=1))
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


def read_recommendation(model: Path) -> float | None:
    """Recommended time step of a potential, ps; None if there is none for this very file."""
    try:
        content = json.loads(recommendation_path(model).read_text())
        same = (
            content["format"] == FORMAT
            and content["version"] == VERSION
            and content["model_sha256"] == file_hash(model)
        )
        return float(content["timestep_ps"]) if same else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        logger.warning("%s: is damaged; searching again", recommendation_path(model))
        return None


def simulation_settings(run: RunConfig) -> SimulationConfig:
    """The `simulation` section with its time step: the one that is written there, or the
    recommended one, searched now if need be.

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
    if not model.with_name("run.yaml").exists():
        raise ConfigError(
            f"{model}: has no run.yaml beside it; name mapped frames to start from with --frames."
        )
    return read_frames(RunFolder(load_run(model.with_name("run.yaml"))).frames)
