"""The documentation site."""

import shutil
import subprocess
import sys

import openmm_cgkd
from openmm_cgkd.cli.base import READS
from tests.cases.paths import ROOT


def test_site(tmp_path):
    """It is built without a warning, such as that of a link that leads nowhere, in a copy."""
    docs, site = tmp_path / "docs", tmp_path / "site"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("reference", "fluids"))
    tmp_path.joinpath("systems").symlink_to(ROOT / "systems")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(docs), str(site)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

    for name in openmm_cgkd.__all__:
        if name != "__version__":
            assert site.joinpath(f"reference/functions/openmm_cgkd.{name}.html").exists()
    commands = site.joinpath("reference/commands.html").read_text()
    for command in READS:
        assert f"cgkd {command}" in commands
    assert "--independent-of" in commands
    assert "stiffness" in site.joinpath("reference/run_yaml.html").read_text()
    assert "hydrogen_mass" in site.joinpath("reference/system_yaml.html").read_text()
    # links between pages of the repository lead to pages of the site
    assert "../fluids/ethaline.html" in site.joinpath("study/README.html").read_text()
    assert site.joinpath("fluids/ethaline_validation.html").exists()
