"""Errors per bead type, against numpy."""

import numpy as np
import pytest
import torch

from openmm_cgkd.training.metrics import Errors


def test_errors_of_batches_are_those_of_all_beads():
    random = np.random.default_rng(0)
    labels = random.normal(loc=0.5, size=(40, 3))
    predicted = labels + random.normal(scale=0.3, size=(40, 3))
    types = random.integers(0, 2, size=40)
    errors = Errors("force", ("A", "B"))
    for part in (slice(0, 13), slice(13, 40)):
        errors.add(*(torch.tensor(values[part]) for values in (predicted, labels, types)))
    results = errors.results()
    assert list(results)[:6] == [
        "force_rmse",
        "force_mae",
        "force_r2",
        "force_rmse_A",
        "force_mae_A",
        "force_r2_A",
    ]
    for suffix, chosen in (("", types >= 0), ("_A", types == 0), ("_B", types == 1)):
        wrong = predicted[chosen] - labels[chosen]
        assert results[f"force_rmse{suffix}"] == pytest.approx(np.sqrt(np.mean(wrong**2)))
        assert results[f"force_mae{suffix}"] == pytest.approx(np.abs(wrong).mean())
        assert results[f"force_r2{suffix}"] == pytest.approx(
            1 - np.mean(wrong**2) / labels[chosen].var()
        )
