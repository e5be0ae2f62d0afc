"""Any tensors, however wrong, to the functions that hand pointers to the core: each call gives a
result or one of the documented exceptions, and no crash; what it returns has the right shapes.

`_core` itself takes addresses, which nothing can check: it is private, and what is fuzzed here is
the layer above it. tests/native/fuzz.cpp does the same below.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tsloss_fast import (
    H0Persistence,
    TSLoss,
    _batch,
    barcode,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

# IndexError: edges that were changed, and name no point.
DOCUMENTED = (TypeError, ValueError, MemoryError, RuntimeError, IndexError)
EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
DTYPES = (
    *[torch.float32, torch.float64] * 4,
    *(torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.complex64),
)
NUMBERS = (0.0, -0.0, 1.0, 2.0, -3.5, 1e-45, 1e38, 1e308, float("inf"), float("nan"))
LAYOUTS = (
    *["contiguous"] * 6,
    *("transposed", "expanded", "overlapping", "stepped", "offset", "meta", "sparse", "negated"),
)
metrics = st.sampled_from([*_batch.METRICS, *_batch.METRICS, "minkowski", "", None, 0])
# Most sizes fit together.
sizes = st.sampled_from([3, 3, 3, 3, 2, 0, 1, 4])


@st.composite
def tensors(draw: st.DrawFn, least: int = 0, most: int = 4, whole: bool = False) -> Any:
    """`whole`: of integers that may be numbers of points."""
    shape = draw(st.lists(sizes, min_size=least, max_size=most))
    dtype = draw(st.sampled_from([torch.int64] * 6 + [torch.int32, torch.float32, torch.bool]))
    if not whole:
        dtype = draw(st.sampled_from(DTYPES))
    r = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wild = draw(st.integers(0, 3)) == 0
    if whole:
        values = r.integers(-(2**40) if wild else -1, 2**40 if wild else 4, shape)
    else:
        values = r.choice(NUMBERS, shape) if wild else r.integers(0, 3, shape).astype(float)
    if draw(st.integers(0, 9)) == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.asarray(values, dtype=draw(st.sampled_from(["f4", ">f8", "f2", "i4", "g"])))
        return array[..., ::-1] if array.ndim else array
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.from_numpy(np.ascontiguousarray(values)).reshape(shape).to(dtype)
    return laid_out(x, draw(st.sampled_from(LAYOUTS)))


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "transposed" and x.dim() > 1:
        return x.mT
    if layout == "expanded" and x.dim() > 0:
        return x[:1].expand(3, *x.shape[1:]) if len(x) else x
    if layout == "overlapping" and x.numel() > 8:
        return x.reshape(-1).as_strided((3, 3), (2, 1))
    if layout == "stepped" and x.dim() > 0:
        return x[::2]
    if layout == "offset" and x.dim() > 0:
        return x[1:]
    if layout == "meta":
        return x.to("meta")
    if layout == "sparse" and x.dim() > 0:
        return x.to_sparse()
    if layout == "negated" and x.is_complex():
        return x.conj().imag  # negated when it is read
    return x


whole = tensors(whole=True)
lengths = st.one_of(
    st.none(), st.just(3), st.lists(st.integers(-1, 4), max_size=4), tensors(most=2, whole=True)
)
checks = st.sampled_from([None, True, False])


def check(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        result = function(*arguments, **keywords)
    except DOCUMENTED as error:
        event(type(error).__name__)
        message = str(error)
    else:
        event("a result")
        return result
    assert message, "an error without a word"
    return None


@EXAMPLES
@given(tensors(least=1), metrics, lengths, checks)
def test_clouds(points: Any, metric: Any, sizes: Any, look: Any) -> None:
    h0 = check(h0_persistence, points, metric, sizes, look)
    if h0 is not None:
        *batch, n, _ = points.shape
        assert h0.deaths.shape == (*batch, max(n - 1, 0))
        assert h0.edges.shape == (*batch, max(n - 1, 0), 2)


@EXAMPLES
@given(tensors(least=1), lengths, checks)
def test_distances(matrix: Any, sizes: Any, look: Any) -> None:
    h0 = check(h0_persistence_from_distances, matrix, sizes, look)
    if h0 is not None:
        *batch, n, m = matrix.shape
        assert n == m
        assert h0.deaths.shape == (*batch, max(n - 1, 0))


@EXAMPLES
@given(tensors(least=1, most=2), whole, metrics)
def test_clouds_in_a_row(points: Any, offsets: Any, metric: Any) -> None:
    found = check(h0_persistence_varlen, points, offsets, metric)
    if found is not None:
        assert found.deaths.shape[0] == int(found.offsets[-1])


@EXAMPLES
@given(tensors(), tensors(), tensors(), whole, metrics, whole)
def test_operators(x: Any, grad: Any, deaths: Any, edges: Any, metric: Any, sizes: Any) -> None:
    ops = torch.ops.tsloss_fast
    check(ops.h0, x, sizes, None, None, metric, 0.0, True)
    check(ops.h0, x, None, sizes, 3, metric, 0.0, True)
    check(ops.h0, x, None, None, None, "precomputed", 1e-5, True)
    check(ops.h0_backward, grad, x, deaths, edges, None, metric)
    check(ops.h0_backward, grad, x, deaths, edges, sizes, metric)


@EXAMPLES
@given(st.data(), st.sampled_from([torch.float32, torch.float64]))
def test_a_gradient_through_edges_that_were_changed(data: st.DataObject, dtype: Any) -> None:
    """Shapes and types are right; a few numbers are not."""
    n, d = data.draw(st.integers(2, 6)), data.draw(st.integers(0, 3))
    points = torch.randn(2, n, d, dtype=dtype, generator=torch.Generator().manual_seed(n))
    deaths, edges = h0_persistence(points)
    numbers = st.integers(-3, n + 2) | st.integers(-(2**63), 2**63 - 1)
    for _ in range(data.draw(st.integers(0, 3))):
        at = [data.draw(st.integers(0, size - 1)) for size in edges.shape]
        edges[tuple(at)] = data.draw(numbers)
    metric = data.draw(st.sampled_from(list(_batch.METRICS)))
    grad = check(torch.ops.tsloss_fast.h0_backward, deaths, points, deaths, edges, None, metric)
    assert grad is None or grad.shape == points.shape
    merges = check(barcode.single_linkage, H0Persistence(deaths, edges))
    assert merges is None or merges.shape == (2, n - 1, 4)


@pytest.mark.filterwarnings("ignore:.*coincide")
@EXAMPLES
@given(tensors(least=1), lengths)
def test_the_loss(points: Any, sizes: Any) -> None:
    loss = check(TSLoss(), points, sizes)
    if loss is not None:
        assert loss.shape == ()


@EXAMPLES
@given(tensors())
def test_a_dense_tensor_has_memory_for_all_its_numbers(x: Any) -> None:
    if not isinstance(x, torch.Tensor):
        return
    found = check(_batch.dense, x, "x")
    if found is not None and found.device.type == "cpu":
        assert found.is_contiguous()
        storage = found.untyped_storage()
        begin, first = storage.data_ptr(), found.data_ptr()
        assert not found.numel() or begin <= first <= begin + storage.nbytes() - found.nbytes
