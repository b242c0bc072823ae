"""`explain_residual`: its candidates against other sums, its shares where the answer is known."""

import json
import math

import numpy as np
import pytest
from scipy.special import erfc

from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mean_forces.file import MeanForces
from openmm_cgkd.mean_forces.pair_correction import KNOT_SPACING
from scripts.denoising import explain_residual

N_FRAMES, N_BEADS, BOX = 6, 12, 2.4


@pytest.fixture(scope="module")
def mean_forces():
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, BOX, (N_FRAMES, N_BEADS, 3)).astype("f4")
    types = np.arange(N_BEADS) % 3  # A, B and C without a charge
    charges = np.array([0.8, -0.8, 0.0])[types]
    beads = BeadTopology(("A", "B", "C"), types, np.ones(N_BEADS), np.arange(N_BEADS), charges)
    box = np.tile(BOX * np.eye(3), (N_FRAMES, 1, 1))
    return MeanForces(
        positions,
        np.zeros_like(positions),
        np.ones_like(positions),
        box,
        np.arange(N_FRAMES),
        beads,
        {},
    )


def ewald(positions, charges, box, alpha=3.0, reach=2, waves=9):
    """Coulomb forces in a cubic box of tin foil, as in Allen and Tildesley, chapter 6."""
    forces = np.zeros_like(positions)
    images = box * np.stack(np.meshgrid(*3 * [np.arange(-reach, reach + 1)]), -1).reshape(-1, 3)
    for i in range(len(positions)):
        d = positions[i] - positions + images[:, None]  # (n_images, n_beads, 3)
        r = np.linalg.norm(d, axis=2)
        r[r == 0] = np.inf
        size = (
            charges[i]
            * charges
            * (erfc(alpha * r) / r + 2 * alpha / math.sqrt(math.pi) * np.exp(-((alpha * r) ** 2)))
            / r**2
        )
        forces[i] += (size[..., None] * d).sum((0, 1))
    k = (
        2
        * math.pi
        / box
        * np.stack(np.meshgrid(*3 * [np.arange(-waves, waves + 1)]), -1).reshape(-1, 3)
    )
    k = k[(k**2).sum(1) > 0]
    square = (k**2).sum(1)
    phases = np.exp(1j * positions @ k.T)
    structure = (charges[:, None] * phases).sum(0)
    imaginary = (np.conj(structure) * phases).imag  # (n_beads, n_waves)
    weights = 4 * math.pi / box**3 * np.exp(-square / (4 * alpha**2)) / square
    forces += charges[:, None] * ((weights * imaginary)[..., None] * k).sum(1)
    return 138.935458 * forces


def test_coulomb_is_that_of_an_ewald_sum(mean_forces):
    found = explain_residual.coulomb_forces(mean_forces)
    for k in (0, 1):
        expected = ewald(mean_forces.positions[k].astype(float), mean_forces.beads.charges, BOX)
        np.testing.assert_allclose(found[k], expected, atol=1e-3 * np.abs(expected).max())
        assert np.abs(expected[mean_forces.beads.types < 2]).max() > 10
    assert not found[:, mean_forces.beads.types == 2].any()


def test_direct_coulomb_sums_over_near_pairs(mean_forces):
    cutoff, charges = 0.9, mean_forces.beads.charges
    found = explain_residual.direct_coulomb(mean_forces, cutoff)
    d = mean_forces.positions[0][:, None].astype(float) - mean_forces.positions[0]
    d -= BOX * np.round(d / BOX)
    r = np.linalg.norm(d, axis=2) + np.where(np.eye(N_BEADS), np.inf, 0)
    size = np.where(r < cutoff, 138.935458 * np.outer(charges, charges) / r**3, 0)
    np.testing.assert_allclose(found[0], (size[..., None] * d).sum(1), rtol=1e-5, atol=1e-5)


def test_pair_forces_hold_every_force_that_is_linear_between_knots(mean_forces):
    """The force 5 (r_max - r) between A and B alone is a combination of the candidates, and no
    force acts on C.
    """
    r_max = 17 * KNOT_SPACING
    candidates = explain_residual.pair_forces(mean_forces, r_max)
    d = mean_forces.positions[:, :, None].astype(float) - mean_forces.positions[:, None]
    d -= BOX * np.round(d / BOX)
    r = np.linalg.norm(d, axis=3)
    types = mean_forces.beads.types
    chosen = (types[:, None] + types == 1) & (r < r_max) & (r > KNOT_SPACING)
    size = np.where(chosen, 5 * (r_max - r), 0) / np.where(r > 0, r, 1)
    target = (size[..., None] * d).sum(2)
    design = candidates.reshape(-1, candidates.shape[-1])
    weights = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(design @ weights, target.ravel(), atol=1e-3 * np.abs(target).max())
    np.testing.assert_allclose(candidates.sum(1), 0, atol=1e-9)  # action and reaction


def test_shares_of_what_is_known():
    """Missing are 2 x the candidate and something else of the same size, seen with an error:
    half is explained.
    """
    rng = np.random.default_rng(2)
    candidate, other, error = (rng.normal(size=(30, 80, 3)) for _ in range(3))
    seen = 2 * candidate + 2 * other + 3 * error
    found = explain_residual.explained(seen, np.full(seen.shape, 3.0), candidate)
    assert found.share == pytest.approx(0.5, abs=4 * found.error)
    assert 0.002 < found.error < 0.05
    assert found.rmse == pytest.approx(2.0, abs=0.1)
    everything = explain_residual.explained(
        seen, np.full(seen.shape, 3.0), np.stack([candidate, other], axis=-1)
    )
    assert everything.share == pytest.approx(1.0, abs=0.02)


def test_more_parameters_alone_explain_nothing():
    rng = np.random.default_rng(3)
    missing, candidates = rng.normal(size=(10, 40, 3)), rng.normal(size=(10, 40, 3, 60))
    found = explain_residual.explained(missing, np.zeros(missing.shape), candidates)
    # in the fit itself they would explain 60 of 1200; predicting costs as much
    assert -0.12 < found.share < -0.02


def test_what_the_shipped_student_misses_is_not_pairwise(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["explain_residual"])
    explain_residual.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("rmse") == pytest.approx(92.3, abs=1.0)
    assert len(found) == 5
    assert all(-0.01 < share < 0.02 for share in found.values())


def test_potential_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["explain_residual", "--potential", "none.pt"])
    with pytest.raises(SystemExit, match="2"):
        explain_residual.main()
    assert "error: none.pt" in capsys.readouterr().err
