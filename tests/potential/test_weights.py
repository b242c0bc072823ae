"""The layout of packed weights."""

import torch

from openmm_cgkd.potential.weights import (
    LAYER_PARTS,
    NETWORK_PARTS,
    layer_place,
    pack_weights,
    padded,
)
from tests.cases.networks import torchmd_pair


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
    last = part(NETWORK_PARTS.output_last_bias, 1)
    assert torch.equal(last, network.output.layers[2].bias * network.scale)
    for k, layer in enumerate(network.layers):
        after = part(layer_place(k, LAYER_PARTS.after), 3, c, c)
        assert torch.equal(after[1, :8, :8], layer.after.vector.weight.t())
        after_t = part(layer_place(k, LAYER_PARTS.after_t), 3, c, c)
        assert torch.equal(after_t, after.transpose(1, 2))
