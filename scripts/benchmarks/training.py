"""Speed and memory of a training step against torchmd-net's own; two members side by side.

Both implementations train the same network on the same batches of the shipped ethaline frames under
Lightning: data, forward, force loss, backward, clipping, optimiser. Their losses must agree step by
step, or there is no result. Each is a process of its own; they take turns. Prints a table and,
as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRAMES = ROOT / "systems" / "ethaline" / "frames.h5"
CHANNELS, CUTOFF, BATCH, SEED = 64, 1.0, 4, 1
IMPLEMENTATIONS = ("torchmd-net", "openmm_cgkd")
# the learning rate rises all the time, as both implementations can do
RATE, WARM_UP, CLIP, EPOCHS = 1e-3, 0.5, 1.0, 4


class Rounds:
    """Called after every batch; times rounds of so many steps.

    Each begins as soon as `wait` returns. The first round warms up.
    """

    def __init__(self, steps: int, wait: Callable[[], None], done: Callable[[float], None]) -> None:
        self._steps, self._left, self._wait, self._done = steps, steps, wait, done
        self._begin: float | None = None

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left:
            return
        if self._begin is not None:
            self._done((time.perf_counter() - self._begin) / self._steps)
        self._wait()
        self._left, self._begin = self._steps, time.perf_counter()


class _EnoughError(Exception):
    """Ends a training."""


def package_task(folder: Path, batches: int):
    """Force matching on shipped frames, as a teacher does it."""
    import numpy as np

    from openmm_cgkd.config.run import ModelConfig, PriorConfig, TrainingConfig
    from openmm_cgkd.frames.frames import read_frames
    from openmm_cgkd.potential.prior import fit_prior
    from openmm_cgkd.training.graphs import FrameGraphs
    from openmm_cgkd.training.targets import mapped_targets, target_variances
    from openmm_cgkd.training.task import FORCES_ONLY, TrainingTask

    frames = read_frames(FRAMES)
    prior = fit_prior(frames, PriorConfig())
    graphs = FrameGraphs(frames[: BATCH * (batches + 1)], CUTOFF, prior)
    targets, chosen = mapped_targets(graphs), np.arange(BATCH * batches)
    return TrainingTask(
        folder=folder,
        graphs=graphs,
        targets=targets,
        training=chosen,
        validation=np.arange(BATCH * batches, len(graphs)),
        variances=target_variances(targets, chosen),
        model=ModelConfig(channels=CHANNELS, layers=1, cutoff=f"{CUTOFF} nm"),
        weights=FORCES_ONLY,
        settings=TrainingConfig(
            epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, warm_up=WARM_UP, gradient_clip=CLIP
        ),
        seed=SEED,
        fingerprint="benchmark",
        identity=graphs.frames.identity,
        metadata={},
    )


def train_with_package(
    folder: Path, batches: int, after_batch: Callable, losses: list[float]
) -> None:
    from openmm_cgkd.training import lightning_module as module
    from openmm_cgkd.training.fit import fit

    _record(module.NetworkFit, losses)
    fit(package_task(folder, batches), after_batch)


def train_with_torchmdnet(
    folder: Path, batches: int, after_batch: Callable, losses: list[float]
) -> None:
    """torchmd-net's LNNP with its own batches, its own network and its own neighbour search."""
    import lightning
    import torch
    import warp
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    warp.config.log_level = warp.LOG_WARNING
    from torchmdnet.module import LNNP

    from openmm_cgkd.potential.network import network_arguments
    from openmm_cgkd.training.batches import JointBatches
    from openmm_cgkd.training.graphs import thermal_energy

    task = package_task(folder, batches)  # for frames and targets alone
    frames = task.graphs.frames
    types = torch.from_numpy(frames.beads.types).long()
    data = []
    for k in task.training:
        box = torch.from_numpy(frames.box[k : k + 1]).float()
        forces, positions = (
            torch.from_numpy(values[k]).float()
            for values in (task.targets.forces, frames.positions)
        )
        data.append(Data(z=types, pos=positions, neg_dy=forces, box=box))
    steps = EPOCHS * batches
    arguments = network_arguments(task.model, len(frames.beads.type_names)) | {
        "derivative": True,
        "load_model": None,
        "remove_ref_energy": False,
        "lr": RATE,
        "weight_decay": task.settings.weight_decay,
        "lr_warmup_steps": round(WARM_UP * steps),
        "lr_factor": 0.8,
        "lr_patience": 10,
        "lr_min": 1e-7,
        "y_weight": 0.0,
        "neg_dy_weight": 1 / task.variances.force,
        "ema_alpha_y": 1.0,
        "ema_alpha_neg_dy": 1.0,
        "train_loss": "mse_loss",
    }
    torch.manual_seed(SEED)
    module = LNNP(arguments, std=torch.tensor(thermal_energy(frames)))
    _record(LNNP, losses)

    class Pace(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            after_batch()

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        gradient_clip_val=CLIP,
        callbacks=[Pace()],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(data, batch_sampler=JointBatches(len(data), BATCH, SEED)))


def _record(module: type, losses: list[float]) -> None:
    """Keep the losses of all training steps."""
    step = module.training_step

    def recorded(self, batch, index):
        loss = step(self, batch, index)
        losses.append(loss.item())
        return loss

    module.training_step = recorded


def child(implementation: str, rounds: int, steps: int) -> None:
    """Train, one round for every line of standard input.

    Prints its seconds per step, and at the end losses and peak memory.
    """
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    losses: list[float] = []

    def wait() -> None:
        print("ready", flush=True)
        if not sys.stdin.readline():
            raise _EnoughError

    train = train_with_package if implementation == "openmm_cgkd" else train_with_torchmdnet
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(
                Path(folder),
                (rounds + 1) * steps + 1,
                Rounds(steps, wait, lambda seconds: print(seconds, flush=True)),
                losses,
            )
        except _EnoughError:
            # the high-water mark of this program alone; getrusage would count the process that
            # started it
            status = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
            )
            print(
                json.dumps({"losses": losses, "peak": int(status["VmHWM"].split()[0]) / 1024}),
                flush=True,
            )


class TrainingProcess:
    """One implementation of the step, in a process with so many threads."""

    def __init__(self, name: str, threads: int, rounds: int, steps: int) -> None:
        self.name = name
        names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")
        command = [
            sys.executable,
            "-m",
            "scripts.benchmarks.training",
            "--child",
            name,
            "--rounds",
            str(rounds),
            "--steps",
            str(steps),
        ]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def read(self) -> str:
        """Next line that the process prints."""
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.wait()
            self._log.seek(0)
            sys.exit(f"error: training with {self.name} failed:\n{self._log.read()[-2000:]}")
        return line

    def round(self) -> float:
        """Seconds per step of the next round."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds = float(self.read())
        self.read()  # ready
        return seconds

    def finish(self) -> dict:
        self._process.stdin.close()
        result = json.loads(self.read())
        self._process.wait()
        return result


def compare_steps(
    threads: int, rounds: int, steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds per step and peak memory (MB) of both implementations.

    Refuses to compare where their losses differ.
    """
    processes = [TrainingProcess(name, threads, rounds, steps) for name in IMPLEMENTATIONS]
    times: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for process in processes:
        process.read()  # ready
    for _ in range(rounds):
        for process in processes:
            times[process.name].append(process.round())
    results = {process.name: process.finish() for process in processes}
    pairs = list(zip(*(results[name]["losses"] for name in IMPLEMENTATIONS), strict=True))
    worst = max(abs(one / other - 1) for one, other in pairs)
    first = abs(pairs[0][0] / pairs[0][1] - 1)
    if first > 1e-5 or worst > 1e-3:  # rounding grows with every step of the optimiser
        sys.exit(
            "error: the two implementations do different work: their losses differ by"
            f" {first:.1e} at first and {worst:.1e} later."
        )
    return {name: statistics.median(times[name]) for name in IMPLEMENTATIONS}, {
        name: results[name]["peak"] for name in IMPLEMENTATIONS
    }


def member(
    k: int, rounds: int, steps: int, meeting: Path, report: Callable
) -> dict[str, list[float]]:
    """A task of `map_tasks`: train, in turn alone (the first member) and beside the other one.

    Returns seconds per step.
    """
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    times: dict[str, list[float]] = {"alone": [], "together": []}
    kinds = ["alone", "together"] * rounds
    turn = iter(range(2 * rounds + 1))
    current: list[str] = []

    def meet(name: str) -> None:
        (meeting / f"{name}-{k}").touch()
        while not all((meeting / f"{name}-{other}").exists() for other in (0, 1)):
            time.sleep(0.01)

    def wait() -> None:
        while True:
            now = next(turn)
            meet(str(now))
            if now == 2 * rounds:
                raise _EnoughError
            if kinds[now] == "together" or k == 0:
                current[:] = [kinds[now]]
                return

    batches = (2 * rounds + 1) * steps + 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            train_with_package(
                Path(folder),
                batches,
                Rounds(steps, wait, lambda seconds: times[current[0]].append(seconds)),
                [],
            )
        except _EnoughError:
            return times
    raise RuntimeError("the training ended too early")


def member_scaling(rounds: int, steps: int) -> tuple[float, float]:
    """Median seconds per step of one member alone, and of each of two on one core each."""
    from openmm_cgkd.config.execution import ExecutionConfig
    from openmm_cgkd.execution.tasks import map_tasks

    with tempfile.TemporaryDirectory() as name:
        meeting = Path(name) / "meeting"
        meeting.mkdir()
        tasks = {f"member-{k}": (k, rounds, steps, meeting) for k in (0, 1)}
        found = map_tasks(member, tasks, ExecutionConfig(retries=0), Path(name), 2).values()
    alone = statistics.median(seconds for times in found for seconds in times["alone"])
    return alone, statistics.median(seconds for times in found for seconds in times["together"])


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks training", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="within a minute: fewer rounds, one core"
    )
    parser.add_argument("--child", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.child:
        child(arguments.child, arguments.rounds, arguments.steps)
        return
    rounds, steps = (3, 2) if arguments.quick else (7, 4)
    cores = len(os.sched_getaffinity(0))
    print(
        f"ethaline, 240 beads, batch {BATCH}, {CHANNELS} channels, 1 layer, cutoff {CUTOFF} nm;"
        f" load {os.getloadavg()[0]:.1f}"
    )
    print(f"  {'training step':<28}" + "".join(f"{name:>14}" for name in IMPLEMENTATIONS))
    speedups = []
    for threads in [1] if arguments.quick else sorted({1, cores}):
        seconds, peaks = compare_steps(threads, rounds, steps)
        speedups.append(seconds[IMPLEMENTATIONS[0]] / seconds[IMPLEMENTATIONS[1]])
        print(
            f"  {f'{threads} cores, ms':<28}"
            + "".join(f"{1e3 * seconds[name]:14.0f}" for name in IMPLEMENTATIONS)
            + f"   {speedups[-1]:.2f} x"
        )
        if threads == 1:
            memory = peaks
    print(
        f"  {'peak memory, 1 core, MB':<28}"
        + "".join(f"{memory[name]:14.0f}" for name in IMPLEMENTATIONS)
    )
    result = {
        "step_speedup_vs_lnnp": min(speedups),
        "peak_memory_ratio": memory[IMPLEMENTATIONS[1]] / memory[IMPLEMENTATIONS[0]],
        "cores": cores,
    }
    if cores > 1:
        alone, together = member_scaling(rounds, steps)
        print(
            f"  one member alone {1e3 * alone:.0f} ms per step, two side by side"
            f" {1e3 * together:.0f} ms each: {2 * alone / together:.2f} x"
        )
        result["two_member_scaling"] = 2 * alone / together
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
