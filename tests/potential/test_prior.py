"""The repulsion and its wall; the file of the prior: its checksum, what it may hold, old ones."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from openmm_cgkd.config.run import PriorConfig
from openmm_cgkd.exceptions import ConfigError, TrainingError
from openmm_cgkd.potential.bonded import BondedParameters
from openmm_cgkd.potential.forces import energies_and_forces
from openmm_cgkd.potential.prior import (
    PairRepulsion,
    PriorParameters,
    fit_prior,
    read_prior,
    write_prior,
)
from openmm_cgkd.potential.torch_ops import PackedNetwork
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.records import write_record
from tests.cases.flips import outcomes
from tests.cases.networks import torchmd_pair
from tests.cases.old_files import FOLDER
from tests.cases.potential import wall
from tests.cases.training import make_frames

PRIOR = PriorParameters(
    ("A", "B"),
    [[0.31, 0.2999999999999999], [0.2999999999999999, 0.4]],
    213.7,
    0.05,
    0.015,
    BondedParameters(
        [{"beads": ["A", "B"], "bonds": [[0, 1]]}],
        [{"types": ["A", "B"], "constant": 1.5e4, "length": 0.25}],
        [],
    ),
    3e4,
)
CONTACT = [[0.40, 0.35, 0.4], [0.35, 0.50, 0.4], [0.4, 0.4, 0.4]]
SOFT = PriorParameters(("A", "B", "C"), CONTACT, 120.0, 0.05, 0.015, stiffness=3e4)
EXACT = dataclasses.replace(SOFT, stiffness=None)
# nm inside contact; the bend of SOFT is 16.1 pm inside, where e^(a x) = 25
DEPTHS = (-0.05, -0.01, 0.0, 0.005, 0.0160, 0.0162, 0.03, 0.1)


def pair_module(prior: PriorParameters, form: str):
    """Energy and force of two beads (distance, types) as training, portable and fast files compute
    them.
    """
    repulsion = prior.build(1.0).double()
    if form == "fast":
        fast = PackedNetwork(torchmd_pair(0, channels=4, cutoff="1 nanometer")[1], repulsion)
        fast.weights.zero_()
    elif form == "portable":
        repulsion = torch.jit.script(repulsion)
    first, second, none = torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 3).double()

    def evaluate(distance: float, kinds: list[int]) -> tuple[float, float]:
        types, along = torch.tensor(kinds), torch.tensor([2.0, -1.0, 2.0]).double() / 3
        positions = torch.stack([torch.zeros(3).double(), distance * along]).requires_grad_()
        if form == "fast":
            energy = fast(types, positions, torch.empty(0, 3).double())
            (gradient,) = torch.autograd.grad(energy, positions)
            forces = -gradient
        else:
            energy, forces = energies_and_forces(repulsion, types, positions, first, second, none)
        torch.testing.assert_close(forces[0], -forces[1], rtol=1e-12, atol=1e-12)
        return energy.sum().item(), (forces[1] @ along).item()

    return evaluate


@pytest.mark.parametrize("form", ["training", "portable", "fast"])
@pytest.mark.parametrize("prior", [SOFT, EXACT], ids=["soft", "exact"])
def test_wall_is_its_formula_and_forces_are_its_slope(prior, form):
    evaluate, step = pair_module(prior, form), 1e-6
    for kinds in ([0, 0], [0, 1], [1, 0], [1, 1]):
        t = float(np.float32(prior.contact[kinds[0]][kinds[1]]))  # as it is stored
        for depth in DEPTHS:
            energy, force = evaluate(t - depth, kinds)
            expected = wall(np.array(t - depth), np.array(t), prior)
            assert (energy, force) == pytest.approx(tuple(map(float, expected)), rel=1e-11)
            behind, ahead = (evaluate(t - depth + h, kinds)[0] for h in (step, -step))
            assert force == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("form", ["training", "portable", "fast"])
def test_energy_force_and_slope_are_continuous_at_the_bend(form):
    evaluate = pair_module(SOFT, form)
    t = float(np.float32(0.40))
    a = math.log(20) / 0.015
    bend = t - math.log(3e4 / (120 * 0.05 * a)) / a
    inside, outside = evaluate(bend - 1e-12, [0, 0]), evaluate(bend + 1e-12, [0, 0])
    assert inside == pytest.approx(outside, rel=1e-8)
    step = 1e-6
    forces = [evaluate(bend + k * step, [0, 0])[1] for k in (-2, -1, 0, 1, 2)]
    slopes = -np.diff(forces) / step
    np.testing.assert_allclose(slopes, 3e4, rtol=2 * a * step)
    assert slopes[0] == pytest.approx(3e4, rel=1e-7)  # linear inside
    assert slopes[3] < slopes[2] < 3e4 * (1 - 0.2 * a * step)  # exponential outside


def test_a_pair_exactly_at_the_bend_counts_once():
    repulsion = SOFT.build(1.0).double()
    vector = torch.tensor([[0.39, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    repulsion.bend = (repulsion.steepness * (repulsion.contact[0] - 0.39)).item()
    energy = repulsion(torch.tensor([0, 0]), torch.tensor([0]), torch.tensor([1]), vector).sum()
    (gradient,) = torch.autograd.grad(energy, vector)
    assert gradient[0, 0].item() == pytest.approx(-repulsion.steepness * energy.item(), rel=1e-12)


def test_force_at_contact_and_d_inside():
    evaluate = pair_module(SOFT, "training")
    t = float(np.float32(0.40))
    assert evaluate(t, [0, 0])[1] == pytest.approx(0.05 * 120)
    assert evaluate(t - 0.015, [0, 0])[1] == pytest.approx(120)


def test_without_forces_there_is_no_wall():
    repulsion = PairRepulsion(torch.full((1, 1), 0.4), 0.0, 0.05, 0.015, 1.0, stiffness=3e4)
    vectors, zero = torch.tensor([[0.1, 0, 0]]), torch.tensor([0])
    assert torch.equal(repulsion(zero, zero, zero, vectors), torch.zeros(1))


def test_fit_refuses_a_wall_softer_than_at_contact():
    frames = make_frames(20, 12, noise=1.0)[0]
    fitted = fit_prior(frames)
    assert fitted.stiffness == 3e4
    least = fitted.force * 0.05 * math.log(20) / 0.015
    unit = "kilojoule/mole/nanometer**2"
    with pytest.raises(ConfigError, match=rf"prior.stiffness: got .* the slope {least:g} already"):
        fit_prior(frames, PriorConfig(stiffness=f"{0.999 * least} {unit}"))
    assert fit_prior(frames, PriorConfig(stiffness=f"{1.001 * least} {unit}")).stiffness > least


def test_round_trip(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    assert read_prior(path) == PRIOR
    assert read_prior(path).identity == PRIOR.identity


def test_flipped_bits(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    found = outcomes(path, read_prior, 300)
    assert found["refused"] > 200
    assert found["refused"] + found["same"] == 300, found


def test_changed_by_hand(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(PRIOR, path)
    path.write_text(path.read_text().replace("213.7", "313.7"))
    with pytest.raises(TrainingError, match="checksum differs; delete it and run 'cgkd teach'"):
        read_prior(path)
    with pytest.raises(TrainingError, match="no such file; give a JSON file, or delete it and run"):
        read_prior(tmp_path / "none.json")


def test_old_file():
    """Without a checksum, and known to its labels by the SHA-256 of the file itself."""
    path = FOLDER / "prior.json"
    assert "sha256" not in path.read_text()
    assert read_prior(path).identity == file_hash(path)
    assert read_prior(path).stiffness is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contact": [[0.3, 0.4], [0.5, 0.6]]}, "contact is not symmetric"),
        ({"contact": [[0.3]]}, "contact is not a table of 2 by 2 bead types"),
        ({"contact": [[float("inf"), 0.3], [0.3, 0.3]]}, "contact.0.0: got inf"),
        ({"contact": [[-0.3, 0.3], [0.3, 0.3]]}, "contact.0.0: got -0.3"),
        ({"contact": "0.3"}, "contact: got '0.3'"),
        ({"contact": [["0.3", "0.3"], ["0.3", "0.3"]]}, "contact.0.0: got '0.3'"),
        ({"contact": [[0.3, 0.3], [0.3]]}, "contact is not a table"),
        ({"force": float("inf")}, "force: got inf"),
        ({"force": "213"}, "force: got '213'"),
        ({"p": 1.5}, "p: got 1.5"),
        ({"p": 0}, "p: got 0"),
        ({"distance": -0.015}, "distance: got -0.015"),
        ({"stiffness": float("nan")}, "stiffness: got nan"),
        ({"stiffness": 0}, "stiffness: got 0"),
        ({"stiffness": 1e16}, "stiffness: got 1e"),
        ({"stiffness": "3e4"}, "stiffness: got '3e4'"),
        ({"stiffness": 2133}, r"stiffness 2133 kJ/mol/nm\^2 is below 2133\.96, the slope"),
        ({"type_names": ["A", "A"]}, "the bead types .'A', 'A'. are not all different"),
        ({"type_names": None}, "type_names: got None"),
        ({"more": 1}, "more: got 1"),
        (
            {"bonded": {"molecules": [], "bonds": [{"types": ["A", "B"]}], "angles": []}},
            "bonded.bonds.0.constant",
        ),
        (
            {
                "bonded": {
                    "molecules": [],
                    "bonds": [],
                    "angles": [{"types": ["A"] * 3, "constant": float("nan"), "cosine": 0}],
                }
            },
            "bonded.angles.0.constant: got nan",
        ),
    ],
)
def test_refused(tmp_path, change, message):
    for write in (write_record, lambda path, content: path.write_text(json.dumps(content))):
        write(tmp_path / "prior.json", {**PRIOR.as_dict(), **change})
        with pytest.raises(TrainingError, match=f"prior.json: is not a pair prior: .*{message}"):
            read_prior(tmp_path / "prior.json")
