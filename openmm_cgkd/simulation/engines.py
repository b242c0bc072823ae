"""The engines of `CGPotential`, and whether the installed libraries can run them.

Versions are checked before the libraries are imported: wrong pairs of them crash.
"""

from __future__ import annotations

import ctypes.util
import logging
import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal

from openmm_cgkd.exceptions import CompatibilityError, ConfigError
from openmm_cgkd.platforms import opencl_has_gpu, platforms

logger = logging.getLogger(__name__)

INSTALL = "pip install 'torch>=2.9,<2.10' 'openmm>=8.4,<8.5' openmmtorch==1.5"
INSTALL_NEWER = "pip install 'torch>=2.9' 'openmm>=8.5'"

# openmmtorch 1.5 is compiled against torch 2.9 and OpenMM 8.4; it mixes badly with others, up to
# killing the process
_NEEDED = {"torch": ((2, 9), (2, 10)), "openmm": ((8, 4), (8, 5)), "openmmtorch": ((1, 5), (1, 6))}


Engine = Literal["fast", "portable", "python"]
EngineName = Literal["fast", "portable", "python", "fused"]  # "fused": the old name of "fast"
_ENGINES: dict[str, Engine] = {
    "fast": "fast",
    "portable": "portable",
    "python": "python",
    "fused": "fast",
}


def engine_named(name: str) -> Engine:
    """The engine of this name, also of an old one.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in _ENGINES:
        raise ConfigError(f"engine: got '{name}'; choose 'fast', 'portable' or 'python'.")
    return _ENGINES[name]


def check_stack() -> None:
    """Make sure that torch, OpenMM and openmmtorch fit each other.

    Raises
    ------
    CompatibilityError
        Naming the library, its version and the command that installs the right one.
    """
    for name, (lowest, above) in _NEEDED.items():
        wanted = f"{name} >= {_dotted(lowest)}, < {_dotted(above)}"
        try:
            found = version(name)
        except PackageNotFoundError as error:
            raise CompatibilityError(
                f"{name} is not installed, TorchForce needs {wanted}; {INSTALL}."
            ) from error
        if not lowest <= _numbers(found) < above:
            raise CompatibilityError(
                f"{name} {found} is installed, TorchForce needs {wanted}; {INSTALL}."
            )
    if not _has_nvrtc():
        raise CompatibilityError(
            f"torch {version('torch')} is a build without CUDA 12, and openmmtorch 1.5 needs its"
            f" libraries even on a CPU; reinstall with {INSTALL} --force-reinstall from PyPI."
        )


def check_python_force() -> None:
    """Make sure that torch is there and OpenMM has `PythonForce`.

    `PythonForce` runs a potential with any newer torch.

    Raises
    ------
    CompatibilityError
        Naming the library, its version and the command that installs the right one.
    """
    for name, lowest in (("torch", (2, 9)), ("openmm", (8, 5))):
        wanted = f"{name} >= {_dotted(lowest)}"
        try:
            found = version(name)
        except PackageNotFoundError as error:
            raise CompatibilityError(
                f"{name} is not installed, PythonForce needs {wanted}; {INSTALL_NEWER}."
            ) from error
        if _numbers(found) < lowest:
            raise CompatibilityError(
                f"{name} {found} is installed, PythonForce needs {wanted}; {INSTALL_NEWER}."
            )


def choose_engine() -> Engine:
    """The engine that the installed libraries can run: `TorchForce` before `PythonForce`.

    Raises
    ------
    CompatibilityError
        If they can run neither.
    """
    try:
        check_stack()
        return "fast"
    except CompatibilityError as error:
        try:
            check_python_force()
        except CompatibilityError:
            raise error from None
        logger.info("TorchForce cannot run here, the potential runs through PythonForce: %s", error)
        return "python"


@lru_cache(maxsize=1)
def import_torch_force() -> Any:
    """Return the class `openmmtorch.TorchForce`, with its OpenMM plug-ins loaded.

    Raises
    ------
    CompatibilityError
        If the stack does not fit, or fits by its version numbers and still does not load.
    """
    check_stack()
    root = logging.getLogger()
    # openmmtorch imports OpenMM by its old name; the user need not see the warning
    root.addFilter(_not_about_simtk)
    try:
        import torch  # noqa: F401  # openmmtorch finds torch's libraries only when torch has loaded them
        from openmmtorch import TorchForce
    except ImportError as error:
        raise CompatibilityError(
            f"openmmtorch does not load ({error}); {INSTALL} --force-reinstall."
        ) from error
    finally:
        root.removeFilter(_not_about_simtk)
    _load_missing_plugins()
    return TorchForce


def _not_about_simtk(record: logging.LogRecord) -> bool:
    return "simtk.openmm" not in record.getMessage()


def _load_missing_plugins() -> None:
    """Load the plug-ins of openmmtorch that OpenMM could not load when it was imported.

    They need the libraries of torch, which may have been imported later.
    """
    import openmm

    for failure in openmm.Platform.getPluginLoadFailures():
        library = re.match(r"Error loading library (.*OpenMMTorch[^:]*):", failure)
        if library:
            try:
                openmm.Platform.loadPluginLibrary(library[1])
            except openmm.OpenMMException:
                logger.debug("%s", failure)  # a platform that this machine does not have


def cuda_graphs(system: Any) -> str:
    """ "on" or "off": whether the `TorchForce` objects of a system run as CUDA graphs.

    "none" if there is no such force.
    """
    if not any(force.getName() == "TorchForce" for force in system.getForces()):
        return "none"
    torch_force = import_torch_force()
    found = [
        torch_force.cast(force) for force in system.getForces() if torch_force.isinstance(force)
    ]
    return (
        "on"
        if any(dict(force.getProperties())["useCUDAGraphs"] == "true" for force in found)
        else "off"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _has_nvrtc() -> bool:
    """Whether libnvrtc.so.12 is there.

    As the package that torch's CUDA-12 wheels depend on, inside torch, or on the system.
    """
    if "+cpu" in version("torch"):
        return False
    try:
        distribution("nvidia-cuda-nvrtc-cu12")
        return True
    except PackageNotFoundError:
        folder = Path(str(distribution("torch").locate_file("torch"))) / "lib"
        return any(folder.glob("libnvrtc*.so.12")) or (
            ctypes.util.find_library("nvrtc") or ""
        ).endswith(".12")


def stack_report() -> dict[str, str]:
    """Versions of the stack, whether they fit, and OpenMM's platforms, for ``cgkd --version``."""
    report = {}
    for name in ("openmm_cgkd", "torch", "openmm", "openmmtorch", "torchmd-net"):
        try:
            report[name] = version(name)
        except PackageNotFoundError:
            report[name] = "not installed"
    for name, check in (("TorchForce", check_stack), ("PythonForce", check_python_force)):
        try:
            check()
            report[name] = "ready"
        except CompatibilityError as error:
            report[name] = str(error)
    names = [
        (
            "OpenCL (no GPU: only where it is named)"
            if name == "OpenCL" and not opencl_has_gpu()
            else name
        )
        for name in platforms()
    ]
    report["platforms"] = ", ".join(names) or "none"
    return report
