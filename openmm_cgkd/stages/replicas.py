"""Dynamics of the stability protocol: replicas from different all-atom frames, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_cgkd.config.run import RunConfig, SimulationConfig
from openmm_cgkd.exceptions import ExplosionError
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.appended import is_whole
from openmm_cgkd.utils.lock import ORPHAN, locked
from openmm_cgkd.utils.progress import Report, log_to, progress, progress_to
from openmm_cgkd.utils.records import read_record, write_record


@dataclass(frozen=True)
class ReplicaStart:
    """What a replica starts from.

    Attributes
    ----------
    index : int
        Of the replica.
    frame : int
        All-atom frame.
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm
    folder : path
        Of the replica.
    seed : int
    key : str
        Identity of potential and start.
    """

    index: int
    frame: int
    positions: np.ndarray
    box: np.ndarray
    folder: Path
    seed: int
    key: str

    def record(self, protocol: SimulationConfig, temperature: float) -> tuple[Path, dict[str, Any]]:
        """The file that records an explosion, and the inputs that it must hold.

        The length of the run is not among them: a longer run would explode the same way.
        """
        settings = protocol.model_dump(mode="json", exclude={"production"})
        return self.folder / "explosion.json", {
            **settings,
            "temperature": temperature,
            "seed": self.seed,
            "key": self.key,
        }


def run_replicas(
    run: RunConfig,
    starts: list[ReplicaStart],
    beads: BeadTopology,
    protocol: SimulationConfig,
    temperature: float,
) -> list[dict[str, Any] | None]:
    """Run or resume replicas in processes of their own, as the configuration says where.

    Parameters
    ----------
    run : RunConfig
        Its potential, ``execution`` and ``workers``.
    starts : list of ReplicaStart
    beads : BeadTopology
    protocol : SimulationConfig
    temperature : float, kelvin

    Returns
    -------
    list
        How each replica exploded (``time``, ``kind``, ``detail``), or None. An explosion is
        recorded and not run again.

    Raises
    ------
    ExecutionError
        If the dynamics of a replica cannot run for another reason than an unphysical state; the
        others are finished first.
    """
    folder = RunFolder(run)
    found: dict[int, dict[str, Any] | None] = {}
    tasks = {}
    for start in starts:
        record, inputs = start.record(protocol, temperature)
        explosion = read_record(record) if record.exists() and is_whole(start.folder) else {}
        if explosion.get("inputs") == inputs:
            found[start.index] = explosion if explosion["time"] <= protocol.production else None
        else:
            record.unlink(missing_ok=True)
            tasks[f"replica-{start.index:02d}"] = (
                folder.model,
                run.run_script,
                beads,
                start,
                protocol,
                temperature,
            )
    done = dict.fromkeys(tasks, 0.0)
    with progress("stability", len(starts), "replicas", len(found)) as meter:

        def report(name: str, share: float, note: str = "") -> None:
            done[name] = share
            meter.update(len(found) + sum(done.values()), note)

        tasks_folder = folder.tasks("stability")
        results = map_tasks(
            run_replica, tasks, run.execution, tasks_folder, _at_once(run),
            on_report=report, on_result=lambda name, result: report(name, 1.0),
        )  # fmt: skip
    return [
        found[start.index] if start.index in found else results[f"replica-{start.index:02d}"]
        for start in starts
    ]


def _at_once(run: RunConfig) -> int | None:
    """Replicas at a time on this machine; None for one per core."""
    if run.workers or run.execution.backend == "parsl":
        return run.workers
    on_cpu = run.simulation.platform in ("CPU", "Reference") or not torch.cuda.is_available()
    return None if on_cpu else 1


def run_replica(
    model: Path,
    run_script: bool,
    beads: BeadTopology,
    start: ReplicaStart,
    protocol: SimulationConfig,
    temperature: float,
    report: Report,
) -> dict[str, Any] | None:
    """Run or resume one replica; how it exploded, or None."""
    record, inputs = start.record(protocol, temperature)
    topology = bead_topology_to_openmm(beads, start.box)
    with (
        locked(start.folder, wait=ORPHAN),
        log_to(start.folder / "dynamics.log"),
        progress_to(report),
    ):
        potential = CGPotential(model, run_script=run_script)
        try:
            run_dynamics(
                potential.createSystem(topology),
                topology,
                start.positions,
                start.folder,
                protocol,
                temperature,
                start.seed,
                start.key,
                potential=potential,
            )
        except ExplosionError as error:
            explosion = {
                "inputs": inputs,
                "time": error.time,
                "kind": error.kind,
                "detail": str(error),
            }
            write_record(record, explosion)
            return explosion
    return None
