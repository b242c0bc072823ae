"""Damaged files are kept."""

from openmm_cgkd.utils.damaged import set_aside


def test_every_damaged_file_is_kept(tmp_path):
    path = tmp_path / "state.xml"
    for k in range(3):
        path.write_text(str(k))
        set_aside(path)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {
        "state.xml.damaged": "0", "state.xml.2.damaged": "1", "state.xml.3.damaged": "2"
    }  # fmt: skip
