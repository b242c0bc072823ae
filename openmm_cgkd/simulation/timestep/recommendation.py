"""The recommended time step of a potential, kept beside its file."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from openmm_cgkd.exceptions import RecordError
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import read_record

logger = logging.getLogger(__name__)


FORMAT, VERSION = "openmm_cgkd time step", 2
_BY_KINETIC_ENERGY = 1  # version 0.1 did not look at the configurational temperature
_STEPS = 1e-5, 1.0  # ps; others are of no coarse-grained dynamics


@dataclass(frozen=True)
class Recommendation:
    """A time step that was found to be safe.

    Attributes
    ----------
    timestep : float, ps
    error, error_se : float or None
        Of the configurational temperature with it, relative; None if version 0.1 has found it.
    """

    timestep: float
    error: float | None = None
    error_se: float | None = None

    @property
    def words(self) -> str:
        """The time step, and the error as it is printed."""
        step = f"{self.timestep * 1e3:g} fs"
        if self.error is None or self.error_se is None:
            return step
        error, error_se = 100 * self.error, 100 * self.error_se
        return f"{step}, configurational temperature {error:+.2f} +- {error_se:.2f} % off"


def recommendation_path(model: Path) -> Path:
    """Where the recommended time step of a potential is kept."""
    return model.with_name("timestep.json")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    return float(value)


def read_recommendation(model: Path) -> Recommendation | None:
    """Recommended time step of a potential; None if there is none for this very file.

    A damaged file, or one of a later version, counts as none, with a warning, because the search
    makes it anew.
    """
    path = recommendation_path(model)
    if not path.exists():
        return None
    try:
        content = read_record(path, "the time step is searched again")
        if content["format"] != FORMAT or content["model_sha256"] != file_hash(model):
            return None
        version = content["version"]
        names = ("timestep_ps", "temperature_error", "temperature_error_se")
        if version == _BY_KINETIC_ENERGY:
            found = Recommendation(_number(content["timestep_ps"]))
        elif version == VERSION:
            found = Recommendation(*(_number(content[name]) for name in names))
        else:
            logger.warning(
                "%s: is of version %r, and this package reads %d at most; searching again",
                path, version, VERSION,
            )  # fmt: skip
            return None
    except RecordError as error:
        logger.warning("%s", error)
        return None
    except (ValueError, KeyError, TypeError, OverflowError):
        found = Recommendation(math.nan)
    numbers = [found.timestep, found.error or 0.0, found.error_se or 0.0]
    if not (_STEPS[0] <= found.timestep <= _STEPS[1] and all(map(math.isfinite, numbers))):
        logger.warning("%s: holds no time step; searching again", path)
        return None
    if found.error is None:
        logger.info(
            "%s: %g fs by the kinetic temperature alone; 'cgkd timestep' may find a longer one by"
            " the configurational temperature",
            path, found.timestep * 1e3,
        )  # fmt: skip
    return found
