"""The student that comes with ethaline: it belongs to the shipped frames, and its forces are
near the mean forces.
"""

import json

import numpy as np
import openmm
import pytest
import torch
from typer.testing import CliRunner

from openmm_cgkd import CGPotential
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.run import ModelConfig, load_run
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.potential.metadata import read_metadata
from openmm_cgkd.potential.modules import script_fast
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.stages.timestep import simulation_settings
from tests.cases.old_files import FOLDER as OLD_FILES

BEFORE = OLD_FILES / "ethaline-student.pt"


@pytest.fixture(scope="module")
def folder(ethaline):
    return ethaline.parent


def test_it_was_trained_on_the_shipped_frames(folder):
    metadata, frames = read_metadata(folder / "student.pt"), read_frames(folder / "frames.h5")
    assert metadata.frames_sha256 == frames.identity
    assert tuple(metadata.type_names) == frames.beads.type_names
    assert metadata.temperature == frames.temperature


def test_its_report_is_of_this_network_and_these_frames(folder):
    page = (folder / "report.html").read_text()
    assert read_metadata(folder / "student.pt").content_sha256 in page
    assert read_frames(folder / "frames.h5").identity in page


def test_only_its_wall_differs_from_the_student_of_version_0_1(folder):
    """The same network to the last bit; of all contacts in the frames two are inside the bend."""
    frames, known = read_frames(folder / "frames.h5"), read_metadata(BEFORE)
    fresh = read_metadata(folder / "student.pt")
    assert fresh.prior == known.prior | {"stiffness": 3e4}
    assert fresh.checkpoint_sha256 == known.checkpoint_sha256
    files = [CGPotential(file, "fast").load() for file in (BEFORE, folder / "student.pt")]
    for frame, beads, change in ((0, [], 0.0), (249, [91, 226], 264.7), (892, [74, 87], 147.8)):
        at = torch.tensor(frames.positions[frame].astype(float), requires_grad=True)
        gradients = []
        for module in files:
            module.set_types(torch.from_numpy(frames.beads.types.astype(np.int64)))
            energy = module(at, torch.from_numpy(frames.box[frame].astype(float)))
            gradients.append(torch.autograd.grad(energy, at)[0])
        moved = torch.linalg.vector_norm(gradients[1] - gradients[0], dim=1).numpy()
        assert np.flatnonzero(moved > 1e-9).tolist() == beads
        np.testing.assert_allclose(moved[beads], change, atol=0.05)


def test_its_forces_in_openmm_are_nearer_to_the_mean_forces_than_any_label(folder):
    """The RMSE is 92.3(14) kJ/mol/nm, that of the labels 256, that of no forces 146; a wrong
    sign or unit would show.
    """
    frames, known = read_frames(folder / "frames.h5"), read_mean_forces(folder / "mean_forces.h5")
    system = CGPotential(folder / "student.pt").createSystem(
        bead_topology_to_openmm(frames.beads, known.box[0])
    )
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("CPU")
    )
    squares = []
    for positions, box, forces, error in zip(
        known.positions, known.box, known.forces, known.standard_error, strict=True
    ):
        context.setPeriodicBoxVectors(*box.astype(float))
        context.setPositions(positions)
        found = context.getState(forces=True).getForces(asNumpy=True)._value
        squares.append(((found - forces) ** 2 - error**2).mean())
    assert np.sqrt(np.mean(squares)) == pytest.approx(92.3, abs=1.0)


@pytest.mark.parametrize("engine", ["fast", "portable"])
@pytest.mark.parametrize("version", ["shipped", "0.1"])
def test_its_forces_are_those_of_its_own_script_to_the_last_bit(folder, engine, version):
    """That of 0.1 was written before there were plain weights and a soft wall, and so its script
    knows neither.
    """
    frames = read_frames(folder / "frames.h5")
    file = BEFORE if version == "0.1" else folder / "student.pt"
    made, script = CGPotential(file, engine).load(), torch.jit.load(str(file))
    if engine == "fast":
        description = {k: v for k, v in read_metadata(file).network.items() if k != "scale"}
        network = build_tensornet(ModelConfig(**description), 3, 1.0)
        network.load_state_dict(
            {
                name.removeprefix("network."): weights
                for name, weights in script.state_dict().items()
                if name.startswith("network.")
            }
        )
        script = script_fast(PriorParameters(**read_metadata(file).prior), network, script)
    results = []
    for module in (made, script):
        module.set_types(torch.from_numpy(frames.beads.types.astype(np.int64)))
        for k in (0, 50, 249):
            at = torch.tensor(frames.positions[k].astype(float), requires_grad=True)
            energy = module(at, torch.from_numpy(frames.box[k].astype(float)))
            (gradient,) = torch.autograd.grad(energy, at)
        # the last one: TorchScript still optimises in the first two
        results.append((energy.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_it_runs_by_the_name_of_the_fluid_at_the_recommended_time_step(
    folder, tmp_path, monkeypatch
):
    run = load_run(folder / "simulate.yaml")
    recommended = json.loads((folder / "timestep.json").read_text())["timestep_ps"]
    assert simulation_settings(run).timestep == recommended > 0
    short = {"equilibration": 0.1, "production": 0.5, "frame_interval": 0.1}
    quick = run.model_copy(update={"simulation": run.simulation.model_copy(update=short)})
    monkeypatch.setattr("openmm_cgkd.cli.options.load_run", lambda path: quick)
    result = CliRunner().invoke(app, ["simulate", "ethaline", "--folder", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "simulation" / "trajectory.dcd").stat().st_size > 5 * 240 * 3 * 4
