"""Progress of work, here or on somebody else's behalf."""

import logging

import pytest

from openmm_cgkd.utils.progress import duration_words, log_to, progress, progress_to


def test_progress_goes_to_who_waits():
    told = []
    with progress_to(lambda share, note: told.append((share, note))):
        with progress("pieces", 8, "eighths", 2) as meter:
            meter.update(4)
            meter.update(8, "good")
        with progress("nothing to do", 0, "pieces") as meter:
            meter.update(0)
    assert told == [(0.5, ""), (1.0, "good"), (1.0, "")]
    with progress("elsewhere", 8, "eighths") as meter:
        meter.update(4)
    assert len(told) == 3


def test_log_of_a_stage_ends_with_it(tmp_path):
    with log_to(tmp_path / "logs" / "stage.log"):
        logging.getLogger("openmm_cgkd.stage").info("during")
    logging.getLogger("openmm_cgkd.stage").info("after")
    text = (tmp_path / "logs" / "stage.log").read_text()
    assert "during" in text
    assert "after" not in text


def test_lines_of_a_log_tell_amount_unit_and_time_left(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "openmm_cgkd")
    with progress("all-atom npt", 500, "ps", 100) as meter:
        # seconds after the start: done; a first line after five seconds, then one in thirty
        for at, done in ((1, 101), (6, 106), (20, 120), (37, 137), (60, 160)):
            now[0] = 1000.0 + at
            meter.update(done, "cold" if at == 37 else "")
    assert caplog.messages == [
        "all-atom npt: 106 of 500 ps, 7 min left",
        "all-atom npt: 137 of 500 ps, 6 min left cold",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3570, "1 h 0 min"),
        (7860, "2 h 11 min"),
        (86399, "1 d 0 h"),
        (198528, "2 d 7 h"),
    ],
)
def test_durations_are_given_in_the_units_people_think_in(seconds, words):
    assert duration_words(seconds) == words


def test_log_does_not_go_through_a_link(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("somebody's")
    (tmp_path / "stage.log").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), log_to(tmp_path / "stage.log"):
        pass
    assert other.read_text() == "somebody's"
