"""Where the checkout keeps what tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEMS = ROOT / "systems"
ETHALINE = SYSTEMS / "ethaline"
DATA = ROOT / "tests" / "data"
