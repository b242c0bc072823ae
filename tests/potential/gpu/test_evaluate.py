"""The kernels for a GPU.

Their results in Triton's interpreter, compilation for real GPUs, and, where there is one, a run.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_cgkd.potential.bonded import BondedPrior
from openmm_cgkd.potential.modules import FastModule, PortableModule, PotentialWithForces
from openmm_cgkd.potential.signature import OperatorArguments
from openmm_cgkd.potential.torch_ops import PackedNetwork
from tests.cases.networks import PRIOR, TRICLINIC, random_system, torchmd_pair

with_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="Triton is not installed: it comes with CUDA builds of torch",
)
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
REGISTERS = 255  # that a thread can have; the compiler puts what does not fit into local memory


def python(script: str | Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run in a process of its own."""
    command = [sys.executable, *arguments, str(script)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.slow
@with_triton
def test_results_in_the_interpreter():
    """Of its own process, because Triton reads this variable once."""
    result = python(
        Path(__file__).with_name("interpreted.py"),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        TRITON_INTERPRET="1",
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_else_imports_triton():
    script = (
        "import sys; import openmm_cgkd.operators; assert 'openmm_cgkd.potential.gpu.evaluate'"
        " not in sys.modules"
    )
    result = python(script, "-c")
    assert result.returncode == 0, result.stderr


def test_operators_are_registered_for_a_gpu():
    for name in ("potential", "evaluate", "has_gpu_kernels"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"openmm_cgkd::{name}", "CUDA")


def launches(channels: int) -> list[tuple]:
    """Every kernel as it is launched for so many channels, with arguments and constants."""
    from openmm_cgkd.potential.gpu import evaluate as gpu
    from openmm_cgkd.potential.gpu import lists

    found = []

    def record(kernel, programs, *arguments, warps=4, **constants):
        found.append((kernel, arguments, warps, constants))

    _, network = torchmd_pair(1, channels=channels, dtype=torch.float32)
    fast = PackedNetwork(network, PRIOR)
    bonded_beads = torch.tensor([[0, 1, -1], [0, 1, 2]])
    bonded_parameters = torch.ones(2, 2, dtype=torch.float64)
    positions, types = random_system(40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", record)
        patch.setattr(lists, "launch", record)
        patch.setattr(gpu, "has_room", lambda beads, listed: True)
        gpu.evaluate(
            OperatorArguments(
                torch.from_numpy(positions).float(),
                torch.from_numpy(TRICLINIC).float(),
                torch.from_numpy(types),
                fast.weights,
                fast.offsets,
                fast.contact,
                fast.sizes,
                fast.numbers,
                bonded_beads,
                bonded_parameters,
            )
        )
    return found


_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.int8: "*i8",
}


def compiled(kernel, arguments, warps, constants, capability):
    """A kernel for a GPU that need not be there.

    Specialised as Triton does it: divisible by sixteen, and the number one a constant.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, fixed, attributes = {}, {}, {}
    for k, (name, argument) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        tensor = isinstance(argument, torch.Tensor)
        signature[name] = _TYPES[argument.dtype] if tensor else "i32"
        special = name not in (
            kernel.params[k].name
            for k in range(len(kernel.params))
            if kernel.params[k].do_not_specialize
        )
        if not tensor and argument == 1 and special:
            signature[name], fixed[(k,)] = "constexpr", 1
        elif (argument.data_ptr() if tensor else argument) % 16 == 0 and special:
            attributes[(k,)] = [["tt.divisibility", 16]]
    for name in kernel.arg_names[len(arguments) :]:
        signature[name], fixed[(kernel.arg_names.index(name),)] = "constexpr", constants[name]
    source = ASTSource(kernel, signature, fixed, attributes)
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
    )


def registers(binary, folder: Path) -> tuple[int, int]:
    """Registers of a thread and bytes on its stack, as NVIDIA's own tool reads them."""
    from triton import knobs

    (folder / "kernel.cubin").write_bytes(binary.asm["cubin"])
    command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(folder / "kernel.cubin")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{word}:(\d+)", report)[1]) for word in ("REG", "STACK"))


@with_triton
@pytest.mark.parametrize(("channels", "capability"), [(32, 80), (64, 90)])
def test_every_kernel_compiles_for_a_gpu(channels, capability, tmp_path):
    """32 channels as the shipped student has, and twice as many.

    Shared memory that every such GPU has, and no registers spilled.
    """
    found = launches(channels)
    assert len(found) == 15
    for kernel, arguments, warps, constants in found:
        binary = compiled(kernel, arguments, warps, constants, capability)
        used, stack = registers(binary, tmp_path)
        print(
            f"{kernel.__name__}: {used} registers, {stack} bytes of stack, {binary.metadata.shared}"
            " bytes of shared memory"
        )
        assert used <= REGISTERS
        assert binary.metadata.shared <= 48 * 1024
        assert stack <= 64


def liquid():
    """Positions of forty beads, three pairs beyond the bend, and a scripted potential."""
    _, network = torchmd_pair(1, channels=32, dtype=torch.float32)
    positions, types = random_system(40, seed=6)
    none = BondedPrior(torch.zeros(3, 3, 2), torch.zeros(3, 3, 3, 2))
    portable = torch.jit.script(PortableModule(PRIOR, network, none).eval())
    fast = torch.jit.script(FastModule(PRIOR, network, none, portable).eval())
    fast.set_types(torch.from_numpy(types))
    return positions, fast


@pytest.mark.gpu
@with_gpu
@with_triton
@pytest.mark.parametrize("box", [TRICLINIC, None], ids=["triclinic", "open"])
def test_on_a_gpu(box):
    """The operator and the module as `TorchForce` calls it, against the CPU.

    Then as a CUDA graph with beads that move.
    """
    from openmm_cgkd.potential.gpu import lists

    positions, fast = liquid()
    on_cpu = torch.jit.script(PotentialWithForces(fast).eval())
    points, cell = (
        torch.from_numpy(positions).float(),
        None if box is None else torch.from_numpy(box).float(),
    )
    moved = points + 0.1 * torch.rand(points.shape)
    expected = [on_cpu(at, cell) for at in (points, moved)]
    on_gpu = torch.jit.script(PotentialWithForces(fast).eval()).cuda()
    at, cell = points.cuda(), None if box is None else cell.cuda()

    def check(energy, forces, k):
        assert energy.item() == pytest.approx(expected[k][0].item(), rel=1e-5)
        assert (forces.cpu() - expected[k][1]).abs().max() < 1e-4 * expected[k][1].abs().max()

    check(*on_gpu(at, cell), 0)
    check(*on_gpu(moved.cuda(), cell), 1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            on_gpu(at, cell)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        energy, forces = on_gpu(at, cell)
    for k, now in ((1, moved), (0, points)):
        at.copy_(now)
        graph.replay()
        check(energy, forces, k)
    at[0, 0] = np.nan
    graph.replay()
    assert energy.isnan()
    at.copy_(points)
    with pytest.MonkeyPatch.context() as patch, torch.cuda.graph(small := torch.cuda.CUDAGraph()):
        for key, capacity in lists.capacities.items():
            patch.setitem(lists.capacities, key, capacity._replace(row=4))
        energy, forces = on_gpu(at, cell)
    small.replay()
    assert energy.isnan()
    assert forces.isnan().all()


@pytest.mark.gpu
@with_gpu
@with_triton
@pytest.mark.parametrize("box", [TRICLINIC, None], ids=["triclinic", "open"])
def test_graph_for_positions_on_the_processor(box):
    """Against the CPU, for beads and boxes that change.

    Refuses what is wrong and goes on; remakes a list that is too short.
    """
    from openmm_cgkd.potential.gpu import lists
    from openmm_cgkd.potential.gpu.cuda_graph import GraphedPotential

    positions, fast = liquid()
    on_cpu = torch.jit.script(PotentialWithForces(fast).eval())
    graphed = GraphedPotential(liquid()[1], periodic=box is not None)

    def check(scale):
        at, cell = positions * scale, None if box is None else box * scale
        energy, forces = on_cpu(
            torch.from_numpy(at), None if cell is None else torch.from_numpy(cell)
        )
        found, found_forces = graphed(at, cell)
        assert found == pytest.approx(energy.item(), rel=1e-5)
        assert np.abs(found_forces - forces.numpy()).max() < 1e-4 * forces.abs().max().item()

    for scale in (1.0, 1.02, 1.0):
        check(scale)
    lost = positions.copy()
    lost[3, 1] = np.nan
    with pytest.raises(RuntimeError, match="not finite"):
        graphed(lost, box)
    check(1.0)
    for key, capacity in lists.capacities.items():
        lists.capacities[key] = capacity._replace(row=4)
    graphed.graph = None
    check(1.01)
