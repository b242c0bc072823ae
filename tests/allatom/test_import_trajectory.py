"""Mapping an existing trajectory: the same frames as the reporter makes.

Whatever the format, and whatever was wrapped.
"""

import builtins
import copy
import gzip
import hashlib
import os
import shutil
from pathlib import Path

import h5py
import MDAnalysis
import mdtraj
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.import_trajectory import map_trajectory
from openmm_cgkd.cli.commands import app
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import (
    BoxError,
    CompatibilityError,
    ConfigError,
    FramesError,
    MappingError,
)
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from tests.cases.all_atom import STEPS, Case, wrapped
from tests.cases.fluids import COUNTS, ETHALINE, small_config

FORMATS = ["trr", "nc", "h5md", "real", "metal"]


@pytest.fixture(scope="module", params=[False, True], ids=["cubic", "triclinic"])
def any_box(request, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("aa"), request.param)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("aa"), skew=False)


def write(case: Case, folder: Path, kind: str) -> tuple[Path, dict]:
    """The raw frames in one format, and the options that this format needs."""
    if kind in ("real", "metal"):
        columns = {"real": "id type x y z fx fy fz", "metal": "fx fy fz id xs ys zs"}[kind]
        return case.write_lammps(folder / "a.lammpstrj", kind, columns=columns), {"units": kind}
    if kind == "h5md":
        return case.write_h5md(folder / "a.h5md"), {}
    return case.write(folder / f"a.{kind}"), {}


@pytest.mark.parametrize("kind", FORMATS)
def test_same_frames_as_the_reporter(any_box, tmp_path, kind):
    trajectory, options = write(any_box, tmp_path, kind)
    output = map_trajectory(
        any_box.config, trajectory, any_box.topology, tmp_path / "mapped.h5", **options
    )
    mapped, reported = read_frames(output), read_frames(any_box.folder / "reported.h5")
    assert mapped.step.tolist() == ([0, 1, 2, 3] if kind == "nc" else STEPS)  # NetCDF has no steps
    assert mapped.time == pytest.approx(reported.time, rel=1e-5)
    assert np.allclose(mapped.box, reported.box, rtol=1e-5, atol=1e-5)
    assert np.allclose(mapped.forces, reported.forces, rtol=1e-5, atol=2e-3)
    images = (mapped.positions - reported.positions) @ np.linalg.inv(reported.box)
    if kind in ("real", "metal"):
        images -= images[0, 0]  # the dump has another origin
    # equal up to box vectors, which wrapping has lost
    assert np.allclose(images, np.round(images), atol=2e-5)
    assert mapped.beads.names == reported.beads.names
    assert np.array_equal(mapped.beads.masses, reported.beads.masses)
    assert mapped.temperature == pytest.approx(363.15)
    assert mapped.attributes["trajectory"] == trajectory.name
    assert not list(tmp_path.glob("*.tmp*"))


def test_molecules_in_the_file_are_broken(case, tmp_path):
    with MDAnalysis.coordinates.TRR.TRRReader(str(case.write(tmp_path / "a.trr"))) as reader:
        bonds = [(a.index, b.index) for a, b in build_topology(case.config).bonds()]
        x = reader[0].positions / 10
    assert max(np.linalg.norm(x[i] - x[j]) for i, j in bonds) > 0.5


def test_whole_molecules_as_bond_by_bond(any_box):
    frame, topology = any_box.raw[0], mdtraj.Topology.from_openmm(build_topology(any_box.config))
    bonds = bond_order(topology)
    x = wrapped(frame)
    molecules = WholeMolecules(bonds, len(x))
    whole = molecules(x, frame["box"])
    expected = x.copy()
    for i, j in bonds:
        images = np.round((x[j] - expected[i]) @ np.linalg.inv(frame["box"]))
        expected[j] = x[j] - images @ frame["box"]
    assert np.allclose(whole, expected, atol=1e-12)
    assert min(np.linalg.norm(whole[i] - whole[j]) for i, j in bonds) > 0.09
    assert max(np.linalg.norm(whole[i] - whole[j]) for i, j in bonds) < 0.18


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
    with pytest.raises(FramesError, match="another trajectory, topology or system"):
        map_trajectory(
            case.config.model_copy(update={"temperature": 300.0}), trajectory, case.topology, output
        )
    assert "mapped" in (tmp_path / "mapped.log").read_text()


def test_a_corrected_topology_or_molecule_is_mapped_anew(case, tmp_path):
    """Their names have not changed."""
    output, trajectory = tmp_path / "mapped.h5", case.write(tmp_path / "a.trr")
    topology = shutil.copy(case.topology, tmp_path / "topology.pdb")
    folder = shutil.copytree(case.config.path(Path("molecules")), tmp_path / "molecules")
    config = case.config.relative_to(tmp_path)
    map_trajectory(config, trajectory, Path(topology), output)
    map_trajectory(config, trajectory, Path(topology), output)
    for file in (Path(topology), folder / "EGL.pdb"):
        before = file.read_text()
        file.write_text(f"REMARK corrected\n{before}")
        with pytest.raises(FramesError, match="frames of another trajectory, topology or system"):
            map_trajectory(config, trajectory, Path(topology), output)
        file.write_text(before)


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def refuse(
    case: Case,
    trajectory: Path,
    error: type,
    message: str,
    topology: Path | None = None,
    config=None,
    **options,
) -> None:
    output = trajectory.with_name("mapped.h5")
    before = hash_of(trajectory)
    with pytest.raises(error, match=message) as caught:
        map_trajectory(
            config or case.config, trajectory, topology or case.topology, output, **options
        )
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert hash_of(trajectory) == before
    assert not list(output.parent.glob("mapped.h5*"))  # nothing half-written


def test_frames_without_forces(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr", forces=False)
    refuse(
        case,
        trajectory,
        FramesError,
        r"a\.trr: frame 0 has no forces; write both positions and forces \(GROMACS: nstfout ="
        r" nstxout\)",
    )


def test_frames_without_box(case, tmp_path):
    refuse(case, case.write(tmp_path / "a.trr", box=False), BoxError, "frame 0 has no periodic box")


@pytest.mark.parametrize("name", ["positions", "forces"])
def test_values_that_are_not_finite(case, tmp_path, name):
    frames = [dict(frame) for frame in case.raw]
    frames[2][name] = frames[2][name].copy()
    frames[2][name][5, 1] = np.nan
    refuse(
        case,
        case.write(tmp_path / "a.trr", frames),
        FramesError,
        f"{name} of frame 2 are not finite",
    )


def test_repeated_frame(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr", [*case.raw[:3], case.raw[2], case.raw[3]])
    refuse(
        case, trajectory, FramesError, "frame 3 is at step 30, not after 30; remove repeated frames"
    )


def test_other_number_of_atoms(case, tmp_path):
    frames = [
        {**frame, "positions": frame["positions"][:-10], "forces": frame["forces"][:-10]}
        for frame in case.raw
    ]
    n_atoms = len(case.raw[0]["positions"])
    refuse(
        case,
        case.write(tmp_path / "a.trr", frames),
        MappingError,
        rf"a\.trr: has not the {n_atoms} atoms of .*topology\.pdb",
    )


def test_other_molecules_than_the_configuration(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    config = small_config({**COUNTS, "EGL": 5})
    refuse(
        case,
        trajectory,
        MappingError,
        "holds 6 molecules of EGL, the configuration says 5",
        config=config,
    )
    config = small_config({"CHO": 3, "CL": 3})
    refuse(case, trajectory, MappingError, "holds molecules EGL, which the", config=config)


def test_other_atom_names(case, tmp_path):
    trajectory, topology = case.write(tmp_path / "a.trr"), tmp_path / "other.pdb"
    lines = case.topology.read_text().splitlines(keepends=True)
    glycol = [
        k for k, line in enumerate(lines) if " EGL " in line and line.startswith(("ATOM", "HETATM"))
    ]
    for k, other in ((glycol[10], " C2 "), (glycol[11], " C1 ")):
        lines[k] = lines[k][:12] + other + lines[k][16:]
    topology.write_text("".join(lines))
    refuse(
        case,
        trajectory,
        MappingError,
        r"molecule 7 \(EGL\) has atoms C2 C1 .*, its molecule file has C1 C2 ",
        topology=topology,
    )


def test_molecule_without_bonds(case, tmp_path):
    bare = tmp_path / "EGL.pdb"
    glycol = case.config.molecules[2]
    bare.write_text(case.config.path(glycol.structure).read_text().split("\nCONECT")[0] + "\nEND\n")
    molecules = [*case.config.molecules[:2], glycol.model_copy(update={"structure": bare})]
    config = case.config.model_copy(update={"molecules": molecules})
    refuse(
        case,
        case.write(tmp_path / "a.trr"),
        MappingError,
        "not bonded to the rest of it; add CONECT records",
        config=config,
    )


def test_files_that_cannot_be_read(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    refuse(case, tmp_path / "absent.trr", FramesError, r"absent\.trr: no such file")
    refuse(
        case,
        trajectory,
        FramesError,
        r"absent\.pdb: no such file",
        topology=tmp_path / "absent.pdb",
    )
    strange = tmp_path / "a.strange"
    strange.write_text("?")
    refuse(case, strange, FramesError, r"a\.strange: the ending \.strange is of no format")
    refuse(
        case,
        trajectory,
        FramesError,
        r"a\.strange: the ending \.strange is of no topology",
        topology=strange,
    )
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
    refuse(
        case,
        trajectory,
        CompatibilityError,
        r"needs MDAnalysis; install it with: pip install 'MDAnalysis>=2\.8'",
    )


def test_lammps_units(case, tmp_path):
    dump = case.write_lammps(tmp_path / "a.dump")
    refuse(
        case,
        dump,
        ConfigError,
        r"a\.dump: LAMMPS dumps carry no units; give --units with the style of the run: real,"
        r" metal",
    )
    refuse(case, dump, ConfigError, "unit style 'lj' cannot be mapped", units="lj")
    refuse(
        case,
        dump,
        ConfigError,
        "carries times of its own; leave out --timestep",
        units="real",
        timestep=0.001,
    )
    refuse(
        case,
        dump,
        FramesError,
        r"step 10: the bonds \S+ of \S+ are \S+e\+0[89] nm long .*; the positions are in other",
        units="si",
    )
    stated = case.write_lammps(tmp_path / "b.dump", header="ITEM: UNITS\nreal\n")
    refuse(
        case,
        stated,
        ConfigError,
        "is in unit style real, not metal; give --units real",
        units="metal",
    )
    refuse(
        case,
        case.write(tmp_path / "a.trr"),
        ConfigError,
        "--units is for LAMMPS dumps, and this file does not begin with 'ITEM:'; .* leave it out",
        units="real",
    )


def test_h5md_units(case, tmp_path):
    refuse(
        case,
        case.write_h5md(tmp_path / "a.h5md", length="Angstrom"),
        FramesError,
        r"step 10: the bonds \S+ of \S+ are 0\.0[01]\d+ nm .*; the positions are in other units",
    )
    refuse(
        case,
        case.write_h5md(tmp_path / "b.h5md", length="furlong"),
        FramesError,
        "position/value is in 'furlong', which is not known; use one of nm, Angstrom",
    )
    bare = case.write_h5md(tmp_path / "c.h5md")
    with h5py.File(bare, "r+") as file:
        del file["particles/trajectory/force/value"].attrs["unit"]
    refuse(
        case,
        bare,
        FramesError,
        "force/value does not state its unit; write the attribute 'unit'",
    )
    refuse(
        case,
        case.write_h5md(tmp_path / "d.h5md", shift=5),
        FramesError,
        "positions and forces were written at different steps",
    )


def test_netcdf_units(case, tmp_path):
    trajectory = case.write(tmp_path / "a.nc")
    data = trajectory.read_bytes()
    assert data.count(b"kilocalorie/mole/angstrom") == 1
    trajectory.write_bytes(data.replace(b"kilocalorie/mole/angstrom", b"kilojoules/mole/angstroms"))
    refuse(
        case,
        trajectory,
        FramesError,
        "cannot be read as an Amber NetCDF trajectory .*kilojoules/mole/angstroms",
    )


def test_other_formats_without_forces(case, tmp_path):
    refuse(
        case,
        case.write(tmp_path / "a.nc", forces=False),
        FramesError,
        "has no forces; write forces .Amber: ntwf = ntwx",
    )
    h5md = case.write_h5md(tmp_path / "a.h5md")
    with h5py.File(h5md, "r+") as file:
        del file["particles/trajectory/force"]
    refuse(case, h5md, FramesError, "has no forces; write both positions and forces")
    dump = case.write_lammps(tmp_path / "a.dump", columns="id type x y z")
    refuse(
        case,
        dump,
        FramesError,
        "frame 0 has no forces; dump the columns id x y z fx fy fz",
        units="real",
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_are_cut_off(case, tmp_path, kind):
    trajectory, options = write(case, tmp_path, kind)
    data = trajectory.read_bytes()
    trajectory.write_bytes(data[: len(data) - 500])
    refuse(case, trajectory, FramesError, "cannot be read", **options)


@pytest.mark.parametrize("ending", [".itp", ".psf", ".xyz", ""])
def test_topologies_of_other_formats_are_not_opened(case, tmp_path, ending):
    """Some include further files, others make room for as many atoms as they say."""
    topology = tmp_path / f"topology{ending}"
    topology.write_text('#include "/dev/zero"\n')
    trajectory = case.write(tmp_path / "a.trr")
    with pytest.raises(FramesError, match="of no topology that is read; give a PDB, GRO or TPR"):
        map_trajectory(case.config, trajectory, topology, tmp_path / "mapped.h5")


def test_topologies_that_are_none(case, tmp_path):
    """Refused before room is made for what they declare; a pipe would be waited for."""
    trajectory = case.write(tmp_path / "a.trr")
    for name, content, message in (
        ("a.gro", b"none\n99999999999\n", "its second line says 99999999999 atoms"),
        ("b.gro", b"none\nmany\n", "cannot be read as a topology"),
        ("a.pdb", "HETATM".encode("utf-16"), "is text in UTF-16; save it in UTF-8"),
        ("b.pdb", b"HETATM\n\0", "line 2: holds a NUL character"),
    ):
        (tmp_path / name).write_bytes(content)
        refuse(case, trajectory, FramesError, message, topology=tmp_path / name)
    os.mkfifo(tmp_path / "c.pdb")
    refuse(case, trajectory, FramesError, "a device or a pipe", topology=tmp_path / "c.pdb")
    with pytest.raises(FramesError, match="is a folder; give an all-atom trajectory"):
        map_trajectory(case.config, tmp_path, case.topology, tmp_path / "mapped.h5")


def split_glycol() -> SystemConfig:
    """Beads that the constrained bonds O-H cross."""
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    data["molecules"] = [dict(m, count=COUNTS[m["name"]]) for m in data["molecules"]]
    data["beads"][2:] = [
        {"type": "O", "molecule": "EGL", "selection": "element O"},
        {"type": "R", "molecule": "EGL", "selection": "not element O"},
    ]
    return parse(SystemConfig, data, "split", ETHALINE)


def test_constraint_between_beads(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    refuse(
        case,
        trajectory,
        MappingError,
        r"distance between atoms \d+ and \d+ of EGL never varies, so it is constrained, and it"
        r" crosses beads 6 and 7",
        config=split_glycol(),
    )


def test_too_few_frames_to_see_constraints(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr", case.raw[:1])
    refuse(case, trajectory, MappingError, "with so few frames it cannot", config=split_glycol())


# --- formats that leave something open ------------------------------------------------------------


@pytest.mark.parametrize("ending", [".history", ".xyz", ".dcd", ".gsd", ""])
def test_formats_without_certain_units_are_refused(case, tmp_path, ending):
    """MDAnalysis opens them, and takes any numbers as angstrom and kJ/mol/angstrom."""
    path = tmp_path / f"a{ending}"
    path.write_bytes(case.write(tmp_path / "b.trr").read_bytes())
    refuse(case, path, FramesError, r"is of no format whose units.* are certain; convert the traj")


def test_netcdf_without_times(case, tmp_path):
    """MDAnalysis would count the frames instead."""
    path = case.write(tmp_path / "a.nc")
    path.write_bytes(path.read_bytes().replace(b"\x04time", b"\x04tame"))
    refuse(case, path, FramesError, "has no time; write the time of every frame")


def test_joined_runs(case, tmp_path):
    """Steps go on, times begin anew."""
    late = [dict(f, step=f["step"] + 100, time=f["time"] - 0.01) for f in case.raw]
    path = case.write(tmp_path / "a.trr", [*case.raw, *late])
    refuse(
        case,
        path,
        FramesError,
        r"frame 4 is at \S+ ps, not after 0\.0\d+ ps; .* parts of joined runs",
    )


def change_h5md(case: Case, path: Path, change) -> Path:
    case.write_h5md(path)
    with h5py.File(path, "r+") as file:
        change(file["particles/trajectory"])
    return path


def rotated(group: h5py.Group) -> None:
    turn = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    for name in ("position/value", "force/value", "box/edges/value"):
        group[name][...] = group[name][()] @ turn


def sorted_anew(group: h5py.Group) -> None:
    n = group["position/value"].shape[1]
    group["id"] = np.random.default_rng(0).permutation(n)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (sorted_anew, FramesError, "in another order than their ids; sort them by id"),
        (rotated, FramesError, "box vectors are not in reduced form"),
        (
            lambda group: group["box"].attrs.update({"boundary": ["periodic", "periodic", "none"]}),
            FramesError,
            "box that is not periodic in all directions",
        ),
        (
            lambda group: group["box/edges/value"].attrs.update({"unit": "Angstrom"}),
            FramesError,
            "box has no unit or another one than the positions",
        ),
        (
            lambda group: group["force/time"].attrs.update({"unit": "fs"}),
            FramesError,
            "have times in different units",
        ),
        (
            lambda group: group.parent.create_group("solvent"),
            FramesError,
            "has 2 groups of particles; write all atoms in one group",
        ),
    ],
    ids=["ids", "rotated", "boundary", "box unit", "time unit", "groups"],
)
def test_freedoms_of_h5md(case, tmp_path, change, error, message):
    refuse(case, change_h5md(case, tmp_path / "a.h5md", change), error, message)


def test_h5md_with_ids_in_order_is_read(case, tmp_path):
    def number(group: h5py.Group) -> None:
        group["id"] = 1 + np.arange(group["position/value"].shape[1])

    path = change_h5md(case, tmp_path / "a.h5md", number)
    map_trajectory(case.config, path, case.topology, tmp_path / "mapped.h5")


@pytest.mark.parametrize("name", ["a.lammpstrj.gz", "dump.all", "a.txt"])
def test_lammps_dumps_of_any_name(case, tmp_path, name):
    plain = case.write_lammps(tmp_path / "plain.dump")
    path = tmp_path / name
    data = plain.read_bytes()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    for trajectory in (plain, path):
        map_trajectory(
            case.config, trajectory, case.topology, trajectory.with_suffix(".h5"), units="real"
        )
    one, other = (read_frames(file.with_suffix(".h5")) for file in (plain, path))
    np.testing.assert_array_equal(one.forces, other.forces)
    if name.endswith("gz"):
        path.write_bytes(path.read_bytes()[:-200])
        refuse(case, path, FramesError, "cut off or damaged", units="real")


def test_lammps_dump_without_boundaries(case, tmp_path):
    path = case.write_lammps(tmp_path / "a.dump")
    path.write_text(path.read_text().replace("BOUNDS pp pp pp", "BOUNDS"))
    refuse(case, path, BoxError, "does not say whether its box is periodic", units="real")


# --- atoms of another order -----------------------------------------------------------------------


def exchanged(case: Case, first: int, second: int) -> list[dict]:
    """The frames with two atoms in each other's place."""
    order = np.arange(len(case.raw[0]["positions"]))
    order[[first, second]] = second, first
    return [dict(f, positions=f["positions"][order], forces=f["forces"][order]) for f in case.raw]


def test_exchanged_atoms_of_one_molecule(case, tmp_path):
    """A carbon and a hydrogen of one choline: the mean over all bonds is nearly the same."""
    names = [atom.name for atom in build_topology(case.config).atoms()]
    path = case.write(tmp_path / "a.trr", exchanged(case, names.index("CA1"), names.index("HY")))
    refuse(case, path, FramesError, r"the bond\S* \S+ of CHO .* molecule file")


def test_exchanged_atoms_show_in_the_types_of_a_dump(case, tmp_path):
    """Ids in another order than the topology."""
    raw, case_of_dump = case.raw, copy.copy(case)
    case_of_dump.raw = raw
    path = case_of_dump.write_lammps(tmp_path / "a.dump")
    lines = path.read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS")) + 1
    n = len(raw[0]["positions"])
    of_id = {int(line.split()[0]): k for k, line in enumerate(lines[start : start + n], start)}
    one, other = lines[of_id[1]].split(), lines[of_id[8]].split()  # nitrogen and hydrogen
    one[1], other[1] = other[1], one[1]
    lines[of_id[1]], lines[of_id[8]] = " ".join(one), " ".join(other)
    path.write_text("\n".join(lines) + "\n")
    refuse(case, path, MappingError, r"atoms of type \d are H and N in the topology", units="real")


def test_one_type_for_all_atoms_says_nothing(case, tmp_path):
    path = case.write_lammps(tmp_path / "a.dump")
    lines = path.read_text().splitlines()
    single = [
        " ".join([words[0], "1", *words[2:]]) if len(words := line.split()) == 8 else line
        for line in lines
    ]
    path.write_text("\n".join(single) + "\n")
    map_trajectory(case.config, path, case.topology, tmp_path / "mapped.h5", units="real")


def test_torn_molecule(case, tmp_path):
    frames = [dict(frame, positions=frame["positions"].copy()) for frame in case.raw]
    atom = next(a.index for a in build_topology(case.config).atoms() if a.name == "HO1")
    frames[2]["positions"][atom] += [0.15, 0.0, 0.1]
    path = case.write(tmp_path / "a.trr", frames)
    refuse(case, path, FramesError, r"step 30: the bond \S+ of EGL .* the molecule is torn")


# --- topology files -------------------------------------------------------------------------------


def edited_pdb(case: Case, path: Path, edit) -> Path:
    lines = case.topology.read_text().splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    head = [line for line in lines if line.startswith("CRYST1")]
    path.write_text("\n".join([*head, *edit(atoms), "END", ""]))
    return path


def numbered(lines: list[str]) -> list[str]:
    """Atom and residue numbers in hexadecimal, as OpenMM writes them beyond 99,999 and 9,999."""
    return [
        f"{line[:6]}{0xA0000 + k:5X}{line[11:22]}{0xA000 + int(line[22:26]):4X}{line[26:]}"
        for k, line in enumerate(lines)
    ]


def test_numbers_that_are_not_decimal(case, tmp_path):
    trajectory = case.write(tmp_path / "a.trr")
    topology = edited_pdb(case, tmp_path / "many.pdb", numbered)
    map_trajectory(case.config, trajectory, topology, tmp_path / "mapped.h5")
    assert np.allclose(
        read_frames(tmp_path / "mapped.h5").forces,
        read_frames(case.folder / "reported.h5").forces,
        atol=2e-3,
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda lines: [f"{line[:22]}   1{line[26:]}" for line in lines],
            r"molecule 0 \(CHO\) is 3 molecules under one residue number; number the molecules",
        ),
        (
            lambda lines: sorted(lines, key=lambda line: line[76:78].strip() == "H"),
            r"molecule 0 \(CHO\) has 7 of its 21 atoms in one place; write the atoms of each",
        ),
        (
            lambda lines: [line.replace("EGL", "GLY") for line in lines],
            "holds molecules GLY, which the configuration does not name; use the names of the topo",
        ),
    ],
    ids=["one number", "hydrogens last", "another name"],
)
def test_topologies_that_do_not_fit(case, tmp_path, edit, message):
    topology = edited_pdb(case, tmp_path / "other.pdb", edit)
    trajectory = case.write(tmp_path / "a.trr")
    refuse(case, trajectory, MappingError, message, topology=topology)


def test_openmscg_mapping(case, tmp_path):
    """The same beads from a mapping file of OpenMSCG."""
    text = "site-types:\n"
    groups, anchor = "system:\n", 0
    for residue in (
        next(r for r in build_topology(case.config).residues() if r.name == name) for name in COUNTS
    ):
        masses = [atom.element.mass._value for atom in residue.atoms()]
        n = len(masses)
        text += (
            f"  {residue.name}:\n    index: {list(range(n))}\n    x-weight:"
            f" {[round(m) for m in masses]}\n    f-weight: {[1.0] * n}\n"
        )
        groups += (
            f"  - {{anchor: {anchor}, repeat: {COUNTS[residue.name]}, offset: {n}, sites:"
            f" [[{residue.name}, 0]]}}\n"
        )
        anchor += n * COUNTS[residue.name]
    file, trajectory = tmp_path / "map.yaml", case.write(tmp_path / "a.trr")
    file.write_text(text + groups)
    plain = read_frames(map_trajectory(case.config, trajectory, case.topology, tmp_path / "a.h5"))
    other = read_frames(
        map_trajectory(case.config, trajectory, case.topology, tmp_path / "b.h5", mapping=file)
    )
    assert np.array_equal(plain.positions, other.positions)
    assert np.array_equal(plain.forces, other.forces)
    assert plain.beads.names == other.beads.names
    with pytest.raises(FramesError, match="or made with other options"):
        map_trajectory(case.config, trajectory, case.topology, tmp_path / "a.h5", mapping=file)
    refuse(
        case,
        trajectory,
        MappingError,
        "no such file; give a mapping file of OpenMSCG",
        mapping=tmp_path / "absent.yaml",
    )


def test_thinning(case, tmp_path):
    """Forces that stay the same for five frames each: one frame in five is kept, and the first."""
    frames = []
    rng = np.random.default_rng(5)
    for k in range(200):
        frame = {**case.raw[0], "step": 10 * k, "time": 0.01 * k}
        frames.append(
            frame
            | {
                "forces": (
                    rng.normal(scale=500, size=frame["forces"].shape)
                    if k % 5 == 0
                    else frames[-1]["forces"]
                )
            }
        )
    trajectory = case.write(tmp_path / "a.trr", frames)
    mapped = read_frames(
        map_trajectory(case.config, trajectory, case.topology, tmp_path / "mapped.h5", thin=True)
    )
    # triangular autocorrelation 1 - k/5: tau = (1/2 + 0.8 + 0.6 + 0.4 + 0.2) intervals
    assert mapped.attributes["force_correlation_time"] == pytest.approx(0.025, rel=0.05)
    assert mapped.attributes["thinned"] == 5
    assert mapped.step.tolist() == list(range(0, 2000, 50))


def test_command(case, tmp_path):
    system, dump = tmp_path / "system.yaml", case.write_lammps(tmp_path / "a.dump")
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    data["molecules"] = [
        {"name": m["name"], "structure": str(ETHALINE / m["structure"]), "count": COUNTS[m["name"]]}
        for m in data["molecules"]
    ]
    system.write_text(yaml.safe_dump(data))
    common = ["map", dump, case.topology, "--system", system, "--output", tmp_path / "frames.h5"]
    for options, message in (
        ([], "give --units with the style of the run"),
        (
            ["--units", "real", "--timestep", "2"],
            "--timestep: got '2' without a unit; write for example '2 picosecond'.",
        ),
    ):
        result = CliRunner().invoke(app, [str(x) for x in (*common, *options)], terminal_width=200)
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "frames.h5").exists()
    result = CliRunner().invoke(app, [str(x) for x in (*common, "--units", "real")])
    assert result.exit_code == 0, result.output
    assert read_frames(tmp_path / "frames.h5").step.tolist() == STEPS
