"""What all observables share: sums over frames, refusals, the example of the documentation."""

import re

import numpy as np
import openmm
import pytest

from openmm_cgkd.analysis.observables.angles import ADF, CDF
from openmm_cgkd.analysis.observables.base import accumulate_blocks
from openmm_cgkd.analysis.observables.coordination import CoordinationNumbers
from openmm_cgkd.analysis.observables.diffusion import (
    diffusion,
)
from openmm_cgkd.analysis.observables.order import SteinhardtOrder
from openmm_cgkd.analysis.observables.pressure import virial_pressure
from openmm_cgkd.analysis.observables.structure_factor import StructureFactor
from openmm_cgkd.exceptions import AnalysisError, BoxError
from openmm_cgkd.frames.frames import read_frames, write_frames
from tests.cases.fluids import ETHALINE
from tests.cases.observables import ideal_gas
from tests.cases.paths import ROOT

MAKERS = {
    "ADF": lambda: ADF(("A", "B", "A"), (0.8, 0.8), bins=9),
    "CDF": lambda: CDF(("A", "B", "A"), (0.8, 0.8), bins=(3, 4)),
    "coordination": lambda: CoordinationNumbers(("A", "B"), 0.8),
    "order": lambda: SteinhardtOrder("A", bins=5),
    "structure factor": lambda: StructureFactor(("A", "B"), q_max=10, bins=5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_frames_add_up_and_reset(name):
    frames, make = ideal_gas(5, {"A": 10, "B": 9}, seed=13), MAKERS[name]
    with pytest.raises(AnalysisError, match="holds no frame"):
        _ = make().values
    whole = make()
    for frame in frames:
        whole.compute(frame, reset=False)
    done = []
    (parts,) = accumulate_blocks(lambda: [make()], frames, 2, 0.85, done.append)
    assert done == [3, 5]
    np.testing.assert_allclose(type(whole).merged(parts).values, whole.values, equal_nan=True)
    last = make().compute(frames[-1]).values
    assert not np.array_equal(last, whole.values)
    np.testing.assert_array_equal(whole.compute(frames[-1]).values, last)
    with pytest.raises(AnalysisError, match="0 parts"):
        type(whole).merged([])


def test_bad_input_is_refused():
    (frame,) = ideal_gas(1, {"A": 10, "B": 1}, seed=14)
    with pytest.raises(AnalysisError, match="no triple B-A-B: the frame holds 1 beads B"):
        ADF(("B", "A", "B"), (0.5, 0.5)).compute(frame)
    with pytest.raises(AnalysisError, match="no triple A-A-C: the frame holds 0 beads C"):
        CDF(("A", "A", "C"), (0.5, 0.5)).compute(frame)
    with pytest.raises(AnalysisError, match="equal ends need equal cutoffs"):
        ADF(("A", "B", "A"), (0.5, 0.6))
    with pytest.raises(AnalysisError, match="cutoffs above 0"):
        CDF(("A", "B", "A"), (0.5, 0.0))
    with pytest.raises(BoxError, match="r_max of 1"):
        ADF(("A", "B", "A"), (1.2, 1.2)).compute(frame)
    with pytest.raises(AnalysisError, match="no bead C"):
        CoordinationNumbers(("A", "C"), 0.5).compute(frame)
    with pytest.raises(AnalysisError, match="both must be above 0"):
        CoordinationNumbers(("A", "B"), 0.0)
    with pytest.raises(AnalysisError, match="more than 12 in all"):
        SteinhardtOrder("A").compute(frame)
    with pytest.raises(AnalysisError, match="all must be above 0"):
        SteinhardtOrder("A", degree=0)
    with pytest.raises(AnalysisError, match="no bead C"):
        StructureFactor(("A", "C")).compute(frame)
    with pytest.raises(AnalysisError, match="q_max=0 1/nm"):
        StructureFactor(("A",), q_max=0.0)
    with pytest.raises(AnalysisError, match="holds no frame, or no vector up to 1"):
        _ = StructureFactor(("A",), q_max=1.0).compute(frame).values
    with pytest.raises(
        AnalysisError,
        match=r"10 frames 1 ps apart of 4 beads make 8 unbroken blocks with 0 lag times",
    ):
        diffusion([np.zeros((10, 4, 3))], 1.0)
    with pytest.raises(AnalysisError, match="1 frames cannot be cut into 2"):
        accumulate_blocks(lambda: [], [frame], 2, None)
    with pytest.raises(AnalysisError, match="periodic system"):
        virial_pressure(openmm.System(), np.zeros((1, 0, 3)), np.eye(3)[None], 300.0)


def test_example_of_the_documentation(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "observables.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write_frames(read_frames(ETHALINE / "frames.h5")[:5], tmp_path / "frames.h5")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(example, "observables.md", "exec"), scope)
    assert scope["adf"].values.sum() * 3 == pytest.approx(1)
    assert scope["adf"].n_triples > 50
