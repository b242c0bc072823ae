"""Vectors of numbers for numba kernels: explicit SIMD where LLVM's loop vectoriser gives up.

A `Vector` is a register, not an array. Kernels see arrays flat, `load` and `store` at an offset
without bounds checks, and compute with ``+``, ``-``, ``*``, ``/`` among vectors and with scalars.
LLVM splits vectors that are wider than the processor's registers.
"""

from __future__ import annotations

import math
import operator

from llvmlite import binding, ir  # type: ignore[import-untyped]  # it has no stubs
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

from openmm_cgkd.potential.weights import padded

from .jit import compiled

# numbers per vector: single precision fills an AVX-512 register, or an AVX2 one
WIDTH = 16 if binding.get_host_cpu_features().get("avx512f", False) else 8
padded_width = compiled()(padded)

_FAST = ("fast",)
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class Vector(types.Type):
    """Numba type of a vector of floats."""

    def __init__(self, dtype: types.Float, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Vector({dtype}, {width})")


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(
            dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), fe_type.width)
        )


def _splat(builder, vector, number):
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(
        one,
        ir.Constant(vector, ir.Undefined),
        ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count),
    )


def _operator(function, method: str, kind: Vector) -> None:
    """Arithmetic between vectors, and with scalars, which take the vector's precision."""
    cases = [
        (kind, kind),
        *((kind, other) for other in _SCALARS),
        *((other, kind) for other in _SCALARS),
    ]

    class Template(ConcreteTemplate):
        pass

    Template.cases = [signature(kind, *case) for case in cases]
    infer_global(function)(Template)

    def lower(context, builder, sig, args):
        vector = context.get_value_type(kind)
        operands = []
        for given, value in zip(sig.args, args, strict=True):
            if given != kind:
                value = _splat(builder, vector, context.cast(builder, value, given, kind.dtype))
            operands.append(value)
        return getattr(builder, method)(*operands, flags=_FAST)

    for case in cases:
        lower_builtin(function, *case)(lower)


_SCALARS = (types.float32, types.float64, types.int64)
for _dtype in (types.float32, types.float64):
    for _function, _method in (
        (operator.add, "fadd"),
        (operator.sub, "fsub"),
        (operator.mul, "fmul"),
        (operator.truediv, "fdiv"),
    ):
        _operator(_function, _method, Vector(_dtype, WIDTH))
    _operator(operator.iadd, "fadd", Vector(_dtype, WIDTH))


def _pointer(context, builder, array_type, array, offset):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic
def total(typingctx, vector):
    """Sum of a vector's numbers."""

    def generate(context, builder, sig, args):
        parts = args[0]
        n = vector.width
        while n > 1:  # halves are added until one number is left
            n //= 2
            low, high = (
                ir.Constant(ir.VectorType(_INT32, n), list(range(first, first + n)))
                for first in (0, n)
            )
            undefined = ir.Constant(parts.type, ir.Undefined)
            parts = builder.fadd(
                builder.shuffle_vector(parts, undefined, low),
                builder.shuffle_vector(parts, undefined, high),
                flags=_FAST,
            )
        return builder.extract_element(parts, ir.Constant(_INT32, 0))

    return vector.dtype(vector), generate


@intrinsic
def first(typingctx, vector, n):
    """The first n numbers of a vector, zeros in place of the others."""

    def generate(context, builder, sig, args):
        places = ir.Constant(ir.VectorType(_INT64, vector.width), list(range(vector.width)))
        real = builder.icmp_signed("<", places, _splat(builder, places.type, args[1]))
        return builder.select(real, args[0], ir.Constant(args[0].type, [0.0] * vector.width))

    return vector(vector, types.int64), generate


@intrinsic
def store(typingctx, array, offset, vector):
    """Write a vector into a flat array from an offset on."""

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, context.get_value_type(vector).as_pointer())
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def exp(typingctx, vector):
    """Exponential of every number, to a few rounding errors.

    Arguments are clipped to where the result is finite and normal.

    exp(x) = 2^n exp(x - n ln 2) with n the integer nearest to x / ln 2, the second factor from its
    Taylor series on +- ln(2)/2.
    """
    single = vector.dtype == types.float32
    mantissa, bias, n_terms, limit = (23, 127, 8, 87.0) if single else (52, 1023, 14, 708.0)
    # few bits, so that n times it is exact (Cody and Waite)
    high = 0.693359375 if single else 6.93147180369123816490e-01
    low = math.log(2) - high if single else 1.90821492927058770002e-10

    def generate(context, builder, sig, args):
        kind = context.get_value_type(vector)
        integers = ir.VectorType(ir.IntType(vector.dtype.bitwidth), vector.width)

        def constant(value):
            return ir.Constant(kind, [value] * vector.width)

        def llvm(name, *operands):
            function = ir.FunctionType(kind, [kind] * len(operands))
            name = f"llvm.{name}.v{vector.width}f{vector.dtype.bitwidth}"
            return builder.call(
                cgutils.get_or_insert_function(builder.module, function, name), operands
            )

        x = llvm("minnum", llvm("maxnum", args[0], constant(-limit)), constant(limit))
        n = llvm("rint", builder.fmul(x, constant(1 / math.log(2))))
        r = builder.fsub(
            builder.fsub(x, builder.fmul(n, constant(high))), builder.fmul(n, constant(low))
        )
        series = constant(1 / math.factorial(n_terms - 1))
        for k in range(n_terms - 2, -1, -1):
            series = builder.fadd(
                builder.fmul(series, r, flags=("contract",)),
                constant(1 / math.factorial(k)),
                flags=("contract",),
            )
        exponent = builder.add(
            builder.fptosi(n, integers), ir.Constant(integers, [bias] * vector.width)
        )
        power = builder.bitcast(
            builder.shl(exponent, ir.Constant(integers, [mantissa] * vector.width)), kind
        )
        return builder.fmul(series, power)

    return vector(vector), generate


@intrinsic
def load(typingctx, array, offset):
    """Vector of consecutive numbers of a flat array."""
    kind = Vector(array.dtype, WIDTH)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, context.get_value_type(kind).as_pointer())
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return kind(array, types.intp), generate


@intrinsic
def spread(typingctx, array, offset):
    """Vector of one number of a flat array, repeated."""
    kind = Vector(array.dtype, WIDTH)

    def generate(context, builder, sig, args):
        number = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        return _splat(builder, context.get_value_type(kind), number)

    return kind(array, types.intp), generate


@intrinsic
def fill(typingctx, number):
    """Vector of one number, repeated, in the number's precision."""
    kind = Vector(number, WIDTH)

    def generate(context, builder, sig, args):
        return _splat(builder, context.get_value_type(kind), args[0])

    return kind(number), generate
