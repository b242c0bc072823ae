"""Messages of errors: whatever names they hold, they are short and print as they are."""

import pytest

from openmm_cgkd.exceptions import CGKDError, ConfigError, ExecutionError


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),  # would clear the terminal
        ("a\rb\x07", r"a\rb\x07"),
        ("a\u202eb", r"a\u202eb"),  # would turn the rest of the line around
        ("a\udcffb", r"a\udcffb"),  # a byte of a file name that is no text; could not be printed
        ("caf\u00e9 \u00b5", "caf\u00e9 \u00b5"),
        ("[red]x[/]", "[red]x[/]"),
    ],
)
def test_names_that_are_not_printable(name, printed):
    assert str(ConfigError(f"{name}: no such file.")) == f"{printed}: no such file."
    assert str(ExecutionError(name)) == printed


def test_long_names_are_shortened():
    assert len(str(CGKDError("x" * 10**6))) <= 300
    assert str(CGKDError(f"a: {'x' * 10**6} is too long.")).endswith("xx is too long.")
    assert len(str(CGKDError("word " * 10**5))) <= 4000
    path = "/".join(["folder"] * 40)
    assert str(CGKDError(f"{path}: no such file.")) == f"{path}: no such file."
