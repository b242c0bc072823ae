"""All-atom model of a fluid against the literature: density, expansion, heat, structure.

For every temperature and box size: pack, anneal, NPT, then NVT frames at the mean density, by the
protocol of `cgkd reference`. On a CPU these runs go side by side, one on each core, which makes
more of the cores than one run after the other on all of them. Interrupt it as you like; the same
command resumes, and a finished run only writes the report again.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from itertools import combinations
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.config.execution import ExecutionConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.exceptions import CGKDError, ConfigError
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.utils.files import replacing, write_text
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.seeds import derived_seed
from openmm_cgkd.utils.yaml_file import read_yaml

from .results import (
    SERIES,
    Literature,
    Response,
    State,
    Value,
    block_means,
    load_literature,
    run_state,
)


def state_config(
    path: Path, temperature: float, pairs: int, times: dict[str, float]
) -> SystemConfig:
    """The fluid at one temperature (kelvin) with so many formula units; `times` of phases in ps."""
    load_system(path)  # says what is wrong with the file
    data = read_yaml(path, "a system.yaml", ConfigError)
    units = math.gcd(*(molecule["count"] for molecule in data["molecules"]))
    for molecule in data["molecules"]:
        molecule["count"] = molecule["count"] // units * pairs
    data["temperature"] = f"{temperature!r} kelvin"
    protocol = data.setdefault("reference", {})
    # every state from its own packing
    seed = derived_seed(protocol.get("seed", 1), f"{temperature} K, {pairs} pairs")
    times = times | {
        "nvt": min(10.0, times["npt"] / 10),
        "frame_interval": min(0.5, times["production"] / 50),
    }
    protocol.update({name: f"{value!r} picosecond" for name, value in times.items()}, seed=seed)
    return parse(SystemConfig, data, path, path.parent)


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def density_table(states: list[State], literature: Literature) -> str:
    header = ["temperature, K", "ion pairs", "NPT, ps", "density, g/cm^3", "drift per 100 ps"]
    header += [f"{each.label} (deviation)" for each in literature.density]
    rows = []
    for state in states:
        known = [each.at(state.temperature) for each in literature.density]
        compared = [
            f"{value:.4f} ({100 * (state.density.mean / value - 1):+.1f} %)" for value in known
        ]
        numbers = [
            f"{state.temperature:g}",
            state.pairs,
            f"{state.length:g}",
            state.density,
            state.density_drift,
        ]
        rows.append([*numbers, *compared])
    return table(header, rows)


def response_table(responses: list[Response], literature: Literature) -> str:
    rows = []
    for each in responses:
        between = (
            f"{each.cold.temperature:g} to {each.hot.temperature:g} K, {each.hot.pairs} ion pairs"
        )
        expansion = Value(1e4 * each.expansion.mean, 1e4 * each.expansion.error)
        known = "; ".join(
            f"{1e4 * each.literature_expansion(d):.2f} ({d.label})" for d in literature.density
        )
        rows.append([f"thermal expansion, {between}", "1e-4/K", expansion, known])
        known = "; ".join(f"{c.value:g} ({c.label})" for c in literature.heat_capacity) or "-"
        rows.append([f"heat capacity, {between}", "J/g/K", each.heat_capacity, known])
    return table(["property", "unit", "this model", "literature"], rows)


def enthalpy_table(states: list[State]) -> str:
    rows = [[f"{s.temperature:g}", s.pairs, s.enthalpy, s.enthalpy_drift] for s in states]
    return table(
        ["temperature, K", "ion pairs", "enthalpy, kJ per mole of ion pairs", "drift per 100 ps"],
        rows,
    )


def peak_table(states: list[State], literature: Literature) -> str:
    known = {tuple(sorted(peak.pair)): peak for peak in literature.peaks}
    rows = []
    for pair in states[0].peaks:
        peak = known.get(pair)
        about = f"{peak.position:.3f} ({peak.cited})" if peak else "-"
        found = [state.peaks[pair] for state in states]
        rows.append(
            [
                "-".join(pair),
                *(value if math.isfinite(value.mean) else "none" for value in found),
                about,
            ]
        )
    return table(["pair", *(f"{state.name}, nm" for state in states), "literature, nm"], rows)


def series_table(states: list[State]) -> str:
    rows = []
    for state in states:
        for what, series, digits in (
            ("density", state.density_series, 4),
            ("enthalpy", state.enthalpy_series, 2),
        ):
            rows.append(
                [
                    f"{state.name}: {what}",
                    *(f"{mean:.{digits}f}" for mean in block_means(series, SERIES)),
                ]
            )
    return table(["tenths of the NPT run", *map(str, range(1, SERIES + 1))], rows)


def size_table(states: list[State]) -> str:
    rows = []
    for small, large in combinations(sorted(states, key=lambda state: state.pairs), 2):
        if small.temperature == large.temperature and small.pairs < large.pairs:
            error = math.hypot(small.density.error, large.density.error)
            known = small.density.plateau and large.density.plateau
            difference = Value(large.density.mean - small.density.mean, error, known)
            rows.append(
                [
                    f"{small.temperature:g}",
                    f"{small.pairs} to {large.pairs}",
                    difference,
                    f"{'' if known else 'at most '}{abs(difference.mean) / error:.1f}",
                ]
            )
    return table(
        ["temperature, K", "ion pairs", "change of density, g/cm^3", "in standard errors"], rows
    )


def draw(path: Path, states: list[State], literature: Literature) -> None:
    """Density and enthalpy over time: every row faint, block means bold, the literature dashed."""
    figure = Figure(figsize=(9, 3.2 * len(states)), layout="constrained")
    FigureCanvasAgg(figure)
    for state, (left, right) in zip(
        states, figure.subplots(len(states), 2, squeeze=False), strict=True
    ):
        for axis, series, label in (
            (left, state.density_series, "density, g/cm³"),
            (right, state.enthalpy_series, "enthalpy, kJ per mole of ion pairs"),
        ):
            axis.plot(state.time, series, color="0.75", linewidth=0.8)
            axis.plot(
                block_means(state.time, SERIES), block_means(series, SERIES), "o-", color="#D55E00"
            )
            axis.axvspan(0, state.time[len(state.time) // 3], color="0.93", zorder=0)
            axis.set(xlabel="time of NPT, ps", ylabel=label, title=state.name)
        for each in literature.density:
            left.axhline(each.at(state.temperature), color="black", linestyle="--", linewidth=1)
    with replacing(path) as fresh:
        figure.savefig(fresh, dpi=120, format="png")


def report(config: SystemConfig, states: list[State], literature: Literature, command: str) -> str:
    """The text of validation.md."""
    sizes = sorted({state.pairs for state in states})
    by_size = [
        sorted((s for s in states if s.pairs == n), key=lambda s: s.temperature) for n in sizes
    ]
    responses = [Response(same[0], same[-1]) for same in by_size if len(same) > 1]
    parts = [
        f"# Validation of {config.name}\n",
        f"Written by\n\n    {command}\n",
        (
            "Each line is one trajectory from its own packing. The first third of NPT is"
            " discarded; standard errors, in brackets in units\nof the last digit, are from blocks"
            " of the rest as long as its correlation asks for; >= if the run is too short for\n"
            "that, so that the error is a lower bound. Drift is the slope through the rest: above"
            " about three of its errors\nthe run is not equilibrated.\n"
        ),
        "## Density\n",
        density_table(states, literature),
        *(f"- density, {each.cited}" for each in literature.density),
    ]
    if responses:
        parts += [
            "\n## Thermal expansion and heat capacity\n",
            response_table(responses, literature),
        ]
        parts += [f"- heat capacity, {each.cited}" for each in literature.heat_capacity]
        parts += [
            "\nThe model is classical: every bond and angle that is not constrained takes up its"
            " full share of heat, so its heat capacity\nlies above the measured one, and the"
            " difference says little about the forces between molecules. Thermal expansion has"
            " no\nsuch flaw."
        ]
    parts += ["\n## Enthalpy\n", enthalpy_table(states)]
    parts += [
        "## Structure\n",
        ("First peaks of g(r) between centres of mass, NVT at the mean density.\n"),
    ]
    parts += [peak_table(states, literature)]
    if len(sizes) > 1:
        parts += ["## Box size\n", size_table(states)]
    parts += [
        "## Equilibration\n",
        series_table(states),
        "![Density and enthalpy over time](validation.png)",
    ]
    return "\n".join(parts) + "\n"


def run_all(runs: dict[str, tuple[SystemConfig, Path]], folder: Path, at_once: int | None) -> None:
    """Run what is not finished.

    One after the other on all cores, or side by side with a share of the cores each.
    """
    if at_once == 1:
        for run in runs.values():
            run_reference(*run)
        return
    left = {name: run for name, run in runs.items() if not (run[1] / "production.xml").exists()}
    with progress("fluids", len(runs), "states", done := len(runs) - len(left)) as meter:

        def count(*_: object) -> None:
            nonlocal done
            meter.update(done := done + 1)

        map_tasks(run_state, left, ExecutionConfig(), folder, at_once, on_result=count)


def validate(
    path: Path,
    wanted: list[tuple[int, float]],
    times: dict[str, float],
    folder: Path,
    command: str,
    at_once: int | None,
) -> list[State]:
    """Run all states (ion pairs, kelvin), `at_once` at a time.

    Writes ``validation.md`` and ``validation.png`` into `folder`.
    """
    literature = load_literature(path.parent / "literature.yaml")
    runs = {}
    for pairs, temperature in dict.fromkeys(wanted):
        config = state_config(path, temperature, pairs, times)
        name = f"{pairs}-{temperature:g}K"
        print(
            f"{name}: {sum(m.count for m in config.molecules)} molecules at {temperature:g} K",
            file=sys.stderr,
            flush=True,
        )
        runs[name] = (config, folder / name, pairs)
    run_all(
        {name: (config, here.resolve()) for name, (config, here, _) in runs.items()},
        folder,
        at_once,
    )
    states = [State(*run) for run in runs.values()]
    draw(folder / "validation.png", states, literature)
    text = report(load_system(path), states, literature, command)
    write_text(folder / "validation.md", text)
    print(text)
    return states


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fluids", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "system", type=Path, help="system.yaml of the fluid; literature.yaml stands beside it"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        action="append",
        required=True,
        help="kelvin; two give expansion and heat capacity",
    )
    parser.add_argument(
        "--ion-pairs",
        type=int,
        action="append",
        help="box size in formula units (30); two check the box size",
    )
    parser.add_argument(
        "--check-size",
        type=int,
        action="append",
        default=[],
        help="another box size, at the first temperature alone",
    )
    parser.add_argument(
        "--annealing",
        type=float,
        help="length of NPT at the annealing temperature before, ps (that of the system file)",
    )
    parser.add_argument("--npt", type=float, default=200.0, help="length of NPT, ps (200)")
    parser.add_argument(
        "--production", type=float, default=100.0, help="length of NVT for g(r), ps (100)"
    )
    parser.add_argument("--folder", type=Path, required=True, help="runs and report")
    parser.add_argument(
        "--at-once",
        type=int,
        help="runs at a time, each with its share of the cores (one per core; 1 on a GPU)",
    )
    given = parser.parse_args()
    if given.at_once is not None and given.at_once < 1:
        parser.error(f"--at-once: got {given.at_once}; give a number of at least 1.")
    try:
        command = shlex.join(["python", "-m", "scripts.fluids", *sys.argv[1:]])
        states = [
            (pairs, temperature)
            for pairs in given.ion_pairs or [30]
            for temperature in given.temperature
        ]
        states += [(pairs, given.temperature[0]) for pairs in given.check_size]
        times = {
            name: getattr(given, name)
            for name in ("annealing", "npt", "production")
            if getattr(given, name) is not None
        }
        with locked(given.folder):
            validate(given.system, states, times, given.folder, command, given.at_once)
    except CGKDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
