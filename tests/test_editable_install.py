"""What a script imports that stands beside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

from tests.cases.paths import ROOT

_BUILD = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
_SCRIPT = """
import site, sys
site.addsitedir(sys.argv[1])
import openmm_cgkd
print(openmm_cgkd.__file__)
print(openmm_cgkd.__version__)
"""


def test_checkout_beside_a_script_does_not_hide_the_package(tmp_path):
    """Its outer folder has the name of the package, too, and would be a package of nothing."""
    checkout, built, site = (tmp_path / name for name in ("openmm_cgkd", "built", "site"))
    checkout.mkdir()
    built.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "openmm_cgkd").mkdir()
    shutil.copy(ROOT / "openmm_cgkd" / "__init__.py", checkout / "openmm_cgkd")
    subprocess.run(
        [sys.executable, "-c", _BUILD, built], cwd=checkout, check=True, capture_output=True
    )
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "script.py").write_text(_SCRIPT)
    result = subprocess.run(
        # without the packages that are installed here, among them this one
        [sys.executable, "-S", tmp_path / "script.py", site],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(checkout / "openmm_cgkd" / "__init__.py")
