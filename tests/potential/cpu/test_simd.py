"""SIMD vectors inside numba, against NumPy."""

import numba
import numpy as np
import pytest

from openmm_cgkd.potential.cpu.simd import (
    double,
    exp,
    features,
    fill,
    first,
    floor,
    gather,
    load,
    number,
    spread,
    sqrt,
    store,
    store_first,
    total,
    totals,
)


def test_features_are_those_that_numba_uses(monkeypatch):
    """An empty list, as for a generic processor, is not that of this one."""
    for named in ("", "+avx2"):
        monkeypatch.setattr(numba.config, "CPU_FEATURES", named)
        assert features() == named


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic(dtype, width):
    @numba.njit
    def compute(a, b, out):
        x, y = load(a, 1, width), load(b, 0, width)
        z = (x + y) * (x - y) / y + 2.5 * x - 1
        z += spread(a, 3, width) * y + fill(b[2], width)
        store(out, 2, z)
        store_first(out, 20, z, 3)
        store(out, 40, totals(x, y, z, first(z, 3)))
        return total(z), number(a, 5)

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 60)).astype(dtype) + 1
    out = np.zeros(60, dtype)
    found, sixth = compute(a, b, out)
    x, y = a[1 : 1 + width].astype(float), b[:width].astype(float)
    exact = (x + y) * (x - y) / y + 2.5 * x - 1 + a[3] * y + b[2]
    close = {"rtol": 20 * np.finfo(dtype).eps}
    np.testing.assert_allclose(out[2 : 2 + width], exact, **close)
    np.testing.assert_array_equal(out[20:23], out[2:5])
    np.testing.assert_allclose(found, exact.sum(), **close)
    np.testing.assert_allclose(
        out[40:44], [x.sum(), y.sum(), exact.sum(), exact[:3].sum()], **close
    )
    assert out[42] == found  # to the last bit
    assert sixth == a[5]
    for start, stop in ((0, 2), (2 + width, 20), (23, 40), (44, 60)):
        assert not out[start:stop].any()


def test_numbers_of_other_types_and_places():
    @numba.njit
    def compute(a, places, wide, whole):
        x = gather(a, places, 1, 3, 2, 4)
        store(wide, 0, double(x) * 1e-9)
        store(wide, 4, sqrt(x))
        store(whole, 0, floor(x, 6))

    a = np.arange(60).astype(np.float32) / 7
    places = np.array([9, 0, 2, 19, 5], np.int32)
    wide, whole = np.zeros(8), np.zeros(4, np.int32)
    compute(a, places, wide, whole)
    x = a[3 * places[1:] + 2]
    np.testing.assert_array_equal(wide[:4], x.astype(float) * 1e-9)
    np.testing.assert_array_equal(wide[4:], np.sqrt(x))
    np.testing.assert_array_equal(whole, np.minimum(np.floor(x), 6))


def test_rounding_is_kept_where_it_is_meant():
    """The nearest integer comes from a large number added and subtracted, as in `image`."""

    @numba.njit
    def compute(a, out):
        store(out, 0, (load(a, 0, 4) + 1.5 * 2.0**52) - 1.5 * 2.0**52)

    a, out = np.array([0.4, 0.6, -1.7, 1e6 + 0.51]), np.zeros(4)
    compute(a, out)
    np.testing.assert_array_equal(out, np.rint(a))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential(dtype):
    @numba.njit(fastmath=True)
    def compute(a, out):
        for k in range(0, len(a), 8):
            store(out, k, exp(load(a, k, 8)))

    a = np.concatenate([np.linspace(-80, 80, 8000), [0.0] * 16, np.linspace(-1, 1, 800)]).astype(
        dtype
    )
    out = np.empty_like(a)
    compute(a, out)
    np.testing.assert_allclose(out, np.exp(a.astype(float)), rtol=16 * np.finfo(dtype).eps)
    extreme = np.array([-1e4, 1e4, -200, 200, -1e30, 1e30, 0, 1] * 2, dtype)
    result = np.empty_like(extreme)
    compute(extreme, result)
    assert np.isfinite(result).all()
    assert (result > 0).all()
