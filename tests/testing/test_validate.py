"""The conformance kit: sound potentials pass all checks, broken ones fail the fitting one."""

import time

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_cgkd import CGPotential
from openmm_cgkd.exceptions import CGKDError, ConformanceError
from openmm_cgkd.simulation.engines import import_torch_force
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.testing.bench import Bench, Failed
from openmm_cgkd.testing.validate import validate_potential
from tests.cases.potential import CUBIC, TRICLINIC, beads, liquid, write_toy_potential

RANGE = 0.8
N = 12
_shared = torch.zeros(N, 3, dtype=torch.float64)


@torch.library.custom_op("conformance_test::through_shared_memory", mutates_args=())
def through_shared_memory(positions: torch.Tensor) -> torch.Tensor:
    """The positions, by way of memory that all threads use."""
    memory = _shared[: len(positions)]
    memory.copy_(positions)
    time.sleep(0.01)
    return memory.clone()


torch.library.register_autograd(
    "conformance_test::through_shared_memory", lambda ctx, gradient: gradient
)


class Pairs(torch.nn.Module):
    """U = 50 kJ/mol (1 - r / 0.8 nm)^3 between all beads, with one flaw."""

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.calls = 0
        self.register_buffer("kept", torch.zeros(0))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        n = positions.shape[0]
        self.calls += 1
        if self.flaw == "threads":
            positions = torch.ops.conformance_test.through_shared_memory(positions)
        first, second = torch.triu_indices(n, n, 1).unbind(0)
        d = positions.index_select(0, first) - positions.index_select(0, second)
        if box is not None:
            edges = torch.diagonal(box)
            if self.flaw == "first box":
                if self.kept.numel() == 0:
                    self.kept = edges.clone()
                edges = self.kept
            d = d - edges * torch.round(d / edges)
        if self.flaw == "direction":
            d = d * torch.tensor([1.0, 1.0, 1.1], dtype=d.dtype)
        if self.flaw == "single precision":
            d = torch.matmul(d, torch.eye(3))
        if self.flaw == "pairs of beads":
            d = d + 0 * positions.reshape(-1, 2, 3).sum()
        r = torch.linalg.vector_norm(d, dim=1)
        if self.flaw == "stale pairs":
            if self.kept.numel() == 0:
                self.kept = (r < 0.8).to(r.dtype)
            r = r + (1 - self.kept)
        if self.flaw == "no pairs":
            r = r + 1e-9 * r.detach().max()
        energy = 50 * ((1 - r / 0.8).clamp(min=0.0) ** 3).sum()
        return energy * (1 + 1e-4 * self.calls) if self.flaw == "counts calls" else energy


class WrongSign(Pairs):
    """Reports forces itself, along the gradient."""

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = torch.triu_indices(positions.shape[0], positions.shape[0], 1).unbind(0)
        d = positions.index_select(0, first) - positions.index_select(0, second)
        if box is not None:
            d = d - torch.diagonal(box) * torch.round(d / torch.diagonal(box))
        r = torch.linalg.vector_norm(d, dim=1)
        near = (1 - r / 0.8).clamp(min=0.0)
        gradient = (-150 / 0.8 * near**2 / r).unsqueeze(1) * d
        return 50 * (near**3).sum(), torch.zeros_like(positions).index_add(
            0, first, gradient
        ).index_add(0, second, -gradient)


class Model:
    """What a user's own potential may look like: makes systems from forces."""

    cutoff = RANGE

    def __init__(self, *makers):
        self.makers = makers

    def createSystem(self, topology):
        system, box = openmm.System(), topology.getPeriodicBoxVectors()
        for _ in topology.atoms():
            system.addParticle(30.0)
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*box)
        for make in self.makers:
            system.addForce(make(topology.getNumAtoms(), box is not None))
        return system


def scripted(module, **changes):
    def make(n, periodic):
        force = import_torch_force()(torch.jit.script(module()))
        force.setUsesPeriodicBoundaryConditions(periodic)
        force.setOutputsForces(changes.get("outputs_forces", False))
        return force

    return make


def lennard_jones(switch=True, images=True, cutoff=RANGE, by_index=0.0):
    """OpenMM's own pair force, smooth unless told otherwise."""

    def make(n, periodic):
        force = openmm.CustomNonbondedForce("scale1 * scale2 * 4 * ((0.3 / r)^12 - (0.3 / r)^6)")
        force.addPerParticleParameter("scale")
        for k in range(n):
            force.addParticle([1 + by_index * k])
        force.setNonbondedMethod(
            force.CutoffPeriodic if periodic and images else force.CutoffNonPeriodic
        )
        force.setCutoffDistance(cutoff)
        force.setUseSwitchingFunction(switch)
        force.setSwitchingDistance(0.8 * cutoff)
        return force

    return make


def tether(n, periodic):
    force = openmm.CustomExternalForce("(x^2 + y^2 + z^2)")
    for k in range(n):
        force.addParticle(k)
    return force


class Dimers(Model):
    """Two beads for each residue, bonded."""

    def createSystem(self, topology):
        system = super().createSystem(topology)
        bonds = openmm.HarmonicBondForce()
        for residue in topology.residues():
            first, second = (atom.index for atom in residue.atoms())
            bonds.addBond(first, second, 0.1, 1000.0)
            system.getForce(0).addExclusion(first, second)
        system.addForce(bonds)
        return system


def small_liquid(n=N, box=CUBIC):
    types, positions = liquid(n, box)
    topology = bead_topology_to_openmm(beads(types), box)
    return topology, positions


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fast", "portable"])
def test_our_engines_pass_on_every_platform(student, engine):
    report = validate_potential(CGPotential(student, engine), *small_liquid(21, TRICLINIC))
    report.raise_if_failed()
    assert {"Reference", "CPU"} <= {check.platform.partition("/")[0] for check in report.checks}
    assert len({check.name for check in report.checks}) == 17
    assert str(report).count("\nok ") == len(report.checks) - 1  # a line each


def test_our_engine_passes_in_open_boundaries(student):
    report = validate_potential(CGPotential(student), *small_liquid(20, None), platforms=["CPU"])
    report.raise_if_failed()
    assert len(report.checks) == 15


@pytest.mark.parametrize("box", [CUBIC, None], ids=["cubic", "open"])
@pytest.mark.parametrize(
    "force", [lennard_jones(), scripted(lambda: Pairs("none"))], ids=["openmm", "torch"]
)
def test_sound_potentials_of_others_pass(force, box):
    topology, positions = small_liquid(box=box)
    report = validate_potential(
        Model(force), topology, positions * unit.nanometer, platforms=["Reference"]
    )
    assert report.passed, str(report)


def test_molecules_of_several_beads():
    _, centers = small_liquid(7)
    topology = app.Topology()
    topology.setPeriodicBoxVectors(CUBIC * unit.nanometer)
    chain = topology.addChain()
    for _ in centers:
        residue = topology.addResidue("DIM", chain)
        for name in ("HEAD", "TAIL"):
            topology.addAtom(name, None, residue)
    positions = (centers[:, None] + [[0.0, 0.03, 0.05], [0.02, 0.0, -0.04]]).reshape(-1, 3)
    report = validate_potential(
        Dimers(lennard_jones()), topology, positions, platforms=["Reference"]
    )
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("force", "expected"),
    [
        (
            scripted(lambda: WrongSign(""), outputs_forces=True),
            ["forces are energy slopes", "odd and even numbers", "two residues"],
        ),
        (scripted(lambda: Pairs("stale pairs")), ["exchange of like residues", "other contexts"]),
        (scripted(lambda: Pairs("threads")), ["threads"]),
        (scripted(lambda: Pairs("direction")), ["rotation"]),
        (scripted(lambda: Pairs("first box")), ["box changes"]),
        (scripted(lambda: Pairs("no pairs")), ["one residue"]),
        # the last has a bead less
        (
            scripted(lambda: Pairs("pairs of beads")),
            ["odd and even numbers", "one residue", "other contexts"],
        ),
        (lennard_jones(switch=False), ["smooth at the cutoff"]),
        (lennard_jones(cutoff=1.2 * RANGE), ["no force beyond the cutoff"]),
        (lennard_jones(images=False), ["lattice shifts"]),
        (lennard_jones(by_index=0.02), ["exchange of like residues"]),
        (tether, ["translation", "one residue", "lattice shifts", "no force beyond the cutoff"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_flaw_fails_its_checks_and_no_other(force, expected):
    report = validate_potential(
        Model(lennard_jones(), force), *small_liquid(), platforms=["Reference"]
    )
    assert sorted(check.name for check in report.failures) == sorted(expected), str(report)


def test_energies_that_depend_on_the_number_of_calls():
    report = validate_potential(
        Model(scripted(lambda: Pairs("counts calls"))), *small_liquid(), platforms=["Reference"]
    )
    failed = {check.name for check in report.failures}
    assert {"hundredth call as the first", "other contexts"} <= failed
    assert not {"shapes and types", "one residue", "smooth at the cutoff"} & failed


def test_a_potential_that_cannot_be_evaluated_fails_with_its_error():
    report = validate_potential(
        Model(scripted(lambda: Pairs("single precision"))), *small_liquid(), platforms=["Reference"]
    )
    assert report.failures[0].name == "shapes and types"
    assert "same dtype" in report.failures[0].detail


def test_report_and_error():
    report = validate_potential(
        Model(lennard_jones(images=False)), *small_liquid(), platforms=["Reference"]
    )
    assert not report.passed
    with pytest.raises(ConformanceError) as caught:
        report.raise_if_failed()
    assert isinstance(caught.value, CGKDError)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        f"The potential fails {len(report.failures)} of {len(report.checks)} checks"
    )
    assert lines[1:] == [str(check) for check in report.failures]
    assert any("lattice shifts" in line and "FAIL" in line for line in lines)


def test_without_a_cutoff_its_checks_are_left_out():
    class LongRange(Model):
        cutoff = None

    names = {
        check.name
        for check in validate_potential(
            LongRange(lennard_jones()), *small_liquid(), platforms=["Reference"]
        ).checks
    }
    assert "translation" in names
    assert not any("cutoff" in name for name in names)


def test_too_few_residues():
    with pytest.raises(ConformanceError, match="at least three residues"):
        validate_potential(Model(lennard_jones()), *small_liquid(2))
    topology, positions = small_liquid()
    with pytest.raises(ConformanceError, match="11 positions of 12 particles"):
        validate_potential(Model(lennard_jones()), topology, positions[:-1])
    assert isinstance(topology, app.Topology)


def test_error_in_one_of_two_threads_is_reported(monkeypatch):
    """And the other thread does not wait for it for ever."""
    from openmm_cgkd.testing import checks as conformance

    subject = conformance.Subject(Model(lennard_jones(), lennard_jones()), *small_liquid(), None)
    check = dict(conformance.checks_of(subject, "Reference"))["threads"]
    calls, evaluate = [], conformance.evaluate

    def failing(context, positions):
        calls.append(None)
        if len(calls) == 4:  # after one call alone of each context, in the first call side by side
            raise openmm.OpenMMException("out of luck")
        return evaluate(context, positions)

    monkeypatch.setattr(conformance, "evaluate", failing)
    with pytest.raises(openmm.OpenMMException, match="out of luck"):
        check(conformance.Bench(subject, "Reference", {}, 1e-4))


@pytest.mark.parametrize("platforms", [[], ["cpu"]])
def test_without_a_platform_nothing_passes(platforms):
    """Names of platforms are case sensitive; an empty report would count as passed."""
    with pytest.raises(ConformanceError, match=r"Nothing was checked: .*name some of .*CPU"):
        validate_potential(Model(lennard_jones()), *small_liquid(), platforms=platforms)


class _Steps:
    """Energies that are not numbers beside the configuration itself."""

    def __call__(self, positions):
        away = np.abs(positions).max() > 0
        return (np.nan if away else 0.0), np.zeros_like(positions)


def test_slopes_that_are_not_numbers_fail():
    bench = object.__new__(Bench)
    energies = _Steps()
    bench.tolerance, bench.context = 1e-5, None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "__call__", lambda self, name, positions: energies(positions))
        with pytest.raises(Failed, match="slope off by nan"):
            bench.slopes("all", np.zeros((4, 3)), [np.ones((4, 3))])
