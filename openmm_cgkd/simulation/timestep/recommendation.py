"""The recommended time step of a potential, kept beside its file."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from openmm_cgkd.exceptions import RecordError
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import read_record

logger = logging.getLogger(__name__)


FORMAT, VERSION = "openmm_cgkd time step", 1


def recommendation_path(model: Path) -> Path:
    """Where the recommended time step of a potential is kept."""
    return model.with_name("timestep.json")


def read_recommendation(model: Path) -> float | None:
    """Recommended time step of a potential, ps; None if there is none for this very file.

    A damaged file counts as none, with a warning, because the search makes it anew.
    """
    path = recommendation_path(model)
    if not path.exists():
        return None
    try:
        content = read_record(path, "the time step is searched again")
        same = (
            content["format"] == FORMAT
            and content["version"] == VERSION
            and content["model_sha256"] == file_hash(model)
        )
        timestep = float(content["timestep_ps"])
    except RecordError as error:
        logger.warning("%s", error)
        return None
    except (ValueError, KeyError, TypeError):
        timestep, same = math.nan, True
    if not 0 < timestep < math.inf:
        logger.warning("%s: holds no time step; searching again", path)
        return None
    return timestep if same else None
