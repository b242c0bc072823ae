"""Weights of a file as the kernels take them."""

import numpy as np
import pytest
import torch

from openmm_cgkd.potential.cpu.layout import aligned, kernel_network, lanes
from openmm_cgkd.potential.signature import Sizes
from openmm_cgkd.potential.weights import (
    LAYER_PARTS,
    N_INTERVALS,
    NETWORK_PARTS,
    layer_place,
    pack_weights,
    padded,
)
from tests.cases.networks import torchmd_pair


@pytest.mark.parametrize("widest", [8, 16])
def test_no_place_of_a_vector_is_empty_in_small_networks(monkeypatch, widest):
    monkeypatch.setattr("openmm_cgkd.potential.cpu.layout.WIDEST", widest)
    for channels in (8, 16, 32, 64):
        found = lanes(channels)
        assert found.channels == channels
        assert found.width <= widest
        assert channels % found.width == 0
    assert lanes(12) == lanes(16)
    assert lanes(20).channels >= 20


@pytest.mark.parametrize("channels", [8, 12, 32])
def test_numbers_are_those_of_the_file(channels):
    _, network = torchmd_pair(1, channels=channels, dtype=torch.float32)
    weights, offsets, hidden = pack_weights(network)
    weights = weights.float()
    made = kernel_network(weights, offsets, Sizes(channels, 1, hidden), 3)
    assert kernel_network(weights, offsets, Sizes(channels, 1, hidden), 3) is made
    c, width, old = *made.lanes, padded(channels)
    weights *= 2  # in place
    made = kernel_network(weights, offsets, Sizes(channels, 1, hidden), 3)

    def part(place, *shape):
        start = int(made.offsets[place])
        return made.weights[start : start + int(np.prod(shape))].reshape(shape)

    def in_file(place, *shape):
        start = int(offsets[place])
        return weights[start : start + int(np.prod(shape))].reshape(shape).numpy()

    np.testing.assert_array_equal(
        part(NETWORK_PARTS.gates, 2 * c, 3, c),
        in_file(NETWORK_PARTS.gates, 2 * old, 3, old)[: 2 * c, :, :c],
    )
    table = in_file(layer_place(0, LAYER_PARTS.table), N_INTERVALS, 4, 3, old)
    blocks = part(layer_place(0, LAYER_PARTS.table), N_INTERVALS, c // width, 4, 3, width)
    for channel in range(channels):
        np.testing.assert_array_equal(
            blocks[:, channel // width, :, :, channel % width], table[..., channel]
        )
    assert made.hidden >= network.output.layers[0].out_features
    assert made.hidden % width == 0
    last = part(NETWORK_PARTS.output_last, made.hidden)
    np.testing.assert_array_equal(last, in_file(NETWORK_PARTS.output_last, hidden)[: made.hidden])


def test_memory_begins_with_a_cache_line():
    for size in (1, 100, 1000):
        assert aligned(size).ctypes.data % 64 == 0
        assert len(aligned(size)) == size
