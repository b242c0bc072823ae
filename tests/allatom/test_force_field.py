"""What the all-atom stage says about an incomplete force field. Its numbers and energies:
test_fluids.py.
"""

from pathlib import Path

import numpy as np
import pytest
from openmm import unit

from openmm_cgkd.allatom.build import build_topology, create_system, pack
from openmm_cgkd.allatom.force_field import read_force_field
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import BoxError, ForceFieldError
from tests.cases.fluids import ETHALINE, small_config


def edited(tmp_path: Path, old: str, new: str, counts: dict[str, int]) -> SystemConfig:
    """Ethaline whose force field has one passage replaced."""
    text = (ETHALINE / "forcefield.xml").read_text()
    assert old in text
    tmp_path.joinpath("forcefield.xml").write_text(text.replace(old, new))
    config = small_config(counts)
    return config.model_copy(update={"force_field": tmp_path / "forcefield.xml"})


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (
            '<Angle class1="egC" class2="egO" class3="egHO" angle="1.8936822384" k="460.24"/>',
            "no angle parameter for C1-O1-HO1 of EGL; add it",
        ),
        (
            '<Bond class1="egC" class2="egC" length="0.1529" k="224262.0"/>',
            "no bond parameter for C1-C2 of EGL; add it",
        ),
        ('<Atom type="egO" charge="-0.56" sigma="1" epsilon="0"/>', "cannot parametrise EGL .*egO"),
        ('<Atom name="O2" type="egO"/>', "cannot parametrise|not a valid OpenMM force field"),
    ],
)
def test_missing_parameter_is_named(tmp_path, old, message):
    config = edited(tmp_path, old, "", {"EGL": 2})
    with pytest.raises(ForceFieldError, match=message):
        create_system(config, build_topology(config))


def test_charged_box():
    config = small_config({"CHO": 2, "CL": 1})
    topology = build_topology(config)
    topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    with pytest.raises(
        ForceFieldError,
        match=r"charge of \+0\.8000 e: 2 CHO of \+0\.8000 e, 1 CL of -0\.8000 e; change the"
        r" molecule counts, or correct the charges in .*forcefield\.xml\.$",
    ):
        create_system(config, topology)


def test_molecule_file_without_bonds(tmp_path):
    text = (ETHALINE / "molecules" / "EGL.pdb").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("CONECT")]
    path = tmp_path / "EGL.pdb"
    path.write_text("\n".join(lines))
    config = small_config({"EGL": 1})
    molecule = config.molecules[0].model_copy(update={"structure": path})
    with pytest.raises(ForceFieldError) as caught:
        read_force_field(config.model_copy(update={"molecules": [molecule]}))
    assert str(caught.value) == (
        f"{path}: atom C1 has no bond; add a line 'CONECT    1' with the numbers of the atoms that"
        " it is bound to, five columns each, before END."
    )


def test_a_cutoff_too_long_is_refused_before_packing(monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Packmol
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    config = small_config({"EGL": 2})
    reference = config.reference.model_copy(update={"nonbonded_cutoff": 0.5})
    with pytest.raises(BoxError, match=r"nonbonded_cutoff 0\.5 nm is above half the box"):
        pack(config.model_copy(update={"reference": reference}))


def test_missing_files():
    config = small_config({"EGL": 1})
    broken = config.model_copy(update={"force_field": Path("absent.xml")})
    with pytest.raises(ForceFieldError, match=r"absent\.xml: no such file"):
        create_system(broken, build_topology(config))
    molecule = config.molecules[0].model_copy(update={"structure": Path("absent.pdb")})
    broken = config.model_copy(update={"molecules": [molecule]})
    with pytest.raises(
        ForceFieldError,
        match=r"absent\.pdb: no such file; give the PDB structure that molecule EGL needs",
    ):
        build_topology(broken)


def test_force_field_that_is_none(tmp_path):
    tmp_path.joinpath("other.xml").write_text("this is not XML")
    config = small_config({"EGL": 1}).model_copy(update={"force_field": tmp_path / "other.xml"})
    with pytest.raises(ForceFieldError, match="not a valid OpenMM force field"):
        create_system(config, build_topology(small_config({"EGL": 1})))
