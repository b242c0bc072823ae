"""The stack is checked before anything is imported that could crash."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import openmm
import pytest

from openmm_cgkd import CGPotential
from openmm_cgkd.exceptions import CompatibilityError, ConfigError
from openmm_cgkd.platforms import platforms
from openmm_cgkd.simulation import engines as compatibility
from openmm_cgkd.simulation.engines import (
    check_python_force,
    check_stack,
    choose_engine,
    engine_named,
    stack_report,
)


@pytest.fixture
def pretend(monkeypatch):
    """Pretend that other versions are installed; None: not installed."""

    def change(**changes):
        def other(name):
            found = changes.get(name, version(name))
            if found is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(compatibility, "version", other)

    return change


def test_this_stack_fits():
    check_stack()
    report = stack_report()
    assert report["TorchForce"] == "ready"
    assert report["torch"] == version("torch")
    assert "Reference" in report["platforms"]
    assert "Reference" in platforms()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("torch", "2.10.0"),
        ("torch", "2.8.1+cu128"),
        ("torch", "3.0"),
        ("openmm", "8.5.2"),
        ("openmm", "8.3.1"),
        ("openmmtorch", "1.4"),
    ],
)
def test_wrong_version_gets_the_install_command(pretend, name, found):
    pretend(**{name: found})
    with pytest.raises(CompatibilityError) as caught:
        check_stack()
    for part in (name, found, "pip install 'torch>=2.9,<2.10' 'openmm>=8.4,<8.5' openmmtorch==1.5"):
        assert part in str(caught.value)
    assert stack_report()["TorchForce"] == str(caught.value)


def test_right_versions_of_other_builds_pass(pretend):
    pretend(torch="2.9.0+cu128", openmm="8.4.0")
    check_stack()


def test_missing_library(pretend):
    pretend(openmmtorch=None)
    with pytest.raises(CompatibilityError, match="openmmtorch is not installed"):
        check_stack()
    assert stack_report()["openmmtorch"] == "not installed"


def test_torch_without_cuda_libraries(pretend):
    pretend(torch="2.9.1+cpu")
    with pytest.raises(CompatibilityError, match="without CUDA 12"):
        check_stack()


def test_potential_refuses_before_it_looks_at_the_file(pretend):
    pretend(torch="2.10.0")
    with pytest.raises(CompatibilityError):
        CGPotential("no such file.pt")


def test_python_force_takes_over_where_torch_force_cannot_run(pretend, caplog):
    assert choose_engine() == "fast"
    pretend(torch="2.15.0", openmm="8.6.1", openmmtorch=None)
    with caplog.at_level("INFO"):
        assert choose_engine() == "python"
    assert "PythonForce" in caplog.text
    pretend(torch="2.15.0", openmm="8.4.0")
    with pytest.raises(CompatibilityError, match=r"torch 2\.15\.0 is installed"):
        choose_engine()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "openmm 8.4"),
        ({"openmm": "8.5", "torch": "2.8"}, "torch 2.8"),
        ({"openmm": None}, "openmm is not"),
    ],
)
def test_python_force_needs_a_newer_openmm(pretend, changes, sentence):
    pretend(**changes)
    with pytest.raises(CompatibilityError, match="PythonForce needs") as caught:
        check_python_force()
    assert sentence in str(caught.value)
    assert "pip install 'torch>=2.9' 'openmm>=8.5'" in str(caught.value)
    assert stack_report()["PythonForce"] == str(caught.value)


def test_engines_that_cannot_run_or_do_not_exist():
    with pytest.raises(CompatibilityError, match="PythonForce needs"):
        CGPotential("student.pt", engine="python")
    with pytest.raises(ConfigError, match="got 'turbo'; choose 'fast', 'portable' or 'python'"):
        CGPotential("student.pt", engine="turbo")


def python(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_importing_the_package_imports_no_torch():
    result = python(
        "import sys, openmm_cgkd; sys.exit('torch' in sys.modules or 'openmm' in sys.modules)"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "100"}, "None"),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch, before, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    assert (
        python("import os, openmm_cgkd; print(os.environ.get('OMP_WAIT_POLICY'))").stdout.strip()
        == expected
    )


def test_openmm_may_be_imported_first():
    # OpenMM loads plug-ins on import, and openmmtorch's do not load before torch
    result = python(
        "import openmm\nfrom openmm_cgkd.simulation.engines import import_torch_force\n"
        "import_torch_force()\nnames = [openmm.Platform.getPlatform(k) for k"
        " in range(openmm.Platform.getNumPlatforms())]\nprint([p.getName() for p in names if"
        " p.supportsKernels(['CalcTorchForce'])])"
    )
    assert result.returncode == 0, result.stderr
    assert "'Reference', 'CPU'" in result.stdout
    assert "simtk" not in result.stderr


def test_openmm_itself_is_the_version_that_metadata_says():
    assert version("openmm").startswith(openmm.Platform.getOpenMMVersion())


def test_old_name_of_an_engine_means_the_new_one():
    assert engine_named("fused") == engine_named("fast") == "fast"
