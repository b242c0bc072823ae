"""Atoms placed on beads, and an all-atom run that starts from mapped frames."""

import mdtraj
import numpy as np
import pytest
import yaml
from openmm import unit
from scipy.spatial.distance import pdist

from openmm_cgkd.allatom import phases
from openmm_cgkd.allatom.backmap import place_molecules
from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError, MappingError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.mapping import mapping_from_config
from tests.cases.fluids import ETHALINE, small_config

SHIPPED = ETHALINE / "frames.h5"


def shipped_box():
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    config = parse(SystemConfig, data, "ethaline", ETHALINE)
    topology = build_topology(config)
    frame = read_frames(SHIPPED)[-1:]
    mapping = mapping_from_config(config, mdtraj.Topology.from_openmm(topology))
    return config, topology, mapping, frame.positions[0].astype(float), frame.box[0]


def test_molecules_sit_on_their_beads_undistorted_and_apart(monkeypatch):
    config, topology, mapping, beads, box = shipped_box()
    placed = place_molecules(config, topology, mapping, beads, box, seed=1)
    np.testing.assert_allclose(mapping.map_positions(placed), beads, atol=1e-12)
    residues = list(topology.residues())
    for residue in (residues[0], residues[-1]):
        atoms = [atom.index for atom in residue.atoms()]
        template = template_of(config, residue.name)
        np.testing.assert_allclose(pdist(placed[atoms]), pdist(template), atol=1e-9)
    monkeypatch.setattr("openmm_cgkd.allatom.backmap.SWEEPS", 0)
    careless = place_molecules(config, topology, mapping, beads, box, seed=1)
    assert contacts(placed, topology, box) < 0.1 * contacts(careless, topology, box)


def template_of(config, name):
    from openmm_cgkd.allatom.build import load_molecule

    return load_molecule(config, name).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def contacts(positions, topology, box):
    """Pairs of atoms of different molecules closer than 0.15 nm."""
    molecule = np.array([atom.residue.index for atom in topology.atoms()])
    d = positions[:, None] - positions
    d -= np.round(d @ np.linalg.inv(box)) @ box
    return ((np.linalg.norm(d, axis=-1) < 0.15) & (molecule[:, None] != molecule)).sum() // 2


def test_two_beads_per_molecule_are_superposed():
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    data["molecules"] = [dict(m, count=3) for m in data["molecules"] if m["name"] == "EGL"]
    data["beads"] = [
        {"type": "A", "molecule": "EGL", "selection": "name C1 O1 HO1 H11 H12"},
        {"type": "B", "molecule": "EGL", "selection": "name C2 O2 HO2 H21 H22"},
    ]
    config = parse(SystemConfig, data, "two", ETHALINE)
    topology = build_topology(config)
    mapping = mapping_from_config(config, mdtraj.Topology.from_openmm(topology))
    template = template_of(config, "EGL")
    length = np.linalg.norm(np.diff(mapping.map_positions(np.tile(template, (3, 1)))[:2], axis=0))
    direction = np.random.default_rng(0).normal(size=(3, 3))
    direction *= length / np.linalg.norm(direction, axis=1)[:, None]
    first = np.array([[0.5, 0.5, 0.5], [1.5, 0.5, 1.0], [1.0, 1.5, 1.5]])
    beads = np.stack([first, first + direction], axis=1).reshape(-1, 3)
    placed = place_molecules(config, topology, mapping, beads, 2 * np.eye(3), seed=3)
    np.testing.assert_allclose(mapping.map_positions(placed), beads, atol=1e-6)


def test_other_beads_are_refused():
    config, topology, mapping, beads, box = shipped_box()
    with pytest.raises(MappingError, match="Expected beads of shape"):
        place_molecules(config, topology, mapping, beads[:-1], box, 1)


COUNTS = {"CHO": 2, "CL": 2, "EGL": 2}
TINY = {
    "annealing": "0.2 ps",
    "npt": "0.8 ps",
    "nvt": "0.1 ps",
    "production": "0.2 ps",
    "frame_interval": "20 fs",
}


def tiny(**changes):
    return small_config(
        COUNTS,
        **{**TINY, "nonbonded_cutoff": "0.45 nm", "initial_density": "0.3 g/cm^3", **changes},
    )


def test_run_from_mapped_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "WARM_UP", 0.2)
    monkeypatch.setattr("openmm_cgkd.allatom.run.COOLING", 0.1)
    first = run_reference(tiny(), tmp_path / "first")
    last = read_frames(first)[-1:]
    second = run_reference(tiny(seed=2), tmp_path / "second", start=first)
    frames = read_frames(second)
    np.testing.assert_allclose(frames.box[0], last.box[0], atol=1e-6)
    assert len(frames) == 10
    # it began at those beads, which then moved for 0.1 ps: thermal speeds are near 0.3 nm/ps
    assert np.abs(frames.positions[0] - last.positions[0]).max() < 0.3
    assert not (tmp_path / "second" / "npt.xml").exists()
    before = (tmp_path / "second" / "frames.h5").stat().st_mtime_ns
    # finished: nothing to do, with or without the start
    run_reference(tiny(seed=2), tmp_path / "second")
    assert (tmp_path / "second" / "frames.h5").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="its beads are not those"):
        run_reference(
            small_config({"CHO": 2, "CL": 2, "EGL": 3}, **TINY), tmp_path / "third", start=first
        )
    (tmp_path / "first" / "production.xml").unlink()
    with pytest.raises(ConfigError, match="began from a packed box"):
        run_reference(tiny(), tmp_path / "first", start=first)
