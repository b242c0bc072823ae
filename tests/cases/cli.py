"""Calling the command line in tests."""

from __future__ import annotations

from typer.testing import CliRunner

from openmm_cgkd.cli.commands import app


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)
