"""A wheel, installed away from the checkout, has the fluids and simulates one by its name; a source
distribution has everything.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.cases.paths import ROOT

_BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
_MOST = 10e6  # bytes
# what only mapping, training, reports or clusters need
_ABSENT = "lightning", "torchmdnet", "packmol", "MDAnalysis", "bokeh", "jinja2", "parsl"
_SIMULATE = """
import sys
for name in {absent}:
    sys.modules[name] = None  # as if it were not installed
from types import SimpleNamespace
import openmm_cgkd
from openmm_cgkd.cli.options import open_run_or_fluid
from openmm_cgkd.stages.simulate import simulate_run

command = SimpleNamespace(name="simulate")
run = open_run_or_fluid(SimpleNamespace(obj={{}}, command=command), "ethaline", None)
short = {{"equilibration": 0.0, "production": 0.1, "frame_interval": 0.05}}
simulation = run.simulation.model_copy(update=short)
print(openmm_cgkd.__file__)
print(simulate_run(run.model_copy(update={{"simulation": simulation}})))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (checkout / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for name in ("openmm_cgkd", "systems"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignore)
    subprocess.run(
        [sys.executable, "-c", _BUILD.format("wheel"), folder],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    shutil.rmtree(checkout)
    (path,) = folder.glob("*.whl")
    return path


def test_source_distribution_has_every_file_and_can_be_uploaded(tmp_path):
    clone = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    for name in files:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-c", _BUILD.format("sdist"), tmp_path],
        cwd=clone,
        check=True,
        capture_output=True,
    )
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # the link to the fluids is their files there
    assert files - {"openmm_cgkd/systems"} <= names
    assert "openmm_cgkd/systems/ethaline/student.pt" in names
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_wheel_has_what_its_commands_need_and_no_more(wheel):
    assert wheel.stat().st_size < _MOST
    names = set(zipfile.ZipFile(wheel).namelist())
    fluid = "openmm_cgkd/systems/ethaline"
    needed = ("student.pt", "timestep.json", "simulate.yaml", "system.yaml", "frames.h5")
    assert {f"{fluid}/{name}" for name in (*needed, "quickstart.yaml", "forcefield.xml")} <= names
    assert f"{fluid}/molecules/CHO.pdb" in names
    assert "openmm_cgkd/report/templates/report.html" in names
    assert not [name for name in names if name.endswith((".png", ".xtc")) or "paper" in name]
    assert not [name for name in names if name.split("/")[0] in ("tests", "scripts", "docs")]


def test_installed_package_simulates_a_fluid_by_its_name(wheel, tmp_path):
    """The results are where the user is, not where the package is; nothing needless is imported."""
    site, here = tmp_path / "site", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _SIMULATE.format(absent=_ABSENT)],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert (here / "runs" / "ethaline-student" / "simulation" / "trajectory.dcd").exists()
    assert not list(site.rglob("runs"))
    version = subprocess.run(
        [sys.executable, "-m", "openmm_cgkd", "--version"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.startswith("openmm_cgkd ")
