"""The shell scripts, with a stub in place of Python so that nothing is downloaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import measures
from scripts.benchmarks.measures import exponent, measure
from tests.cases.paths import ROOT

# answers the version question, makes a "virtual environment" that holds itself, and plays pip and
# the programs
STUB = """#!/bin/bash
here=$(dirname "$0")
case "$*" in
    --version) echo "Python 3.11.0" ;;
    "-c import sys"*) exit ${STUB_WRONG:-0} ;;
    "-m venv"*)
        mkdir -p "$4/bin" && touch "$4/pyvenv.cfg"
        for name in python cgkd ruff mypy; do cp "$0" "$4/bin/$name"; done ;;
    "-m pip --version") [ -f "$here/../pyvenv.cfg" ] ;;
    "-m pip install"*)
        echo "pip install ${*: -1}" >>"$CALLS"
        [ -z "$STUB_PIP" ] || { echo "ERROR: $STUB_PIP"; exit 1; } ;;
    *) echo "$(basename "$0") $*" >>"$CALLS" ;;
esac
"""
CHECKS = ["ruff check .", "ruff format --check .", "mypy "]
PYTEST = "python -m pytest -q --numprocesses=logical --maxprocesses=8 --dist=worksteal"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy of the scripts with a stub Python; its path holds a space, as users' folders do."""
    copy = tmp_path / "a checkout"
    for name in ("scripts", ".ci"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    stub = tmp_path / "python3.11"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return copy


def call(
    checkout: Path, script: str, *arguments: str, **environment: str
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run a script from a folder that is not its own; return the result and what the stub was
    asked for.
    """
    calls = checkout.parent / "calls"
    calls.write_text("")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(checkout.parent / "python3.11"),
        "CALLS": str(calls),
        **environment,
    }
    result = subprocess.run(
        [checkout / script, *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result, calls.read_text().splitlines()


def test_quickstart_installs_once_then_runs(checkout: Path) -> None:
    result, calls = call(checkout, "scripts/quickstart")
    assert result.returncode == 0, result.stderr
    assert calls == ["pip install .[torchforce]", "cgkd run systems/ethaline/quickstart.yaml"]
    assert "reduced run" in result.stdout
    assert "run.yaml" in result.stdout.splitlines()[-1]

    _, calls = call(checkout, "scripts/quickstart")
    assert calls == ["cgkd run systems/ethaline/quickstart.yaml"]

    with open(checkout / "setup.cfg", "a") as file:
        file.write("# other requirements\n")
    _, calls = call(checkout, "scripts/quickstart")
    assert calls[0] == "pip install .[torchforce]"


def test_test_checks_the_source_then_runs_pytest_with_arguments(checkout: Path) -> None:
    result, calls = call(checkout, "scripts/test", "-k", "mapping")
    assert result.returncode == 0, result.stderr
    assert calls == [
        "pip install .[torchforce,test]",
        *CHECKS,
        f"{PYTEST} -k mapping",
    ]
    # the test environment holds all that the quickstart needs
    _, calls = call(checkout, "scripts/quickstart")
    assert calls == ["cgkd run systems/ethaline/quickstart.yaml"]


def test_newer_stack_has_an_environment_of_its_own(checkout: Path) -> None:
    result, calls = call(checkout, "scripts/test_newer_stack", "-x")
    assert result.returncode == 0, result.stderr
    assert calls == ["pip install .[newer,test]", "python -m pytest -q tests/newer_stack.py -x"]
    assert (checkout / ".venv-newer" / ".installed-test").exists()
    assert not (checkout / ".venv").exists()


def test_ci_starts_from_a_fresh_environment(checkout: Path) -> None:
    call(checkout, "scripts/test")
    call(checkout, "scripts/test_newer_stack")
    for environment in (".venv", ".venv-newer"):
        (checkout / environment / "left over").touch()
    _, calls = call(checkout, ".ci/run", CI="true")
    assert calls == [
        "pip install .[torchforce,test]",
        *CHECKS,
        f"{PYTEST} --cov --cov-report=term",
        "pip install .[newer,test]",
        "python -m pytest -q tests/newer_stack.py",
    ]
    for environment in (".venv", ".venv-newer"):
        assert not (checkout / environment / "left over").exists()


def test_quickstart_refuses_options(checkout: Path) -> None:
    result, calls = call(checkout, "scripts/quickstart", "--epochs")
    assert result.returncode == 2
    assert "got '--epochs'" in result.stderr
    assert not calls


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"STUB_WRONG": "1"}, "is not Python 3.11"),
        (
            {"STUB_PIP": "Could not find a version that satisfies the requirement setuptools>=77"},
            "check the network connection",
        ),
        (
            {
                "STUB_PIP": (
                    "Could not install packages due to an OSError: [Errno 28] No space left on"
                    " device"
                )
            },
            "the disk is full",
        ),
        ({"STUB_PIP": "something else"}, "install.log"),
    ],
)
def test_failure_is_one_sentence(
    checkout: Path, environment: dict[str, str], sentence: str
) -> None:
    result, calls = call(checkout, "scripts/quickstart", **environment)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert sentence in result.stderr
    assert not any(line.startswith("cgkd") for line in calls)

    result, calls = call(checkout, "scripts/quickstart")  # a failed install leaves no stamp
    assert result.returncode == 0
    assert calls[0] == "pip install .[torchforce]"


def test_too_little_disk(checkout: Path) -> None:
    df = checkout.parent / "df"
    df.write_text("#!/bin/sh\nprintf 'Filesystem\\n/dev/disk 10 9 4194304 90%% /\\n'\n")
    df.chmod(0o755)
    result, calls = call(
        checkout, "scripts/quickstart", PATH=f"{checkout.parent}:{os.environ['PATH']}"
    )
    assert result.returncode == 1
    assert "4 GB are free" in result.stderr
    assert calls == []


def test_a_foreign_folder_is_not_cleared(checkout: Path) -> None:
    foreign = checkout.parent / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    result, calls = call(checkout, "scripts/test", CGKD_VENV=str(foreign))
    assert result.returncode == 1
    assert "is not a virtual environment" in result.stderr
    assert calls == []
    assert (foreign / "chapter.txt").exists()


class Steps:
    """A context whose steps take a set time, on a clock of its own."""

    now = 0.0

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0

    def getIntegrator(self) -> "Steps":
        return self

    def step(self, n: int) -> None:
        self.steps += n
        Steps.now += n * self.seconds


def test_benchmark_compares_step_times_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures.time, "perf_counter", lambda: Steps.now)
    fast, slow = Steps(0.002), Steps(0.02)
    found = measure({"fast": (fast, 1.0), "slow": (slow, 1.0)}, rounds=3, seconds=0.1)
    assert found == pytest.approx({"fast": 2, "slow": 20})  # ms
    assert fast.steps > slow.steps
    assert exponent([1000, 2000, 8000], [3.0, 6.0 * 2**0.1, 24.0 * 8**0.1]) == pytest.approx(1.1)


def test_benchmark_needs_a_student_and_its_time_step(tmp_path: Path) -> None:
    student = tmp_path / "student.pt"
    command = [sys.executable, "-m", "scripts.benchmarks", "runtime", "--student", student]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "is not there; train one with 'cgkd run'" in result.stderr
    student.touch()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "run 'cgkd timestep' on it" in result.stderr
