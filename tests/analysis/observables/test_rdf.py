"""RDFs, and the comparison of a run with its all-atom frames."""

import csv
import json

import mdtraj
import numpy as np
import pytest
from matplotlib.image import imread

from openmm_cgkd.analysis.comparison.trajectory import read_trajectory
from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.analysis.observables.rdf import RDF, all_rdfs, block_rdfs
from openmm_cgkd.exceptions import AnalysisError, BoxError, FramesError
from openmm_cgkd.stages.compare import compare_run
from openmm_cgkd.utils.box import largest_r_max
from tests.cases.liquids import beads_of, liquid, make_run

TRICLINIC = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.5, 0.6, 2.1]])


def random_frames(
    n_frames: int, n_beads: int, box: np.ndarray, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Ideal gas: independent uniform points, several boxes away from the origin."""
    fractions = np.random.default_rng(seed).uniform(-2, 3, (n_frames, n_beads, 3))
    return fractions @ box, np.repeat(box[None], n_frames, axis=0)


def brute_force_counts(positions, box, in_a, in_b, edges):
    """Histogram of unordered pairs over the 27 nearest images."""
    shifts = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ box
    inside = positions - np.floor(positions @ np.linalg.inv(box)) @ box
    distances = [
        np.linalg.norm(inside[j] - inside[i] + shifts, axis=1)
        for i in range(len(inside))
        for j in range(i + 1, len(inside))
        if (in_a[i] and in_b[j]) or (in_b[i] and in_a[j])
    ]
    return np.histogram(np.concatenate(distances), edges)[0]


# --- RDF ---


@pytest.mark.parametrize("pair", [("A", "A"), ("A", "B"), ("B", "B")])
def test_ideal_gas_is_one_within_counting_error(pair):
    beads = beads_of(5, 30)
    positions, boxes = random_frames(400, 35, TRICLINIC)
    rdf = all_rdfs(positions, boxes, beads, bins=20, r_max=0.85)[pair]
    n = {"A": 5, "B": 30}
    possible = n[pair[0]] * (n[pair[0]] - 1) / 2 if pair[0] == pair[1] else n[pair[0]] * n[pair[1]]
    expected = (
        400
        * possible
        / np.linalg.det(TRICLINIC)
        * 4
        / 3
        * np.pi
        * np.diff(np.linspace(0, 0.85, 21) ** 3)
    )
    counts = rdf.values * expected
    # pairs of an ideal gas are Poisson distributed: chi-square of 20 bins is 20 +- 6.3
    filled = expected > 5
    assert 2 < ((counts - expected) ** 2 / expected)[filled].sum() < 50
    # without N - 1 in place of N the mean of A-A would be 0.8
    assert counts.sum() / expected.sum() == pytest.approx(1, abs=4 / np.sqrt(expected.sum()))


@pytest.mark.parametrize(
    ("basis", "first_shell", "second_shell"),
    [([[0, 0, 0]], 6, 18), ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], 12, 18)],
    ids=["simple cubic", "fcc"],
)
def test_coordination_of_lattices(basis, first_shell, second_shell):
    cells = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 1, 3)
    positions = 0.5 * (cells + np.array(basis)).reshape(-1, 3)
    nearest = 0.5 if len(basis) == 1 else 0.5 / np.sqrt(2)
    rdf = RDF(("X", "X"), bins=100, r_max=0.95).compute(
        Frame(positions, 2.0 * np.eye(3), ["X"] * len(positions))
    )
    upper = rdf.bin_edges[1:]
    assert rdf.coordination[upper < 0.99 * nearest].max() == 0
    assert rdf.coordination[np.searchsorted(upper, 1.2 * nearest)] == first_shell
    assert rdf.coordination[np.searchsorted(upper, 1.5 * nearest)] == second_shell


def test_coordination_of_unlike_pair_counts_second_type_around_first():
    positions = np.array([[0.5, 0.5, 0.5], [0.8, 0.5, 0.5], [0.5, 0.85, 0.5], [2.5, 2.5, 2.5]])
    types = ["A", "B", "B", "B"]
    box = 3 * np.eye(3)
    around_a = RDF(("A", "B"), bins=10, r_max=1.0).compute(Frame(positions, box, types))
    around_b = RDF(("B", "A"), bins=10, r_max=1.0).compute(Frame(positions, box, types))
    assert around_a.coordination[-1] == 2
    assert around_b.coordination[-1] == pytest.approx(2 / 3)
    np.testing.assert_allclose(around_a.values, around_b.values)


@pytest.mark.parametrize("pair", [("A", "A"), ("A", "B"), ("B", "B")])
def test_triclinic_box_against_brute_force(pair):
    beads = beads_of(12, 17)
    positions, boxes = random_frames(3, 29, TRICLINIC, seed=2)
    r_max = largest_r_max(boxes)
    assert 0.8 < r_max < 1.0
    edges = np.linspace(0, r_max, 26)
    names = np.array(beads.names)
    counts = sum(
        brute_force_counts(x, TRICLINIC, names == pair[0], names == pair[1], edges)
        for x in positions
    )
    n_a, n_b = (names == pair[0]).sum(), (names == pair[1]).sum()
    possible = n_a * (n_a - 1) / 2 if pair[0] == pair[1] else n_a * n_b
    volume = np.linalg.det(TRICLINIC)
    expected = counts / (3 * possible / volume * 4 / 3 * np.pi * np.diff(edges**3))
    together = all_rdfs(positions, boxes, beads, bins=25, r_max=r_max)[pair]
    np.testing.assert_allclose(together.values, expected, rtol=1e-12)
    alone = RDF(pair, bins=25, r_max=r_max)
    for x in positions:
        alone.compute(Frame(x, TRICLINIC, names), reset=False)
    np.testing.assert_array_equal(alone.values, together.values)
    np.testing.assert_array_equal(alone.coordination, together.coordination)


def test_mixture_against_mdtraj():
    beads = beads_of(20, 30)
    lengths = np.array([2.0, 2.4, 3.0])
    positions, boxes = random_frames(5, 50, np.diag(lengths), seed=3)
    scale = np.linspace(0.97, 1.03, 5)  # a box per frame, as under constant pressure
    positions, boxes = positions * scale[:, None, None], boxes * scale[:, None, None]
    trajectory = mdtraj.Trajectory(
        positions,
        beads.to_mdtraj(),
        unitcell_lengths=lengths * scale[:, None],
        unitcell_angles=np.full((5, 3), 90.0),
    )
    rdfs = all_rdfs(positions, boxes, beads, bins=30, r_max=0.96)
    assert list(rdfs) == [("A", "A"), ("A", "B"), ("B", "B")]
    for (a, b), rdf in rdfs.items():
        pairs = trajectory.topology.select_pairs(f"name {a}", f"name {b}")
        r, g = mdtraj.compute_rdf(trajectory, pairs, r_range=(0, 0.96), n_bins=30)
        np.testing.assert_allclose(rdf.bin_centers, r, atol=1e-6)
        np.testing.assert_allclose(rdf.values, g, rtol=1e-5)


def test_parts_add_up_to_the_whole():
    beads = beads_of(10, 10)
    positions, boxes = random_frames(7, 20, TRICLINIC, seed=4)
    whole = all_rdfs(positions, boxes, beads, bins=15, r_max=0.8)
    done = []
    blocks = block_rdfs(positions, boxes, beads, 15, 0.8, blocks=2, update=done.append)
    assert done == [4, 7]
    for pair, rdf in whole.items():
        merged = RDF.merged(blocks[pair])
        np.testing.assert_allclose(merged.values, rdf.values, rtol=1e-14)
        np.testing.assert_allclose(merged.coordination, rdf.coordination, rtol=1e-14)
        assert not np.array_equal(blocks[pair][0].values, rdf.values)
    first = all_rdfs(positions[:4], boxes[:4], beads, bins=15, r_max=0.8)
    np.testing.assert_array_equal(blocks["A", "B"][0].values, first["A", "B"].values)


def test_compute_resets_unless_told_otherwise():
    positions, boxes = random_frames(2, 30, TRICLINIC, seed=5)
    frames = [Frame(x, box, np.zeros(30, int)) for x, box in zip(positions, boxes, strict=True)]
    rdf = RDF((0, 0), bins=10, r_max=0.8)
    second_alone = rdf.compute(frames[1]).values
    both = rdf.compute(frames[0], reset=False).values
    assert not np.array_equal(both, second_alone)
    np.testing.assert_array_equal(rdf.compute(frames[1]).values, second_alone)


def test_single_bead_of_a_type_has_no_like_pair():
    positions, boxes = random_frames(2, 6, TRICLINIC)
    assert list(all_rdfs(positions, boxes, beads_of(1, 5), bins=10, r_max=0.8)) == [
        ("A", "B"),
        ("B", "B"),
    ]


@pytest.mark.parametrize("result", ["bin_centers", "values", "coordination"])
def test_results_before_the_first_frame_are_refused(result):
    with pytest.raises(AnalysisError, match=r"A-B holds no frame; call compute"):
        getattr(RDF(("A", "B")), result)


def test_bad_input_is_refused():
    positions, boxes = random_frames(2, 10, TRICLINIC)
    frame = Frame(positions[0], boxes[0], ["A"] * 9 + ["B"])
    with pytest.raises(
        BoxError,
        match=r"r_max of 1\.2 nm is above half the smallest box height .* use at most 0\.\d+ nm",
    ):
        RDF(("A", "B"), r_max=1.2).compute(frame)
    with pytest.raises(BoxError, match="r_max of 1"):
        all_rdfs(positions, boxes, beads_of(5, 5), r_max=1.0)
    with pytest.raises(AnalysisError, match="no pair A-C: the frame holds 9 and 0"):
        RDF(("A", "C"), r_max=0.8).compute(frame)
    with pytest.raises(AnalysisError, match="no pair B-B"):
        RDF(("B", "B"), r_max=0.8).compute(frame)
    with pytest.raises(AnalysisError, match="no pair A-B"):
        all_rdfs(positions, boxes, beads_of(10, 0), r_max=0.8)
    with pytest.raises(AnalysisError, match="for 11 beads"):
        all_rdfs(positions, boxes, beads_of(11), r_max=0.8)
    with pytest.raises(AnalysisError, match="2 frames cannot be cut into 3"):
        block_rdfs(positions, boxes, beads_of(10), 10, 0.8, blocks=3)
    with pytest.raises(AnalysisError, match="r_max=0 nm"):
        RDF(("A", "A"), r_max=0.0)
    with pytest.raises(AnalysisError, match="merge"):
        RDF.merged([RDF(("A", "A")), RDF(("A", "B"))])


# --- the comparison stage ---


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
def test_trajectory_round_trip(tmp_path, suffix):
    cg = liquid(3, seed=1)
    make_run(tmp_path, liquid(1, seed=2), cg, suffix=suffix)
    simulation = tmp_path / "run" / "simulation"
    trajectory = read_trajectory(simulation / f"trajectory.{suffix}", simulation / "topology.pdb")
    np.testing.assert_allclose(trajectory.positions, cg, atol=1e-3)
    np.testing.assert_allclose(
        trajectory.boxes, np.repeat(2 * np.eye(3)[None], 3, axis=0), atol=1e-5
    )
    assert trajectory.names == ["CHO"] * 12 + ["CL"] * 18


def test_compare_writes_numbers_curves_and_picture(tmp_path):
    aa, cg = liquid(12, seed=1), liquid(8, seed=2, diameter=0.28)
    run = make_run(tmp_path, aa, cg)
    (tmp_path / "run" / "simulation" / "simulation.json").write_text(
        '{"ns_per_day": 12.5, "step_ms": 3.0}'
    )
    path = compare_run(run)
    report = json.loads(path.read_text())
    assert path == tmp_path / "run" / "comparison" / "comparison.json"
    assert report["simulation"] == {"ns_per_day": 12.5, "step_ms": 3.0}
    assert (report["system"], report["temperature"], report["bins"]) == ("toy", 300.0, 40)
    assert report["frames"] == {
        "all_atom": 12,
        "all_atom_runs": 1,
        "coarse_grained": 8,
        "coarse_grained_trajectories": 1,
    }
    assert report["r_max"] == pytest.approx(1.0, abs=0.0011)
    assert [pair["types"] for pair in report["pairs"]] == [
        ["CHO", "CHO"],
        ["CHO", "CL"],
        ["CL", "CL"],
    ]

    beads = beads_of(12, 18, names=("CHO", "CL"))
    boxes = np.repeat(2 * np.eye(3)[None], 12, axis=0)
    all_atom, coarse = (
        all_rdfs(x.astype("f4"), boxes[: len(x)], beads, 40, report["r_max"]) for x in (aa, cg)
    )
    halves = [
        all_rdfs(x.astype("f4"), boxes[:6], beads, 40, report["r_max"]) for x in (aa[:6], aa[6:])
    ]
    with open(path.with_name("rdf.csv")) as file:
        columns = {
            row[0]: np.array(row[1:], dtype=float) for row in zip(*csv.reader(file), strict=True)
        }
    for pair in report["pairs"]:
        key = tuple(pair["types"])
        difference = np.abs(coarse[key].values - all_atom[key].values)
        assert pair["mean_absolute_error"] == pytest.approx(difference.mean(), rel=1e-5)
        assert pair["rmse"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)
        assert pair["integrated_absolute_error"] == pytest.approx(
            pair["mean_absolute_error"] * report["r_max"]
        )
        assert pair["all_atom_halves"] == pytest.approx(
            np.abs(halves[0][key].values - halves[1][key].values).mean()
        )
        assert pair["mean_absolute_error_se"] > 0
        name = "-".join(key)
        np.testing.assert_allclose(columns[f"{name} AA g"], all_atom[key].values, rtol=1e-5)
        np.testing.assert_allclose(
            columns[f"{name} CG coordination to outer edge"], coarse[key].coordination, rtol=1e-5
        )
        # twelve frames are too few for a plateau: the largest error of blocks of 1, 2 and 3 frames
        errors = []
        for length in (1, 2, 3):
            blocks = [
                all_rdfs(part.astype("f4"), boxes[:length], beads, 40, report["r_max"])[key].values
                for part in np.split(aa, 12 // length)
            ]
            errors.append(np.std(blocks, axis=0, ddof=1) / np.sqrt(len(blocks)))
        largest = max(errors, key=lambda error: np.sum(error**2))
        np.testing.assert_allclose(
            columns[f"{name} AA g se, at least"], largest, rtol=1e-4, atol=1e-9
        )
        assert pair["at_least"] == [
            "mean_absolute",
            "integrated_absolute",
            "rmse",
            "jensen_shannon",
            "overlap",
        ]
    assert report["mean"]["rmse"] == pytest.approx(
        np.mean([pair["rmse"] for pair in report["pairs"]])
    )
    np.testing.assert_allclose(columns["r / nm"], all_atom["CL", "CL"].bin_centers, rtol=1e-5)

    picture = imread(path.with_name("rdf.png"))
    assert picture.shape[1] > 2000
    model_color = np.abs(picture[..., :3] - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
    assert model_color.sum() > 3000
    assert {file.name for file in path.parent.iterdir()} >= {"errors.csv", "msd.csv", "scores.png"}
    log = (tmp_path / "run" / "logs" / "compare.log").read_text()
    assert "CHO-CL" in log
    assert "of a perfect model" in log


def test_identical_trajectories_have_no_error(tmp_path):
    aa = liquid(6, seed=3).astype("f4").astype(float)
    report = json.loads(compare_run(make_run(tmp_path, aa, aa, r_max="0.9 nanometer")).read_text())
    assert report["r_max"] == 0.9
    # the box in the DCD file is rounded to float32
    assert all(pair["rmse"] < 1e-6 for pair in report["pairs"])
    assert all(pair["first_peak"]["all_atom"]["height"] is not None for pair in report["pairs"])
    assert report["mean"]["all_atom_halves"] > 0.01
    assert report["simulation"] is None
    assert "simulation.json is absent" in (tmp_path / "run" / "logs" / "compare.log").read_text()


def test_finished_comparison_is_reused_until_its_input_changes(tmp_path):
    run = make_run(tmp_path, liquid(6, seed=4), liquid(6, seed=5))
    path = compare_run(run)
    written = path.stat().st_mtime_ns
    assert compare_run(run).stat().st_mtime_ns == written
    (tmp_path / "run" / "simulation" / "simulation.json").write_text('{"ns_per_day": 1.0}')
    assert json.loads(compare_run(run).read_text())["simulation"] == {"ns_per_day": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cg_names": ("CHO", "EGL")},
            r"other beads \(12 CHO, 18 EGL\) than the all-atom frames \(12 CHO, 18 CL\)",
        ),
        ({"cg_length": 2.02}, r"mean box volume is 8\.242 nm\^3 in the trajectory and 8\.000"),
        ({"n": 3}, r"3 all-atom frames are too few for standard errors, which need at least 4"),
        (
            {"r_max": "1.2 nanometer"},
            (
                r"comparison\.r_max of 1\.2 nm is above half the smallest box height; use at most"
                r" 0\.99\d nm"
            ),
        ),
        ({"r_max": "0.05 nanometer"}, "never come within 0.05 nm"),
        ({"counts": (30, 0)}, "no pair CHO-CL: the frame holds 30 and 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, options, message):
    all_atom = liquid(options.pop("n", 6), seed=6)
    run = make_run(tmp_path, all_atom, liquid(6, seed=7), **options)
    with pytest.raises(AnalysisError, match=message):
        compare_run(run)
    assert not (tmp_path / "run" / "comparison").exists()


def test_bad_trajectories_are_refused(tmp_path):
    run = make_run(tmp_path, liquid(6, seed=6), liquid(6, seed=7))
    simulation = tmp_path / "run" / "simulation"
    topology = simulation / "topology.pdb"
    trajectory = mdtraj.load(str(simulation / "trajectory.dcd"), top=str(topology))
    trajectory.xyz[2, 3] = np.nan
    trajectory.save_dcd(simulation / "nan.dcd")
    with pytest.raises(FramesError, match="positions of frame 2 are not finite"):
        read_trajectory(simulation / "nan.dcd", topology)
    open_boundaries = mdtraj.Trajectory(trajectory.xyz[:1], trajectory.topology)
    open_boundaries.save_dcd(simulation / "open.dcd")
    with pytest.raises(BoxError, match="has no periodic box"):
        read_trajectory(simulation / "open.dcd", topology)
    trajectory.atom_slice([0, 1]).save_dcd(simulation / "fewer.dcd")
    with pytest.raises(FramesError, match=r"cannot be read as a trajectory of \d+ beads"):
        read_trajectory(simulation / "fewer.dcd", topology)
    scaled = simulation / "scaled.lammpstrj"  # MDTraj would take the fractions as angstrom
    scaled.write_text("ITEM: TIMESTEP\n")
    with pytest.raises(FramesError, match=r"\.lammpstrj is of no format whose units are certain"):
        read_trajectory(scaled, topology)
    trajectory.xyz[2, 3] = 0.0
    trajectory.time = [0.0, 1.0, 2.0, 1.5, 3.0, 4.0]
    trajectory.save_xtc(simulation / "joined.xtc")
    with pytest.raises(FramesError, match=r"frame 3 is at 1\.5 ps, not after 2 ps"):
        read_trajectory(simulation / "joined.xtc", topology)
    (simulation / "trajectory.dcd").unlink()
    with pytest.raises(
        AnalysisError, match=r"trajectory\.dcd: no such file; run 'cgkd simulate' first"
    ):
        compare_run(run)
