"""The named arguments of the operators, and the schema that stored files call."""

import torch

import openmm_cgkd.operators  # noqa: F401  registers the operators
from openmm_cgkd.potential.signature import OperatorArguments

_SCHEMA_NAMES = {"bonded_beads": "members", "bonded_parameters": "terms"}


def test_names_stand_in_the_order_of_the_schema():
    for name in ("potential", "evaluate"):
        schema = getattr(torch.ops.openmm_cgkd, name).default._schema
        named = [_SCHEMA_NAMES.get(field, field) for field in OperatorArguments._fields]
        assert [argument.name for argument in schema.arguments] == named
