"""Independent tasks: same results from both backends, whatever is killed; nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openmm_cgkd.config.execution import ExecutionConfig, SlurmConfig
from openmm_cgkd.exceptions import ConfigError, ExecutionError, TrainingError
from openmm_cgkd.execution.tasks import map_tasks
from tests.cases import tasks as execution_tasks
from tests.cases.paths import ROOT

LOCAL, PARSL = ExecutionConfig(), ExecutionConfig(backend="parsl")
TESTS = str(ROOT)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true, seconds=120.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    "execution",
    [LOCAL, ExecutionConfig(backend="parsl", accelerators=[0, "GPU-b"])],
    ids=["local", "parsl"],
)
def test_tasks_run_side_by_side(tmp_path, execution):
    finished, reports = {}, []
    tasks = {str(k): (k, tmp_path) for k in range(3)}
    results = map_tasks(
        execution_tasks.square,
        tasks,
        execution,
        tmp_path,
        2,
        finished.__setitem__,
        lambda *told: reports.append(told),
    )
    assert results == finished
    assert [results[str(k)][0] for k in range(3)] == [0, 1, 4]
    # in other processes
    assert len({result[1] for result in results.values()} - {os.getpid()}) >= 2
    assert ("1", 0.5, "half way") in reports
    assert {result[3] for result in results.values()} == {
        str(max(1, len(os.sched_getaffinity(0)) // 2))
    }
    if execution.accelerators:
        seen = {result[1]: result[2] for result in results.values()}
        assert sorted(seen.values()) == ["0", "GPU-b"]  # each worker sees one, not the other's
    assert not list(tmp_path.glob("reports-*"))


@pytest.mark.parametrize("execution", [LOCAL, PARSL], ids=["local", "parsl"])
def test_killed_worker_costs_one_retry(tmp_path, execution, caplog):
    tasks = {name: (name, tmp_path) for name in ("victim", "other")}
    results = map_tasks(execution_tasks.killed_once, tasks, execution, tmp_path, 2)
    assert results == {"victim": "victim", "other": "other"}
    assert (tmp_path / "killed-victim").exists()
    assert [
        record.getMessage().split(",")[0]
        for record in caplog.records
        if "openmm_cgkd" in record.name
    ] == ["task victim failed"]


def test_failures_come_after_everything_else(tmp_path):
    tasks = {name: (name,) for name in ("ours", "library", "stubborn", "exits", "good")}
    finished = {}
    with pytest.raises(ExecutionError, match="4 of 5 tasks failed 1 times, the first is") as caught:
        map_tasks(
            execution_tasks.fail,
            tasks,
            ExecutionConfig(retries=0),
            tmp_path,
            2,
            finished.__setitem__,
        )
    assert finished == {"good": "good"}
    failures = caught.value.failures
    assert isinstance(failures["ours"], TrainingError)
    assert str(failures["ours"]) == "The loss is not finite."
    assert str(failures["library"]) == "KeyError: 'weights'"
    assert str(failures["stubborn"]) == "ExplosionError: The simulation stopped."
    assert "Traceback" in (tmp_path / "library.error.log").read_text()
    assert "exit code 7" in str(failures["exits"])


@pytest.mark.parametrize(
    ("backend", "how"),
    [("local", signal.SIGINT), ("local", signal.SIGKILL), ("parsl", signal.SIGINT)],
)
def test_tasks_end_with_the_one_who_waits(tmp_path, backend, how):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.cases import tasks as execution_tasks\n"
        "from openmm_cgkd.config import ExecutionConfig\n"
        "from openmm_cgkd.execution.tasks import map_tasks\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    tasks = {'a': (folder / 'pid',)}\n"
        f"    execution = ExecutionConfig(backend='{backend}')\n"
        "    map_tasks(execution_tasks.run_forever, tasks, execution, folder, 1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # shells ignore interrupts for what they run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.killpg(process.pid, how)
    process.wait(120)
    task = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(task))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_tasks_save_and_give_up_their_locks(tmp_path, how):
    """Sent to all processes together, as a terminal does."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.cases import tasks as execution_tasks\n"
        "from openmm_cgkd.config import ExecutionConfig\n"
        "from openmm_cgkd.execution.tasks import map_tasks\n"
        "from openmm_cgkd.utils.signals import StopRequest, handle_stop_requests\n"
        "folder = Path(sys.argv[1])\n"
        "handle_stop_requests()\n"
        "tasks = {name: (folder / name,) for name in 'ab'}\n"
        "try:\n"
        "    map_tasks(execution_tasks.hold_lock, tasks, ExecutionConfig(), folder / 'tasks', 2)\n"
        "except StopRequest as stop:\n"
        "    print(stop)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    at_work = [tmp_path / name / "at-work" for name in "ab"]
    wait_until(lambda: all(path.exists() and path.read_text() for path in at_work))
    os.killpg(process.pid, how)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output.split() == [how.name]
    assert errors == ""
    for path in at_work:
        assert not alive(int(path.read_text()))
        assert sorted(each.name for each in path.parent.iterdir()) == ["at-work", "saved"]
    assert not list((tmp_path / "tasks").iterdir())


def test_task_ends_when_another_run_takes_its_place(tmp_path):
    script = (
        "import pickle\n"
        "from pathlib import Path\n"
        "from tests.cases import tasks as execution_tasks\n"
        "from openmm_cgkd.execution.tasks import run_task\n"
        f"f = Path({str(tmp_path)!r})\n"
        "payload = pickle.dumps((execution_tasks.run_forever, (f / 'pid',)))\n"
        "run_task(payload, f / 'log', f / 'reports-old' / 'a', 1)\n"
    )
    (tmp_path / "reports-old").mkdir()
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until((tmp_path / "reports-old" / "a").exists)
    map_tasks(execution_tasks.fail, {"a": ("good",)}, LOCAL, tmp_path)
    assert process.wait(120) == 1


FAKE_SLURM = {
    "sbatch": (
        'cp "$1" "$SLURM_FAKE/job"; setsid bash "$1" >/dev/null 2>&1 & echo $! >"$SLURM_FAKE/pid";'
        " echo Submitted batch job 42"
    ),
    "sacct": "exit 1",
    "squeue": "echo 42 R",
    "scancel": 'echo "$@" >"$SLURM_FAKE/cancelled"; kill -- -$(cat "$SLURM_FAKE/pid")',
}


def test_slurm_runs_tasks_in_jobs(tmp_path, monkeypatch):
    """With commands in Slurm's place that run the job on this machine."""
    for name, text in FAKE_SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(tmp_path))
    slurm = SlurmConfig(
        partition="gpu",
        walltime="1:30:00",
        cores=2,
        options=["--gpus-per-node=1"],
        setup=["export CGKD_SETUP=done"],
    )
    results = map_tasks(
        execution_tasks.fail,
        {"a": ("good",)},
        ExecutionConfig(backend="parsl", slurm=slurm),
        tmp_path / "folder",
    )
    assert results == {"a": "good"}
    job = (tmp_path / "job").read_text()
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --time=90",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --gpus-per-node=1",
    ):
        assert line in job.splitlines()
    assert job.index("export CGKD_SETUP=done") < job.index("process_worker_pool")
    assert "42" in (tmp_path / "cancelled").read_text()


def test_what_parsl_cannot_do_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="blanks in its path"):
        map_tasks(execution_tasks.fail, {"a": ("good",)}, PARSL, tmp_path / "my run")
    monkeypatch.setitem(sys.modules, "parsl", None)
    with pytest.raises(
        ConfigError, match=r"parsl is not installed; pip install 'openmm_cgkd\[parsl\]'"
    ):
        map_tasks(execution_tasks.fail, {"a": ("good",)}, PARSL, tmp_path)
