"""The recommended time step of a potential, kept beside its file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from openmm_cgkd.utils.files import file_hash

logger = logging.getLogger(__name__)


FORMAT, VERSION = "openmm_cgkd time step", 1


def recommendation_path(model: Path) -> Path:
    """Where the recommended time step of a potential is kept."""
    return model.with_name("timestep.json")


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
