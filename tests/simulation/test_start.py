"""Starts that a potential cannot run from: refused, or stopped within ten steps with the cause."""

import dataclasses
import re

import numpy as np
import openmm
import pytest
from openmm import app

from openmm_cgkd import CGPotential, EnsemblePotential
from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.exceptions import ConfigError, ExplosionError, SimulationError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.simulate import simulate
from openmm_cgkd.simulation.start import FirstState, Known
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from tests.cases.fluids import ETHALINE
from tests.cases.old_files import FOLDER as OLD_FILES
from tests.cases.potential import rewritten

STUDENT, BEFORE = ETHALINE / "student.pt", OLD_FILES / "ethaline-student.pt"


@pytest.fixture(scope="module")
def potential() -> CGPotential:
    return CGPotential(STUDENT)


@pytest.fixture(scope="module")
def frames() -> Frames:
    """The last frame, wrapped into its box."""
    last = read_frames(ETHALINE / "frames.h5")[-1:]
    edges = np.diag(last.box[0])
    return dataclasses.replace(last, positions=(last.positions % edges).astype(np.float32))


def protocol(**changes) -> SimulationConfig:
    settings = {
        "timestep": "10 fs",
        "equilibration": "0 ps",
        "production": "0.2 ps",
        "frame_interval": "0.1 ps",
        "platform": "CPU",
    }
    return SimulationConfig(**{**settings, **changes})


def moved(frames: Frames, positions=None, box=None, temperature=None) -> Frames:
    return dataclasses.replace(
        frames,
        positions=(frames.positions if positions is None else positions).astype(np.float32),
        box=frames.box if box is None else box,
        attributes=frames.attributes | ({"temperature": temperature} if temperature else {}),
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_another_temperature_needs_a_word(potential, frames, tmp_path, ensemble):
    cold = moved(frames, temperature=298.15)
    given = EnsemblePotential([STUDENT, STUDENT]) if ensemble else potential
    with pytest.raises(
        ConfigError,
        match=r"student\.pt: holds at 363\.15 K.* the frames have 298\.15 K; .*other_temperature",
    ):
        simulate(given, cold, tmp_path / "run", protocol())
    assert not (tmp_path / "run").exists()
    if not ensemble:
        simulate(given, cold, tmp_path / "run", protocol(other_temperature=True))
        assert (tmp_path / "run" / "simulation.json").exists()


def test_every_member_of_an_ensemble_has_a_temperature(frames, tmp_path):
    cold = rewritten(STUDENT, tmp_path / "cold.pt", hashed=True, temperature=298.15)
    with pytest.raises(ConfigError, match=r"cold\.pt: holds at 298\.15 K.* have 363\.15 K"):
        simulate(EnsemblePotential([STUDENT, cold]), frames, tmp_path / "run", protocol())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scale", "box_scale", "message"),
    [
        (10, 10, "positions and box look as if they were in angstrom .*; divide both by 10"),
        (10, 1, "positions look as if they were in angstrom .*; divide them by 10, not the box"),
        (1, 10, "the box looks as if it were in angstrom .*; divide it by 10, not the positions"),
    ],
)
def test_angstrom_is_refused_before_anything_is_written(
    potential, frames, tmp_path, scale, box_scale, message
):
    wrong = moved(frames, scale * frames.positions, box_scale * frames.box)
    with pytest.raises(SimulationError, match=message):
        simulate(potential, wrong, tmp_path / "run", protocol())
    assert not (tmp_path / "run").exists()


def put_on(positions: np.ndarray, first: int, second: int) -> np.ndarray:
    """Positions with one bead almost on another."""
    found = positions.copy()
    found[0, first] = found[0, second] + [0.02, 0, 0]
    return found


CROWDED = {
    "overlap": (
        lambda f: moved(f, put_on(f.positions, 5, 200)),
        r"beads overlap: bead 5 \(CHO\) and bead 200 \(EGL\) are 0\.02 nm apart, in the"
        r" all-atom frames never below 0\.355 nm; give positions without overlaps",
    ),
    "box": (
        lambda f: moved(f, box=0.95 * f.box),
        r"the box of 2\.\d+ x 2\.\d+ x 2\.\d+ nm is too small for these positions:"
        r" through its boundary bead",
    ),
    "order": (
        lambda f: moved(f, f.positions[:, np.random.default_rng(0).permutation(f.beads.n_beads)]),
        r"the beads are in another order than those of the topology: bead",
    ),
}


@pytest.mark.parametrize("file", [STUDENT, BEFORE], ids=["soft wall", "exponential wall"])
@pytest.mark.parametrize("name", list(CROWDED))
def test_beads_too_near_are_refused(frames, tmp_path, name, file):
    """The soft wall would part them, and the run go on in a wrong box or from a wrong order."""
    change, message = CROWDED[name]
    with pytest.raises(SimulationError, match=f"The start of the simulation: {message}") as caught:
        simulate(file, change(frames), tmp_path, protocol())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trajectory.dcd").exists()


def test_every_shipped_frame_is_a_start(potential, frames):
    """And beads of one molecule may be as near as they like."""
    known, everything = Known.of(potential), read_frames(ETHALINE / "frames.h5")
    topology = bead_topology_to_openmm(frames.beads, frames.box[0])
    simulation = app.Simulation(
        topology,
        potential.createSystem(topology),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("CPU"),
    )
    for k in (249, 892):  # those with the nearest beads
        simulation.context.setPositions(everything.positions[k])
        first = FirstState(simulation, frames.beads.names, known)
        first.refuse_overlaps(list(range(240)), 363.15)
    simulation.context.setPositions(put_on(frames.positions, 5, 200)[0])
    first = FirstState(simulation, frames.beads.names, known)
    first.refuse_overlaps([*range(200), 5, *range(201, 240)], 363.15)
    with pytest.raises(SimulationError, match=r"overlap: .* bead 200 \(EGL\) repel .* with 5.. kT"):
        first.refuse_overlaps(list(range(240)), 363.15)


def start(known: Known, names: list[str], positions: np.ndarray, box: np.ndarray) -> FirstState:
    """A state in which only the repulsion that `known` has is looked at."""
    system, periodic = openmm.System(), openmm.HarmonicBondForce()
    periodic.setUsesPeriodicBoundaryConditions(True)
    system.addForce(periodic)
    for _ in names:
        system.addParticle(1.0)
    platform = openmm.Platform.getPlatform("Reference")
    simulation = app.Simulation(app.Topology(), system, openmm.VerletIntegrator(0.001), platform)
    simulation.context.setPositions(positions)
    simulation.context.setPeriodicBoxVectors(*box)
    return FirstState(simulation, names, known)


@pytest.mark.parametrize(("p", "distance"), [(0.05, 0.015), (0.5, 0.05), (0.8, 0.1)])
def test_repulsion_counts_from_the_contact_of_two_types_on(potential, frames, p, distance):
    """A soft wall has 200 kT in a good frame, all of it from pairs beyond their contact."""
    known = Known.of(potential)
    fitted = PriorParameters(**potential.metadata.prior)
    wall = dataclasses.replace(fitted, p=p, distance=distance).build(potential.cutoff).double()
    known = dataclasses.replace(known, repulsions=[wall])
    names, box = frames.beads.names, frames.box[0].astype(float)
    molecules = list(range(len(names)))
    start(known, names, frames.positions[0], box).refuse_overlaps(molecules, 363.15)
    crowded = put_on(frames.positions, 5, 200)[0]
    with pytest.raises(
        SimulationError,
        match=r"beads overlap: .* \(bead 5 \(CHO\) and bead 200 \(EGL\) repel each other",
    ):
        start(known, names, crowded, box).refuse_overlaps(molecules, 363.15)
    for seed in range(6):
        mixed = frames.positions[0, np.random.default_rng(seed).permutation(len(names))]
        with pytest.raises(SimulationError, match="in another order"):
            start(known, names, mixed, box).refuse_overlaps(molecules, 363.15)


def test_one_overlap_among_many_beads(potential, frames):
    known, box = Known.of(potential), frames.box[0].astype(float)
    steps = np.stack(np.meshgrid(*3 * [np.arange(4)]), axis=-1).reshape(-1, 1, 3) @ box
    names = len(steps) * frames.beads.names
    positions = (frames.positions + steps).reshape(-1, 3)
    molecules = list(range(len(names)))
    start(known, names, positions, 4 * box).refuse_overlaps(molecules, 363.15)
    crowded = put_on(positions[None], 5, 200)[0]
    with pytest.raises(SimulationError, match=r"bead 5 \(CHO\) and bead 200 \(EGL\) repel"):
        start(known, names, crowded, 4 * box).refuse_overlaps(molecules, 363.15)


def test_a_time_step_that_is_too_long_is_told_within_ten_steps(potential, frames, tmp_path):
    message = (
        r"most likely the time step of 500 fs is too long: in one step the force on bead \d+"
        r" \(\w+\) changes its speed by [\d.]+ times the thermal one; use a smaller time step, for"
        r" this start at most \d+ fs"
    )
    long = protocol(timestep="500 fs", production="10 ps", frame_interval="5 ps")
    with pytest.raises(ExplosionError, match=message) as caught:
        simulate(potential, frames, tmp_path, long)
    assert int(re.search(r"stopped at step (\d+) ", str(caught.value))[1]) <= 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: put_on(x[None], 5, 200)[0], r"bead 5 \(CHO\) and bead 200 \(EGL\) are 0\.02 nm"),
        (lambda x: 10 * x, "positions look as if they were in angstrom .*; divide them by 10"),
    ],
)
def test_a_system_alone_is_explained_too(potential, frames, tmp_path, change, message):
    """Without the potential file nothing is known of the distances that beads keep."""
    topology = bead_topology_to_openmm(frames.beads, frames.box[0])
    system, positions = potential.createSystem(topology), frames.positions[0].astype(float)
    with pytest.raises(ExplosionError, match=message):
        run_dynamics(system, topology, change(positions), tmp_path, protocol(), 363.15)


def test_a_position_that_is_no_number(potential, frames, tmp_path):
    positions = frames.positions.copy()
    positions[0, 3, 1] = np.nan
    with pytest.raises(SimulationError, match=r"position of bead 3 \(CHO\) is not finite"):
        simulate(potential, moved(frames, positions), tmp_path / "run", protocol())
    assert not (tmp_path / "run").exists()
