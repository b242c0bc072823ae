"""Mapping an existing trajectory: the same frames as the reporter makes, whatever was wrapped."""

import builtins
from pathlib import Path

import MDAnalysis
import mdtraj
import numpy as np
import pytest
from openmm import app, unit
from small_ethaline import COUNTS, simulation_of, small_config

from openmm_cgkd.exceptions import BoxError, CompatibilityError, FramesError, MappingError
from openmm_cgkd.frames import read_frames
from openmm_cgkd.mapping import mapping_from_config
from openmm_cgkd.reference.build import build_topology, create_system, pack
from openmm_cgkd.reference.reporter import MappedReporter
from openmm_cgkd.trajectory import map_trajectory

STEPS = [10, 20, 30, 40]


class Recorder:
    """Raw atomic positions and forces, nm and kJ/mol/nm."""

    def __init__(self) -> None:
        self.frames = []

    def describeNextReport(self, simulation):
        return {"steps": 10 - simulation.currentStep % 10, "periodic": False, "include": ["positions", "forces"]}

    def report(self, simulation, state):
        self.frames.append(
            {
                "positions": state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
                "forces": state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer),
                "box": state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer),
                "time": state.getTime().value_in_unit(unit.picosecond),
                "step": simulation.currentStep,
            }
        )


class Case:
    """One short all-atom run: its mapped frames, its raw frames, its topology file."""

    def __init__(self, folder: Path, skew: bool) -> None:
        self.config, self.folder = small_config(), folder
        topology, positions = pack(self.config)
        positions -= positions.mean(axis=0)  # around a corner of the box, so that its faces cut molecules
        if skew:  # the packed molecules in a reduced triclinic cell of the same volume
            edge = topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
            topology.setPeriodicBoxVectors(edge * np.array([[1, 0, 0], [0.3, 1, 0], [-0.2, 0.4, 1]]) * unit.nanometer)
        system = create_system(self.config, topology)
        simulation = simulation_of(self.config, system, topology, positions)
        mapping = mapping_from_config(self.config, mdtraj.Topology.from_openmm(topology))
        reporter, recorder = MappedReporter(folder / "reported.h5", 10, mapping, {"temperature": 363.15}), Recorder()
        simulation.reporters = [reporter, recorder]
        simulation.step(40)
        reporter.close()
        self.raw, self.topology = recorder.frames, folder / "topology.pdb"
        with open(self.topology, "w") as file:
            app.PDBFile.writeFile(topology, positions * 10 * unit.angstrom, file)

    def write(self, path: Path, frames: list[dict] | None = None, forces: bool = True, box: bool = True) -> Path:
        """TRR file, every atom wrapped into the box by itself."""
        frames = self.raw if frames is None else frames
        n_atoms = len(frames[0]["positions"])
        with MDAnalysis.Writer(str(path), n_atoms=n_atoms) as writer:
            universe = MDAnalysis.Universe.empty(n_atoms, trajectory=True, forces=forces)
            for frame in frames:
                step = universe.trajectory.ts
                fractional = frame["positions"] @ np.linalg.inv(frame["box"])
                step.positions = 10 * (fractional - np.floor(fractional)) @ frame["box"]
                if forces:
                    step.forces = frame["forces"] / 10
                if box:
                    step.triclinic_dimensions = 10 * frame["box"]
                step.time, step.data["step"] = frame["time"], frame["step"]
                writer.write(universe.atoms)
        return path


@pytest.fixture(scope="module", params=[False, True], ids=["cubic", "triclinic"])
def any_box(request, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("aa"), request.param)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("aa"), skew=False)


def test_same_frames_as_the_reporter(any_box, tmp_path):
    trajectory = any_box.write(tmp_path / "wrapped.trr")
    with MDAnalysis.coordinates.TRR.TRRReader(str(trajectory)) as reader:  # molecules really are broken in the file
        bonds = [(a.index, b.index) for a, b in build_topology(any_box.config).bonds()]
        x = reader[0].positions / 10
        assert max(np.linalg.norm(x[i] - x[j]) for i, j in bonds) > 0.5
    output = map_trajectory(any_box.config, trajectory, any_box.topology, tmp_path / "mapped.h5")
    mapped, reported = read_frames(output), read_frames(any_box.folder / "reported.h5")
    assert mapped.step.tolist() == reported.step.tolist() == STEPS
    assert mapped.time == pytest.approx(reported.time, rel=1e-5)
    assert np.allclose(mapped.box, reported.box, rtol=1e-5, atol=1e-5)
    assert np.allclose(mapped.forces, reported.forces, rtol=1e-5, atol=2e-3)
    images = (mapped.positions - reported.positions) @ np.linalg.inv(reported.box)
    assert np.allclose(images, np.round(images), atol=2e-5)  # equal up to box vectors, which wrapping has lost
    assert mapped.beads.names == reported.beads.names
    assert np.array_equal(mapped.beads.masses, reported.beads.masses)
    assert mapped.temperature == pytest.approx(363.15)
    assert mapped.attributes["trajectory"] == "wrapped.trr"
    assert not list(tmp_path.glob("*.tmp*"))


def test_existing_output(case, tmp_path):
    output, trajectory = tmp_path / "mapped.h5", case.write(tmp_path / "a.trr")
    output.write_bytes(b"somebody's file")
    with pytest.raises(FramesError, match="exists and is not a file of mapped frames"):
        map_trajectory(case.config, trajectory, case.topology, output)
    assert output.read_bytes() == b"somebody's file"
    output.unlink()
    map_trajectory(case.config, trajectory, case.topology, output)
    assert read_frames(output).step.tolist() == STEPS
    made = output.stat().st_mtime_ns
    map_trajectory(case.config, trajectory, case.topology, output)  # finished before
    assert output.stat().st_mtime_ns == made
    with pytest.raises(FramesError, match="another trajectory or system"):
        map_trajectory(case.config.model_copy(update={"temperature": 300.0}), trajectory, case.topology, output)
    assert "mapped" in (tmp_path / "mapped.log").read_text()


def refuse(case: Case, trajectory: Path, error: type, message: str, topology: Path | None = None, config=None) -> None:
    output = trajectory.with_name("mapped.h5")
    with pytest.raises(error, match=message) as caught:
        map_trajectory(config or case.config, trajectory, topology or case.topology, output)
    assert "\n" not in str(caught.value)
    assert not list(output.parent.glob("mapped.h5*"))  # nothing half-written


def test_frames_without_forces(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr", forces=False)
    refuse(case, trajectory, FramesError, r"a\.trr: frame 0 has no forces; write both positions and forces \(GROMACS: nstfout = nstxout\)")


def test_frames_without_box(case, tmp_path):
    refuse(case, case.write(tmp_path / "a.trr", box=False), BoxError, "frame 0 has no periodic box")


@pytest.mark.parametrize("name", ["positions", "forces"])
def test_values_that_are_not_finite(case, tmp_path, name):
    frames = [dict(frame) for frame in case.raw]
    frames[2][name] = frames[2][name].copy()
    frames[2][name][5, 1] = np.nan
    refuse(case, case.write(tmp_path / "a.trr", frames), FramesError, f"{name} of frame 2 are not finite")


def test_repeated_frame(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr", [*case.raw[:3], case.raw[2], case.raw[3]])
    refuse(case, trajectory, FramesError, "frame 3 is at step 30, not after 30; remove repeated frames")


def test_other_number_of_atoms(case, tmp_path):
    frames = [{**frame, "positions": frame["positions"][:-10], "forces": frame["forces"][:-10]} for frame in case.raw]
    n_atoms = len(case.raw[0]["positions"])
    refuse(case, case.write(tmp_path / "a.trr", frames), MappingError, rf"a\.trr: has not the {n_atoms} atoms of .*topology\.pdb")


def test_other_molecules_than_the_configuration(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    config = small_config({**COUNTS, "EGL": 5})
    refuse(case, trajectory, MappingError, "holds 6 molecules of EGL, the configuration says 5", config=config)
    config = small_config({"CHO": 3, "CL": 3})
    refuse(case, trajectory, MappingError, r"does not name: \['EGL'\]", config=config)


def test_other_atom_names(case, tmp_path):
    trajectory, topology = case.write(tmp_path / "a.trr"), tmp_path / "other.pdb"
    lines = case.topology.read_text().splitlines(keepends=True)
    glycol = [k for k, line in enumerate(lines) if " EGL " in line and line.startswith(("ATOM", "HETATM"))]
    for k, other in ((glycol[10], " C2 "), (glycol[11], " C1 ")):
        lines[k] = lines[k][:12] + other + lines[k][16:]
    topology.write_text("".join(lines))
    refuse(case, trajectory, MappingError, r"molecule 7 \(EGL\) has atoms C2 C1 .*, its molecule file has C1 C2 ", topology=topology)


def test_molecule_without_bonds(case, tmp_path):
    bare = tmp_path / "EGL.pdb"
    glycol = case.config.molecules[2]
    bare.write_text(case.config.path(glycol.structure).read_text().split("\nCONECT")[0] + "\nEND\n")
    molecules = [*case.config.molecules[:2], glycol.model_copy(update={"structure": bare})]
    config = case.config.model_copy(update={"molecules": molecules})
    refuse(case, case.write(tmp_path / "a.trr"), MappingError, "not bonded to the rest of it; add CONECT records", config=config)


def test_files_that_cannot_be_read(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    refuse(case, tmp_path / "absent.trr", FramesError, r"absent\.trr: no such file")
    refuse(case, trajectory, FramesError, r"absent\.pdb: no such file", topology=tmp_path / "absent.pdb")
    strange = tmp_path / "a.strange"
    strange.write_text("?")
    refuse(case, strange, FramesError, r"a\.strange: cannot be read as a trajectory")
    refuse(case, trajectory, FramesError, r"a\.strange: cannot be read as a topology", topology=strange)
    broken = tmp_path / "broken.trr"
    data = trajectory.read_bytes()
    broken.write_bytes(data[: len(data) - 400])
    refuse(case, broken, FramesError, r"broken\.trr: .*cannot be read")


def test_without_mdanalysis(case, tmp_path, monkeypatch):
    trajectory, original = case.write(tmp_path / "a.trr"), builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "MDAnalysis":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    refuse(case, trajectory, CompatibilityError, r"needs MDAnalysis; install it with: pip install 'MDAnalysis>=2\.8'")
