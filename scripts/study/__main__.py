"""Reproduce the study of arXiv:2510.26650 on the frames of a fluid, with standard deviations.

Direct force matching, distillation from one teacher and from the ensemble with three kinds of
labels each, and the ensemble itself as a committee; with --ablation one setting changed at a time.
Interrupt it as you like: the same command goes on.
"""

# Processes of the variant runs import this package, too: nothing at the top of this file may load
# torch, OpenMM or numba before they know their number of threads.

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what is not given is None, so that configuration files can say it."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--system",
        type=Path,
        default=ROOT / "systems" / "ethaline",
        help="folder of the fluid (ethaline)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="mapped frames (frames.h5 in the folder of the fluid)",
    )
    parser.add_argument(
        "--mean-forces",
        type=Path,
        metavar="FILE",
        help="mean-force frames (mean_forces.h5 there, if it exists)",
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="results and everything on the way"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="sections of a run.yaml that replace the study's, such as execution",
    )
    parser.add_argument(
        "--ablation",
        choices=["direct", "distilled"],
        help="one setting changed at a time, in place of the variants",
    )
    parser.add_argument(
        "--sizes",
        action="store_true",
        help="students of many sizes of four big teachers, in place of the variants",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these variants or experiments alone"
    )
    parser.add_argument("--seeds", type=_positive, help="independent trainings of everything (3)")
    parser.add_argument("--teachers", type=_positive, help="members of an ensemble (8)")
    parser.add_argument("--epochs", type=_positive, help="of every training (3)")
    parser.add_argument("--channels", type=_positive, help="of every network (24)")
    parser.add_argument(
        "--frames", type=_positive, metavar="NUMBER", help="evenly spaced frames for training (all)"
    )
    parser.add_argument(
        "--md-time",
        metavar="TIME",
        help=(
            "simulation of every variant, '100 picosecond' by default; a quarter for the committee"
        ),
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=math.inf,
        help="nothing new begins after so many hours; 0 only reports",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="everything as small as can be, within minutes: proves that it runs",
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="copy tables, pictures and configuration there",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, at least 1 is needed")
    return value


def main() -> None:
    """Do what is left of the study, then write its report."""
    given = parse_arguments()
    from openmm_cgkd.exceptions import CGKDError
    from openmm_cgkd.utils.lock import locked

    from .run import run_study

    logger, handler = logging.getLogger("openmm_cgkd"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with locked(given.folder):
            left = run_study(given)
    except CGKDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    finally:
        logger.removeHandler(handler)
    if left:
        print(f"{left} variant runs are left; the same command goes on with them", file=sys.stderr)


if __name__ == "__main__":
    main()
