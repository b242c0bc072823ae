"""The sections of system.yaml: what a fluid is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from openmm_cgkd.utils.units import (
    AtomMass,
    Density,
    Duration,
    ForceConstant,
    Length,
    Mass,
    Pressure,
    Rate,
    Temperature,
    Time,
)

from .execution import ExecutionConfig
from .section import ConfigFile, RelativePath, Section, load

# types of beads; networks and priors have tables of all pairs, and readers of files a bound on them
MOST_TYPES = 100


class MoleculeConfig(Section):
    """A molecule or ion of the fluid."""

    name: str = Field(min_length=1, description="residue name in the force field")
    structure: RelativePath = Field(description="PDB file with one molecule and its CONECT records")
    count: int = Field(gt=0, le=10_000_000)
    masses: dict[str, AtomMass] = Field(
        {},
        description=(
            "by atom name, where the element does not tell: united atoms, virtual sites (0 dalton)"
        ),
    )


class BeadConfig(Section):
    """A bead: the centre of mass of some atoms of one molecule."""

    type: str = Field(
        pattern=r"^\S+$",
        description="bead type name; PDB files hold its first four characters",
    )
    molecule: str
    selection: str = Field(
        "all", description="MDTraj selection of the bead's atoms within the molecule"
    )


class ReferenceConfig(Section):
    """Protocol of the all-atom run: pack, minimise, anneal, NPT, NVT at the mean density."""

    initial_density: Density = "0.85 gram/centimeter**3"
    pressure: Pressure = "1 bar"
    nonbonded_cutoff: Length = "1.0 nanometer"
    hydrogen_mass: Mass = "3 dalton"
    timestep: Time = "4 femtosecond"
    friction: Rate = "1 / picosecond"
    annealing_temperature: Temperature | None = Field(
        None, description="at the pressure of the run; 1.2 times its temperature if absent"
    )
    annealing: Duration = "60 picosecond"
    npt: Duration = "200 picosecond"
    nvt: Duration = "20 picosecond"
    production: Time = "1000 picosecond"
    frame_interval: Time = "1 picosecond"
    snapshot_interval: Time = Field(
        "10 picosecond", description="between configurations of all atoms in production.xtc"
    )
    seed: int = Field(1, ge=1, lt=2**31)
    runs: int = Field(
        2, ge=1, le=99, description="independent runs, each packed anew, in the box of the first"
    )
    platform: str | None = Field(None, description="OpenMM platform; the fastest one if absent")
    threads: int | None = Field(
        None, gt=0, le=4096, description="threads of the CPU platform; all cores if absent"
    )


class MeanForceConfig(Section):
    """Protocol of the restrained all-atom runs: the beads are held, all else is averaged over."""

    restraint_constant: ForceConstant = "1e6 kilojoule/mole/nanometer**2"
    check_constant: ForceConstant = "2.5e5 kilojoule/mole/nanometer**2"
    check_frames: int = Field(
        4,
        ge=0,
        le=1_000_000,
        description="configurations sampled again for the checks: other constant, stronger heating",
    )
    starts: int = Field(
        16,
        ge=2,
        le=1_000_000,
        description=(
            "runs per configuration, each with conformations of its own; more continue fewer"
        ),
    )
    annealing_temperature: Temperature = Field(
        "2000 kelvin", description="at which conformations are renewed"
    )
    annealing: Duration = "3 picosecond"
    cooling: Duration = "24 picosecond"
    equilibration: Duration = "0.3 picosecond"
    sampling: Time = "1 picosecond"
    sample_interval: Time = "0.04 picosecond"
    execution: ExecutionConfig = ExecutionConfig()


class SystemConfig(ConfigFile):
    """A fluid: molecules, force field, state point and mapping (system.yaml)."""

    usual_name = "system.yaml"

    name: str = Field(min_length=1)
    force_field: RelativePath = Field(description="OpenMM force-field XML")
    temperature: Temperature
    molecules: list[MoleculeConfig] = Field(min_length=1)
    beads: list[BeadConfig] = Field(min_length=1)
    force_map: Literal["basic", "optimal"] = Field(
        "basic", description="sum over the atoms of a bead, or the least noisy map; see physics.md"
    )
    reference: ReferenceConfig = ReferenceConfig()
    mean_force: MeanForceConfig = MeanForceConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [molecule.name for molecule in self.molecules]
        if len(set(names)) < len(names):
            raise ValueError(f"molecule names repeat: {names}; name each molecule once")
        if (n := len({bead.type for bead in self.beads})) > MOST_TYPES:
            raise ValueError(
                f"has {n} bead types, at most {MOST_TYPES} can be trained and exported; give beads"
                " that are alike the same type"
            )
        shortened: dict[str, str] = {}
        for bead in self.beads:
            other = shortened.setdefault(bead.type[:4], bead.type)
            if other != bead.type:
                raise ValueError(
                    f"bead types {other} and {bead.type} are alike in their first four characters,"
                    " which is all that PDB files hold; rename one of them"
                )
            if bead.molecule not in names:
                raise ValueError(
                    f"bead {bead.type} belongs to molecule {bead.molecule}, which is not among"
                    f" {names}"
                )
        return self

    @property
    def annealing_temperature(self) -> float:
        """Temperature of the annealing of the all-atom run, K."""
        # much hotter, a volatile liquid boils at the pressure of the run
        return self.reference.annealing_temperature or 1.2 * self.temperature


def load_system(path: Path | str) -> SystemConfig:
    """Read a system.yaml."""
    return load(SystemConfig, path)
