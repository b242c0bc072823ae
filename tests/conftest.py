"""Fixtures shared by several test modules: the ethaline system, small real frames, and one
finished run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# before anything loads libgomp: spinning threads make tests on a loaded machine crawl
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import openmm
import pytest
import yaml
from openmm import app, unit

from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.mapping import Mapping
from tests.cases.paths import ETHALINE


@pytest.fixture(scope="session")
def ethaline() -> Path:
    """system.yaml of ethaline."""
    return ETHALINE / "system.yaml"


@pytest.fixture(scope="session")
def lj_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of a two-component Lennard-Jones liquid, 40 particles, each its own bead, from an
    OpenMM run.
    """
    n, edge, temperature = 40, 1.9, 120.0
    types = np.arange(n) % 2
    sigma, masses = np.array([0.34, 0.40])[types], np.array([40.0, 80.0])[types]
    system, topology, force = openmm.System(), app.Topology(), openmm.NonbondedForce()
    chain = topology.addChain()
    for k in range(n):
        system.addParticle(masses[k])
        force.addParticle(0.0, sigma[k], 1.0)
        topology.addAtom(
            "AB"[types[k]], app.element.argon, topology.addResidue("AB"[types[k]], chain)
        )
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.9)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, 0.005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatform("Reference")
    )
    grid = (
        np.stack(np.meshgrid(*3 * [np.arange(4)], indexing="ij"), axis=-1).reshape(-1, 3)[:n]
        * edge
        / 4
    )
    simulation.context.setPositions(grid)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, 1)
    simulation.step(500)
    path = tmp_path_factory.mktemp("lj") / "frames.h5"
    mapping = Mapping(
        [np.array([k]) for k in range(n)],
        masses,
        BeadTopology(("A", "B"), types, masses, np.arange(n)),
    )
    reporter = MappedReporter(path, 20, mapping, {"system": "lj", "temperature": temperature})
    simulation.reporters.append(reporter)
    simulation.step(60 * 20)
    reporter.close()
    return path


@pytest.fixture(scope="session")
def small_run(lj_frames: Path) -> dict:
    """run.yaml of the smallest whole run, as plain data."""
    training = {"epochs": 1, "batch_size": 4}
    times = {
        "timestep": "2 fs",
        "equilibration": "0.1 ps",
        "production": "0.8 ps",
        "frame_interval": "0.04 ps",
    }
    return {
        "system": "system.yaml",
        "folder": "run",
        "frames": str(lj_frames),
        "split": {"gap": "0 ps"},
        "model": {"channels": 8, "cutoff": "0.9 nm", "radial_functions": 8},
        "teachers": {"count": 2, "blocks": 4, "training": training},
        "student": {"training": training},
        "simulation": {**times, "platform": "CPU"},
        "comparison": {"bins": 20},
    }


def cgkd(*arguments: object) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from openmm_cgkd.cli import main; main()",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, small_run: dict
) -> tuple[Path, subprocess.CompletedProcess]:
    """A whole small run: its run.yaml and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(small_run))
    return path, cgkd("run", path)


@pytest.fixture(scope="session")
def labeled_run(tmp_path_factory: pytest.TempPathFactory):
    """A small run with two trained teachers and their labels, and its frames; not to be changed."""
    from openmm_cgkd.stages.inputs import fit_prior_of
    from openmm_cgkd.stages.label import label_run
    from openmm_cgkd.stages.teach import ensemble_task
    from openmm_cgkd.training.ensemble import train_member
    from tests.cases.training import ignore, make_frames, make_run

    frames = make_frames(20, 12, noise=1.0)[0]
    run = make_run(tmp_path_factory.mktemp("labelled"), frames)
    fit_prior_of(run, frames)
    for k in range(2):
        train_member(ensemble_task(run), k, ignore)
    label_run(run)
    return run, frames


@pytest.fixture
def own_labeled_run(labeled_run, tmp_path):
    """A copy of `labeled_run` that a test may change."""
    run, frames = labeled_run
    shutil.copytree(run.base_folder, tmp_path / "copy")
    return run.relative_to(tmp_path / "copy"), frames
