"""The one signature of the operators that fast files call.

``sizes`` and ``numbers`` are lists in TorchScript and in the files; `Sizes` and `Numbers` name what
they hold.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor

# stored fast files call the operators by it: order and names stay
SCHEMA = (
    "(Tensor positions, Tensor box, Tensor types, Tensor weights, Tensor offsets, Tensor contact,"
    " int[] sizes, float[] numbers, Tensor? members=None, Tensor? terms=None) -> (Tensor, Tensor)"
)


# bend of an exponential to its end; finite, because the compiled loops know no infinity
NO_BEND: Final = 1e3


class Sizes(NamedTuple):
    """Widths and depth of a packed network: channels, layers, last hidden layer (padded)."""

    channels: int
    layers: int
    hidden: int


class Numbers(NamedTuple):
    """Cutoff (nm), and height (kJ/mol), steepness (1/nm) and bend of the repulsion.

    `PairRepulsion` says what they are. Files from before there was a bend lack it.
    """

    cutoff: float
    height: float
    steepness: float
    bend: float = NO_BEND


class OperatorArguments(NamedTuple):
    """What the operators get, in the order of `SCHEMA`.

    Attributes
    ----------
    positions : Tensor, shape (n_beads, 3), nm
        Double precision on a CPU, any floating type on a GPU.
    box : Tensor, shape (3, 3) or (0, 3), nm
        Reduced box vectors as rows; empty for open boundaries.
    types : Tensor, shape (n_beads,), int64
    weights, offsets : Tensor
        Of `openmm_cgkd.potential.weights`.
    contact : Tensor, shape (n_types, n_types), float64, nm
        Distances of the repulsion.
    sizes : list of int
        As `Sizes`.
    numbers : list of float
        As `Numbers`.
    bonded_beads : Tensor, shape (n_terms, 3), int64, optional
        ``members`` of the schema and of `BondedPrior`.
    bonded_parameters : Tensor, shape (n_terms, 2), float64, optional
        ``terms`` of the schema and of `BondedPrior`.
    """

    positions: Tensor
    box: Tensor
    types: Tensor
    weights: Tensor
    offsets: Tensor
    contact: Tensor
    sizes: list[int]
    numbers: list[float]
    bonded_beads: Tensor | None = None
    bonded_parameters: Tensor | None = None
