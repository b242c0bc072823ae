"""Mapping files of OpenMSCG: the documented examples, and what is refused."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest
import yaml

from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.openmscg import mapping_from_cgmap

MASS = {"C": 12.011, "H": 1.008, "O": 15.999, "N": 14.007}
METHANOL, WATER = "CHHHOH", "OHH"
CH3 = {"index": [0, 1, 2, 3], "x-weight": [12.0, 1.0, 1.0, 1.0], "f-weight": [1.0] * 4}
OH = {"index": [0, 1], "x-weight": [16.0, 1.0], "f-weight": [1.0, 1.0]}
METHYL_FIRST = [{"anchor": 0, "repeat": 3, "offset": 6, "sites": [["CH3", 0], ["OH", 4]]}]


def topology(*molecules: str) -> mdtraj.Topology:
    result = mdtraj.Topology()
    chain = result.add_chain()
    for elements in molecules:
        residue = result.add_residue("MOL", chain)
        for symbol in elements:
            result.add_atom(symbol, mdtraj.element.Element.getBySymbol(symbol), residue)
    return result


def write(path: Path, types: dict, system: list, **more) -> Path:
    path.write_text(yaml.safe_dump({"site-types": types, "system": system, **more}))
    return path


def atoms_of(mapping) -> list[list[int]]:
    return [
        np.flatnonzero(mapping.bead_of_atom == k).tolist() for k in range(mapping.topology.n_beads)
    ]


def test_two_site_methanol(tmp_path):
    """Bead by bead and type by type give the same map, molecules together."""
    mapping = mapping_from_cgmap(
        write(tmp_path / "a.yaml", {"CH3": CH3, "OH": OH}, METHYL_FIRST), topology(*3 * [METHANOL])
    )
    assert mapping.topology.names == ["CH3", "OH"] * 3
    assert mapping.topology.molecules.tolist() == [0, 0, 1, 1, 2, 2]
    assert atoms_of(mapping) == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7, 8, 9],
        [10, 11],
        [12, 13, 14, 15],
        [16, 17],
    ]
    # true masses, not those of the file
    assert mapping.topology.masses[:2] == pytest.approx([15.035, 17.007], abs=1e-3)
    by_type = [
        {"anchor": a, "repeat": 3, "offset": 6, "sites": [[name, 0]]}
        for a, name in ((0, "CH3"), (4, "OH"))
    ]
    other = mapping_from_cgmap(
        write(tmp_path / "b.yaml", {"CH3": CH3, "OH": OH}, by_type), topology(*3 * [METHANOL])
    )
    assert atoms_of(other) == atoms_of(mapping)
    assert other.topology.names == mapping.topology.names


def test_bonds_between_beads(tmp_path):
    atoms = topology(*2 * [METHANOL])
    for first in (0, 6):
        for i, j in ((0, 1), (0, 2), (0, 3), (0, 4), (4, 5)):
            atoms.add_bond(atoms.atom(first + i), atoms.atom(first + j))
    by_type = [
        {"anchor": a, "repeat": 2, "offset": 6, "sites": [[name, 0]]}
        for a, name in ((0, "CH3"), (4, "OH"))
    ]
    mapping = mapping_from_cgmap(write(tmp_path / "a.yaml", {"CH3": CH3, "OH": OH}, by_type), atoms)
    assert mapping.topology.names == ["CH3", "OH"] * 2
    assert mapping.topology.bonds.tolist() == [[0, 1], [2, 3]]


def test_center_of_mass_and_sum_of_forces(tmp_path):
    mapping = mapping_from_cgmap(
        write(tmp_path / "a.yaml", {"CH3": CH3, "OH": OH}, METHYL_FIRST), topology(*3 * [METHANOL])
    )
    x = np.random.default_rng(0).normal(size=(18, 3))
    masses = np.array([MASS[symbol] for symbol in METHANOL])
    assert mapping.map_positions(x)[3] == pytest.approx(
        masses[4:] @ x[10:12] / masses[4:].sum(), rel=1e-4
    )
    assert mapping.map_forces(x)[2] == pytest.approx(x[6:10].sum(axis=0))


def test_anchor_inside_the_bead(tmp_path):
    """Negative indices, as in the documentation's second map of water."""
    kind = {"index": [-1, 0, 1], "x-weight": [16.0, 1.0, 1.0], "f-weight": [1.0, 1.0, 1.0]}
    system = [{"anchor": 1, "repeat": 4, "offset": 3, "sites": [["WAT", 0]]}]
    mapping = mapping_from_cgmap(
        write(tmp_path / "a.yaml", {"WAT": kind}, system), topology(*4 * [WATER])
    )
    assert atoms_of(mapping) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_nested_groups(tmp_path):
    """A chain CH3-(CH2)3-CH3 written with groups within groups, after two waters."""
    ch2 = {"index": [0, 1, 2], "x-weight": [12.0, 1.0, 1.0], "f-weight": [1.0] * 3}
    water = {"index": [0, 1, 2], "x-weight": [16.0, 1.0, 1.0], "f-weight": [1.0] * 3}
    chain = [
        {"anchor": 0, "repeat": 1, "offset": 4, "sites": [["CH3", 0]]},
        {"anchor": 4, "repeat": 3, "offset": 3, "sites": [["CH2", 0]]},
        {"anchor": 13, "repeat": 1, "offset": 4, "sites": [["CH3", 0]]},
    ]
    system = [
        {"anchor": 0, "repeat": 2, "offset": 3, "sites": [["WAT", 0]]},
        {"anchor": 6, "repeat": 2, "offset": 17, "groups": chain},
    ]
    pentane = "CHHH" + 3 * "CHH" + "CHHH"
    file = write(tmp_path / "a.yaml", {"CH3": CH3, "CH2": ch2, "WAT": water}, system)
    mapping = mapping_from_cgmap(file, topology(WATER, WATER, pentane, pentane))
    assert mapping.topology.names == ["WAT", "WAT", *2 * ["CH3", "CH2", "CH2", "CH2", "CH3"]]
    assert atoms_of(mapping)[8:10] == [[27, 28, 29], [30, 31, 32]]


@pytest.mark.parametrize(
    ("types", "system", "message"),
    [
        (
            {"OH": {"f-weight": [1.0, 0.5]}},
            None,
            r"has f-weight \[1\.0, 0\.5\], but only 1 is supported",
        ),
        (
            {"OH": {"x-weight": [1.0, 1.0]}},
            None,
            r"of site 1 \(OH\) are not the masses of its atoms \(15\.9\d+, 1\.00\d+\)",
        ),
        ({"OH": {"x-weight": [16.0]}}, None, "has 1 values of x-weight for 2 atoms"),
        ({"OH": {"index": [1, 1]}}, None, r"names an atom twice in index \[1, 1\]"),
        ({"OH": {"x-weight": [-1.0, 0.5]}}, None, "give the atomic masses"),
        ({"OH": {"center": "x"}}, None, "site-types.OH.center: is not supported"),
        (
            {},
            [{**METHYL_FIRST[0], "sites": [["CH3", 0], ["HO", 4]]}],
            r"names the site type HO, site-types has \['CH3', 'OH'\]",
        ),
        (
            {},
            [{**METHYL_FIRST[0], "repeat": 4}],
            r"site 6 \(CH3\) takes atoms 18 to 21, the topology has 0 to 17",
        ),
        ({}, [{**METHYL_FIRST[0], "repeat": 2}], "6 atoms are in no bead"),
        ({}, [{**METHYL_FIRST[0], "sites": [["CH3", 0]]}], "6 atoms are in no bead"),
        (
            {},
            [{**METHYL_FIRST[0], "sites": [["CH3", 0], ["OH", 4], ["OH", 4]]}],
            "a.yaml: atom 4 is in beads 1 and 2",
        ),
        (
            {},
            [{**METHYL_FIRST[0], "sites": [["CH3", 0], ["OH", 4]], "groups": METHYL_FIRST}],
            "needs either sites or groups, and not both",
        ),
        ({}, [{**METHYL_FIRST[0], "sites": None}], "needs either sites or groups"),
        (
            {},
            [{"anchor": 0, "repeat": 10**9, "offset": 0, "sites": [["OH", 4]]}],
            "makes more beads than the 18 atoms",
        ),
        (
            {},
            [{"anchor": 0, "repeat": 10**9, "offset": 0, "sites": []}],
            r"system\.0\.sites: got \[\]: list should have at least 1 item",
        ),
        ({}, [{**METHYL_FIRST[0], "anchor": True}], "anchor: got True; write a number"),
        ({}, [{**METHYL_FIRST[0], "offset": 10**30}], "a number has 31 digits"),
        ({}, [{**METHYL_FIRST[0], "offset": 10**10}], "offset: .*less than or equal to 10000000"),
        ({"OH": {"x-weight": [float("inf"), 1.0]}}, None, "x-weight.0: got inf"),
        ({"OH": {"x-weight": [True, 1.0]}}, None, "got .True, 1.0.; write a number"),
        ({"O H": OH}, None, r"site-types\.O H.*should match pattern"),
        (
            {},
            [{"repeat": 1, "offset": 0, "sites": [["OH", 4]]}],
            "system.0.anchor: required field is missing; add it",
        ),
        ({}, [], r"system: got \[\]: list should have at least 1 item"),
    ],
)
def test_what_is_refused(tmp_path, types, system, message):
    whole = {"CH3": CH3, "OH": OH}
    types = types | {name: kind | types.get(name, {}) for name, kind in whole.items()}
    with pytest.raises(MappingError, match=message) as caught:
        mapping_from_cgmap(
            write(tmp_path / "a.yaml", types, METHYL_FIRST if system is None else system),
            topology(*3 * [METHANOL]),
        )
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_bead_of_two_molecules(tmp_path):
    pair = {"index": [0, 6], "x-weight": [12.0, 12.0], "f-weight": [1.0, 1.0]}
    system = [{"anchor": 0, "repeat": 1, "offset": 1, "sites": [["PAIR", 0]]}]
    with pytest.raises(
        MappingError,
        match=r"site 0 \(PAIR\) takes atoms of molecules \[0, 1\]; keep a bead in one molecule",
    ):
        mapping_from_cgmap(
            write(tmp_path / "a.yaml", {"PAIR": pair}, system), topology(METHANOL, METHANOL)
        )


def test_files_that_are_none(tmp_path):
    with pytest.raises(MappingError, match="no such file"):
        mapping_from_cgmap(tmp_path / "absent.yaml", topology(METHANOL))
    for text, message in (
        ("[1, 2", "cannot be read as YAML"),
        ("- 1", "expected a mapping of fields to values, got list"),
        ("config: []", "is not supported|required field"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(MappingError, match=message):
            mapping_from_cgmap(tmp_path / "bad.yaml", topology(METHANOL))
