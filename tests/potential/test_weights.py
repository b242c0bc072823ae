"""The layout of packed weights."""

import torch

from openmm_cgkd.potential.weights import (
    LAYER_PARTS,
    NETWORK_PARTS,
    LayerParts,
    NetworkParts,
    layer_place,
    pack_weights,
    padded,
)
from tests.cases.networks import torchmd_pair

# the order in stored fast files; written out here, because to change it is to break them
_NETWORK = (
    "zeros pair own table norm_gain norm_bias hidden hidden_bias hidden_t gates gates_bias gates_t"
    " linears linears_t output_norm_gain output_norm_bias output_first output_first_bias"
    " output_first_t output_second output_second_bias output_second_t output_last output_last_bias"
)
_LAYER = "table own before before_t after after_t"


def test_order_is_that_of_stored_files():
    assert NetworkParts._fields == tuple(_NETWORK.split())
    assert LayerParts._fields == tuple(_LAYER.split())
    assert layer_place(2, LAYER_PARTS.before) == 24 + 6 * 2 + 2


def test_parts_stand_where_the_table_says():
    """Parts whose numbers are plain weights of the network."""
    _, network = torchmd_pair(2, channels=8)
    weights, offsets, hidden = pack_weights(network)
    c = padded(8)
    assert len(offsets) == len(NETWORK_PARTS) + 2 * len(LAYER_PARTS)
    assert hidden == padded(network.output.layers[0].out_features)

    def part(place: int, *shape: int) -> torch.Tensor:
        start = int(offsets[place])
        return weights[start : start + torch.Size(shape).numel()].reshape(shape)

    gain = part(NETWORK_PARTS.norm_gain, c)
    assert torch.equal(gain[:8], network.embedding.norm.weight)
    assert not gain[8:].any()
    for name, layer in (("hidden", network.embedding.hidden), ("output_first", network.linear)):
        place = getattr(NETWORK_PARTS, name)
        rows = 3 * c if name == "output_first" else c
        columns = 2 * c if name == "hidden" else c
        matrix = part(place, rows, columns)
        assert torch.equal(matrix[:8, :8], layer.weight.t()[:8, :8])
        assert torch.equal(part(place + 2, columns, rows), matrix.t())
        assert torch.equal(part(place + 1, columns)[:8], layer.bias[:8])
    last = part(NETWORK_PARTS.output_last_bias, 1)
    assert torch.equal(last, network.output.layers[2].bias * network.scale)
    for k, layer in enumerate(network.layers):
        after = part(layer_place(k, LAYER_PARTS.after), 3, c, c)
        assert torch.equal(after[1, :8, :8], layer.after.vector.weight.t())
        after_t = part(layer_place(k, LAYER_PARTS.after_t), 3, c, c)
        assert torch.equal(after_t, after.transpose(1, 2))
