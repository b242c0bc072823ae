"""Damage real files of every kind that the package reads, and read them.

Each case must be refused with one clear sentence, or read as the original; files without a
checksum may also be read as something else that is finite and physical. Prints a table and, as its
last line, one JSON object; exits with 1 if something else happened. The same seed makes the same
files: --target NAME --seed S --first NUMBER --count 1 repeats a case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .originals import make_originals
from .targets import TARGETS, Target
from .worker import DIFFERENT, EQUAL, FORBIDDEN, REFUSED, Case, damaged, run_cases


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [target.name for target in TARGETS]
    parser.add_argument(
        "--target", action="append", metavar="NAME", choices=names,
        help=f"may be repeated; all if absent: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, help="cases of each target (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 cases of each target")
    parser.add_argument("--seconds", type=float, default=30.0, help="a longer case hangs (30)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="damaged files that were not refused rightly"
    )
    return parser.parse_args(arguments)


def keep(folder: Path, target: Target, data: bytes, case: Case, seed: int) -> None:
    """Write a damaged file and what was wrong with it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{target.name}-{seed}-{case.number}"
    (folder / f"{name}-{target.file}").write_bytes(damaged(target, data, seed, case.number))
    (folder / f"{name}.txt").write_text(f"{case.outcome}\n{case.detail}\n", errors="replace")


def fuzz(options: argparse.Namespace, folder: Path) -> dict[str, Counter[str]]:
    """Outcomes of all cases, by target."""
    targets = [each for each in TARGETS if not options.target or each.name in options.target]
    originals, counts = folder / "originals", {}
    # in a process of its own: a process in which OpenMM has computed cannot be forked
    maker = multiprocessing.get_context("fork").Process(
        target=make_originals, args=(originals, any(target.learned for target in targets))
    )
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("The original files could not be made.")
    count = 20 if options.quick else options.count
    for target in targets:
        counts[target.name], slowest, begin = Counter(), 0.0, time.monotonic()
        data = (originals / target.file).read_bytes()
        numbers = range(options.first, options.first + count)
        for case in run_cases(
            originals, folder / "case", target, options.seed, numbers, options.seconds
        ):
            counts[target.name][case.outcome] += 1
            slowest = max(slowest, case.seconds)
            if case.outcome in FORBIDDEN:
                last = (case.detail.strip().splitlines() or [""])[-1]
                print(f"{target.name} {case.number}: {case.outcome}: {last[:200]}", flush=True)
                if options.keep:
                    keep(options.keep, target, data, case, options.seed)
        print(
            f"{target.name}: {dict(counts[target.name])},"
            f" {count / (time.monotonic() - begin):.0f}/s, slowest {slowest:.1f} s",
            flush=True,
        )
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    columns = [REFUSED, EQUAL, DIFFERENT, *FORBIDDEN]
    rows = [["target", *columns]]
    rows += [[name, *(str(found[each]) for each in columns)] for name, found in counts.items()]
    total: Counter[str] = sum(counts.values(), Counter())
    rows.append(["all", *(str(total[each]) for each in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(options, Path(folder))
    total: Counter[str] = sum(counts.values(), Counter())
    forbidden = sum(total[each] for each in FORBIDDEN)
    print(table(counts))
    print(
        json.dumps(
            {
                "seed": options.seed,
                "first": options.first,
                "cases": total.total(),
                "forbidden": forbidden,
                "targets": {name: dict(found) for name, found in counts.items()},
            }
        )
    )
    return 1 if forbidden else 0


if __name__ == "__main__":
    sys.exit(main())
