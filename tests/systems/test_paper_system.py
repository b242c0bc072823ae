"""The paper-size system: what it promises, and its all-atom stage with few molecules and steps."""

import math

import numpy as np
import pytest
import yaml

from openmm_cgkd.allatom import phases
from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.analysis.observables.peaks import first_peak
from openmm_cgkd.analysis.observables.rdf import all_rdfs
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.mapping import mapping_from_config
from tests.cases.fluids import ETHALINE

PAPER = ETHALINE / "paper.yaml"
SMALL = {
    "initial_density": "0.3 g/cm^3",
    "nonbonded_cutoff": "0.45 nm",
    "annealing": "40 fs",
    "npt": "0.4 ps",
    "nvt": "40 fs",
    "production": "80 fs",
    "frame_interval": "20 fs",
    "snapshot_interval": "40 fs",
    "platform": "CPU",
    "threads": 1,
}


def test_paper_size():
    import mdtraj

    config = load_system(PAPER)
    assert {molecule.name: molecule.count for molecule in config.molecules} == {
        "CHO": 250,
        "CL": 250,
        "EGL": 500,
    }
    assert config.temperature == 298.15
    protocol = config.reference
    assert protocol.production >= 10_000  # ps
    assert round(protocol.production / protocol.frame_interval) == 1000
    # what the liquid takes to equilibrate at room temperature
    assert protocol.npt + protocol.nvt >= 10_000
    mapping = mapping_from_config(config, mdtraj.Topology.from_openmm(build_topology(config)))
    assert (mapping.n_atoms, mapping.topology.n_beads) == (10_500, 1000)


def test_small_version_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "WARM_UP", 0.1)
    data = yaml.safe_load(PAPER.read_text())
    data["molecules"] = [
        dict(molecule, count=molecule["count"] // 125) for molecule in data["molecules"]
    ]
    data["reference"].update(SMALL)
    frames = read_frames(
        run_reference(parse(SystemConfig, data, "small", ETHALINE), tmp_path / "aa")
    )
    assert frames.step.tolist() == [5, 10, 15, 20]
    assert frames.beads.names == ["CHO"] * 2 + ["CL"] * 2 + ["EGL"] * 4
    assert frames.temperature == 298.15


def test_shipped_frames():
    """What the GPU's run left: neutral, of the paper's size and state, forces that add up to
    nothing, first peaks where they were found.
    """
    frames = read_frames(ETHALINE / "paper_frames.h5")
    assert np.bincount(frames.beads.types).tolist() == [250, 250, 500]
    assert frames.temperature == 298.15
    # lost where the run was continued
    expected = np.setdiff1d(np.arange(1010, 10_001, 10), [9690, 9700])
    assert frames.time == pytest.approx(expected)
    assert abs(frames.beads.charges.sum()) < 1e-6
    volume = np.linalg.det(frames.box.astype(float))
    assert volume == pytest.approx(volume[0])
    assert frames.beads.masses.sum() / volume[0] / 602.214076 == pytest.approx(1.1282, abs=2e-4)
    # PME keeps momentum to single precision, and forces are rounded to 1 kJ/mol/nm: a thousand of
    # them add up to sqrt(1000 / 12)
    assert frames.forces.astype(float).sum(1).std() < 3 * math.sqrt(1000 / 12)
    assert frames.forces.std() == pytest.approx(277.7, rel=0.01)
    part = frames[::100]
    rdfs = {
        tuple(sorted(pair)): rdf
        for pair, rdf in all_rdfs(part.positions, part.box, part.beads, 150, 1.5).items()
    }
    for pair, expected in {
        ("CHO", "CL"): 0.414,
        ("CL", "EGL"): 0.435,
        ("EGL", "EGL"): 0.473,
    }.items():
        rdf = rdfs[pair]
        assert first_peak(rdf.bin_centers, rdf.values).position == pytest.approx(
            expected, abs=0.012
        )
