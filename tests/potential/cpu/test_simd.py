"""SIMD vectors inside numba, against NumPy."""

import numba
import numpy as np
import pytest

from openmm_cgkd.potential.cpu.simd import WIDTH, exp, fill, load, spread, store, total


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic(dtype):
    @numba.njit
    def compute(a, b, out):
        x, y = load(a, 1), load(b, 0)
        z = (x + y) * (x - y) / y + 2.5 * x
        z += spread(a, 3) * y + fill(b[2])
        store(out, 2, z)
        return total(z)

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40)).astype(dtype) + 1
    out = np.zeros(40, dtype)
    found = compute(a, b, out)
    x, y = a[1 : 1 + WIDTH].astype(float), b[:WIDTH].astype(float)
    exact = (x + y) * (x - y) / y + 2.5 * x + a[3] * y + b[2]
    np.testing.assert_allclose(out[2 : 2 + WIDTH], exact, rtol=20 * np.finfo(dtype).eps)
    assert found == pytest.approx(exact.sum(), rel=20 * float(np.finfo(dtype).eps))
    assert not out[:2].any()
    assert not out[2 + WIDTH :].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential(dtype):
    @numba.njit(fastmath=True)
    def compute(a, out):
        for k in range(0, len(a), WIDTH):
            store(out, k, exp(load(a, k)))

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
