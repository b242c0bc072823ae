"""The documentation site."""

import subprocess
import sys

import pytest

import openmm_cgkd
from openmm_cgkd.cli.base import READS
from tests.cases.paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a warning, such as that of a link that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(ROOT / "docs"), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_public_name_has_a_page(site):
    for name in openmm_cgkd.__all__:
        if name != "__version__":
            assert site.joinpath(f"reference/functions/openmm_cgkd.{name}.html").exists()


def test_commands_and_fields_are_those_of_this_version(site):
    commands = site.joinpath("reference/commands.html").read_text()
    for command in READS:
        assert f"cgkd {command}" in commands
    assert "--independent-of" in commands
    assert "stiffness" in site.joinpath("reference/run_yaml.html").read_text()
    assert "hydrogen_mass" in site.joinpath("reference/system_yaml.html").read_text()


def test_links_to_fluids_lead_to_their_pages(site):
    assert "../fluids/ethaline.html" in site.joinpath("study/README.html").read_text()
    assert site.joinpath("fluids/ethaline_validation.html").exists()
