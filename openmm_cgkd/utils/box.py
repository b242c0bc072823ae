"""TODO"""

from __future__ import annotations

import numpy as np


def smallest_height(box: np.ndarray) -> float:
    """Smallest distance between opposite faces of boxes of shape (..., 3, 3)."""
    return (1.0 / np.linalg.norm(np.linalg.inv(box), axis=-2)).min()
