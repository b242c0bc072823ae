"""Code in a force field is named before it runs."""

import shutil

import pytest

from openmm_cgkd.allatom.build import build_topology, create_system
from openmm_cgkd.allatom.force_field_scripts import files_with_scripts
from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import BoxError


def test_files_with_scripts(tmp_path):
    (tmp_path / "plain.xml").write_text("<ForceField><Script>1</Script></ForceField>")
    (tmp_path / "at_once.xml").write_text(
        "<ForceField><InitializationScript>1</InitializationScript></ForceField>"
    )
    (tmp_path / "none.xml").write_text(
        '<ForceField><Include file="plain.xml"/><Include file="amber14/tip3p.xml"/>'
        '<Include file="none.xml"/></ForceField>'
    )
    (tmp_path / "outer.xml").write_text('<ForceField><Include file="none.xml"/></ForceField>')
    (tmp_path / "torn.xml").write_text("<ForceField><Script>")
    for name, expected in (
        ("plain.xml", ["plain.xml"]),
        ("at_once.xml", ["at_once.xml"]),
        ("outer.xml", ["plain.xml"]),
        ("torn.xml", []),
        ("absent.xml", []),
    ):
        assert [path.name for path in files_with_scripts(tmp_path / name)] == expected


def test_script_is_named_once_and_runs(tmp_path, ethaline, caplog):
    shutil.copytree(
        ethaline.parent, tmp_path / "stranger", ignore=shutil.ignore_patterns("*.h5", "*.xtc")
    )
    path, mark = tmp_path / "stranger" / "forcefield.xml", tmp_path / "ran"
    text = path.read_text()
    assert "<Script>" in text  # the shipped one needs one
    path.write_text(text.replace("<Script>", f"<Script>\nopen({str(mark)!r}, 'w').close()\n", 1))
    config = load_system(tmp_path / "stranger" / "system.yaml")
    topology = build_topology(config)
    for _ in range(2):
        with pytest.raises(BoxError, match="no periodic box"):
            create_system(config, topology)
    assert mark.exists()
    told = [record for record in caplog.records if str(path) in record.getMessage()]
    assert len(told) == 1
    assert "trust" in told[0].getMessage()
