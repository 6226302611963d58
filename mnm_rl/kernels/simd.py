"""What the fused kernels are built from: vectors of 16 numbers in Numba, and matrix products and
tanh on padded rows.

Numba leaves vectorization to LLVM, which gives up where it cannot prove that rows do not overlap.
:func:`load`, :func:`store`, :func:`splat`, :func:`fma` and :func:`total` say what is meant; LLVM
makes whatever registers the machine has of them. Rows are padded with zeros to a multiple of
:data:`LANES`, so that there are no remainders.
"""

import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core import event as numba_event
from numba.extending import intrinsic, models, overload, register_model

from mnm_rl.kernels.announcement import compiling
from mnm_rl.kernels.arena import Array
from mnm_rl.kernels.cache import KernelCache

P = ParamSpec("P")
R = TypeVar("R")

LANES = 16
ROWS = 4
"""Matrix products take rows in fours, and what is left in twos."""


class _Compilations(numba_event.Listener):
    """Announces the kernels of each module when the first of them is compiled.

    Attributes:
        depth: how many are being compiled, each for the one before it.
    """

    depth = 0

    def on_start(self, event: Any) -> None:
        package, _, module = event.data["dispatcher"].py_func.__module__.rpartition(".")
        if self.depth == 0 and package == __package__ and module != __name__.rpartition(".")[2]:
            compiling(module)
        self.depth += 1

    def on_end(self, event: Any) -> None:
        self.depth -= 1


numba_event.register("numba:compile", _Compilations())
kernels: list[Any] = []
"""All of them."""


def kernel(function: Callable[P, R], inline: bool = False) -> Callable[P, R]:
    """Compile a function, at its first call with arguments of some types; kept on disk for the next
    process.

    NaN and infinity keep their meaning in kernels: a network that diverges must show.
    """
    options = {"nogil": True, "error_model": "numpy", "forceinline": inline, "_nrt": not inline}
    compiled: Any = njit(**options, fastmath={"reassoc", "contract", "nsz", "arcp"})(function)
    compiled._cache = KernelCache(function)
    kernels.append(compiled)
    return compiled  # type: ignore[no-any-return]


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A :func:`kernel` that becomes part of those that call it: for blocks so small that the call
    takes as long as the work."""
    return kernel(function, inline=True)


def padded(size: int, multiple: int = LANES) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def fours(rows: int) -> int:
    """How many times :data:`ROWS` rows, the last of them perhaps fewer."""
    return -(-rows // ROWS)


class _Vector(types.Type):
    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(f"vector({dtype})")


def _llvm_vector(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), LANES)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Vector) -> None:
        super().__init__(dmm, fe_type, _llvm_vector(fe_type.dtype))


def _pointer(context: Any, builder: Any, row_type: Any, row: Any, i: Any) -> Any:
    array = context.make_array(row_type)(context, builder, row)
    item = cgutils.get_item_pointer(
        context, builder, row_type, array, [i], wraparound=False, boundscheck=False
    )
    return builder.bitcast(item, _llvm_vector(row_type.dtype).as_pointer())


@intrinsic
def load(typingctx: Any, row: Any, i: Any) -> Any:
    """``row[i : i + LANES]`` as a vector."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(
            _pointer(context, builder, row, args[0], args[1]), align=row.dtype.bitwidth // 8
        )

    return _Vector(row.dtype)(row, types.intp), generate


@intrinsic
def store(typingctx: Any, row: Any, i: Any, vector: Any) -> Any:
    """``row[i : i + LANES] = vector``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(
            args[2],
            _pointer(context, builder, row, args[0], args[1]),
            align=row.dtype.bitwidth // 8,
        )
        return context.get_dummy_value()

    return types.void(row, types.intp, vector), generate


@intrinsic
def splat(typingctx: Any, x: Any) -> Any:
    """A vector of one number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_llvm_vector(x), ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )

    return _Vector(x)(x), generate


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[0], args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return c(a, b, c), generate


@intrinsic
def minus(typingctx: Any, c: Any, a: Any, b: Any) -> Any:
    """``c - a * b``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[1], args[2], flags=("contract",))
        return builder.fsub(args[0], product, flags=("contract",))

    return c(c, a, b), generate


@intrinsic
def clip(typingctx: Any, vector: Any) -> Any:
    """Every number clipped to [-1, 1]; NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = (ir.Constant(args[0].type, [limit] * LANES) for limit in (-1.0, 1.0))
        below = builder.select(builder.fcmp_ordered(">", args[0], high), high, args[0])
        return builder.select(builder.fcmp_ordered("<", args[0], low), low, below)

    return vector(vector), generate


@intrinsic
def where_inside(typingctx: Any, vector: Any, chosen: Any) -> Any:
    """``chosen`` where ``vector`` is in [-1, 1], zero elsewhere: back through :func:`clip`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, zero, high = (ir.Constant(args[0].type, [limit] * LANES) for limit in (-1.0, 0.0, 1.0))
        inside = builder.and_(
            builder.fcmp_ordered(">=", args[0], low), builder.fcmp_ordered("<=", args[0], high)
        )
        return builder.select(inside, args[1], zero)

    return chosen(vector, chosen), generate


@intrinsic
def total(typingctx: Any, vector: Any) -> Any:
    """The sum of a vector's numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rest, n = args[0], LANES
        while n > 1:
            n //= 2
            undefined = ir.Constant(rest.type, ir.Undefined)
            halves = [
                ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(start, start + n)))
                for start in (0, n)
            ]
            rest = builder.fadd(*(builder.shuffle_vector(rest, undefined, half) for half in halves))
        return builder.extract_element(rest, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


@intrinsic
def add_totals(typingctx: Any, row: Any, i: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """``row[i : i + 4] +=`` the sums of four vectors' numbers: together they take half the time
    that each takes alone."""

    def halved(builder: Any, one: Any, other: Any, parts: int) -> Any:
        """Of two vectors of ``parts`` parts each, one of twice as many: each part folded in two."""
        n = LANES // parts // 2
        places = [start + k for start in range(0, 2 * LANES, 2 * n) for k in range(n)]
        masks = [
            ir.Constant(ir.VectorType(ir.IntType(32), LANES), [place + shift for place in places])
            for shift in (0, n)
        ]
        return builder.fadd(*(builder.shuffle_vector(one, other, mask) for mask in masks))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, a, b, c, d = args
        sums = halved(builder, halved(builder, a, b, 1), halved(builder, c, d, 1), 2)
        undefined, n = ir.Constant(sums.type, ir.Undefined), LANES // 4
        while n > 1:
            n //= 2
            swapped = ir.Constant(
                ir.VectorType(ir.IntType(32), LANES), [k ^ n for k in range(LANES)]
            )
            sums = builder.fadd(sums, builder.shuffle_vector(sums, undefined, swapped))
        four = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(range(0, LANES, LANES // 4)))
        sums = builder.shuffle_vector(sums, undefined, four)
        pointer = builder.bitcast(
            _pointer(context, builder, row, args[0], args[1]), sums.type.as_pointer()
        )
        align = row.dtype.bitwidth // 8
        builder.store(builder.fadd(builder.load(pointer, align=align), sums), pointer, align=align)
        return context.get_dummy_value()

    return types.void(row, types.intp, a, b, c, d), generate


def tanh(x: float) -> float:
    """tanh in kernels. In float32 a rational function that LLVM can vectorize, absolute error below
    4e-7.

    A saturated value is exactly 1 or -1, so that what is made of it, as ``1 - y * y``, is exactly
    zero, as in PyTorch: a derivative of 1e-7 that stays there, times an input of 1e8, is a gradient
    that nothing has.
    """
    return math.tanh(x)


@overload(tanh)
def _overload_tanh(x: Any) -> Any:
    if x != types.float32:

        def tanh64(x: Any) -> Any:
            return math.tanh(x)

        return tanh64
    # Minimax fit on [-8, 8], beyond which tanh is within 3e-7 of 1: x P(x^2) / Q(x^2), both of
    # degree 4.
    limit, one = np.float32(8), np.float32(1)
    p0, p1, p2, p3, p4 = (
        np.float32(p)
        for p in (0.9999999701, 0.13438223218, 3.5641941231e-3, 2.1773870618e-5, 1.5062679842e-8)
    )
    q0, q1, q2, q3, q4 = (
        np.float32(q)
        for q in (1.0, 0.46771544027, 2.6136160447e-2, 3.3992414735e-4, 8.4540167537e-7)
    )

    def tanh32(x: Any) -> Any:
        y = x * x
        z = (
            x
            * (p0 + y * (p1 + y * (p2 + y * (p3 + y * p4))))
            / (q0 + y * (q1 + y * (q2 + y * (q3 + y * q4))))
        )
        # beyond the limit z may be of any value; NaN stays
        return one if x >= limit else -one if x <= -limit else z

    return tanh32


@inlined
def copy_(y: Array, x: Array) -> None:
    """``y = x``, for rows that do not overlap; Numba's own assignment may copy x first, lest they
    do."""
    for i in range(y.shape[0]):
        y[i] = x[i]


@inlined
def fill_(x: Array, value: float) -> None:
    """``x = value``, for a row."""
    for i in range(x.shape[0]):
        x[i] = value


@inlined
def tanh_(x: Array) -> None:
    """``x = tanh(x)``, for a row."""
    for i in range(x.shape[0]):
        x[i] = tanh(x[i])


@inlined
def sigmoid_(x: Array) -> None:
    """``x = sigmoid(x)``, for a row."""
    half = x.dtype.type(0.5)
    for i in range(x.shape[0]):
        x[i] = half + half * tanh(half * x[i])


@inlined
def _add_product_of_two(y0: Array, y1: Array, x0: Array, x1: Array, M: Array) -> None:
    """:func:`add_product` for two rows."""
    K, N = M.shape
    i = 0
    while i + 4 * LANES <= N:  # sums of two rows and four vectors stay in registers
        j1, j2, j3 = i + LANES, i + 2 * LANES, i + 3 * LANES
        a0, a1, b0, b1 = load(y0, i), load(y1, i), load(y0, j1), load(y1, j1)
        c0, c1, d0, d1 = load(y0, j2), load(y1, j2), load(y0, j3), load(y1, j3)
        for j in range(K):
            v0, v1, m, n, o, p = (
                splat(x0[j]),
                splat(x1[j]),
                load(M[j], i),
                load(M[j], j1),
                load(M[j], j2),
                load(M[j], j3),
            )
            a0, a1, b0, b1 = fma(v0, m, a0), fma(v1, m, a1), fma(v0, n, b0), fma(v1, n, b1)
            c0, c1, d0, d1 = fma(v0, o, c0), fma(v1, o, c1), fma(v0, p, d0), fma(v1, p, d1)
        store(y0, i, a0)
        store(y1, i, a1)
        store(y0, j1, b0)
        store(y1, j1, b1)
        store(y0, j2, c0)
        store(y1, j2, c1)
        store(y0, j3, d0)
        store(y1, j3, d1)
        i += 4 * LANES
    while i < N:
        a0, a1 = load(y0, i), load(y1, i)
        for j in range(K):
            m = load(M[j], i)
            a0, a1 = fma(splat(x0[j]), m, a0), fma(splat(x1[j]), m, a1)
        store(y0, i, a0)
        store(y1, i, a1)
        i += LANES


@inlined
def add_product(y: Array, x: Array, M: Array) -> None:
    """``y += x M``: y ``[S, N]``, x ``[S, K]``, M ``[K, N]``, with N a multiple of ``LANES``."""
    K, N = M.shape
    fours = y.shape[0] // 4 * 4
    for s in range(fours, y.shape[0], 2):
        k = min(s + 1, y.shape[0] - 1)  # one row alone is taken for two: both become the same
        _add_product_of_two(y[s], y[k], x[s], x[k], M)
    for s in range(0, fours, 4):
        x0, x1, x2, x3 = x[s], x[s + 1], x[s + 2], x[s + 3]
        y0, y1, y2, y3 = y[s], y[s + 1], y[s + 2], y[s + 3]
        i = 0
        while i + 2 * LANES <= N:  # sums of four rows and two vectors stay in registers
            a0, a1, a2, a3 = load(y0, i), load(y1, i), load(y2, i), load(y3, i)
            k = i + LANES
            b0, b1, b2, b3 = load(y0, k), load(y1, k), load(y2, k), load(y3, k)
            for j in range(K):
                m, n = load(M[j], i), load(M[j], k)
                v0, v1, v2, v3 = splat(x0[j]), splat(x1[j]), splat(x2[j]), splat(x3[j])
                a0, a1, a2, a3 = fma(v0, m, a0), fma(v1, m, a1), fma(v2, m, a2), fma(v3, m, a3)
                b0, b1, b2, b3 = fma(v0, n, b0), fma(v1, n, b1), fma(v2, n, b2), fma(v3, n, b3)
            store(y0, i, a0)
            store(y1, i, a1)
            store(y2, i, a2)
            store(y3, i, a3)
            store(y0, k, b0)
            store(y1, k, b1)
            store(y2, k, b2)
            store(y3, k, b3)
            i += 2 * LANES
        if i < N:
            a0, a1, a2, a3 = load(y0, i), load(y1, i), load(y2, i), load(y3, i)
            for j in range(K):
                m = load(M[j], i)
                v0, v1, v2, v3 = splat(x0[j]), splat(x1[j]), splat(x2[j]), splat(x3[j])
                a0, a1, a2, a3 = fma(v0, m, a0), fma(v1, m, a1), fma(v2, m, a2), fma(v3, m, a3)
            store(y0, i, a0)
            store(y1, i, a1)
            store(y2, i, a2)
            store(y3, i, a3)


@inlined
def add_matvec(W: Array, x: Array, y: Array) -> None:
    """``y += W x``."""
    for i in range(0, W.shape[0], 4):
        a = b = c = d = splat(W.dtype.type(0))
        for j in range(0, W.shape[1], LANES):
            v = load(x, j)
            a, b = fma(load(W[i], j), v, a), fma(load(W[i + 1], j), v, b)
            c, d = fma(load(W[i + 2], j), v, c), fma(load(W[i + 3], j), v, d)
        add_totals(y, i, a, b, c, d)


@inlined
def add_matvec_transposed(W: Array, x: Array, y: Array) -> None:
    """``y += W^T x``."""
    for i in range(0, W.shape[0], 4):
        a, b, c, d = splat(x[i]), splat(x[i + 1]), splat(x[i + 2]), splat(x[i + 3])
        for j in range(0, W.shape[1], LANES):
            v = fma(a, load(W[i], j), fma(b, load(W[i + 1], j), load(y, j)))
            store(y, j, fma(c, load(W[i + 2], j), fma(d, load(W[i + 3], j), v)))


@inlined
def times_derivative(g: Array, z: Array) -> None:
    """``g *= 1 - z^2``: back through ``z = tanh(.)``."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        g[i] *= one - z[i] * z[i]


@kernel
def _tanh_of_doubled(row: Array) -> None:
    for i in range(0, row.shape[0], LANES):
        store(row, i, fma(splat(row.dtype.type(1)), load(row, i), load(row, i)))
    tanh_(row)


def check() -> None:
    """Compile and run a small kernel.

    Raises:
        Exception: of any kind, where kernels cannot be compiled on this machine or do not give what
            they should.
    """
    row = np.linspace(-1, 1, 2 * LANES, dtype=np.float32)
    expected = np.tanh(2 * row)
    _tanh_of_doubled(row)
    if not np.allclose(row, expected, atol=1e-5):
        raise RuntimeError("a compiled kernel gives wrong numbers")
