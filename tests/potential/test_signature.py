"""The named arguments of the operators, and the schema that stored files call."""

import math

import torch

import openmm_cgkd.operators  # noqa: F401  registers the operators
from openmm_cgkd.potential.signature import Numbers, OperatorArguments, Sizes
from openmm_cgkd.potential.torch_ops import PackedNetwork
from tests.cases.networks import PRIOR, torchmd_pair

_SCHEMA_NAMES = {"bonded_beads": "members", "bonded_parameters": "terms"}
# what stored files call; written out here, because to change it is to break them
_STORED = (
    "(Tensor positions, Tensor box, Tensor types, Tensor weights, Tensor offsets, Tensor contact,"
    " int[] sizes, float[] numbers, Tensor? members=None, Tensor? terms=None) -> (Tensor, Tensor)"
)


def test_names_stand_in_the_order_of_the_schema():
    for name in ("potential", "evaluate"):
        schema = getattr(torch.ops.openmm_cgkd, name).default._schema
        assert str(schema) == f"openmm_cgkd::{name}{_STORED}"
        named = [_SCHEMA_NAMES.get(field, field) for field in OperatorArguments._fields]
        assert [argument.name for argument in schema.arguments] == named


def test_plain_lists_hold_what_their_names_say():
    """Sizes and numbers are lists in stored files, whose order stays."""
    _, network = torchmd_pair(2, channels=8)
    packed = PackedNetwork(network, PRIOR)
    assert packed.sizes[:2] == [8, 2]
    assert packed.numbers == [network.cutoff, PRIOR.height, PRIOR.steepness, PRIOR.bend]
    sizes, numbers = Sizes(*packed.sizes), Numbers(*packed.numbers)
    assert (sizes.channels, sizes.layers) == (8, 2)
    assert (numbers.cutoff, numbers.height) == (network.cutoff, PRIOR.height)
    # three numbers in files from before there was a bend: e^x for every x that has one
    assert math.exp(Numbers(*packed.numbers[:3]).bend - 300) > 1e300
