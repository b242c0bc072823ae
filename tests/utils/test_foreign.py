"""Libraries of other projects: what they raise and what they print."""

import subprocess
import sys

import mdtraj
import numpy as np

_SCRIPT = """
import sys
import mdtraj
from openmm_cgkd.utils.foreign import without_native_output

sys.stdout.write("before\\n")
for _ in range(2):
    with without_native_output():
        frames = mdtraj.load(sys.argv[1], top=sys.argv[2])
print(len(frames))
if len(sys.argv) > 3:
    mdtraj.load(sys.argv[1], top=sys.argv[2])
"""


def test_lines_of_c_code_are_dropped_and_those_of_python_kept(tmp_path):
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    topology.add_atom("X", mdtraj.element.carbon, residue)
    frames = mdtraj.Trajectory(np.zeros((3, 1, 3)), topology)
    frames.unitcell_lengths, frames.unitcell_angles = np.ones((3, 3)), np.full((3, 3), 90.0)
    frames.save(str(tmp_path / "x.dcd"))
    frames[0].save(str(tmp_path / "x.pdb"))

    def output(*further: str) -> str:
        command = [sys.executable, "-c", _SCRIPT, "x.dcd", "x.pdb", *further]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert output() == "before\n3\n"
    assert "dcdplugin" in output("noise")  # else there would be nothing to drop
