"""The time step of a simulation: one search for several commands, none where it does not pay."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.exceptions import DiskError
from openmm_cgkd.simulation.simulate import with_timestep
from openmm_cgkd.simulation.timestep.recommendation import FORMAT, VERSION, recommendation_path
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.records import write_record
from tests.cases.training import make_frames


def test_the_second_command_waits_for_the_search_of_the_first(tmp_path, monkeypatch, caplog):
    model = tmp_path / "student.pt"
    model.write_bytes(b"a potential")
    searching, searches = threading.Event(), []
    frames = make_frames(20, 12, noise=1.0)[0]
    long = SimulationConfig(production="1 ms")  # a short one is made without a search

    def search(file, frames, settings):
        searching.set()
        # until the other one has been refused once
        assert any("Waiting for up to" in caplog.text or time.sleep(0.01) for _ in range(6000))
        searches.append(threading.get_ident())
        facts = {"format": FORMAT, "version": VERSION, "model_sha256": file_hash(file)}
        errors = {"temperature_error": 0.0, "temperature_error_se": 0.001}
        write_record(recommendation_path(file), {**facts, "timestep_ps": 0.004, **errors})

    monkeypatch.setattr("openmm_cgkd.simulation.simulate.search_timestep", search)

    def command() -> float | None:
        with locked(tmp_path, shared=True):  # as a stage does
            return with_timestep(long, model, lambda: frames).timestep

    with caplog.at_level("INFO", "openmm_cgkd"), ThreadPoolExecutor(2) as threads:
        first = threads.submit(command)
        assert searching.wait(60)
        second = threads.submit(command)
        assert first.result() == second.result() == 0.004
    assert len(searches) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.pt", "timestep.json"]


def test_potential_in_a_folder_that_cannot_be_written(tmp_path):
    """A short run needs nothing of it; a long one is told of the setting that does without."""
    model = tmp_path / "student.pt"
    model.write_bytes(b"a potential")
    (tmp_path / "cgkd.lock").mkdir()  # no lock can be taken, not even by root
    frames = make_frames(20, 12, noise=1.0)[0]
    short = SimulationConfig(equilibration="1 ps", production="1 ps")
    assert with_timestep(short, model, lambda: frames).timestep == 0.002
    with pytest.raises(DiskError, match=r"beside the potential: .*cgkd.lock.*; give simulation.ti"):
        with_timestep(SimulationConfig(production="1 ms"), model, lambda: frames)
