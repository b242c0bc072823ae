"""Reading LAMMPS dumps: numbers by hand, and what is refused."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from openmm_cgkd.allatom.lammps import LammpsDump
from openmm_cgkd.exceptions import BoxError, ConfigError, FramesError, MappingError

DUMP = """ITEM: TIMESTEP
100
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
-1.0 9.0
0.0 20.0
5.0 35.0
ITEM: ATOMS id element x y z fx fy fz
2 H 1.0 2.0 6.0 -1.0 0.5 0.0
1 O 3.0 4.0 7.0 1.0 -0.5 2.0
"""
# 1 kcal/mol/angstrom, 1 eV/angstrom, 1 hartree/bohr, 1 newton in kJ/mol/nm; angstrom, bohr, metre
# in nm; fs and seconds in ps
FACTORS = {
    "real": (0.1, 41.84, 1e-3),
    "metal": (0.1, 964.8533, 1.0),
    "electron": (0.0529177, 49614.75, 1e-3),
    "si": (1e9, 6.02214e11, 1e12),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("units", FACTORS)
def test_units(tmp_path, units):
    length, force, time = FACTORS[units]
    item = "ITEM: TIME\n50.0\nITEM: TIMESTEP"
    path = write(tmp_path / "a.dump", DUMP.replace("ITEM: TIMESTEP", item))
    dump = LammpsDump(path, 2, units, None)
    (frame,) = dump
    assert len(dump) == 1
    assert frame.positions == pytest.approx(
        np.array([[3.0, 4.0, 7.0], [1.0, 2.0, 6.0]]) * length, rel=1e-5
    )
    assert frame.forces == pytest.approx(
        np.array([[1.0, -0.5, 2.0], [-1.0, 0.5, 0.0]]) * force, rel=1e-5
    )
    assert frame.box == pytest.approx(np.diag([10.0, 20.0, 30.0]) * length, rel=1e-5)
    assert frame.time == pytest.approx(50 * time)
    assert frame.step == 100


def test_time_from_the_time_step(tmp_path):
    path = write(tmp_path / "a.dump", DUMP + DUMP.replace("100", "300"))
    assert [frame.time for frame in LammpsDump(path, 2, "real", 0.002)] == pytest.approx([0.2, 0.6])
    with pytest.raises(ConfigError, match="carries steps but no times; give --timestep"):
        next(iter(LammpsDump(path, 2, "real", None)))


def test_scaled_coordinates_in_a_triclinic_box(tmp_path):
    """Bounds of the manual: xlo_bound = xlo + min(0, xy, xz, xy + xz) and so on."""
    text = (
        DUMP.replace("BOX BOUNDS pp", "BOX BOUNDS xy xz yz pp")
        .replace("x y z", "xsu ysu zsu")
        .replace("2 H 1.0 2.0 6.0", "2 H 0.5 -0.25 1.5")
    )
    # box from (-1, 0, 5), lengths 10, 20, 30, tilts xy = 3, xz = -4, yz = 5
    text = text.replace(
        "-1.0 9.0\n0.0 20.0\n5.0 35.0", "-5.0 12.0 3.0\n0.0 25.0 -4.0\n5.0 35.0 5.0"
    )
    (frame,) = LammpsDump(write(tmp_path / "a.dump", text), 2, "metal", 0.001)
    box = np.array([[10, 0, 0], [3, 20, 0], [-4, 5, 30]])
    assert frame.box == pytest.approx(box / 10)
    assert frame.positions[1] == pytest.approx(
        (np.array([-1, 0, 5]) + 0.5 * box[0] - 0.25 * box[1] + 1.5 * box[2]) / 10
    )


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "fx fy fz",
            "vx vy vz",
            FramesError,
            "frame 0 has no forces; dump the columns id x y z fx fy fz",
        ),
        ("x y z", "a b c", FramesError, "frame 0 has no positions"),
        ("id element", "type element", FramesError, "frame 0 has no atom ids"),
        ("1 O", "3 O", MappingError, "the atom ids of frame 0 are not 1 to 2; dump all atoms"),
        (
            "pp pp pp",
            "pp pp ff",
            BoxError,
            "has boundaries pp pp ff; only boxes periodic in all directions",
        ),
        ("BOX BOUNDS pp", "BOX BOUNDS abc origin pp", BoxError, "box of general vectors"),
        (
            "1 O 3.0 4.0 7.0 1.0 -0.5 2.0\n",
            "",
            FramesError,
            "frame 0 cannot be read as a LAMMPS dump; the file is cut off or damaged",
        ),
        ("1.0 -0.5 2.0\n", "1.0\n", FramesError, "frame 0 cannot be read"),
        ("3.0 4.0", "3.0 four", FramesError, "frame 0 cannot be read"),
        ("ITEM: TIMESTEP\n100\n", "", FramesError, "frame 0 cannot be read"),
        ("ITEM: TIMESTEP", "Step", FramesError, "frame 0 cannot be read"),
        ("-1.0 9.0", "-1.0", FramesError, "frame 0 cannot be read"),
        ("3.0 4.0", "nan 4.0", FramesError, "positions of frame 0 are not finite; remove that"),
        ("3.0 4.0", "1e999 4.0", FramesError, "positions of frame 0 are not finite"),
        ("-0.5 2.0", "-inf 2.0", FramesError, "forces of frame 0 are not finite"),
        (
            "-0.5 2.0",
            "1e300 2.0",
            FramesError,
            "forces of frame 0 reach 4.18e.301 kJ/mol/nm, which",
        ),
        ("0.0 20.0", "0.0 nan", FramesError, "box of frame 0 are not finite"),
        ("0.0 20.0", "0.0 -20.0", BoxError, "the box of frame 0 has edges of 10 -20 30"),
        ("-1.0 9.0\n0.0 20.0", "9.0 -1.0\n20.0 0.0", BoxError, "has edges of -10 -20 30"),
        ("0.0 20.0", "20.0 1e300", FramesError, "box of frame 0 are not finite|which no fluid has"),
        ("\n100\n", "\n99999999999999999999\n", FramesError, "which no fluid has"),
        ("\n100\n", "\n" + "9" * 5000 + "\n", FramesError, "frame 0 cannot be read"),
        ("\n100\n", "\n1 2\n", FramesError, "frame 0 cannot be read"),
        ("\n100\n", "\n100\nITEM: TIMESTEP\n200\n", FramesError, "frame 0 cannot be read"),
        ("OF ATOMS\n2\n", "OF ATOMS\n1000000000000\n", MappingError, "has 1000000000000 atoms"),
        ("OF ATOMS\n2\n", "OF ATOMS\n-2\n", MappingError, "frame 0 has -2 atoms"),
        ("ITEM: TIMESTEP", "ITEM: UNITS\nx\nITEM: TIMESTEP", ConfigError, "unit style x"),
        ("\n2 H", " " * 200_000 + "\n2 H", FramesError, "a line of more than 100000 characters"),
    ],
)
def test_what_is_refused(tmp_path, old, new, error, message):
    assert DUMP.count(old) >= 1
    with pytest.raises(error, match=message):
        list(LammpsDump(write(tmp_path / "a.dump", DUMP.replace(old, new, 1)), 2, "real", 0.001))


def test_other_topology_and_late_damage(tmp_path):
    with pytest.raises(MappingError, match="frame 0 has 2 atoms, the topology 3"):
        list(LammpsDump(write(tmp_path / "a.dump", DUMP), 3, "real", 0.001))
    frames = iter(
        LammpsDump(
            write(tmp_path / "b.dump", DUMP + DUMP.replace("100", "200")[:100]), 2, "real", 0.001
        )
    )
    assert next(frames).step == 100
    with pytest.raises(FramesError, match="frame 1 cannot be read"):
        next(frames)


def test_damaged_compression(tmp_path):
    """Cut off or changed in the middle: refused by counting the frames, and by reading them."""
    whole = gzip.compress(200 * DUMP.encode())
    for content in (whole[:-20], whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]):
        path = tmp_path / "a.dump.gz"
        path.write_bytes(content)
        dump = LammpsDump(path, 2, "real", 0.001)
        for use in (len, list):
            with pytest.raises(FramesError, match=r"cannot be decompressed|cannot be read"):
                use(dump)


def test_who_the_atoms_are(tmp_path):
    text = DUMP.replace("id element x", "id element mol mass x").replace("2 H ", "2 H 7 1.008 ")
    path = write(tmp_path / "a.dump", text.replace("1 O ", "1 O 7 15.999 "))
    (frame,) = LammpsDump(path, 2, "real", 0.001)
    assert frame.elements.tolist() == ["O", "H"]
    assert frame.molecules.tolist() == [7, 7]
    assert frame.masses.tolist() == [15.999, 1.008]
    path.write_text(text.replace("1 O ", "1 O seven 15.999 "))
    with pytest.raises(FramesError, match="frame 0 cannot be read"):
        list(LammpsDump(path, 2, "real", 0.001))


def test_blank_line_at_the_end(tmp_path):
    path = write(tmp_path / "a.dump", DUMP + "\n")
    dump = LammpsDump(path, 2, "real", 0.001)
    assert len(dump) == len(list(dump)) == 1


@pytest.mark.parametrize(
    ("units", "timestep", "message"),
    [
        ("real", 2.0, r"makes steps of 2 ps; give the right --units, or --timestep"),
        ("real", 1e-7, r"makes steps of 1e-07 ps"),
    ],
)
def test_time_steps_that_no_dynamics_has(tmp_path, units, timestep, message):
    later = DUMP.replace("TIMESTEP\n100", "TIMESTEP\n200")
    path = write(tmp_path / "a.dump", DUMP + later)
    assert len(list(LammpsDump(path, 2, units, 0.002))) == 2
    with pytest.raises(ConfigError, match=message):
        list(LammpsDump(path, 2, units, timestep))


def test_times_in_the_unit_of_another_style(tmp_path):
    """Steps of 1 fs, written by a run in real units and read as metal: 1 ps."""
    frames = [
        DUMP.replace("ITEM: TIMESTEP\n100", f"ITEM: TIME\n{step}.0\nITEM: TIMESTEP\n{step}")
        for step in (100, 200)
    ]
    path = write(tmp_path / "a.dump", "".join(frames))
    assert [frame.time for frame in LammpsDump(path, 2, "real", None)] == [0.1, 0.2]
    with pytest.raises(ConfigError, match="makes steps of 1 ps; give the right --units"):
        list(LammpsDump(path, 2, "metal", None))


@pytest.mark.parametrize("endless", [b"0" * 2**20, b"\n" * 2**20], ids=["one line", "lines"])
def test_what_expands_without_end(tmp_path, endless):
    """A few kilobytes that expand to 16 MB are refused after the first of them."""
    path = tmp_path / "a.dump.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(DUMP.encode())
        for _ in range(16):
            file.write(endless)
    assert path.stat().st_size < 10**6
    dump = LammpsDump(path, 2, "real", 0.001)
    for use in (len, list):
        tracemalloc.start()
        with pytest.raises(FramesError, match=r"more than 100000 char|frame 1 cannot be"):
            use(dump)
        assert tracemalloc.get_traced_memory()[1] < 5e6
        tracemalloc.stop()
