"""Which OpenMM platform runs a system when the user names none: the one place that decides.

And on what hardware a simulation runs, for the speeds that are compared.
"""

from __future__ import annotations

import ctypes
import os
import platform as machine
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openmm

_GPU_OR_ACCELERATOR = 4 | 8  # CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR
# up to here moving the beads on the processor costs less than `PythonForce` between it and a GPU's
# integrator (H200)
FEW_BEADS = 8000
# forces that OpenMM does not calculate
_LEFT_TO_OTHERS = {"TorchForce", "PythonForce", "CMMotionRemover", "MonteCarloBarostat"}


def platforms() -> list[str]:
    """Names of the OpenMM platforms that load here; a platform may still lack a device."""
    try:
        import openmm
    except ImportError:
        return []
    return [
        openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())
    ]


def choose_platform(system: openmm.System, name: str | None = None) -> openmm.Platform:
    """The platform of a name; without one, the fastest that can run the system.

    OpenCL on a processor (PoCL, Intel's runtime) is passed over unless it is named: OpenMM counts
    it as faster than its CPU platform, and it is slower (all-atom ethaline on two cores: 20 ns/day
    against 24). ``OPENMM_DEFAULT_PLATFORM`` names one too.

    Without a GPU a system of potentials alone goes to the Reference platform. They have their own
    threads and are the same there; OpenMM is left with the integrator, and its CPU platform takes
    longer to wake threads for that than to move the beads. So do systems of a few thousand beads
    under a `PythonForce`, GPU or not: it takes positions from the processor and evaluates them
    where it likes.

    Parameters
    ----------
    system : openmm.System
    name : str, optional

    Raises
    ------
    openmm.OpenMMException
        If there is no such platform, or none that can run the system.
    """
    import openmm

    name = name or os.environ.get("OPENMM_DEFAULT_PLATFORM")
    if name:
        return openmm.Platform.getPlatformByName(name)
    found = [openmm.Platform.getPlatform(k) for k in range(openmm.Platform.getNumPlatforms())]
    forces = {force.getName() for force in system.getForces()}
    alone = bool(forces) and forces <= _LEFT_TO_OTHERS
    if alone and "PythonForce" in forces and system.getNumParticles() <= FEW_BEADS:
        return openmm.Platform.getPlatformByName("Reference")
    for platform in sorted(found, key=lambda each: -each.getSpeed()):
        if platform.getName() == "CPU":  # needs no device, so no trial
            return openmm.Platform.getPlatformByName("Reference") if alone else platform
        if platform.getName() == "OpenCL" and not opencl_has_gpu():
            continue
        try:
            openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        except openmm.OpenMMException:
            continue  # no device, or a force that it does not know
        return platform
    raise openmm.OpenMMException(
        f"No platform can run the system, there are {', '.join(platforms()) or 'none'}"
    )


def hardware_of(context: openmm.Context, threads: int | None = None) -> str:
    """What a simulation runs on: "NVIDIA H200", or "2 threads of AMD EPYC 7B13".

    Parameters
    ----------
    context : openmm.Context
    threads : int, optional
        Of potentials that have their own; those of the platform if absent.
    """
    platform = context.getPlatform()
    properties = platform.getPropertyNames()
    if "DeviceName" in properties:
        return platform.getPropertyValue(context, "DeviceName")
    if threads is None:
        threads = (
            int(platform.getPropertyValue(context, "Threads")) if "Threads" in properties else 1
        )
    return f"{threads} {'thread' if threads == 1 else 'threads'} of {_processor()}"


def _processor() -> str:
    """Model of the processor, as far as the operating system tells."""
    table = Path("/proc/cpuinfo")
    for line in table.read_text().splitlines() if table.exists() else ():
        title, _, value = line.partition(":")
        if title.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return machine.processor() or machine.machine()


@lru_cache(maxsize=1)
def opencl_has_gpu() -> bool:
    """Whether OpenCL has a device that is not a processor."""
    try:
        library = ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return False
    count = ctypes.c_uint(0)
    if library.clGetPlatformIDs(0, None, ctypes.byref(count)) != 0:
        return False
    drivers = (ctypes.c_void_p * count.value)()
    library.clGetPlatformIDs(count, drivers, None)
    for driver in drivers:
        devices = ctypes.c_uint(0)
        wanted = ctypes.c_ulong(_GPU_OR_ACCELERATOR)
        if (
            library.clGetDeviceIDs(ctypes.c_void_p(driver), wanted, 0, None, ctypes.byref(devices))
            == 0
            and devices.value
        ):
            return True
    return False
