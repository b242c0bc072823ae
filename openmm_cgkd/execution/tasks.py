"""Independent tasks side by side: in processes of this machine, or through Parsl, also on Slurm.

Tasks must not share anything but files. Processes are spawned, so a Python script that starts tasks
needs the ``if __name__ == "__main__":`` guard. On a cluster the run folder must be visible to all
nodes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shlex
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openmm_cgkd.config.execution import ExecutionConfig, SlurmConfig
from openmm_cgkd.exceptions import CGKDError, ConfigError, ExecutionError
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.progress import Report

from .processes import Worker, cores

logger = logging.getLogger(__name__)

_POLL = 0.5  # seconds between looks at what tasks report
_PATIENCE = 30.0  # seconds for a task to save and end when it is asked to
# torch, numba, OpenMM; each reads its own on import
_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENMM_CPU_THREADS")

# Parsl's hub between this process and the workers leaves interrupts and a closed terminal to this
# process; if this process is killed, Linux ends the hub (1: PR_SET_PDEATHSIG, 15: SIGTERM)
_INTERCHANGE = (
    "import ctypes, runpy, signal;"
    " [signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGHUP)];"
    " ctypes.CDLL(None).prctl(1, 15); runpy.run_module('{}', run_name='__main__')"
)

_Submit = Callable[..., Future[Any]]


def map_tasks(
    function: Callable[..., Any],
    tasks: Mapping[str, tuple[Any, ...]],
    execution: ExecutionConfig,
    folder: Path,
    workers: int | None = None,
    on_result: Callable[[str, Any], None] = lambda name, result: None,
    on_report: Callable[[str, float, str], None] = lambda name, share, note: None,
) -> dict[str, Any]:
    """Call a function once per task, each call in another process, and wait for all of them.

    Parameters
    ----------
    function : callable
        Of a module that workers can import. Called as ``function(*arguments, report)``;
        ``report(share, note)`` tells how far the task is, from 0 to 1, may be called often, and
        ends the process when nobody waits for it any more.
    tasks : mapping
        Name of every task, which must be good as a file name, and its arguments, which must be
        picklable.
    execution : ExecutionConfig
    folder : path
        For progress, tracebacks (``<task>.error.log``) and Parsl's logs. One caller at a time: a
        second one ends the first one's tasks.
    workers : int, optional
        Tasks at a time on one machine; one per accelerator or core if absent.
    on_result, on_report : callable
        Called here with the name of a task and its result, or what it has reported last.

    Returns
    -------
    dict
        Results by name.

    Raises
    ------
    ExecutionError
        If tasks failed more often than ``execution.retries``; all others are finished first.
        ``failures`` holds the errors by name.
    ConfigError
        If Parsl is wanted and not installed.
    """
    if not tasks:
        return {}
    results: dict[str, Any] = {}
    failures: dict[str, BaseException] = {}
    attempts = dict.fromkeys(tasks, 1)
    workers = _workers(execution, workers, len(tasks))
    with _reports(folder) as reports, _submitter(execution, folder, workers) as submit:

        def start(name: str) -> Future[Any]:
            return submit(
                pickle.dumps((function, tasks[name])),
                folder / f"{name}.error.log",
                reports / name,
                workers,
            )

        running = {start(name): name for name in tasks}
        while running:
            finished, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
            for name, (share, note) in _read_reports(reports, running.values()):
                on_report(name, share, note)
            for future in finished:
                name = running.pop(future)
                error = future.exception()
                if error is None:
                    results[name] = future.result()
                    on_result(name, results[name])
                    continue
                again = attempts[name] <= execution.retries
                logger.warning(
                    "task %s failed%s: %s",
                    name,
                    ", trying again" if again else "",
                    _one_line(error),
                )
                if again:
                    attempts[name] += 1
                    running[start(name)] = name
                else:
                    failures[name] = error
    if failures:
        name, error = next(iter(failures.items()))
        raise ExecutionError(
            f"{len(failures)} of {len(tasks)} tasks failed {execution.retries + 1} times, the first"
            f" is {name} ({_one_line(error)}); see {folder}, then run again: what is finished is"
            " kept.",
            failures,
        )
    return results


def _workers(execution: ExecutionConfig, wanted: int | None, tasks: int) -> int | None:
    """Tasks at a time on a machine; None for one per core of a node that only Slurm knows."""
    count = (
        len(execution.accelerators)
        or wanted
        or (execution.slurm.cores if execution.slurm else os.cpu_count() or 1)
    )
    return None if count is None else min(count, tasks)


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")


# --- in the process of a task ---------------------------------------------------------------------


def run_task(payload: bytes, error_log: Path, report_file: Path, workers: int | None) -> Any:
    """Do one task in this process.

    The function comes pickled, so that its imports find the number of threads already set.
    """
    threads = max(1, cores() // workers) if workers else 1
    for variable in _THREADS:
        os.environ.setdefault(variable, str(threads))
    try:
        function, arguments = pickle.loads(payload)
        return function(*arguments, _Reporter(report_file))
    except Exception as error:
        if isinstance(error, CGKDError) and _survives(error):
            raise
        write_text(error_log, traceback.format_exc())
        raise ExecutionError(f"{type(error).__name__}: {error}") from None


def _survives(error: Exception) -> bool:
    """Can this error be sent to another process?"""
    try:
        return str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:  # whatever the constructor of its class does
        return False


class _Reporter:
    """Writes the progress of a task for the one who waits; at most once a second."""

    def __init__(self, file: Path) -> None:
        self._file, self._next = file, 0.0

    def __call__(self, share: float, note: str = "") -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        fresh = self._file.with_suffix(".tmp")
        try:
            fresh.write_text(json.dumps([share, note]))
            os.replace(fresh, self._file)
        # the folder is gone: nobody waits, and another run may work on the same files
        except FileNotFoundError:
            os._exit(1)


@contextmanager
def _reports(folder: Path) -> Iterator[Path]:
    """A folder for progress, which lives as long as somebody waits for the tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("reports-*"):
        shutil.rmtree(left, ignore_errors=True)
    reports = Path(tempfile.mkdtemp(prefix="reports-", dir=folder))
    try:
        yield reports
    finally:
        shutil.rmtree(reports, ignore_errors=True)


def _read_reports(reports: Path, names: Any) -> Iterator[tuple[str, tuple[float, str]]]:
    for name in names:
        with contextlib.suppress(OSError):
            yield name, json.loads((reports / name).read_text())


# --- backends -------------------------------------------------------------------------------------


def _submitter(
    execution: ExecutionConfig, folder: Path, workers: int | None
) -> contextlib.AbstractContextManager[_Submit]:
    if execution.backend == "parsl":
        return _parsl(execution, folder.absolute(), workers)
    return _processes(workers or 1)


@contextmanager
def _processes(workers: int) -> Iterator[_Submit]:
    """Every task in a process of its own, so that one that is killed takes no other with it."""
    alive: set[Worker] = set()
    stopping = threading.Event()

    def work(*arguments: Any) -> Any:
        worker = Worker(_run_in_worker, arguments)
        alive.add(worker)
        if stopping.is_set():
            worker.terminate()
        try:
            return worker.wait()
        finally:
            alive.discard(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        yield lambda *arguments: pool.submit(work, *arguments)
    finally:
        stopping.set()
        for worker in list(alive):
            worker.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + _PATIENCE
        while alive and time.monotonic() < end:
            time.sleep(0.05)
        for worker in list(alive):
            worker.kill()
        pool.shutdown()


def _run_in_worker(
    payload: bytes, error_log: Path, report_file: Path, workers: int | None, report: Report
) -> Any:
    """`run_task` in a process of this machine; its progress goes through a file with Parsl, too."""
    return run_task(payload, error_log, report_file, workers)


@contextmanager
def _parsl(execution: ExecutionConfig, folder: Path, workers: int | None) -> Iterator[_Submit]:
    """Parsl's HighThroughputExecutor, with workers on this machine or in jobs of Slurm."""
    try:
        from parsl import Config, DataFlowKernel, HighThroughputExecutor, python_app
        from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
    except ImportError as error:
        raise ConfigError(
            "execution.backend: parsl is not installed; pip install 'openmm_cgkd[parsl]', or set"
            " backend: local."
        ) from error
    if any(letter.isspace() for letter in str(folder)):
        raise ConfigError(
            "execution.backend: parsl cannot work in a folder with blanks in its path, got"
            f" '{folder}'; choose another folder."
        )
    # started as modules: Parsl's own scripts are found only where the environment is activated
    python, modules = sys.executable, "parsl.executors.high_throughput"
    executor = HighThroughputExecutor(
        provider=_provider(execution.slurm),
        address=None if execution.slurm else "127.0.0.1",
        max_workers_per_node=workers,
        # a number of workers that is given is not cut to the number of cores
        cores_per_worker=1e-6 if workers else 1,
        available_accelerators=execution.accelerators,
        launch_cmd=DEFAULT_LAUNCH_CMD.replace(
            "process_worker_pool.py", f"{shlex.quote(python)} -m {modules}.process_worker_pool", 1
        ),
        interchange_launch_cmd=[python, "-c", _INTERCHANGE.format(f"{modules}.interchange")],
        heartbeat_period=5,  # seconds after which a killed worker is noticed
        heartbeat_threshold=60,  # seconds after which workers end that have lost their interchange
        encrypted=True,
    )
    logging.getLogger("parsl").propagate = False  # it logs into the folder
    kernel = DataFlowKernel(
        Config(executors=[executor], run_dir=str(folder / "parsl"), strategy_period=1)
    )
    try:
        yield python_app(run_task, data_flow_kernel=kernel)
    finally:
        kernel.cleanup()


def _provider(slurm: SlurmConfig | None) -> Any:
    from parsl.providers import LocalProvider, SlurmProvider

    if slurm is None:
        return LocalProvider()
    return SlurmProvider(
        partition=slurm.partition,
        account=slurm.account,
        walltime=slurm.walltime,
        max_blocks=slurm.jobs,
        cores_per_node=slurm.cores,
        exclusive=slurm.cores is None,
        scheduler_options="".join(f"#SBATCH {option}\n" for option in slurm.options),
        worker_init="\n".join(slurm.setup),
    )
