"""The TorchScript file: right numbers from torch alone, metadata, and refusal of foreign files."""

import json
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.torch
import torch

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.exceptions import MappingError, ModelFileError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.potential import export, script_geometry
from openmm_cgkd.potential.checkpoint import save_checkpoint
from openmm_cgkd.potential.export import fast_path, type_masses, write_potential
from openmm_cgkd.potential.metadata import OLDEST, VERSION, WEIGHTS, read_metadata
from openmm_cgkd.potential.network import TensorNetEnergies, build_tensornet
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.export import export_student
from openmm_cgkd.utils.files import write_text
from tests.cases.potential import (
    BOXES,
    CONFIG,
    CUBIC,
    CUTOFF,
    MASSES,
    NAMES,
    PRIOR,
    TRICLINIC,
    beads,
    images,
    liquid,
    metadata,
    prior_energy_and_forces,
    rewritten,
    torchmd_network,
    write_toy_potential,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt")


@pytest.fixture(scope="module")
def fast_model(model):
    return write_toy_potential(fast_path(model), kind="fast")


def evaluate(model, types, positions, box=None, dtype=torch.float64):
    """Energy and forces of the file."""
    module = torch.jit.load(str(model))
    module.set_types(torch.from_numpy(types))
    at = torch.tensor(positions, dtype=dtype, requires_grad=True)
    energy = module(at) if box is None else module(at, torch.tensor(box, dtype=dtype))
    assert energy.dtype == dtype
    (gradient,) = torch.autograd.grad(energy, at)
    return energy.item(), -gradient.numpy()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_equals_torchmd_net_and_prior_formula(model, box, dtype):
    types, positions = liquid(box=box)
    network = torchmd_network().double()
    at = torch.tensor(positions, requires_grad=True)
    energy, _ = network(
        torch.from_numpy(types), at, box=None if box is None else torch.from_numpy(box)
    )
    (gradient,) = torch.autograd.grad(energy.sum(), at)
    prior, prior_forces = prior_energy_and_forces(types, positions, box)
    found, forces = evaluate(model, types, positions, box, dtype)
    expected = prior_forces - gradient.numpy()
    # the prior is steep: rounding a position moves it by 2e-5
    allowed = 1e-5 if dtype == torch.float64 else 1e-4
    assert found == pytest.approx(energy.item() + prior, rel=allowed)
    assert np.abs(forces - expected).max() < allowed * np.abs(expected).max()
    assert np.abs(prior_forces).max() > 10  # both terms are seen
    assert np.abs(gradient.numpy()).max() > 10


def test_works_with_torch_alone(model, tmp_path):
    types, positions = liquid()
    np.savez(tmp_path / "beads.npz", types=types, positions=positions, box=CUBIC)
    script = """
        import sys
        for name in ("openmm_cgkd", "torchmdnet", "numba", "vesin", "warp", "openmm"):
            sys.modules[name] = None  # importing it now fails
        import numpy as np, torch
        beads = np.load(sys.argv[2])
        module = torch.jit.load(sys.argv[1])
        module.set_types(torch.from_numpy(beads["types"]))
        positions = torch.from_numpy(beads["positions"]).requires_grad_()
        energy = module(positions, torch.from_numpy(beads["box"]))
        energy.backward()
        print(energy.item(), positions.grad.norm().item())
    """
    result = in_another_process(script, model, tmp_path / "beads.npz", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    energy, forces = evaluate(model, types, positions, CUBIC)
    assert [float(word) for word in result.stdout.split()] == pytest.approx(
        [energy, np.linalg.norm(forces)], rel=1e-6
    )


def in_another_process(script, *arguments, folder):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_fast_file_equals_the_portable_one(model, fast_model, box):
    types, positions = liquid(box=box)
    energy, forces = evaluate(model, types, positions, box)
    found, fast_forces = evaluate(fast_model, types, positions, box)
    assert found == pytest.approx(energy, rel=1e-5)
    assert np.abs(fast_forces - forces).max() < 1e-4 * np.abs(forces).max()
    assert [read_metadata(path).kind for path in (model, fast_model)] == ["portable", "fast"]


def test_fast_file_needs_the_operators_and_no_torchmd_net(fast_model, tmp_path):
    script = """
        import sys, torch
        sys.modules["torchmdnet"] = None  # importing it now fails
        try:
            torch.jit.load(sys.argv[1])
        except RuntimeError as error:
            print(error)
        import openmm_cgkd.operators
        torch.jit.load(sys.argv[1])
    """
    result = in_another_process(script, fast_model, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    # without the operators torch names the package
    assert "Unknown builtin op: openmm_cgkd::" in result.stdout


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_finds_the_pairs_of_explicit_images(box):
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 2, (60, 3))
    if box is not None:
        # far out of the box, as in a simulation that is not wrapped
        positions += rng.integers(-5, 6, (60, 3)) @ box
    first, second, vectors = images(positions, box)
    numbers = [] if box is None else script_geometry.script_box(torch.from_numpy(box), CUTOFF)
    found = torch.stack(
        script_geometry.near_pairs(torch.from_numpy(positions), numbers, CUTOFF)
    ).numpy()
    assert len(first) > 10
    assert sorted(zip(*found, strict=True)) == sorted(zip(first, second, strict=True))
    if box is not None:
        delta = torch.from_numpy(positions[second] - positions[first])
        nearest = torch.stack(
            script_geometry.image_shifts(*delta.unbind(1), numbers), dim=1
        ).numpy()
        np.testing.assert_allclose(nearest, vectors, atol=1e-12)


def test_blocks_of_the_pair_search_miss_nothing(model):
    n = 700  # several blocks
    rng = np.random.default_rng(5)
    positions = rng.uniform(0, 9, (n, 3))
    found = torch.stack(script_geometry.near_pairs(torch.from_numpy(positions), [], CUTOFF)).numpy()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    expected = np.argwhere(np.triu(distance < CUTOFF, 1))
    assert n * n > 2 * 32768
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, expected))


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_translation_and_permutation_of_like_beads(model, box):
    types, positions = liquid(box=box)
    energy, forces = evaluate(model, types, positions, box)
    moved, moved_forces = evaluate(model, types, positions + np.array([0.31, -2.7, 5.5]), box)
    assert moved == pytest.approx(energy, rel=1e-5)
    np.testing.assert_allclose(moved_forces, forces, atol=1e-4)
    like = np.flatnonzero(types == types[0])
    order = np.arange(len(types))
    order[like] = np.roll(like, 1)
    swapped, swapped_forces = evaluate(model, types, positions[order], box)
    assert swapped == pytest.approx(energy, rel=1e-5)
    np.testing.assert_allclose(swapped_forces, forces[order], atol=1e-4)


def test_rotation_and_mirror(model):
    types, positions = liquid(box=None)
    energy, forces = evaluate(model, types, positions)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    for matrix in (turn, -turn):
        turned, turned_forces = evaluate(model, types, positions @ matrix.T)
        assert turned == pytest.approx(energy, rel=1e-5)
        np.testing.assert_allclose(turned_forces, forces @ matrix.T, atol=1e-4)


@pytest.mark.parametrize("box", [CUBIC, TRICLINIC], ids=["cubic", "triclinic"])
def test_shifts_by_lattice_vectors(model, box):
    types, positions = liquid(box=box)
    energy, forces = evaluate(model, types, positions, box)
    shifts = np.random.default_rng(1).integers(-3, 4, positions.shape) @ box
    shifted, shifted_forces = evaluate(model, types, positions + shifts, box)
    assert shifted == pytest.approx(energy, rel=1e-5)
    np.testing.assert_allclose(shifted_forces, forces, atol=1e-4)


def test_force_is_exactly_zero_beyond_the_cutoff(model):
    types = np.array([0, 2])
    apart, forces = evaluate(model, types, np.array([[0, 0, 0], [CUTOFF + 1e-6, 0, 0]]))
    assert (forces == 0).all()
    single = [evaluate(model, types[k : k + 1], np.zeros((1, 3))) for k in range(2)]
    assert all((force == 0).all() for _, force in single)
    assert apart == pytest.approx(single[0][0] + single[1][0], rel=1e-5)
    assert (evaluate(model, types, np.array([[0, 0, 0], [0.5, 0, 0]]))[1] != 0).any()
    # and it goes there smoothly
    assert (
        np.abs(evaluate(model, types, np.array([[0, 0, 0], [CUTOFF - 1e-5, 0, 0]]))[1]).max() < 1e-2
    )


def test_one_bead_in_a_box(model):
    energy, forces = evaluate(model, np.array([1]), np.array([[0.1, 0.2, 0.3]]), CUBIC)
    assert np.isfinite(energy)
    assert (forces == 0).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (np.diag([2.0, 1.59, 2.0]), "twice the cutoff"),
        # edges long enough, height 1.54 nm not
        (np.array([[1.7, 0, 0], [0.8, 1.7, 0], [0, 0, 3.0]]), "twice the cutoff"),
        (np.array([[2.0, 0.1, 0], [0, 2.0, 0], [0, 0, 2.0]]), "reduced form"),
    ],
)
def test_bad_box(model, box, message):
    types, positions = liquid()
    with pytest.raises(torch.jit.Error, match=message):
        evaluate(model, types, positions, box)


def test_bad_beads(model):
    types, positions = liquid()
    with pytest.raises(torch.jit.Error, match="set_types"):
        evaluate(model, types[:-1], positions)
    with pytest.raises(torch.jit.Error, match="from 0 to 2"):
        evaluate(model, types + 1, positions)
    positions[3, 1] = np.nan
    with pytest.raises(torch.jit.Error, match="not finite"):
        evaluate(model, types, positions)


def test_metadata(model):
    found = read_metadata(model)
    assert (found.type_names, found.masses, found.cutoff) == (list(NAMES), list(MASSES), CUTOFF)
    assert found.units["length"] == "nanometer"
    assert found.prior["contact"] == PRIOR.contact
    assert found.versions["torch"].startswith("2.9")
    assert not any(parameter.requires_grad for parameter in torch.jit.load(str(model)).parameters())


@pytest.mark.parametrize("kind", ["portable", "fast"])
def test_weights_stand_beside_the_script_as_plain_tensors(model, fast_model, kind):
    """Anyone can read them with the library safetensors alone."""
    with zipfile.ZipFile(model if kind == "portable" else fast_model) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        found = safetensors.torch.load(archive.read(f"archive/{WEIGHTS}"))
    expected = TensorNetEnergies(torchmd_network()).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_file_says_nothing_of_the_machine_that_made_it(model):
    with zipfile.ZipFile(model) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(export.__file__).encode() not in content


def flip(name, content):
    """One bit of all weights."""
    return bytes([content[0] ^ 1]) + content[1:] if "/data/" in name and content else content


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "no such file"),
        ("text", "not a TorchScript file"),
        ("checkpoint", "not a TorchScript file"),
        ("foreign", "not a potential"),
        ("newer", "upgrade openmm_cgkd"),
        ("older", "export it again"),
        ("invalid", "field masses"),
        ("other weights", "changed after the export"),
        ("other masses", "changed after the export"),
    ],
)
def test_files_that_are_not_ours(model, tmp_path, kind, expected):
    path = tmp_path / "student.pt"
    if kind == "text":
        path.write_text("energy")
    elif kind == "checkpoint":
        torch.save({"state": torch.zeros(3)}, path)
    elif kind == "foreign":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    elif kind in ("newer", "older"):
        rewritten(model, path, version=VERSION + 1 if kind == "newer" else OLDEST - 1)
    elif kind == "invalid":
        rewritten(model, path, hashed=True, masses=[1.0])
    elif kind == "other weights":
        rewritten(model, path, edit=flip)
    elif kind == "other masses":
        rewritten(model, path, masses=[1.0, 2.0, 3.0])
    with pytest.raises(ModelFileError, match=expected) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


def test_a_copy_is_still_ours(model, tmp_path):
    assert read_metadata(rewritten(model, tmp_path / "copy.pt")) == read_metadata(model)


def test_a_file_that_differs_from_its_model_is_not_written(tmp_path, monkeypatch):
    original = export.find_pairs

    def lose_a_pair(*arguments):
        pairs = original(*arguments)
        return type(pairs)(pairs.first[1:], pairs.second[1:], pairs.shifts[1:])

    monkeypatch.setattr(export, "find_pairs", lose_a_pair)
    with pytest.raises(ModelFileError, match="differs from its model"):
        write_toy_potential(tmp_path / "student.pt")
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_another_model(tmp_path):
    types, positions = liquid()
    with pytest.raises(ModelFileError, match=r"cutoff 0\.9"):
        write_potential(
            tmp_path / "a.pt",
            TensorNetEnergies(torchmd_network()),
            PRIOR,
            metadata(cutoff=0.9, network={**CONFIG.model_dump(), "cutoff": "0.9 nanometer"}),
            types,
            positions,
            CUBIC,
        )
    assert list(tmp_path.iterdir()) == []


def test_type_masses():
    types = np.array([0, 1, 1, 2])
    assert type_masses(beads(types)) == list(MASSES)
    with pytest.raises(MappingError, match="CL weigh 35 to 36"):
        type_masses(BeadTopology(NAMES, types, np.array([104.0, 35.0, 36.0, 62.0]), np.arange(4)))
    with pytest.raises(MappingError, match="EGL has no beads"):
        type_masses(beads(np.array([0, 1])))


def test_export_student(lj_frames, small_run, tmp_path):
    run = parse(RunConfig, small_run, "run.yaml", tmp_path)
    folder = RunFolder(run)
    with pytest.raises(ModelFileError, match="cgkd distill"):
        export_student(run)
    frames = read_frames(lj_frames)
    network = build_tensornet(run.model, 2, 5.0)
    facts = {"seed": 3, "weights": {"force": 1.0, "energy": 0.0, "bead_energy": 0.1}}
    save_checkpoint(
        folder.student / "best.pt", network, run.model, 5.0, frames.identity, ("A", "B"), facts
    )
    prior = PriorParameters(("A", "B"), [[0.3, 0.3], [0.3, 0.3]], 50.0, 0.05, 0.015)
    write_text(folder.prior, json.dumps(asdict(prior)))
    path = export_student(run)
    assert path == folder.root / "student.pt"
    assert read_metadata(folder.root / "student-fast.pt").kind == "fast"
    found = read_metadata(path)
    assert (found.system, found.temperature, found.masses) == ("lj", 120.0, [40.0, 80.0])
    assert found.training == facts
    assert found.frames_sha256 == frames.identity
    assert found.network["channels"] == CONFIG.channels
    before = path.stat().st_mtime_ns
    export_student(run)
    assert path.stat().st_mtime_ns == before  # finished before
