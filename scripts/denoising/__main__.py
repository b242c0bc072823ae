"""Does distillation denoise? Errors of teachers, students and direct force matching.

Errors are measured against forces without noise.

Known truth: frames of a fluid whose potential is known, with Gaussian noise on its forces; the
error against the number of frames; and, with --meanforce, ethaline against measured mean forces.
docs/denoising.md says how to read it. Writes results.csv, summary.csv and denoising.png into the
folder, prints tables and, as its last line, one JSON object. Interrupt it as you like: the same
command goes on.
"""

# Processes of the trainings import this package, too: nothing at the top of this file may load
# torch or OpenMM before they know their number of threads.

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.denoising",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="results and everything on the way"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="within a minute: one noise level, few epochs, two teachers, few frames",
    )
    parser.add_argument(
        "--meanforce",
        type=Path,
        metavar="FILE",
        help="mean-force frames of ethaline; without them that part is left out",
    )
    frames = ROOT / "systems" / "ethaline" / "frames.h5"
    parser.add_argument(
        "--frames",
        type=Path,
        metavar="FILE",
        default=frames,
        help="mapped frames of the same system (those of ethaline)",
    )
    return parser.parse_args(arguments)


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Do what is left and write the results.

    Raises
    ------
    ConfigError
        If the folder holds a benchmark of another extent.
    FramesError
        If mean forces or frames are missing or do not fit each other.
    ExecutionError
        If trainings failed.
    """
    from openmm_cgkd.frames.frames import read_frames
    from openmm_cgkd.mean_forces.file import read_mean_forces
    from openmm_cgkd.mean_forces.noise import noise_floor

    from .plan import FULL, QUICK, fluid_training_sets, known_training_sets
    from .report import read_rows, summarize, text, write_files
    from .training_sets import make_data, run_training_sets

    settings, folder = QUICK if given.quick else FULL, given.folder.resolve()
    refuse_other_settings(folder / "settings.json", asdict(settings))
    if given.meanforce is not None:
        # refuses what does not fit before any work
        noise_floor(read_frames(given.frames), read_mean_forces(given.meanforce))
    training_sets = known_training_sets(folder, *make_data(folder / "data", settings), settings)
    if given.meanforce is not None:
        training_sets += fluid_training_sets(
            folder, given.frames.resolve(), given.meanforce.resolve(), settings
        )
    run_training_sets(training_sets, folder)
    rows = read_rows(training_sets)
    summary = summarize(rows, settings, training_sets)
    write_files(folder, rows, summary, training_sets, settings)
    print(text(summary))
    if given.meanforce is None:
        print(
            "\nethaline: left out; give its mean-force frames with --meanforce FILE ('cgkd"
            " meanforce' makes them)."
        )
    if given.quick:
        print(
            "\nThis is a reduced run: few frames, few epochs, two teachers. Its numbers show that"
            " it runs, not what distillation does."
        )
    return summary


def refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    """Keep the extent of the benchmark in its folder."""
    from openmm_cgkd.exceptions import ConfigError
    from openmm_cgkd.utils.files import write_text

    wanted = json.dumps(settings, indent=1)
    if path.exists() and path.read_text() != wanted:
        raise ConfigError(
            f"--folder: {path.parent} holds a benchmark with other settings; choose another folder"
            " or remove that one."
        )
    write_text(path, wanted)


def main() -> None:
    given = parse_arguments()
    from openmm_cgkd.exceptions import CGKDError
    from openmm_cgkd.utils.lock import locked
    from openmm_cgkd.utils.progress import console

    handler = logging.StreamHandler(console.file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("openmm_cgkd").addHandler(handler)
    logging.getLogger("openmm_cgkd").setLevel(logging.INFO)
    try:
        with locked(given.folder):
            print(json.dumps(benchmark(given)))
    except CGKDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
