"""`cgkd`: parse, call one function, print; no science in it.

The stages are imported inside the commands, after the configuration has been read: they load torch
and OpenMM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from openmm_cgkd.config.run import RunConfig, load_run, load_system
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.utils.units import to_float

from .base import Command, CommandGroup, StageCommand

app = typer.Typer(
    cls=CommandGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.yaml", help="What to do; see docs/formats.md.", show_default=False),
]
RunOrFluid = Annotated[
    Path,
    typer.Argument(
        metavar="RUN.yaml|FLUID",
        help="What to do; or a fluid of systems/ that has a student, 'ethaline'.",
        show_default=False,
    ),
]
SystemFile = Annotated[
    Path,
    typer.Argument(
        metavar="SYSTEM.yaml", help="The fluid; see docs/formats.md.", show_default=False
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Results go here instead of the folder named in RUN.yaml.",
        show_default=False,
    ),
]


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from openmm_cgkd.simulation.engines import stack_report

    for name, state in stack_report().items():
        typer.echo(f"{name:<14} {state}")
    raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show versions, platforms and the state of the stack.",
        ),
    ] = False,
) -> None:
    """Coarse-grained force fields by knowledge distillation, run inside OpenMM.

    Every stage logs into the run folder, skips finished work and resumes interrupted work.
    Quantities in YAML files carry a unit.
    """


def _open_run(ctx: typer.Context, path: Path, folder: Path | None) -> RunConfig:
    run = load_run(path)
    if folder is not None:
        run = run.model_copy(update={"folder": folder.absolute()})
    if run.run_folder.exists() and not run.run_folder.is_dir():
        raise ConfigError(
            f"{path}: folder: {run.run_folder} is a file; name a folder for the results."
        )
    ctx.obj["folder"] = run.run_folder
    return run


SYSTEMS = Path(__file__).resolve().parents[2] / "systems"  # the fluids that come with the package
_SIMULATION = "simulate.yaml"  # of a fluid that comes with a student


def _shipped(name: str | Path) -> Path:
    """The simulation of a fluid that comes with the package, by its name; or the path itself."""
    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path / _SIMULATION if path.is_dir() else path
    if (SYSTEMS / path / _SIMULATION).exists():
        return SYSTEMS / path / _SIMULATION
    known = (
        ", ".join(sorted(file.parent.name for file in SYSTEMS.glob(f"*/{_SIMULATION}"))) or "none"
    )
    raise ConfigError(
        f"{name}: no such file, and no fluid that comes with a student ({known}); give the path of"
        " a run.yaml."
    )


def _setting(meaning: str) -> Any:
    return typer.Option(help=meaning, show_default=False)


def _command(name: str) -> Any:
    return app.command(name, cls=StageCommand)


@_command("reference")
def _reference(
    ctx: typer.Context,
    system: SystemFile,
    folder: Annotated[
        Path,
        typer.Option(
            "--folder", help="Box, states, logs and frames.h5 go here.", show_default=False
        ),
    ],
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            help="Put atoms back on the last of these mapped frames instead of packing a box.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Simulate the fluid all-atom and write mapped frames: pack, minimise, anneal, NPT, NVT."""
    config = load_system(system)
    ctx.obj["folder"] = folder.absolute()
    from openmm_cgkd.allatom.run import run_reference

    typer.echo(run_reference(config, folder, start))


@_command("meanforce")
def _meanforce(
    ctx: typer.Context,
    system: SystemFile,
    trajectory: Annotated[
        Path,
        typer.Argument(
            help="All atoms, such as production.xtc of 'cgkd reference'.", show_default=False
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option("--folder", help="Estimates and mean_forces.h5 go here.", show_default=False),
    ],
    frames: Annotated[
        int, typer.Option("--frames", min=2, help="Configurations, evenly spaced.")
    ] = 20,
    last: Annotated[
        float,
        typer.Option(
            "--last", min=0, max=1, help="They come from this last share of the trajectory."
        ),
    ] = 0.1,
) -> None:
    """Average the forces on beads that are held: the mean force that models ought to learn,
    free of mapping noise.
    """
    config = load_system(system)
    ctx.obj["folder"] = folder.absolute()
    from openmm_cgkd.mean_forces.estimate import run_mean_forces

    typer.echo(run_mean_forces(config, trajectory, folder, frames, last))


@app.command("noise", cls=Command)
def _noise(
    ctx: typer.Context,
    frames: Annotated[Path, typer.Argument(help="Mapped frames.", show_default=False)],
    mean_forces: Annotated[
        Path,
        typer.Option(
            "--meanforce", help="Mean-force frames of the same fluid.", show_default=False
        ),
    ],
) -> None:
    """Show how much of the mapped forces is noise that no model can learn."""
    from openmm_cgkd.frames.frames import read_frames
    from openmm_cgkd.mean_forces.file import read_mean_forces
    from openmm_cgkd.mean_forces.noise import noise_floor

    table = Table(
        title="variance per force component, (kJ/mol/nm)^2",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for title in ("beads", "labels", "mean force", "noise", "share of the loss that stays"):
        table.add_column(title, justify="left" if title == "beads" else "right")
    for floor in noise_floor(read_frames(frames), read_mean_forces(mean_forces)):
        mean_force = f"{floor.mean_force:.0f} +- {floor.mean_force_error:.0f}"
        table.add_row(
            floor.name,
            f"{floor.label:.0f}",
            mean_force,
            f"{floor.noise:.0f}",
            f"{floor.share:.3f} +- {floor.share_error:.3f}",
        )
    Console().print(table)


@_command("map")
def _map(
    ctx: typer.Context,
    trajectory: Annotated[
        Path,
        typer.Argument(
            help=(
                "All atoms with positions and forces: .trr, Amber .nc, .h5md, LAMMPS .dump or"
                " .lammpstrj."
            ),
            show_default=False,
        ),
    ],
    topology: Annotated[
        Path,
        typer.Argument(
            help="Names and residues of the same atoms: PDB, GRO or TPR.", show_default=False
        ),
    ],
    system: Annotated[
        Path, typer.Option("--system", help="system.yaml of the fluid.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", help="File of mapped frames.")] = Path(
        "frames.h5"
    ),
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping",
            help="Mapping file of OpenMSCG's cgmap, in place of the beads of system.yaml.",
            show_default=False,
        ),
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            "--units",
            help="LAMMPS dumps: unit style of the run, real, metal, electron or si.",
            show_default=False,
        ),
    ] = None,
    timestep: Annotated[
        str | None,
        typer.Option(
            "--timestep",
            help="LAMMPS dumps without times: the time step, '1 femtosecond'.",
            show_default=False,
        ),
    ] = None,
    thin: Annotated[
        bool,
        typer.Option(
            "--thin", help="Keep only frames that are independent by the force autocorrelation."
        ),
    ] = False,
) -> None:
    """Map an existing all-atom trajectory with forces onto beads."""
    config = load_system(system)
    try:
        step = None if timestep is None else to_float(timestep, "picosecond")
    except ValueError as error:
        raise ConfigError(f"--timestep: {error}.") from error
    from openmm_cgkd.allatom.import_trajectory import map_trajectory

    typer.echo(
        map_trajectory(
            config,
            trajectory,
            topology,
            output,
            units=units,
            timestep=step,
            mapping=mapping,
            thin=thin,
        )
    )


@app.command("verify", cls=Command)
def _verify(
    ctx: typer.Context,
    frames: Annotated[Path, typer.Argument(help="Mapped frames.", show_default=False)],
    repair: Annotated[
        bool, typer.Option("--repair", help="Save the whole frames of a file whose tail is torn.")
    ] = False,
    thin: Annotated[
        Path | None,
        typer.Option(
            "--thin",
            help="Write the frames that are independent by the force autocorrelation to this file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a file of mapped frames from end to end and show what it holds."""
    from openmm_cgkd.frames.thinning import thin_frames
    from openmm_cgkd.frames.verify import verify_frames

    report = thin_frames(frames, thin, repair) if thin else verify_frames(frames, repair)
    for label, value in report.rows():
        typer.echo(f"{label:<24} {value}")


@_command("teach")
def _teach(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the teachers: an ensemble of networks that match the noisy mapped forces."""
    config = _open_run(ctx, run, folder)
    from openmm_cgkd.stages.teach import train_teachers

    for path in train_teachers(config):
        typer.echo(path)


@_command("label")
def _label(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Label the frames with the teachers: mean forces, centred per-bead energies and their
    spread.
    """
    config = _open_run(ctx, run, folder)
    from openmm_cgkd.stages.label import label_frames

    typer.echo(label_frames(config))


@_command("distill")
def _distill(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the student on the labels."""
    config = _open_run(ctx, run, folder)
    from openmm_cgkd.stages.workflow import distill

    typer.echo(distill(config))


@_command("export")
def _export(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Write the student as TorchScript files that OpenMM can run: student.pt, which needs torch
    alone, and student-fast.pt.
    """
    config = _open_run(ctx, run, folder)
    from openmm_cgkd.potential.export import export_student

    typer.echo(export_student(config))


@_command("simulate")
def _simulate(ctx: typer.Context, run: RunOrFluid, folder: FolderOption = None) -> None:
    """Run coarse-grained Langevin dynamics with the exported student of a run, or with the one
    that a fluid comes with.
    """
    config = _open_run(ctx, _shipped(run), folder)
    from openmm_cgkd.simulation.dynamics import simulate

    typer.echo(simulate(config))


@app.command("timestep", cls=Command)
def _timestep(
    student: Annotated[
        Path, typer.Argument(help="Potential file of 'cgkd export'.", show_default=False)
    ],
    frames: Annotated[
        Path | None,
        _setting(
            "Mapped frames to start from; those of the run.yaml beside the potential if absent."
        ),
    ] = None,
    timestep: Annotated[
        list[str] | None,
        _setting("Time step to try, repeatable; default '2 fs' to '14 fs', every second."),
    ] = None,
    nve: Annotated[
        str | None,
        _setting("Duration at constant energy; default '4 ps', from each of four starts."),
    ] = None,
    nvt: Annotated[
        str | None,
        _setting("Duration of Langevin dynamics; default: long enough for the temperature."),
    ] = None,
    friction: Annotated[str | None, _setting("Default '1 / ps'.")] = None,
    max_drift: Annotated[
        float | None, _setting("Energy drift allowed, kT/ns per bead; default 1.")
    ] = None,
    max_temperature_error: Annotated[
        float | None, _setting("Relative error of the kinetic temperature allowed; default 0.02.")
    ] = None,
    max_energy_error: Annotated[
        float | None, _setting("Change of mean potential energy allowed, kT per bead; default 0.1.")
    ] = None,
    platform: Annotated[str | None, _setting("OpenMM platform; the fastest one if absent.")] = None,
    seed: Annotated[int, typer.Option()] = 1,
    validate: Annotated[
        bool, typer.Option("--validate", help="Also compare RDFs with those at half the time step.")
    ] = False,
) -> None:
    """Find the longest time step that conserves energy and keeps temperature and averages;
    'cgkd simulate' uses it by default.
    """
    from openmm_cgkd.simulation.timestep.search import (
        TimestepSearch,
        frames_of,
        read_recommendation,
        search_timestep,
    )

    bounds = {
        "max_drift": max_drift,
        "max_temperature_error": max_temperature_error,
        "max_energy_error": max_energy_error,
    }
    options = {
        "timesteps": timestep or None,
        "nve": nve,
        "nvt": nvt,
        "friction": friction,
        "platform": platform,
        "seed": seed,
    }
    search = TimestepSearch.of(**options, **bounds, validate_structure=validate)
    path = search_timestep(student, frames_of(student, frames), search)
    typer.echo(f"{read_recommendation(student) * 1e3:g} fs  {path}")


@_command("compare")
def _compare(
    ctx: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]RUN",
            help="One run.yaml or fluid; or, with --against, any number.",
            show_default=False,
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="All-atom: mapped frames, or a trajectory.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="With --against: results go here.")
    ] = Path("comparison"),
    blocks: Annotated[
        int | None,
        typer.Option("--blocks", help="With --against: time blocks for errors.", show_default="5"),
    ] = None,
    bins: Annotated[
        int | None,
        typer.Option("--bins", help="With --against: bins of the RDFs.", show_default="150"),
    ] = None,
    r_max: Annotated[
        str | None,
        typer.Option(
            "--r-max",
            help="With --against: largest distance, '1.3 nm'.",
            show_default="half the smallest box height",
        ),
    ] = None,
    folder: FolderOption = None,
) -> None:
    """Compare structure and dynamics, coarse-grained against all-atom.

    With --against each RUN is a run.yaml, a run folder, a trajectory with topology.pdb beside it,
    or a file of mapped frames. Runs that share a LABEL are independent trainings of one model: the
    standard deviation over them is told.
    """
    if against is None:
        if len(runs) > 1:
            raise ConfigError(
                f"{len(runs)} runs were given without all-atom frames to compare with; name them"
                " with --against."
            )
        config = _open_run(ctx, _shipped(runs[0]), folder)
        from openmm_cgkd.stages.compare import compare

        typer.echo(compare(config))
        return
    if folder is not None:
        raise ConfigError(
            "--folder belongs to a single RUN.yaml; with --against name the results with --output."
        )
    from openmm_cgkd.stages.compare import compare_runs, comparison_settings

    typer.echo(
        compare_runs(
            runs, against, output, comparison_settings(blocks=blocks, bins=bins, r_max=r_max)
        )
    )


@_command("stability")
def _stability(ctx: typer.Context, run: RunOrFluid, folder: FolderOption = None) -> None:
    """Run replicas from different all-atom frames and tell how long each stays physical."""
    config = _open_run(ctx, _shipped(run), folder)
    from openmm_cgkd.stages.stability import check_stability

    typer.echo(check_stability(config))


@app.command("report", cls=Command)
def _report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or that of 'cgkd compare --against'.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help=(
                "Page, pictures and tables go into this folder; a name that ends in .html is that"
                " of the page alone."
            ),
            show_default="report in the folder of RUN",
        ),
    ] = None,
) -> None:
    """Write a web page of what came of a run: verdict, structure, errors, stability, speed,
    provenance.

    One file that needs no network, and beside it pictures as PNG and SVG and tables as CSV.
    """
    from openmm_cgkd.report.write import write_report

    typer.echo(write_report(run, output))


@_command("run")
def _run(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Run all stages in order; without frames in RUN.yaml the all-atom stage comes first."""
    config = _open_run(ctx, run, folder)
    from openmm_cgkd.stages.workflow import run_all, summary

    run_all(config)
    typer.echo()
    for label, value in summary(config):
        typer.echo(f"{label:<24} {value}")


def main() -> None:
    """Entry point of the console script."""
    app()
