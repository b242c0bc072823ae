"""Stability protocol: times and causes of failures, survival, resuming."""

import csv
import json

import mdtraj
import numpy as np
import openmm
import pytest
from matplotlib.image import imread
from scipy.stats import binomtest, poisson
from typer.testing import CliRunner

from openmm_cgkd.analysis.stability.failures import drift, hottest
from openmm_cgkd.analysis.stability.survival import FailureRate, Replica, survival
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import RunConfig, StabilityConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import AnalysisError, ConfigError, ExplosionError
from openmm_cgkd.frames.frames import FrameWriter
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.stages import replicas
from openmm_cgkd.stages.stability import check_stability
from tests.cases.potential import CUBIC, beads, liquid, write_toy_potential

N_FRAMES, INTERVAL = 60, 0.1  # of every replica, ps


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt").read_bytes()


@pytest.fixture(scope="module")
def relaxed(tmp_path_factory, model):
    """Types and positions of beads that have room."""
    path = tmp_path_factory.mktemp("relaxed") / "student.pt"
    path.write_bytes(model)
    types, positions = liquid()
    system = CGPotential(path).createSystem(bead_topology_to_openmm(beads(types), CUBIC))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("CPU")
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 60)
    return types, context.getState(positions=True).getPositions(asNumpy=True)._value


@pytest.fixture
def make_run(tmp_path, model, relaxed):
    """A run folder with an exported potential and twelve all-atom frames."""

    def make(simulation: dict | None = None, **settings) -> RunConfig:
        if not (tmp_path / "frames.h5").exists():
            types, positions = relaxed
            rng = np.random.default_rng(1)
            with FrameWriter(
                tmp_path / "frames.h5", beads(types), {"system": "toy", "temperature": 300.0}
            ) as writer:
                for k in range(12):
                    moved = positions + rng.normal(0, 0.002, positions.shape)
                    writer.append(moved, np.zeros_like(positions), CUBIC, float(k), k)
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "student.pt").write_bytes(model)
        base = {"timestep": "2 fs", "frame_interval": f"{INTERVAL} ps", "platform": "Reference"}
        data = {
            "system": "system.yaml",
            "folder": "run",
            "frames": "frames.h5",
            "simulation": {**base, **(simulation or {})},
        }
        protocol = {
            "replicas": 4,
            "duration": f"{N_FRAMES * INTERVAL} ps",
            "window": "1 ps",
            "temperature_tolerance": 0.3,
        }
        return parse(
            RunConfig, data | {"stability": {**protocol, **settings}}, "run.yaml", tmp_path
        )

    return make


def write_fake_run(
    folder, positions: np.ndarray, temperatures: np.ndarray, energies: np.ndarray
) -> None:
    """What `run_dynamics` leaves, as far as the protocol reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(positions)
    types, _ = liquid()
    trajectory = mdtraj.Trajectory(
        positions,
        beads(types).to_mdtraj(),
        unitcell_lengths=np.full((n, 3), 2.0),
        unitcell_angles=np.full((n, 3), 90.0),
    )
    trajectory[0].save_pdb(folder / "topology.pdb")
    trajectory.save_dcd(folder / "trajectory.dcd")
    with open(folder / "state.csv", "w") as file:
        file.write(
            '#"Step","Time (ps)","Potential Energy (kJ/mole)","Kinetic Energy'
            ' (kJ/mole)","Temperature (K)","Speed (ns/day)"\n'
        )
        for k in range(n):
            file.write(f"{50 * (k + 1)},{INTERVAL * (k + 1)},{energies[k]},0,{temperatures[k]},1\n")


def test_each_failure_is_named_at_its_time(make_run, tmp_path, monkeypatch):
    calls = []

    def fake_dynamics(
        system, topology, positions, folder, protocol, temperature, seed, key, potential
    ):
        index = int(folder.name)
        calls.append(index)
        rng = np.random.default_rng(seed)
        frames = positions + rng.normal(0, 0.01, (N_FRAMES, *positions.shape))
        temperatures, energies = np.full(N_FRAMES, 300.0), np.linspace(0, 30 * 6.0, N_FRAMES)
        if index == 1:  # 900 K from 3 ps on: the mean of 1 ps passes the bound within that 1 ps
            temperatures[30:] = 900.0
        if index == 2:  # two beads on top of each other from frame 20 on
            frames[20:, 0] = frames[20:, 1] + [0.05, 0, 0]
        if index == 3:
            write_fake_run(folder, frames[:25], temperatures, energies)
            raise ExplosionError(
                "The simulation stopped at step 1300 (2.6 ps): hot.", "exploded", 2.6
            )
        write_fake_run(folder, frames, temperatures, energies)

    def here(function, tasks, *_, **__):
        return {
            name: function(*arguments, lambda done, note: None) for name, arguments in tasks.items()
        }

    monkeypatch.setattr(replicas, "run_dynamics", fake_dynamics)
    monkeypatch.setattr(replicas, "map_tasks", here)
    run = make_run()
    path = check_stability(run)
    report = json.loads(path.read_text())
    runs = report["runs"]
    assert [run["cause"] for run in runs] == [None, "hot", "aggregated", "exploded"]
    bound = hottest(300.0, run.stability, 1.0, 87)  # thirty beads whose centre of mass stands still
    needed = next(k for k in range(1, 11) if (300 * (10 - k) + 900 * k) / 10 > bound)
    assert [run["time"] for run in runs] == pytest.approx([6.0, 3.0 + 0.1 * needed, 2.1, 2.6])
    assert len({run["start"] for run in runs}) == 4
    assert report["failed"] == 3
    assert report["causes"] == {"non-finite": 0, "exploded": 1, "hot": 1, "aggregated": 1}
    assert report["first_failure"] == pytest.approx(2.1)
    assert report["failures_per_ns"] == pytest.approx(3 / sum(run["time"] for run in runs) * 1000)
    # 180 kJ/mol on 30 beads over 5.9 ps
    assert runs[0]["energy_drift"] == pytest.approx(6.0 / 5.9 * 1000)
    assert runs[0]["temperature_drift"] == pytest.approx(0, abs=1e-6)
    assert runs[0]["mean_temperature"] == pytest.approx(300)
    assert runs[2]["closest"] > 0.9  # before it failed
    assert all(np.isfinite(run["pressure"]) for run in runs)
    with open(path.with_name("survival.csv")) as file:
        rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    shares = {round(row[0], 6): row[1] for row in rows}
    assert (shares[2.07], shares[2.1], shares[2.61], shares[6.0]) == (1.0, 0.75, 0.5, 0.25)
    with open(path.with_name("replicas.csv")) as file:
        assert [row["cause"] for row in csv.DictReader(file)] == [
            "",
            "hot",
            "aggregated",
            "exploded",
        ]
    assert imread(path.with_name("stability.png")).shape[1] > 2000
    assert path.with_name("stability.svg").read_text().startswith("<?xml")

    # finished work is not repeated, an explosion is not run again, and other bounds are judged
    # without new dynamics
    assert check_stability(run).stat().st_mtime_ns == path.stat().st_mtime_ns
    assert calls == [0, 1, 2, 3]
    again = json.loads(check_stability(make_run(temperature_tolerance=5.0)).read_text())
    assert calls == [0, 1, 2, 3, 0, 1, 2]
    assert [run["cause"] for run in again["runs"]] == [None, None, "aggregated", "exploded"]
    more = json.loads(check_stability(make_run(replicas=5)).read_text())
    assert [run["start"] for run in more["runs"]][:4] == [run["start"] for run in runs]


@pytest.mark.slow
def test_real_runs_of_an_exported_potential(make_run):
    run = make_run(
        {"frame_interval": "0.02 ps"},
        replicas=2,
        duration="0.2 ps",
        window="0.1 ps",
        temperature_tolerance=2.0,
    )
    report = json.loads(check_stability(run).read_text())
    # a network of random weights may pull beads together
    assert {run["cause"] for run in report["runs"]} <= {None, "aggregated"}
    assert report["timestep"] == 0.002
    folder = run.run_folder / "stability"
    first, second = (
        mdtraj.load(
            str(folder / f"0{k}" / "trajectory.dcd"), top=str(folder / "00" / "topology.pdb")
        )
        for k in (0, 1)
    )
    assert first.n_frames == second.n_frames == 10
    assert np.abs(first.xyz - second.xyz).max() > 1e-3
    # a longer protocol goes on where the shorter one ended
    longer = make_run(
        {"frame_interval": "0.02 ps"},
        replicas=2,
        duration="0.3 ps",
        window="0.1 ps",
        temperature_tolerance=2.0,
    )
    check_stability(longer)
    continued = mdtraj.load(
        str(folder / "00" / "trajectory.dcd"), top=str(folder / "00" / "topology.pdb")
    )
    assert continued.n_frames == 15
    np.testing.assert_allclose(continued.xyz[:10], first.xyz, atol=1e-6)
    assert (folder / "01" / "dynamics.log").read_text().count("ps done") == 2
    assert (folder.parent / "tasks" / "stability").exists()


def test_a_time_step_that_is_far_too_long_explodes(make_run):
    simulation = {"timestep": "500 fs", "frame_interval": "500 fs"}
    run = make_run(simulation, replicas=2, duration="20 ps", window="1 ps")
    report = json.loads(check_stability(run).read_text())
    assert {run["cause"] for run in report["runs"]} <= {"exploded", "non-finite"}
    assert all(run["time"] < 20 for run in report["runs"])
    assert report["failed"] == 2
    assert report["survival_at_end"]["share"] == 0


def replica(time: float, cause: str | None = None) -> Replica:
    return Replica(0, 0, time, cause, "")


def test_survival_and_rate_of_failure():
    runs = [
        replica(100),
        replica(40, "hot"),
        replica(100),
        replica(70, "aggregated"),
        replica(0.0, "exploded"),
    ]
    curve = survival(runs, 100, points=101)
    assert [curve["share"][k] for k in (0, 39, 40, 69, 70, 100)] == pytest.approx(
        [0.8, 0.8, 0.6, 0.6, 0.4, 0.4]
    )
    interval = binomtest(2, 5).proportion_ci(0.95, "wilson")
    assert (curve["low"][-1], curve["high"][-1]) == pytest.approx((interval.low, interval.high))
    found = FailureRate.of(runs)
    assert found.rate == pytest.approx(3 / 0.31)
    # at either end of the interval, so few or so many failures would come up in one case of forty
    assert poisson(found.high * 0.31).cdf(3) == pytest.approx(0.025)
    assert poisson(found.low * 0.31).sf(2) == pytest.approx(0.025)
    assert found.words == "9.7 failures per ns (95 %: 2 to 28)"
    never = FailureRate.of([replica(100), replica(100)])
    assert (never.rate, never.low) == (0, 0)
    assert never.high == pytest.approx(-np.log(0.05) / 0.2)  # 3.0 / T
    assert never.words == "fewer than 15 failures per ns (95 %)"
    # 30 ps without a failure say next to nothing of a nanosecond
    assert FailureRate(0, 0.03).survival(1.0) < 1e-40
    assert FailureRate(0, 3.0).survival(0.1) == pytest.approx(0.05 ** (1 / 30))
    assert FailureRate(0, FailureRate.needed(0.1, 0.5)).survival(0.1) == pytest.approx(0.5)
    assert FailureRate.of([replica(0.0, "exploded")]).words == "every run failed at once"


@pytest.mark.parametrize("rate", [0.3, 2.0])
def test_interval_holds_the_true_rate_of_simulated_failures(rate):
    """Runs of 100 ps that fail at random; one end is passed in at most one case of forty."""
    random = np.random.default_rng(12)
    missed = 0
    for _ in range(1000):
        times = random.exponential(1000 / rate, 40)
        found = FailureRate.of([replica(min(t, 100.0), "hot" if t < 100 else None) for t in times])
        missed += not found.low <= rate <= found.high
    assert missed / 1000 < 0.07  # Garwood's interval is on the safe side; none of it is exact here


def test_drift_is_the_slope_per_nanosecond():
    times = np.linspace(0, 50, 11)
    found = drift(times, 3 + 0.02 * times)
    assert (found.mean, found.error) == pytest.approx((20, 0), abs=1e-6)
    assert not found.plateau
    assert drift(times[:2], times[:2]) is None


def test_bound_on_the_temperature_allows_for_few_beads():
    settings = StabilityConfig(window="10 ps", temperature_tolerance=0.1)
    assert hottest(300.0, settings, 1.0, 100_000) == pytest.approx(330)
    assert hottest(300.0, settings, 1.0, 20) == pytest.approx(300 * (1 + 5 * np.sqrt(2 / 20 / 10)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicas": 13}, r"stability\.replicas: 13 runs cannot start from 12 different frames"),
        (
            {"window": "7 ps"},
            r"stability\.window: 7 ps is not between .*0\.1 ps.* and stability\.duration \(6 ps\)",
        ),
        ({"window": "0.01 ps"}, r"stability\.window: 0\.01 ps"),
    ],
)
def test_bad_settings(make_run, settings, message):
    run = make_run(**settings)
    with pytest.raises(AnalysisError, match=message):
        check_stability(run)
    assert not (run.run_folder / "stability").exists()


def test_other_errors_are_no_failures_of_the_potential(make_run):
    with pytest.raises(ConfigError, match=r"platform: got Abacus"):
        check_stability(make_run({"platform": "Abacus"}))


def test_command(make_run, tmp_path):
    make_run()
    path = tmp_path / "run.yaml"
    path.write_text(
        "system: system.yaml\nfolder: run\nframes: frames.h5\nsimulation: {timestep: 2"
        " fs}\nstability: {replicas: 20}\n"
    )
    result = CliRunner().invoke(app, ["stability", str(path)], terminal_width=200)
    assert result.exit_code == 2, result.output
    assert "stability.replicas: 20 runs cannot start from 12 different frames" in result.stderr
    help_text = CliRunner().invoke(app, ["stability", "--help"], terminal_width=200).output
    for words in ("replicas", "duration", "temperature_tolerance", "frame_interval"):
        assert words in help_text
