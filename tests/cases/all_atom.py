"""A short all-atom run of ethaline with its mapped frames and its raw frames.

Writers of other programs' formats stand beside it.
"""

from pathlib import Path

import h5py
import MDAnalysis
import mdtraj
import numpy as np
from openmm import app, unit

from openmm_cgkd.allatom.build import build_topology, create_system, pack
from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.mapping.mapping import mapping_from_config
from tests.cases.fluids import simulation_of, small_config

TINY_COUNTS = {"CHO": 2, "CL": 2, "EGL": 2}
STEPS = [10, 20, 30, 40]
# LAMMPS unit styles: length in nm, force in kJ/mol/nm, time in ps, by openmm.unit
LAMMPS = {
    "real": (
        0.1,
        (1 * unit.kilocalorie_per_mole / unit.angstrom)
        / (unit.kilojoule_per_mole / unit.nanometer),
        1e-3,
    ),
    # 1 eV/angstrom, from the charge of an electron and Avogadro's number
    "metal": (0.1, 964.853321, 1.0),
}


def tiny_system(**changes) -> SystemConfig:
    """Two ions and two molecules with an all-atom protocol of a few hundred steps."""
    protocol = {
        "annealing": "0.4 ps",
        "npt": "1.6 ps",
        "nvt": "0.2 ps",
        "production": "0.4 ps",
        "frame_interval": "20 fs",
        "nonbonded_cutoff": "0.45 nm",
        "initial_density": "0.3 g/cm^3",
    }
    return small_config(TINY_COUNTS, **{**protocol, **changes})


class Recorder:
    """Raw atomic positions and forces, nm and kJ/mol/nm."""

    def __init__(self) -> None:
        self.frames = []

    def describeNextReport(self, simulation):
        return {
            "steps": 10 - simulation.currentStep % 10,
            "periodic": False,
            "include": ["positions", "forces"],
        }

    def report(self, simulation, state):
        self.frames.append(
            {
                "positions": state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
                "forces": (
                    state.getForces(asNumpy=True).value_in_unit(
                        unit.kilojoule_per_mole / unit.nanometer
                    )
                ),
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
        # around a corner of the box, so that its faces cut molecules
        positions -= positions.mean(axis=0)
        if skew:  # the packed molecules in a reduced triclinic cell of the same volume
            edge = topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
            topology.setPeriodicBoxVectors(
                edge * np.array([[1, 0, 0], [0.3, 1, 0], [-0.2, 0.4, 1]]) * unit.nanometer
            )
        system = create_system(self.config, topology)
        simulation = simulation_of(self.config, system, topology, positions)
        mapping = mapping_from_config(self.config, mdtraj.Topology.from_openmm(topology))
        reporter, recorder = (
            MappedReporter(folder / "reported.h5", 10, mapping, {"temperature": 363.15}),
            Recorder(),
        )
        simulation.reporters = [reporter, recorder]
        simulation.step(40)
        reporter.close()
        self.raw, self.topology = recorder.frames, folder / "topology.pdb"
        with open(self.topology, "w") as file:
            app.PDBFile.writeFile(topology, positions * 10 * unit.angstrom, file)

    def write(
        self, path: Path, frames: list[dict] | None = None, forces: bool = True, box: bool = True
    ) -> Path:
        """Trajectory in the format that `path` ends with, by MDAnalysis.

        Every atom is wrapped into the box by itself.
        """
        frames = self.raw if frames is None else frames
        n_atoms = len(frames[0]["positions"])
        options = {} if path.suffix == ".trr" else {"velocities": False, "forces": forces}
        with MDAnalysis.Writer(str(path), n_atoms=n_atoms, **options) as writer:
            universe = MDAnalysis.Universe.empty(n_atoms, trajectory=True, forces=forces)
            for frame in frames:
                step = universe.trajectory.ts
                step.positions = 10 * wrapped(frame)
                if forces:
                    step.forces = frame["forces"] / 10
                if box:
                    step.triclinic_dimensions = 10 * frame["box"]
                step.time, step.data["step"] = frame["time"], frame["step"]
                writer.write(universe.atoms)
        return path

    def write_h5md(self, path: Path, length: str = "nm", shift: int = 0) -> Path:
        """H5MD file in nm, whose positions claim to be in `length`.

        Its forces are `shift` steps late.
        """
        units = {"position": length, "force": "kJ mol-1 nm-1"}
        with h5py.File(path, "w") as file:
            group = file.create_group("particles/trajectory")
            for name, values in (
                ("position", [wrapped(f) for f in self.raw]),
                ("force", [f["forces"] for f in self.raw]),
            ):
                late = shift if name == "force" else 0
                add_series(
                    group.create_group(name), values, [f["step"] + late for f in self.raw], self.raw
                )
                group[name]["value"].attrs["unit"] = units[name]
            box = group.create_group("box")
            box.attrs.update({"dimension": 3, "boundary": ["periodic"] * 3})
            add_series(
                box.create_group("edges"),
                [f["box"] for f in self.raw],
                [f["step"] for f in self.raw],
                self.raw,
            )
            box["edges/value"].attrs["unit"] = length
        return path

    def write_lammps(
        self,
        path: Path,
        style: str = "real",
        header: str = "",
        columns: str = "id type x y z fx fy fz",
    ) -> Path:
        """LAMMPS dump with times, atoms in random order, the box away from the origin."""
        length, force, time = LAMMPS[style]
        order = np.random.default_rng(3).permutation(len(self.raw[0]["positions"]))
        numbers = np.array([a.element.atomic_number for a in build_topology(self.config).atoms()])
        types = np.unique(numbers, return_inverse=True)[1] + 1
        with open(path, "w") as file:
            for frame in self.raw:
                box, origin = frame["box"] / length, np.array([-3.0, 5.0, 1.0])
                values = {"id": order + 1, "type": types[order]}
                values |= dict(
                    zip(("x", "y", "z"), (wrapped(frame) / length + origin)[order].T, strict=True)
                )
                values |= dict(
                    zip(
                        ("xs", "ys", "zs"),
                        (wrapped(frame) @ np.linalg.inv(frame["box"]))[order].T,
                        strict=True,
                    )
                )
                values |= dict(
                    zip(("fx", "fy", "fz"), (frame["forces"] / force)[order].T, strict=True)
                )
                file.write(header)
                file.write(
                    f"ITEM: TIME\n{frame['time'] / time:.9g}\nITEM:"
                    f" TIMESTEP\n{frame['step']}\nITEM: NUMBER OF ATOMS\n{len(order)}\n"
                )
                file.write(bounds(box, origin))
                file.write(f"ITEM: ATOMS {columns}\n")
                for k in range(len(order)):
                    file.write(
                        " ".join(f"{values[name][k]:.9g}" for name in columns.split()) + "\n"
                    )
        return path


def wrapped(frame: dict) -> np.ndarray:
    fractional = frame["positions"] @ np.linalg.inv(frame["box"])
    return (fractional - np.floor(fractional)) @ frame["box"]


def add_series(group: h5py.Group, values: list, steps: list[int], frames: list[dict]) -> None:
    group["value"] = np.array(values, dtype="f4")
    group["step"] = steps
    group["time"] = np.array([frame["time"] for frame in frames])
    group["time"].attrs["unit"] = "ps"


def bounds(box: np.ndarray, origin: np.ndarray) -> str:
    """Bounding box and tilt factors, as LAMMPS' manual gives them for triclinic boxes."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = box
    x = origin[0] + min(0, xy, xz, xy + xz), origin[0] + lx + max(0, xy, xz, xy + xz)
    y = origin[1] + min(0, yz), origin[1] + ly + max(0, yz)
    z = origin[2], origin[2] + lz
    if xy == xz == yz == 0:
        return "ITEM: BOX BOUNDS pp pp pp\n" + "".join(
            f"{low:.9g} {high:.9g}\n" for low, high in (x, y, z)
        )
    rows = zip((x, y, z), (xy, xz, yz), strict=True)
    return "ITEM: BOX BOUNDS xy xz yz pp pp pp\n" + "".join(
        f"{low:.9g} {high:.9g} {tilt:.9g}\n" for (low, high), tilt in rows
    )
