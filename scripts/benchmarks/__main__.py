"""Measure speed and memory: of dynamics on a CPU or a GPU, of mapping, or of training."""

from __future__ import annotations

import argparse
import importlib

# modules of this folder; imported only when chosen, after their processes know their threads
BENCHMARKS = {
    "runtime": "dynamics on a CPU, against torchmd-net's script, all-atom and an ensemble",
    "gpu": "evaluation and dynamics on an NVIDIA GPU, against all-atom",
    "reporter": "mapping: reporter, import of a trajectory, memory of a long file",
    "training": "a training step, against torchmd-net's own",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks",
        description=__doc__,
        epilog="\n".join(f"  {name:<10}{what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, help="what to measure, see below")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="of the benchmark; --help lists them"
    )
    given = parser.parse_args()
    importlib.import_module(f"scripts.benchmarks.{given.benchmark}").main(given.options)


if __name__ == "__main__":
    main()
