"""Stages that simulate with a potential of a user's own network."""

import dataclasses
import shutil

import mdtraj
import pytest
import torch

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import ConfigError, ModelFileError
from openmm_cgkd.frames.frames import read_frames, write_frames
from openmm_cgkd.potential.custom_network import CustomNetwork, build_network, describe_network
from openmm_cgkd.potential.export import type_masses, write_potential
from openmm_cgkd.potential.metadata import PotentialMetadata
from openmm_cgkd.potential.prior import fit_prior
from openmm_cgkd.stages.simulate import simulate_run
from openmm_cgkd.stages.stability import check_stability
from openmm_cgkd.stages.timestep import simulation_settings
from openmm_cgkd.utils.records import read_record
from tests.cases.pair_network import PairNetwork


@pytest.fixture
def make_run(small_run, lj_frames, tmp_path):
    """A run with a potential that someone has sent, trusted or not."""
    frames = read_frames(lj_frames)
    own = CustomNetwork(PairNetwork, cutoff=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network(own, 2, 0.1)
    prior = fit_prior(frames)
    metadata = PotentialMetadata(
        type_names=list(frames.beads.type_names),
        masses=type_masses(frames.beads),
        cutoff=0.9,
        prior=prior.as_dict(),
        network=describe_network(own),
        temperature=frames.temperature,
    )
    path = tmp_path / "sent.pt"
    last = frames[-1:]
    write_potential(
        path, network, prior, metadata, frames.beads.types, last.positions[0], last.box[0]
    )

    def make(**settings) -> RunConfig:
        data = {**small_run, "potential": "sent.pt", **settings}
        return parse(RunConfig, data, "run.yaml", tmp_path)

    return make


def test_its_script_is_run_only_where_the_run_says_so(make_run, tmp_path):
    short = {"duration": "0.4 ps", "window": "0.2 ps", "replicas": 2}
    run = make_run(stability=short)
    for stage in (simulate_run, check_stability):
        with pytest.raises(ModelFileError, match=r"sent.pt: holds a network .* run_script: true"):
            stage(run)
    shutil.rmtree(tmp_path / "run")
    run = make_run(stability=short, run_script=True)
    trajectory = mdtraj.load(str(simulate_run(run)), top=read_frames(run.frames).beads.to_mdtraj())
    assert len(trajectory) == 20
    assert check_stability(run).exists()


def test_the_search_for_its_time_step_gets_the_same_word(make_run, monkeypatch):
    searches = []
    monkeypatch.setattr(
        "openmm_cgkd.simulation.simulate.search_timestep",
        lambda model, frames, search: searches.append(search),
    )
    for trusted in (True, False):
        run = make_run(run_script=trusted, simulation={"platform": "CPU", "production": "1 us"})
        simulation_settings(run)
    assert [search.run_script for search in searches] == [True, False]


def test_a_finished_run_that_was_damaged_is_made_again(make_run, caplog):
    """The same command makes it again, to the last bit."""
    run = make_run(run_script=True)
    trajectory = simulate_run(run)
    before, folder = trajectory.read_bytes(), trajectory.parent
    stamp = trajectory.stat().st_mtime_ns
    simulate_run(run)
    assert trajectory.stat().st_mtime_ns == stamp  # whole: skipped
    damaged = bytearray(before)
    damaged[400] ^= 8
    trajectory.write_bytes(damaged)
    simulate_run(run)
    assert trajectory.read_bytes()[276:] == before[276:]  # behind the date
    assert "trajectory.dcd: was changed or damaged" in caplog.text
    report = folder / "simulation.json"
    report.write_text(report.read_text().replace('"steps": ', '"steps": 1'))
    simulate_run(run)
    assert "simulation.json: was changed or damaged" in caplog.text
    assert read_record(report)["steps"] == 20 * 20


def test_a_potential_of_another_temperature(make_run, tmp_path):
    run = make_run(run_script=True)
    frames = read_frames(run.path(run.frames))
    warm = dataclasses.replace(frames, attributes=frames.attributes | {"temperature": 320.0})
    write_frames(warm, tmp_path / "warm.h5")
    for stage in (simulate_run, check_stability):
        with pytest.raises(
            ConfigError, match=r"sent\.pt: holds at 120 K, .*warm\.h5 has 320 K; .*on purpose"
        ):
            stage(make_run(run_script=True, frames="warm.h5"))
