"""Angles and coordination numbers are those of all frames."""

from pathlib import Path

import numpy as np

from openmm_cgkd.analysis.comparison.sources import Source
from openmm_cgkd.analysis.comparison.structure import Cutoffs, shell_structure
from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.config.run import ComparisonConfig
from tests.cases.liquids import liquid

CUTOFFS = Cutoffs({("A", "A"): 0.6, ("A", "B"): 0.6, ("B", "A"): 0.6, ("B", "B"): 0.6}, [])


def source(n_frames: int) -> Source:
    names = 12 * ["A"] + 18 * ["B"]
    boxes = np.repeat(2 * np.eye(3)[None], n_frames, axis=0)
    positions = liquid(n_frames, seed=3)
    return Source("x", Path("x"), "", positions, boxes, names, ("A", "B"), None, {})


def test_all_frames_count():
    """More than the 100 that were taken once; every frame adds 12 beads of type A."""
    given = source(130)
    curve = shell_structure(given, ComparisonConfig(), CUTOFFS).curves["coordination", ("A", "B")]
    counts = CoordinationNumbers(("A", "B"), 0.6)
    for frame in given.frames(np.arange(130)):
        counts.compute(frame, reset=False)
    np.testing.assert_allclose(curve.values, counts.density)
    fewer = shell_structure(given, ComparisonConfig(shell_frames=20), CUTOFFS).curves[
        "coordination", ("A", "B")
    ]
    assert np.abs(fewer.values - counts.density).max() > 1e-3
