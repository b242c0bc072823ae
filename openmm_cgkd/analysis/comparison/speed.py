"""How fast a run was, as the files that it left tell."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.utils.records import read_record

# attributes of mapped frames and fields of simulation.json
NS_PER_DAY, HARDWARE = "ns_per_day", "hardware"
NO_SPEED = (
    "How fast its run was is not known: 'cgkd reference', MappedReporter and 'cgkd simulate' write"
    " it down. For imported frames run 'cgkd reference SYSTEM.yaml --independent-of FRAMES' on the"
    " machine of the model and compare with both."
)


@dataclass(frozen=True)
class Speed:
    """Speed of a run.

    Attributes
    ----------
    ns_per_day : float
    hardware : str or None
        What it was measured on, such as "2 threads of AMD EPYC 7B13"; None if it is not known.
    """

    ns_per_day: float
    hardware: str | None

    def numbers(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def hardware_note(model: Speed | None, all_atom: Speed | None) -> str:
    """What to know of the hardware where the speeds of two runs are compared; empty if nothing."""
    hardware = [None if speed is None else speed.hardware for speed in (model, all_atom)]
    if None in hardware:
        return "it is not known whether both ran on the same hardware"
    if hardware[0] != hardware[1]:
        return f"on different hardware: the model on {hardware[0]}, all-atom on {hardware[1]}"
    return ""


def speed_of(record: dict[str, Any]) -> Speed | None:
    """What attributes of frames, or ``simulation.json``, say of the speed; None if nothing."""
    speed, hardware = record.get(NS_PER_DAY), record.get(HARDWARE)
    if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 < speed < np.inf:
        return None
    return Speed(float(speed), hardware if isinstance(hardware, str) else None)


def speed_of_frames(attributes: dict[str, Any], path: Path) -> Speed | None:
    """Speed of the run that made mapped frames, by its log beside them if the frames do not say."""
    if found := speed_of(attributes):
        return found
    log = path.with_name("production.csv")
    return _median_of(log) if log.exists() else None


def speed_of_trajectory(path: Path) -> Speed | None:
    """Speed of the simulation that wrote a trajectory.

    Raises
    ------
    RecordError
        If the ``simulation.json`` beside it is damaged.
    """
    summary = path.with_name("simulation.json")
    if not summary.exists():
        return None
    return speed_of(read_record(summary, "run 'cgkd simulate' again"))


def _median_of(log: Path) -> Speed | None:
    with open(log, newline="") as file:
        speeds = [_plain(row.get("Speed (ns/day)")) for row in csv.DictReader(file)]
    known = [speed for speed in speeds if 0 < speed < np.inf]
    return Speed(float(np.median(known)), None) if known else None


def _plain(text: str | None) -> float:
    """OpenMM logs dashes where it does not know the speed yet."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
