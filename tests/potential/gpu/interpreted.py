"""The kernels for a GPU in Triton's interpreter, against the operator on a CPU.

`test_evaluate` runs this file in a process of its own, with TRITON_INTERPRET=1.

The interpreter takes a fifth of a second for one bead, so systems are small and edges are taken 32
at a time.
"""

import numpy as np
import pytest
import torch
from triton import language
from triton.runtime import interpreter

from openmm_cgkd import CGPotential
from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.potential.network import TensorNetEnergies
from openmm_cgkd.potential.prior import PairRepulsion
from openmm_cgkd.potential.signature import Numbers, OperatorArguments
from openmm_cgkd.potential.torch_ops import PackedNetwork
from tests.cases.networks import PRIOR, TRICLINIC, random_system, torchmd_pair
from tests.cases.paths import ETHALINE

OPEN = torch.empty(0, 3, dtype=torch.float64)


STUDENT = ETHALINE / "student.pt"


_patched = {}


def _patch(function, original=interpreter._patch_lang):
    """What the interpreter does to Triton's language before every call, once for each module.

    It takes a third of the time otherwise.
    """
    if id(function.__globals__) not in _patched:
        _patched[id(function.__globals__)] = original(function)
        # Triton 3.5 makes loop bounds from arrays of one number, which NumPy 2.4 refuses
        language.core.tensor.__index__ = lambda self: self.handle.data.item()


interpreter._patch_lang = _patch

from openmm_cgkd.potential.gpu import evaluate as gpu  # noqa: E402
from openmm_cgkd.potential.gpu import lists  # noqa: E402
from openmm_cgkd.potential.gpu import self_test as check  # noqa: E402


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No lists of earlier tests, and blocks of many edges, which the interpreter likes."""
    for kept in (lists.lists, lists.capacities, gpu.networks):
        kept.clear()
    monkeypatch.setattr(gpu, "EDGES", 32)


def arguments(network, positions, types, box, prior=PRIOR, bonds=()):
    """Arguments of the operators."""
    fast = network if not isinstance(network, TensorNetEnergies) else PackedNetwork(network, prior)
    cell = OPEN if box is None else torch.as_tensor(box, dtype=torch.float64)
    sizes, numbers = list(fast.sizes), list(fast.numbers)
    return OperatorArguments(
        torch.as_tensor(positions),
        cell,
        torch.as_tensor(types),
        fast.weights,
        fast.offsets,
        fast.contact,
        sizes,
        numbers,
        *bonds,
    )


@pytest.fixture
def repulsion(monkeypatch):
    """Arguments for a repulsion that acts on all edges, between beads 0.25 nm apart.

    The network is zero, and is left out, to save time.
    """
    monkeypatch.setattr(gpu, "run_network", lambda *arguments: None)
    _, network = torchmd_pair(0, channels=4)
    fast = PackedNetwork(network, PairRepulsion(torch.full((3, 3), 0.8), 100.0, 0.5, 0.3, 0.9))
    fast.weights.zero_()

    def of(n, box=TRICLINIC):
        return arguments(fast, *random_system(n, seed=1), box)

    return of


def deviations(given):
    """Relative deviation from the operator on a CPU, of the energy and of the gradient."""
    energy, gradient = gpu.evaluate(given)
    expected, expected_gradient = torch.ops.openmm_cgkd.evaluate(*given)
    scale = expected_gradient.abs().max()
    assert (energy.dtype, gradient.dtype, energy.shape) == (torch.float64, torch.float64, ())
    print(
        f"energy {abs(energy / expected - 1).item():.1e}, forces"
        f" {((gradient - expected_gradient).abs().max() / scale).item():.1e}"
    )
    return (
        abs((energy / expected).item() - 1),
        ((gradient - expected_gradient).abs().max() / scale).item(),
    )


@pytest.mark.parametrize(
    ("layers", "channels", "box"),
    [(0, 5, TRICLINIC), (1, 8, None), (2, 13, TRICLINIC)],
    ids=["0-triclinic", "1-open", "2-triclinic"],
)
def test_double_precision_is_that_of_the_cpu(layers, channels, box):
    """Weights in double precision leave nothing but the order of sums."""
    _, network = torchmd_pair(layers, channels=channels)
    positions, types = random_system(8, seed=layers)
    energy, forces = deviations(arguments(network, positions, types, box))
    assert energy < 1e-12
    assert forces < 1e-11


@pytest.mark.parametrize(("channels", "edges"), [(32, 4), (24, 8)])
def test_single_precision_within_tolerance(channels, edges, monkeypatch):
    monkeypatch.setattr(gpu, "EDGES", edges)
    _, network = torchmd_pair(1, channels=channels, dtype=torch.float32)
    positions, types = random_system(12, seed=3)
    energy, forces = deviations(arguments(network, positions, types, TRICLINIC))
    assert energy < 1e-5
    assert forces < 1e-4


def test_shipped_student_on_a_real_configuration():
    """Against the compiled loops, and against the file's plain PyTorch and its pair search."""
    frames = read_frames(STUDENT.parent / "frames.h5")[-1:]
    points, box = frames.positions[0].astype(float), frames.box[0].astype(float)
    near = np.argsort(np.linalg.norm(points - points[0], axis=1))[:20]  # a drop
    module = CGPotential(STUDENT, "fast").load()
    module.set_types(torch.from_numpy(frames.beads.types[near]))
    box[1, 0], box[2, :2] = 0.3, (-0.2, 0.4)
    points -= 5 * np.round(points @ np.linalg.inv(box)) @ box  # beads may be in any image
    cell = torch.from_numpy(box)
    given = arguments(module.fast, points[near], module.types, cell)
    found, found_gradient = gpu.evaluate(given)
    expected, expected_gradient = torch.ops.openmm_cgkd.evaluate(*given)
    at = torch.tensor(points[near], requires_grad=True)
    plain = module.portable(at, cell)
    (plain_gradient,) = torch.autograd.grad(plain, at)
    for energy, gradient in ((expected, expected_gradient), (plain, plain_gradient)):
        deviation = ((found_gradient - gradient).abs().max() / gradient.abs().max()).item()
        print(f"energy {abs(found / energy - 1).item():.1e}, forces {deviation:.1e}")
        assert found.item() == pytest.approx(energy.item(), rel=1e-5)
        assert deviation < 1e-4


@pytest.mark.parametrize("box", [TRICLINIC, None], ids=["triclinic", "open"])
@pytest.mark.parametrize("distance", [None, 0.2, 0.268, 0.3, 0.95])  # 0.262 is the bend
def test_one_bead_and_two(distance, box):
    _, network = torchmd_pair(1)
    positions = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 - (distance or 0)]])[
        : 1 if distance is None else 2
    ]
    given = arguments(network, positions, np.arange(len(positions)), box)
    energy, gradient = gpu.evaluate(given)
    expected, expected_gradient = torch.ops.openmm_cgkd.evaluate(*given)
    assert energy.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(
        gradient,
        expected_gradient,
        rtol=0,
        atol=1e-11 * max(1.0, expected_gradient.abs().max().item()),
    )


def test_bonds_and_angles():
    """The bonded terms, in a ring and in a chain across the boundary.

    There is no repulsion between the ends of bonds and angles.
    """
    _, network = torchmd_pair(0, channels=4)
    positions, types = random_system(12, seed=8)
    bonded_beads = torch.tensor(
        [[0, 1, -1], [1, 2, -1], [0, 2, -1], [5, 7, -1], [0, 1, 2], [1, 2, 0], [4, 3, 9]]
    )
    bonded_parameters = torch.tensor(
        [[800, 0.5], [700, 0.4], [900, 0.6], [500, 0.3], [40, -0.5], [30, 0.1], [20, 0.9]],
        dtype=torch.float64,
    )
    positions[7] = positions[5] + [0.02, 0.03, 0.04]  # where the repulsion would be 1e20
    energy, forces = deviations(
        arguments(network, positions, types, TRICLINIC, bonds=(bonded_beads, bonded_parameters))
    )
    assert energy < 1e-12
    assert forces < 1e-11


def test_single_precision_positions_as_openmm_gives_them():
    _, network = torchmd_pair(1)
    positions, types = random_system(8, seed=4)
    given = arguments(network, positions, types, TRICLINIC)
    single = given._replace(positions=given.positions.float(), box=given.box.float())
    rounded = given._replace(positions=single.positions.double(), box=single.box.double())
    for found, expected in zip(gpu.evaluate(single), gpu.evaluate(rounded), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("periodic", [True, False], ids=["triclinic", "open"])
@pytest.mark.parametrize(("n", "scale", "cutoff"), [(40, 1.2, 0.6), (20, 1.0, 0.9)])
def test_lists_hold_all_neighbors_in_order(n, scale, cutoff, periodic):
    """Two, three and more cells along an axis, beads in any image.

    A part of the beads has moved within the skin.
    """
    box = TRICLINIC * scale if periodic else None
    rng = np.random.default_rng(n)
    positions = (
        (rng.random((n, 3)) * 3 - 1) @ (TRICLINIC * scale)
        if periodic
        else rng.random((n, 3)) @ (TRICLINIC * scale)
    )
    beads = lists.Beads(
        torch.from_numpy(positions),
        None if box is None else torch.from_numpy(box),
        None,
        None,
        Numbers(cutoff, 0.0, 0.0),
    )
    for _ in range(3):  # lists grow until they fit
        listed = lists.find_list(beads, captured=False)
        lists.make_list(beads, listed, False, {"PERIODIC": periodic, "CUTOFF": cutoff})
        if lists.has_room(beads, listed):
            break
    vectors = positions[None] - positions[:, None]
    radius = cutoff + lists.SKIN
    if periodic:
        shifts = np.stack(np.meshgrid(*3 * [range(-4, 5)], indexing="ij"), -1).reshape(-1, 3) @ box
        radius = min(radius, 0.5 / np.linalg.norm(np.linalg.inv(box), axis=0).max())
        squares = np.min([((vectors + shift) ** 2).sum(-1) for shift in shifts], axis=0)
    else:
        squares = (vectors**2).sum(-1)
    near = (squares < radius**2) & ~np.eye(n, dtype=bool)
    for i in range(n):
        assert listed.rows[i, : listed.n_found[i]].tolist() == np.flatnonzero(near[i]).tolist()


def test_list_is_made_anew_when_needed_and_only_then(repulsion):
    box = torch.from_numpy(TRICLINIC * 1.2)  # room for the whole skin
    given = repulsion(14)
    positions = given.positions
    moved, made = positions.clone(), []
    moved[3, 1] += 0.0751
    for at, cell in (
        (positions, box),
        (positions + 0.04, box),
        (moved, box),
        (moved, box),
        (moved, box * 1.001),
        (moved, box),
    ):
        assert max(deviations(given._replace(positions=at, box=cell))) < 1e-11
        made.append(list(lists.lists.values())[-1].counters[0].item())
    assert made == [1, 0, 1, 0, 1, 1]


def test_list_that_is_too_short_grows_or_refuses(repulsion, monkeypatch):
    given = repulsion(20)
    room = lists.ListCapacity(4, 2, (2, 2, 2))
    gpu.evaluate(given)
    (key,) = lists.capacities
    lists.capacities[key] = room
    assert max(deviations(given)) < 1e-11
    grown = lists.capacities[key]
    assert grown.row > 4
    assert grown.cell > 2
    lists.capacities[key] = room
    monkeypatch.setattr(lists, "LARGEST", 4)
    with pytest.raises(RuntimeError, match="whose capacity is 4"):
        gpu.evaluate(given)
    assert not lists.lists


def test_inside_a_capture_an_overflow_makes_all_nan(repulsion, monkeypatch):
    given = repulsion(14)
    energy, gradient = gpu.evaluate(given)
    monkeypatch.setattr(gpu, "in_capture", lambda positions: True)
    captured, captured_gradient = gpu.evaluate(given)
    assert captured == energy
    assert torch.equal(captured_gradient, gradient)
    (key,) = lists.capacities
    for room in (lists.capacities[key]._replace(row=4), lists.capacities[key]._replace(cell=1)):
        lists.capacities[key] = room
        energy, gradient = gpu.evaluate(given)
        assert energy.isnan()
        assert gradient.isnan().all()
    lists.capacities.clear()
    with pytest.raises(RuntimeError, match="before the capture"):
        gpu.evaluate(given)


def test_bad_positions_and_boxes(repulsion, monkeypatch):
    good = repulsion(8)
    gpu.evaluate(good)
    lost, far = good.positions.clone(), good.positions.clone()
    small, tilted = good.box.clone(), good.box.clone()
    lost[3, 1], far[3, 1], small[2, 2], tilted[0, 1] = torch.nan, torch.inf, 1.7, 0.1
    cases = [(points, good.box, "not finite") for points in (lost, far)]
    cases += [
        (good.positions, box, message)
        for box, message in ((small, "below twice"), (tilted, "reduced form"))
    ]
    for points, box, message in cases:
        with pytest.raises(RuntimeError, match=message):
            gpu.evaluate(good._replace(positions=points, box=box))
    with pytest.raises(RuntimeError, match="call set_types"):
        gpu.evaluate(good._replace(positions=good.positions[:-1]))
    monkeypatch.setattr(gpu, "in_capture", lambda positions: True)
    for points, box, _ in cases:
        energy, gradient = gpu.evaluate(good._replace(positions=points, box=box))
        assert energy.isnan()
        assert gradient.isnan().all()


def test_forces_are_derivatives_of_the_energy():
    _, network = torchmd_pair(1, channels=4)
    positions, types = random_system(6, seed=2, box=0.5 * TRICLINIC)
    given = arguments(network, positions, types, None)
    _, gradient = gpu.evaluate(given)
    energy, step = [], 1e-6
    for sign in (1, -1):
        moved = given.positions.clone()
        moved[1, 0] += sign * step
        energy.append(gpu.evaluate(given._replace(positions=moved))[0].item())
    assert gradient[1, 0].item() == pytest.approx(
        (energy[0] - energy[1]) / (2 * step), rel=1e-5, abs=1e-5
    )


def test_kernels_are_checked_before_they_are_used(monkeypatch):
    fast = PackedNetwork(torchmd_pair(1, channels=8, dtype=torch.float32)[1], PRIOR)
    check.check_kernels(fast, "cpu")
    monkeypatch.setattr(
        check.evaluation,
        "evaluate",
        lambda *_: (torch.zeros(()), torch.zeros(24, 3, dtype=torch.float64)),
    )
    with pytest.raises(
        CompatibilityError,
        match=r"other forces on cpu .* by 1 of the largest; take engine='portable'",
    ):
        check.check_kernels(fast, "cpu")

    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(check.evaluation, "evaluate", broken)
    with pytest.raises(
        CompatibilityError, match=r"do not run on cpu \(no kernel image is available\); take"
    ):
        check.check_kernels(fast, "cpu")
