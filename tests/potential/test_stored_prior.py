"""Priors that could not have been fitted."""

import pytest
from pydantic import ValidationError

from openmm_cgkd.potential.stored_prior import StoredPrior


def prior(bonds: list[list[int]], n_beads: int) -> dict:
    return {
        "type_names": ["A"],
        "contact": [[0.3]],
        "force": 100.0,
        "p": 0.05,
        "distance": 0.015,
        "bonded": {
            "molecules": [{"beads": n_beads * ["A"], "bonds": bonds}],
            "bonds": [{"types": ["A", "A"], "constant": 1.0, "length": 0.3}],
            "angles": [],
        },
    }


def test_a_chain_and_a_star():
    StoredPrior.model_validate(prior([[k, k + 1] for k in range(99)], 100))
    StoredPrior.model_validate(prior([[0, k] for k in range(1, 31)], 31))


@pytest.mark.parametrize(
    ("bonds", "n_beads", "message"),
    [
        (300 * [[0, 1]], 2, "a bond stands there twice"),
        ([[0, 1], [1, 0]], 2, "a bond stands there twice"),
        ([[0, k] for k in range(1, 32)], 32, "more than 30 bonds"),
        ([[0, 2]], 2, "does not join two of 2 beads"),
    ],
)
def test_bonds_that_make_angles_without_end(bonds, n_beads, message):
    with pytest.raises(ValidationError, match=message):
        StoredPrior.model_validate(prior(bonds, n_beads))
