"""Progress of work, here or on somebody else's behalf."""

import logging

from openmm_cgkd.utils.progress import log_to, progress, progress_to


def test_progress_goes_to_who_waits():
    told = []
    with progress_to(lambda share, note: told.append((share, note))):
        with progress("pieces", 8, 2) as meter:
            meter.update(4)
            meter.update(8, "good")
        with progress("nothing to do", 0) as meter:
            meter.update(0)
    assert told == [(0.5, ""), (1.0, "good"), (1.0, "")]
    with progress("elsewhere", 8) as meter:
        meter.update(4)
    assert len(told) == 3


def test_log_of_a_stage_ends_with_it(tmp_path):
    with log_to(tmp_path / "logs" / "stage.log"):
        logging.getLogger("openmm_cgkd.stage").info("during")
    logging.getLogger("openmm_cgkd.stage").info("after")
    text = (tmp_path / "logs" / "stage.log").read_text()
    assert "during" in text
    assert "after" not in text
