"""Conformance of a potential in OpenMM.

What every potential must do is checked through contexts on every platform.

Works on anything that makes an `openmm.System` from a topology: `CGPotential`, OpenMM-ML's
`MLPotential`, or a class of your own.

    report = validate_potential(CGPotential("student.pt"), topology, positions)
    print(report)
    report.raise_if_failed()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openmm
from openmm import app

from openmm_cgkd.exceptions import ConformanceError
from openmm_cgkd.simulation.explosion import openmm_message

from .bench import Bench, Failed, MakesSystems, Subject
from .checks import checks_of


@dataclass(frozen=True)
class Check:
    """Outcome of one check on one platform.

    Attributes
    ----------
    name, platform : str
    passed : bool
    detail : str
        What was found and what is allowed, or the error.
    """

    name: str
    platform: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.platform:<10} {self.name:<30} {self.detail}"
        )


@dataclass(frozen=True)
class ValidationReport:
    """All checks of a potential; printed, one line per check."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))

    def raise_if_failed(self) -> None:
        """Raise if a check failed.

        Raises
        ------
        ConformanceError
            Listing the failures.
        """
        if not self.passed:
            listed = "\n".join(map(str, self.failures))
            raise ConformanceError(
                f"The potential fails {len(self.failures)} of {len(self.checks)} checks; correct"
                f" it:\n{listed}"
            )


def validate_potential(
    potential: MakesSystems,
    topology: app.Topology,
    positions: Any,
    cutoff: float | None = None,
    platforms: Sequence[str] | None = None,
    tolerance: float = 1e-5,
) -> ValidationReport:
    """Check a potential on every platform.

    Forces are compared with finite differences of the energy that the context reports; energy and
    forces must follow translations, rotations, exchanges of like residues and shifts by lattice
    vectors; nothing may act beyond the cutoff or jump there; results may not depend on earlier
    calls, other contexts or other threads.

    Parameters
    ----------
    potential : object with ``createSystem(topology)``
    topology : openmm.app.Topology
        At least three residues, two of them alike; box vectors make the checks periodic, so
        validate with and without. Residues are what is left out, moved and exchanged: one per
        molecule.
    positions : Quantity or array of shape (n_particles, 3) in nm
        A typical configuration, without overlaps.
    cutoff : float, nm, optional
        Distance beyond which residues do not act on each other; ``potential.cutoff`` if absent. The
        two checks of the cutoff are left out when neither is given.
    platforms : sequence of str, optional
        Every platform that works here if absent. Platforms with several precisions are checked in
        each.
    tolerance : float
        Allowed relative error of energies where positions are double precision. Forces may deviate
        by ten times as much of the largest force, finite differences by a hundred times; where
        positions are single precision all is ten times more.

    Raises
    ------
    ConformanceError
        If the topology has too few residues for the checks, or none of the platforms exists: with
        nothing checked nothing has passed.
    """
    subject = Subject(
        potential,
        topology,
        positions,
        cutoff if cutoff is not None else getattr(potential, "cutoff", None),
    )
    checks = []
    for name, properties in _modes(platforms):
        bench = Bench(subject, name, properties, tolerance)
        label = "/".join([name, *properties.values()])
        checks += [
            _outcome(title, label, check, bench) for title, check in checks_of(subject, name)
        ]
    if not checks:
        known = [openmm.Platform.getPlatform(k).getName() for k in _loaded()]
        raise ConformanceError(
            f"Nothing was checked: platforms {', '.join(platforms or []) or '(none)'} are not here;"
            f" name some of {', '.join(known)}."
        )
    return ValidationReport(tuple(checks))


def _loaded() -> range:
    return range(openmm.Platform.getNumPlatforms())


def _modes(platforms: Sequence[str] | None) -> Iterator[tuple[str, dict[str, str]]]:
    """Platforms that can make a context here, with each precision they have."""
    for k in _loaded():
        platform = openmm.Platform.getPlatform(k)
        if platforms is not None and platform.getName() not in platforms:
            continue
        modes = (
            [{"Precision": mode} for mode in ("single", "mixed", "double")]
            if "Precision" in platform.getPropertyNames()
            else [{}]
        )
        for properties in modes:
            system = openmm.System()
            system.addParticle(1.0)
            try:
                openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
            except openmm.OpenMMException:
                if platforms is not None:
                    raise
                continue  # no device, or one without that precision
            yield platform.getName(), properties


def _outcome(name: str, platform: str, check: Callable[[Bench], str], bench: Bench) -> Check:
    try:
        return Check(name, platform, True, check(bench))
    except Failed as failure:
        return Check(name, platform, False, str(failure))
    # whatever a potential raises is a failed check, not the end of the others
    except Exception as error:
        return Check(name, platform, False, f"{type(error).__name__}: {openmm_message(error)}")
