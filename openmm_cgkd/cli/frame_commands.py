"""Commands that make and check mapped frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.utils.units import to_float

from .options import SystemFile


def reference(
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
    independent_of: Annotated[
        Path | None,
        typer.Option(
            "--independent-of",
            help="One run more beside the one of these mapped frames: other seed, same box.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Simulate the fluid all-atom and write mapped frames: pack, minimise, anneal, NPT, NVT.

    As often as reference.runs says, each time packed anew; the frames of the second run are in
    run_2/frames.h5.
    """
    config = load_system(system)
    ctx.obj["folder"] = folder.absolute()
    from openmm_cgkd.allatom.independent import run_independent, with_other_seed
    from openmm_cgkd.allatom.run import run_reference

    if independent_of is not None:
        if start is not None:
            raise ConfigError(
                "--start and --independent-of exclude each other: an independent run is packed"
                " anew; leave one of them out."
            )
        config = with_other_seed(config, 2)
        typer.echo(run_reference(config, folder, independent_of=independent_of))
        return
    for path in run_independent(config, folder, start):
        typer.echo(path)


def meanforce(
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


def noise(
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


def map(
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


def verify(
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
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Write the temperature of the all-atom run, kelvin, into a file without one;"
            " it cannot be changed afterwards.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a file of mapped frames from end to end and show what it holds."""
    from openmm_cgkd.frames.thinning import thin_frames
    from openmm_cgkd.frames.verify import verify_frames

    report = (
        thin_frames(frames, thin, repair, temperature)
        if thin
        else verify_frames(frames, repair, temperature)
    )
    for label, value in report.rows():
        typer.echo(f"{label:<24} {value}")
