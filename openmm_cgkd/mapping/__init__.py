"""From atoms to beads: what the beads are, and how positions and forces map onto them."""

from .beads import BeadTopology
from .mapping import Mapping, mapping_from_config

__all__ = ["BeadTopology", "Mapping", "mapping_from_config"]
