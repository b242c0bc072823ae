"""Which platform runs a system when none is named."""

import openmm
import pytest

from openmm_cgkd import platforms as module
from openmm_cgkd.platforms import choose_platform, hardware_of, opencl_has_gpu, platforms


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv("OPENMM_DEFAULT_PLATFORM", raising=False)


def pair(system=None):
    system = system or openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
    return system


class Pretended:
    """A platform of another name and speed."""

    def __init__(self, name, speed):
        self.name, self.speed = name, speed

    def getName(self):
        return self.name

    def getSpeed(self):
        return self.speed


@pytest.mark.parametrize(
    ("name", "threads", "words"),
    [
        ("Reference", None, "1 thread of "),
        ("Reference", 3, "3 threads of "),
        ("CPU", None, "2 thr"),
    ],
)
def test_hardware_of_a_simulation(name, threads, words):
    properties = {"Threads": "2"} if name == "CPU" else {}
    platform = openmm.Platform.getPlatformByName(name)
    context = openmm.Context(pair(), openmm.VerletIntegrator(0.001), platform, properties)
    found = hardware_of(context, threads)
    assert found.startswith(words)
    assert found == " ".join(found.split())
    assert len(found.split(" of ")[1]) > 2


@pytest.fixture
def pretend(monkeypatch):
    """Pretend that there are CPU, OpenCL and CUDA, of which these work."""

    def change(working, gpu):
        found = [
            Pretended("Reference", 1.0),
            Pretended("CPU", 10.0),
            Pretended("CUDA", 100.0),
            Pretended("OpenCL", 50.0),
        ]

        def context(system, integrator, platform):
            if platform.getName() not in working:
                raise openmm.OpenMMException("no device")

        monkeypatch.setattr(openmm.Platform, "getNumPlatforms", lambda: len(found))
        monkeypatch.setattr(openmm.Platform, "getPlatform", lambda k: found[k])
        monkeypatch.setattr(openmm, "Context", context)
        monkeypatch.setattr(module, "opencl_has_gpu", lambda: gpu)
        return choose_platform(pair()).getName()

    return change


@pytest.mark.parametrize(
    ("working", "gpu", "expected"),
    [
        ({"OpenCL"}, False, "CPU"),  # PoCL
        ({"OpenCL"}, True, "OpenCL"),
        ({"OpenCL", "CUDA"}, True, "CUDA"),
        (set(), True, "CPU"),  # a GPU that cannot run the forces
    ],
)
def test_fastest_platform_that_works_and_is_no_processor_in_disguise(
    pretend, working, gpu, expected
):
    assert pretend(working, gpu) == expected


def test_a_name_counts_wherever_it_comes_from(monkeypatch):
    assert choose_platform(pair(), "Reference").getName() == "Reference"
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "Reference")
    assert choose_platform(pair()).getName() == "Reference"
    assert choose_platform(pair(), "CPU").getName() == "CPU"
    with pytest.raises(openmm.OpenMMException, match="no registered Platform"):
        choose_platform(pair(), "Abacus")


def test_potentials_alone_need_no_threads_of_openmm():
    cpu_or_better = choose_platform(pair()).getName()
    system = pair()
    for force in (openmm.CMMotionRemover(), openmm.MonteCarloBarostat(1.0, 300.0)):
        system.addForce(force)
    assert choose_platform(system).getName() == (
        "Reference" if cpu_or_better == "CPU" else cpu_or_better
    )
    assert choose_platform(system, "CPU").getName() == "CPU"
    system.addForce(openmm.HarmonicBondForce())
    assert choose_platform(system).getName() == cpu_or_better


def test_few_beads_under_a_python_force_stay_off_the_gpus_integrator(pretend):
    assert pretend({"CUDA"}, True) == "CUDA"

    def python_force():
        force = openmm.CMMotionRemover()
        force.setName("PythonForce")  # OpenMM 8.4 has none
        return force

    system = pair()
    system.addForce(python_force())
    assert choose_platform(system).getName() == "Reference"
    for _ in range(module.FEW_BEADS):
        system.addParticle(1.0)
    assert choose_platform(system).getName() == "CUDA"
    system = pair()
    system.addForce(python_force())
    system.addForce(openmm.HarmonicBondForce())
    assert choose_platform(system).getName() == "CUDA"


@pytest.mark.skipif("OpenCL" not in platforms(), reason="OpenMM has no OpenCL platform here")
def test_opencl_is_asked_for_what_openmm_finds():
    """OpenMM's own context says what the device is."""
    opencl = openmm.Platform.getPlatform("OpenCL")
    try:
        context = openmm.Context(pair(), openmm.VerletIntegrator(0.001), opencl)
    except openmm.OpenMMException:
        pytest.skip("OpenCL has no device here")
    on_pocl = (
        opencl.getPropertyValue(context, "OpenCLPlatformName") == "Portable Computing Language"
    )
    assert opencl_has_gpu() != on_pocl
    if on_pocl:
        assert choose_platform(pair()).getName() in ("CPU", "CUDA", "HIP")
