"""Commands that train, export and simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import FolderOption, RunFile, RunOrFluid, open_run, open_run_or_fluid, setting


def teach(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the teachers: an ensemble of networks that match the noisy mapped forces."""
    config = open_run(ctx, run, folder)
    from openmm_cgkd.stages.teach import train_teachers

    for path in train_teachers(config):
        typer.echo(path)


def label(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Label the frames with the teachers: mean forces, centred per-bead energies and their
    spread.
    """
    config = open_run(ctx, run, folder)
    from openmm_cgkd.stages.label import label_run

    typer.echo(label_run(config))


def distill(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Train the student on the labels."""
    config = open_run(ctx, run, folder)
    from openmm_cgkd.stages.on_policy import train_on_policy

    typer.echo(train_on_policy(config))


def export(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Write the student as TorchScript files that OpenMM can run: student.pt, which needs torch
    alone, and student-fast.pt.
    """
    config = open_run(ctx, run, folder)
    from openmm_cgkd.stages.export import export_student

    typer.echo(export_student(config))


def simulate(ctx: typer.Context, run: RunOrFluid, folder: FolderOption = None) -> None:
    """Run coarse-grained Langevin dynamics with the exported student of a run, or with the one
    that a fluid comes with.
    """
    config = open_run_or_fluid(ctx, run, folder)
    from openmm_cgkd.stages.simulate import simulate_run

    typer.echo(simulate_run(config))


def timestep(
    student: Annotated[
        Path, typer.Argument(help="Potential file of 'cgkd export'.", show_default=False)
    ],
    frames: Annotated[
        Path | None,
        setting(
            "Mapped frames to start from; those of the run.yaml beside the potential if absent."
        ),
    ] = None,
    timestep: Annotated[
        list[str] | None,
        setting("Time step to try, repeatable; default '5 fs' to '40 fs', every fifth."),
    ] = None,
    duration: Annotated[
        str | None,
        setting(
            "Langevin dynamics with each time step; default: long enough for the temperature,"
            " such as 556 ps for 240 beads."
        ),
    ] = None,
    friction: Annotated[str | None, setting("Default '1 / ps'.")] = None,
    max_temperature_error: Annotated[
        float | None,
        setting("Relative error of the configurational temperature allowed; default 0.01."),
    ] = None,
    max_energy_error: Annotated[
        float | None, setting("Change of mean potential energy allowed, kT per bead; default 0.05.")
    ] = None,
    max_structure_error: Annotated[
        float | None,
        setting("Mean difference of RDFs that the runs must be able to show; default 0.02."),
    ] = None,
    platform: Annotated[str | None, setting("OpenMM platform; the fastest one if absent.")] = None,
    seed: Annotated[int, typer.Option()] = 1,
    run_script: Annotated[
        bool,
        typer.Option(
            "--run-script",
            help="Run the script in a potential whose network is its maker's own; trust them.",
        ),
    ] = False,
    other_temperature: Annotated[
        bool,
        typer.Option(
            "--other-temperature",
            help="Search at the temperature of the frames, although the potential is of another.",
        ),
    ] = False,
) -> None:
    """Find the longest time step with which positions have the right temperature (the
    configurational one), potential energy and structure; 'cgkd simulate' uses it by default.
    """
    from openmm_cgkd.simulation.timestep.criteria import TimestepSearch
    from openmm_cgkd.simulation.timestep.recommendation import read_recommendation
    from openmm_cgkd.simulation.timestep.search import search_timestep
    from openmm_cgkd.stages.timestep import frames_of

    search = TimestepSearch.of(
        timesteps=timestep or None,
        duration=duration,
        friction=friction,
        max_temperature_error=max_temperature_error,
        max_energy_error=max_energy_error,
        max_structure_error=max_structure_error,
        platform=platform,
        seed=seed,
        run_script=run_script,
        other_temperature=other_temperature,
    )
    path = search_timestep(student, frames_of(student, frames), search)
    recommended = read_recommendation(student)
    assert recommended is not None  # the search has written it
    typer.echo(f"{recommended.words}  {path}")


def run(ctx: typer.Context, run: RunFile, folder: FolderOption = None) -> None:
    """Run all stages in order; without frames in RUN.yaml the all-atom stage comes first."""
    config = open_run(ctx, run, folder)
    from openmm_cgkd.stages.workflow import run_all, summary

    run_all(config)
    typer.echo()
    for label, value in summary(config):
        typer.echo(f"{label:<24} {value}")
