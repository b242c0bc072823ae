"""Vectors of numbers for numba kernels: explicit SIMD where LLVM's loop vectoriser gives up.

A `Vector` is a register, not an array. Kernels see arrays flat, `load` and `store` at an offset
without bounds checks, and compute with ``+``, ``-``, ``*``, ``/`` among vectors and with scalars.
LLVM splits vectors that are wider than the processor's registers.
"""

from __future__ import annotations

import math
import operator

from llvmlite import binding, ir  # type: ignore[import-untyped]  # it has no stubs
from numba.core import cgutils, config, types
from numba.core.datamodel import models, register_default
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin


def features() -> str:
    """The processor's features that numba uses, as LLVM names them.

    ``NUMBA_CPU_FEATURES`` sets them; none are left with ``NUMBA_CPU_NAME=generic``.
    """
    if config.CPU_FEATURES is not None:
        return config.CPU_FEATURES
    return binding.get_host_cpu_features().flatten()


# numbers per vector: single precision fills an AVX-512 register, or an AVX2 one
WIDEST = 16 if "+avx512f" in features().split(",") else 8
DOUBLES = WIDEST // 2

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
            dmm,
            fe_type,
            ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), fe_type.width),
        )


def _splat(builder, vector, number):
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(
        one,
        ir.Constant(vector, ir.Undefined),
        ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count),
    )


def _operator(function, method: str) -> None:
    """Arithmetic between vectors, and with scalars, which take the vector's precision."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            kinds = {kind for kind in args if isinstance(kind, Vector)}
            numbers = [kind for kind in args if isinstance(kind, types.Number)]
            if len(args) != 2 or len(kinds) != 1 or len(numbers) > 1:
                return None
            return signature(*kinds, *(types.unliteral(kind) for kind in args))

    infer_global(function)(Template)

    def lower(context, builder, sig, args):
        kind = sig.return_type
        vector = context.get_value_type(kind)
        operands = []
        for given, value in zip(sig.args, args, strict=True):
            if given != kind:
                value = _splat(builder, vector, context.cast(builder, value, given, kind.dtype))
            operands.append(value)
        return getattr(builder, method)(*operands)

    for case in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *case)(lower)


for _function, _method in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _method)


def _pointer(context, builder, array_type, array, offset):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _halves(builder, parts, segments):
    """Halves of so many segments of one or two vectors, added."""
    kind = parts[0].type
    other = parts[1] if len(parts) > 1 else ir.Constant(kind, ir.Undefined)
    size = len(parts) * kind.count // segments
    low = [k * size + m for k in range(segments) for m in range(size // 2)]
    places = ir.VectorType(_INT32, len(low))
    return builder.fadd(
        *(
            builder.shuffle_vector(parts[0], other, ir.Constant(places, [at + far for at in low]))
            for far in (0, size // 2)
        )
    )


@intrinsic
def total(typingctx, vector):
    """Sum of a vector's numbers."""

    def generate(context, builder, sig, args):
        parts = args[0]
        while parts.type.count > 1:  # halves are added until one number is left
            parts = _halves(builder, [parts], 1)
        return builder.extract_element(parts, ir.Constant(_INT32, 0))

    return vector.dtype(vector), generate


@intrinsic
def totals(typingctx, a, b, c, d):
    """Vector of the sums of four vectors' numbers, each the same number as by `total`."""
    kind = Vector(a.dtype, 4)

    def generate(context, builder, sig, args):
        pairs = _halves(builder, args[:2], 2), _halves(builder, args[2:], 2)
        parts = _halves(builder, pairs, 4)
        while parts.type.count > 4:
            parts = _halves(builder, [parts], 4)
        return parts

    return kind(a, b, c, d), generate


@intrinsic
def first(typingctx, vector, n):
    """The first n numbers of a vector, zeros in place of the others."""

    def generate(context, builder, sig, args):
        places = ir.Constant(ir.VectorType(_INT64, vector.width), list(range(vector.width)))
        real = builder.icmp_signed("<", places, _splat(builder, places.type, args[1]))
        return builder.select(real, args[0], ir.Constant(args[0].type, [0.0] * vector.width))

    return vector(vector, types.int64), generate


def _converted(builder, value, dtype):
    """A vector's numbers as another type, cut to integers."""
    kind = ir.VectorType(
        ir.IntType(dtype.bitwidth)
        if isinstance(dtype, types.Integer)
        else (ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()),
        value.type.count,
    )
    if isinstance(dtype, types.Integer):
        return builder.fptosi(value, kind)
    if kind == value.type:
        return value
    return builder.fptrunc(value, kind) if dtype.bitwidth == 32 else builder.fpext(value, kind)


@intrinsic
def store(typingctx, array, offset, vector):
    """Write a vector into a flat array from an offset on, as the array's type."""

    def generate(context, builder, sig, args):
        value = _converted(builder, args[2], array.dtype)
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def store_first(typingctx, array, offset, vector, n):
    """Write the first n numbers of a vector, all of them if it has no more, as by `store`."""

    def generate(context, builder, sig, args):
        value = _converted(builder, args[2], array.dtype)
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        places = ir.Constant(ir.VectorType(_INT64, vector.width), list(range(vector.width)))
        real = builder.icmp_signed("<", places, _splat(builder, places.type, args[3]))
        letter = "i" if isinstance(array.dtype, types.Integer) else "f"
        function = ir.FunctionType(
            ir.VoidType(), [value.type, pointer.type, ir.IntType(32), real.type]
        )
        name = f"llvm.masked.store.v{vector.width}{letter}{array.dtype.bitwidth}.p0"
        align = ir.Constant(ir.IntType(32), array.dtype.bitwidth // 8)
        builder.call(
            cgutils.get_or_insert_function(builder.module, function, name),
            (value, pointer, align, real),
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, types.int64), generate


@intrinsic
def double(typingctx, vector):
    """A vector in double precision."""

    def generate(context, builder, sig, args):
        return _converted(builder, args[0], types.float64)

    return Vector(types.float64, vector.width)(vector), generate


def _llvm(context, builder, name, vector, *operands):
    kind = context.get_value_type(vector)
    function = ir.FunctionType(kind, [kind] * len(operands))
    name = f"llvm.{name}.v{vector.width}f{vector.dtype.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), operands)


@intrinsic
def sqrt(typingctx, vector):
    """Square root of every number."""

    def generate(context, builder, sig, args):
        return _llvm(context, builder, "sqrt", vector, args[0])

    return vector(vector), generate


@intrinsic
def floor(typingctx, vector, largest):
    """The integer below every number, but no more than a largest one."""

    def generate(context, builder, sig, args):
        below = _llvm(context, builder, "floor", vector, args[0])
        limit = context.cast(builder, args[1], sig.args[1], vector.dtype)
        return _llvm(
            context,
            builder,
            "minnum",
            vector,
            below,
            _splat(builder, below.type, limit),
        )

    return vector(vector, types.int64), generate


@intrinsic(prefer_literal=True)
def gather(typingctx, array, places, offset, step, axis, width):
    """Vector of the numbers of a flat array at ``step * places[offset + k] + axis``."""
    kind = Vector(array.dtype, width.literal_value)

    def generate(context, builder, sig, args):
        value = ir.Constant(context.get_value_type(kind), ir.Undefined)
        for k in range(kind.width):
            at = builder.add(args[2], ir.Constant(args[2].type, k))
            place = builder.load(_pointer(context, builder, sig.args[1], args[1], at))
            place = builder.zext(place, args[2].type)
            place = builder.add(builder.mul(place, args[3]), args[4])
            one = builder.load(_pointer(context, builder, sig.args[0], args[0], place))
            value = builder.insert_element(value, one, ir.Constant(_INT32, k))
        return value

    return kind(array, places, types.intp, types.intp, types.intp, width), generate


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
            return _llvm(context, builder, name, vector, *operands)

        x = llvm("minnum", llvm("maxnum", args[0], constant(-limit)), constant(limit))
        n = llvm("rint", builder.fmul(x, constant(1 / math.log(2))))
        r = builder.fsub(
            builder.fsub(x, builder.fmul(n, constant(high))),
            builder.fmul(n, constant(low)),
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
            builder.shl(exponent, ir.Constant(integers, [mantissa] * vector.width)),
            kind,
        )
        return builder.fmul(series, power)

    return vector(vector), generate


@intrinsic(prefer_literal=True)
def load(typingctx, array, offset, width):
    """Vector of so many consecutive numbers of a flat array."""
    kind = Vector(array.dtype, width.literal_value)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, context.get_value_type(kind).as_pointer())
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return kind(array, types.intp, width), generate


@intrinsic(prefer_literal=True)
def spread(typingctx, array, offset, width):
    """Vector of one number of a flat array, repeated."""
    kind = Vector(array.dtype, width.literal_value)

    def generate(context, builder, sig, args):
        number = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))
        return _splat(builder, context.get_value_type(kind), number)

    return kind(array, types.intp, width), generate


@intrinsic(prefer_literal=True)
def fill(typingctx, number, width):
    """Vector of one number, repeated, in the number's precision."""
    kind = Vector(number, width.literal_value)

    def generate(context, builder, sig, args):
        return _splat(builder, context.get_value_type(kind), args[0])

    return kind(number, width), generate


@intrinsic
def number(typingctx, array, offset):
    """One number of a flat array: without the look for places before its end that Python has."""

    def generate(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))

    return array.dtype(array, types.intp), generate
