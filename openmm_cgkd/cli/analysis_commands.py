"""Commands that compare and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_cgkd.exceptions import ConfigError

from .options import FolderOption, RunOrFluid, open_run_or_fluid


def compare(
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
        list[Path],
        typer.Option(
            "--against",
            help="All-atom: mapped frames, or a trajectory. Once more for each independent run.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer needs a list, and nothing changes it
    output: Annotated[
        Path, typer.Option("--output", help="With --against: results go here.")
    ] = Path("comparison"),
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
    if not against:
        if len(runs) > 1:
            raise ConfigError(
                f"{len(runs)} runs were given without all-atom frames to compare with; name them"
                " with --against."
            )
        config = open_run_or_fluid(ctx, runs[0], folder)
        from openmm_cgkd.stages.compare import compare_run

        typer.echo(compare_run(config))
        return
    if folder is not None:
        raise ConfigError(
            "--folder belongs to a single RUN.yaml; with --against name the results with --output."
        )
    from openmm_cgkd.stages.compare import compare_runs, comparison_settings

    typer.echo(compare_runs(runs, against, output, comparison_settings(bins=bins, r_max=r_max)))


def stability(ctx: typer.Context, run: RunOrFluid, folder: FolderOption = None) -> None:
    """Run replicas from different all-atom frames and tell how long each stays physical."""
    config = open_run_or_fluid(ctx, run, folder)
    from openmm_cgkd.stages.stability import check_stability

    typer.echo(check_stability(config))


def report(
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
