"""Damaged files of every quick kind against their readers; and that the fuzz finds faults."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from scripts.fuzz.mutations import of_bytes, of_text
from scripts.fuzz.targets import TARGETS, Target
from scripts.fuzz.worker import FORBIDDEN, damaged, run_cases
from tests.cases.paths import ROOT

QUICK = [target.name for target in TARGETS if not target.learned]
TEXT = b"first: 1\nsecond: 2.5\nthird: three\n"


def test_a_short_leg(tmp_path):
    """Several hundred damaged files: each refused with one clear sentence, or read as finite."""
    count = 15
    command = [sys.executable, "-m", "scripts.fuzz", "--count", str(count), "--seed", "2026"]
    command += [word for name in QUICK for word in ("--target", name)]
    done = subprocess.run(
        [*command, "--keep", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["forbidden"] == 0
    assert result["cases"] == count * len(QUICK)
    assert set(result["targets"]) == set(QUICK)
    for name, found in result["targets"].items():
        assert found.get("refused", 0) > 0, name  # the files are damaged indeed


def crash(path: Path, originals: Path):
    if path.read_bytes() != TEXT:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 1.0


def hang(path: Path, originals: Path):
    while path.read_bytes() != TEXT:
        pass
    return 1.0


def other(found):
    """A reader that reads the original well and gives something else for any other file."""

    def read(path: Path, originals: Path):
        if path.read_bytes() == TEXT:
            return {"masses": np.ones(2)}
        if isinstance(found, Exception):
            raise found
        return found

    return read


@pytest.mark.parametrize(
    ("read", "sealed", "outcome"),
    [
        (other(FramesError("a.yaml: is damaged; make it again.")), True, "refused"),
        (other({"masses": np.ones(2)}), True, "equal"),
        (other({"masses": 2 * np.ones(2)}), False, "different"),
        (other({"masses": 2 * np.ones(2)}), True, "changed"),
        (other({"masses": np.array([1, np.nan])}), False, "not finite"),
        (other({"masses": -np.ones(2)}), False, "not physical"),
        (other([{"box": -np.eye(3)}]), False, "not physical"),
        (other(FramesError("it is damaged.")), True, "unclear"),
        (other(FramesError("a.yaml: two\nlines.")), True, "unclear"),
        (other(KeyError("masses")), True, "traceback"),
        (other(MemoryError()), True, "memory"),
        (crash, True, "crash"),
        (hang, True, "hang"),
    ],
)
def test_outcomes(tmp_path, read, sealed, outcome):
    (tmp_path / "a.yaml").write_bytes(TEXT)
    target = Target("toy", "a.yaml", lambda data, random: data + b"#", read, lambda data: sealed)
    seconds = 0.5 if outcome == "hang" else 60
    cases = list(run_cases(tmp_path, tmp_path / "case", target, 1, range(2), seconds))
    assert [(case.number, case.outcome) for case in cases] == [(0, outcome), (1, outcome)]
    assert (outcome in FORBIDDEN) == (outcome not in ("refused", "equal", "different"))


def test_an_original_that_cannot_be_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(TEXT + b"#")
    target = Target("toy", "a.yaml", of_bytes, other(FramesError("a.yaml: is damaged.")))
    with pytest.raises(
        RuntimeError, match=r"a\.yaml: the original cannot be read[\s\S]*is damaged"
    ):
        list(run_cases(tmp_path, tmp_path / "case", target, 1, range(2), 0.5))


@pytest.mark.parametrize("mutate", [of_bytes, of_text])
def test_numbers_repeat_a_case(mutate):
    target = Target("toy", "a.yaml", mutate, crash)
    files = [damaged(target, TEXT, 5, number) for number in range(50)]
    assert files == [damaged(target, TEXT, 5, number) for number in range(50)]
    assert files != [damaged(target, TEXT, 6, number) for number in range(50)]
    assert len({*files, TEXT}) > 40
