"""Damaged files are kept."""

from openmm_cgkd.utils.damaged import set_aside


def test_every_damaged_file_is_kept(tmp_path, caplog):
    path = tmp_path / "state.xml"
    for k in range(3):
        path.write_text(str(k))
        set_aside(f"{path}: is no state.", path, tmp_path / "absent")
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {
        "state.xml.damaged": "0", "state.xml.2.damaged": "1", "state.xml.3.damaged": "2"
    }  # fmt: skip
    assert caplog.messages[-1] == f"{path}: is no state. Kept as state.xml.3.damaged."


def test_nothing_to_keep(tmp_path, caplog):
    set_aside("frames.h5: is missing.", tmp_path / "absent")
    assert caplog.messages == ["frames.h5: is missing."]
