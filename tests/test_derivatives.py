"""Every public function under every way that PyTorch differentiates: value and derivative.

The right values come from ordinary tensor operations on minimum spanning trees that are found here
by Kruskal's algorithm. They use nothing of the package.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd import functional as autograd
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from tsloss_fast import (
    TSLoss,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

Function = Callable[[Tensor], Tensor]

_generator = torch.Generator().manual_seed(7)
# A cloud, another one with another tree, and a direction. None is a view: of views, torch.compile
# refuses the dual numbers.
CLOUD, OTHER, DIRECTION = (
    torch.randn(6, 3, dtype=torch.float64, generator=_generator) for _ in range(3)
)
BATCH = torch.stack([CLOUD, OTHER])


# ---- the oracle ----


def euclidean(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).square().sum(-1).sqrt()


def cosine(p: Tensor, q: Tensor) -> Tensor:
    return 1 - (p * q).sum(-1) / (p.square().sum(-1).sqrt() * q.square().sum(-1).sqrt())


def sqeuclidean(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).square().sum(-1)


def tree(cloud: Tensor, length: Callable[[Tensor, Tensor], Tensor]) -> list[tuple[int, int]]:
    """The edges of the minimum spanning tree, in ascending order of their lengths (Kruskal)."""
    component = list(range(len(cloud)))
    pairs = itertools.combinations(range(len(cloud)), 2)
    edges = []
    for i, j in sorted(pairs, key=lambda e: float(length(cloud[e[0]], cloud[e[1]]))):
        a, b = component[i], component[j]
        if a != b:
            edges.append((i, j))
            component = [a if c == b else c for c in component]
    return edges


def deaths_of(cloud: Tensor, at: Tensor, length: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The deaths of `cloud`, whose tree is that of `at`: its values, without a tracer."""
    edges = tree(at, length)
    i, j = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return length(cloud[i], cloud[j])


def padded(x: Tensor, at: Tensor) -> Tensor:
    """Two clouds of three points, of the second of which two count."""
    first = deaths_of(x[:3], at[:3], euclidean)
    second = deaths_of(x[3:5], at[3:5], euclidean)
    return torch.stack([first, torch.cat([second, torch.zeros(1, dtype=x.dtype)])])


def ragged(x: Tensor, at: Tensor) -> Tensor:
    return torch.cat([deaths_of(x[:4], at[:4], euclidean), deaths_of(x[4:], at[4:], euclidean)])


def exact_loss(x: Tensor, at: Tensor, compactness: float = 0.0) -> Tensor:
    d = deaths_of(x, at, euclidean)
    mean = d.mean()
    spread = (d - mean).square().mean() / mean.square()
    short = (1 - d / (0.5 * mean)).relu().square().mean()
    return spread + short + compactness * mean / 2.0


def surrogate_loss(x: Tensor, at: Tensor) -> Tensor:
    i, j = torch.tensor(list(itertools.combinations(range(len(at)), 2))).unbind(1)
    pairs = euclidean(x[i], x[j])
    a = 10 / pairs.mean()
    nearest = []
    for k in range(len(at)):
        own = pairs[(i == k) | (j == k)]
        nearest.append(((-a * own).softmax(0) * own).sum())
    connectivity = torch.stack(nearest).var(unbiased=False)
    low = ((-a * pairs).softmax(0) * pairs).sum()
    high = ((a * pairs).softmax(0) * pairs).sum()
    return connectivity + ((low - pairs).relu() + (pairs - high).relu()).mean()


# ---- what is held against it ----


def distances(x: Tensor) -> Tensor:
    """Squared distances, which have derivatives of any order on the diagonal too."""
    return (x.unsqueeze(0) - x.unsqueeze(1)).square().sum(-1)


SUBJECTS: dict[str, tuple[Callable[[], Function], Callable[[Tensor, Tensor], Tensor]]] = {
    "euclidean": (
        lambda: lambda x: h0_persistence(x).deaths,
        lambda x, at: deaths_of(x, at, euclidean),
    ),
    "cosine": (
        lambda: lambda x: h0_persistence(x, "cosine").deaths,
        lambda x, at: deaths_of(x, at, cosine),
    ),
    "padded": (
        # The lengths are made inside, because make_fx takes no tensors from outside.
        lambda: lambda x: h0_persistence(x.reshape(2, 3, 3), lengths=torch.tensor([3, 2])).deaths,
        padded,
    ),
    "distances": (
        lambda: lambda x: h0_persistence_from_distances(distances(x)).deaths,
        lambda x, at: deaths_of(x, at, sqeuclidean),
    ),
    "varlen": (
        lambda: lambda x: h0_persistence_varlen(x, [0, 4, 6]).deaths,
        ragged,
    ),
    "exact loss": (TSLoss, exact_loss),
    "exact loss, compact": (
        lambda: TSLoss(compactness=0.3, reference=2.0),
        lambda x, at: exact_loss(x, at, 0.3),
    ),
    "total loss": (
        lambda: TSLoss(form="total", p=3.0),
        lambda x, at: deaths_of(x, at, euclidean).pow(3).sum(),
    ),
    "surrogate loss": (lambda: TSLoss(form="surrogate"), surrogate_loss),
    # A control: what fails here too is the fault of the row, or of torch.
    "plain operations": (
        lambda: lambda x: euclidean(x[:-1], x[1:]),
        lambda x, at: euclidean(x[:-1], x[1:]),
    ),
}


def weights(y: Tensor) -> Tensor:
    return torch.linspace(1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)


def energy(f: Function) -> Function:
    """A number with second derivatives, for a function with values of any shape."""
    return lambda x: (weights(f(x)) * f(x).square()).sum()


class Expected:
    """Value, Jacobian, and the gradient and Hessian of the energy of an oracle at one cloud."""

    def __init__(self, oracle: Callable[[Tensor, Tensor], Tensor], at: Tensor) -> None:
        def g(x: Tensor) -> Tensor:
            return oracle(x, at)

        self.value = g(at)
        self.jacobian = autograd.jacobian(g, at)
        self.gradient = autograd.jacobian(energy(g), at)
        self.hessian = autograd.hessian(energy(g), at)

    def along(self, direction: Tensor) -> Tensor:
        return torch.tensordot(self.jacobian, direction, 2)


def gradient(f: Function, x: Tensor) -> Tensor:
    """The gradient of the energy, by backward."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(energy(f)(leaf), leaf)[0]


Row = Callable[[Function, Expected, Expected], None]


def reverse(f: Function, want: Expected, other: Expected) -> None:
    leaf = CLOUD.clone().requires_grad_()
    value = f(leaf)
    assert_close(value, want.value)
    (got,) = torch.autograd.grad((weights(value) * value.square()).sum(), leaf)
    assert_close(got, want.gradient)


def dual(f: Function, want: Expected, other: Expected) -> None:
    with forward_ad.dual_level():
        value, tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(CLOUD, DIRECTION)))
    assert_close(value, want.value)
    assert tangent is not None, "the tangent was dropped"
    assert_close(tangent, want.along(DIRECTION))


def jvp(f: Function, want: Expected, other: Expected) -> None:
    value, tangent = torch.func.jvp(f, (CLOUD,), (DIRECTION,))
    assert_close(value, want.value)
    assert_close(tangent, want.along(DIRECTION))


def linearize(f: Function, want: Expected, other: Expected) -> None:
    value, tangent = torch.func.linearize(f, CLOUD)
    assert_close(value, want.value)
    assert_close(tangent(DIRECTION), want.along(DIRECTION))


def is_grads_batched(f: Function, want: Expected, other: Expected) -> None:
    leaf = CLOUD.clone().requires_grad_()
    value = f(leaf)
    units = torch.eye(value.numel(), dtype=value.dtype).reshape(-1, *value.shape)
    (rows,) = torch.autograd.grad(value, leaf, units, is_grads_batched=True)
    assert_close(rows.reshape(want.jacobian.shape), want.jacobian)


def double_backward(f: Function, want: Expected, other: Expected) -> None:
    leaf = CLOUD.clone().requires_grad_()
    (first,) = torch.autograd.grad(energy(f)(leaf), leaf, create_graph=True)
    assert_close(first, want.gradient)
    (second,) = torch.autograd.grad((first * DIRECTION).sum(), leaf)
    assert_close(second, torch.tensordot(want.hessian, DIRECTION, 2))


def double_backward_to_the_upstream_gradient(f: Function, want: Expected, other: Expected) -> None:
    leaf = CLOUD.clone().requires_grad_()
    value = f(leaf)
    upstream = weights(value).requires_grad_()
    (first,) = torch.autograd.grad(value, leaf, upstream, create_graph=True)
    (second,) = torch.autograd.grad((first * DIRECTION).sum(), upstream)
    assert_close(second, want.along(DIRECTION))


def graph_at_two_clouds(graph: Function, want: Expected, other: Expected) -> None:
    """A graph that was made at one cloud holds at another, whose tree differs."""
    for cloud, right in ((CLOUD, want), (OTHER, other)):
        assert_close(graph(cloud), right.value)
        assert_close(gradient(graph, cloud), right.gradient)


def exported(f: Function, want: Expected, other: Expected) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return f(x)

    module = f if isinstance(f, torch.nn.Module) else Module()
    graph_at_two_clouds(torch.export.export(module, (CLOUD,)).module(), want, other)


def made_by_fx(mode: str) -> Row:
    def row(f: Function, want: Expected, other: Expected) -> None:
        graph = make_fx(lambda x: f(x), tracing_mode=mode)(CLOUD)
        graph_at_two_clouds(graph, want, other)

    return row


def gradient_made_by_fx(mode: str) -> Row:
    def row(f: Function, want: Expected, other: Expected) -> None:
        graph = make_fx(lambda x: gradient(f, x), tracing_mode=mode)(CLOUD)
        assert_close(graph(CLOUD), want.gradient)
        assert_close(graph(OTHER), other.gradient)

    return row


def scripted(f: Function, want: Expected, other: Expected) -> None:
    graph_at_two_clouds(torch.jit.trace(f, CLOUD), want, other)


def compiled(f: Function) -> Function:
    return torch.compile(f, backend="aot_eager", fullgraph=True)


def at(name: str) -> Callable[[Expected], Any]:
    return lambda expected: getattr(expected, name)


def batched(name: str) -> Callable[[Expected, Expected], Tensor]:
    return lambda *both: torch.stack([getattr(e, name) for e in both])


# Transforms of torch.func, and the value of the transformed function at the cloud.
OF_FUNC: dict[str, tuple[Callable[[Function], Function], Callable[[Expected], Tensor]]] = {
    "grad": (lambda f: torch.func.grad(energy(f)), at("gradient")),
    "jvp": (
        lambda f: lambda x: torch.func.jvp(f, (x,), (DIRECTION,))[1],
        lambda e: e.along(DIRECTION),
    ),
    "jacfwd": (lambda f: torch.func.jacfwd(f), at("jacobian")),
    "jacrev": (lambda f: torch.func.jacrev(f), at("jacobian")),
    "hessian": (lambda f: torch.func.hessian(energy(f)), at("hessian")),
    "jacrev of jacrev": (
        lambda f: torch.func.jacrev(torch.func.jacrev(energy(f))),
        at("hessian"),
    ),
}
COMPILED = ("grad", "jvp", "jacfwd", "hessian", "jacrev of jacrev")


def of_func(name: str, wrap: Callable[[Function], Function] = lambda f: f) -> Row:
    transform, expected = OF_FUNC[name]

    def row(f: Function, want: Expected, other: Expected) -> None:
        made = wrap(transform(f))
        assert_close(made(CLOUD), expected(want))
        assert_close(made(OTHER), expected(other))

    return row


def vmap_of_grad(wrap: Callable[[Function], Function] = lambda f: f) -> Row:
    def row(f: Function, want: Expected, other: Expected) -> None:
        made = wrap(torch.vmap(torch.func.grad(energy(f))))
        assert_close(made(BATCH), torch.stack([want.gradient, other.gradient]))

    return row


ROWS: dict[str, Row] = {
    "reverse": reverse,
    "dual numbers": dual,
    "func.jvp": jvp,
    "func.linearize": linearize,
    **{f"func.{name}": of_func(name) for name in OF_FUNC if name != "jvp"},
    "jacobian, vectorized": lambda f, want, other: assert_close(
        autograd.jacobian(f, CLOUD, vectorize=True), want.jacobian
    ),
    "jacobian, forward": lambda f, want, other: assert_close(
        autograd.jacobian(f, CLOUD, vectorize=True, strategy="forward-mode"), want.jacobian
    ),
    "is_grads_batched": is_grads_batched,
    "double backward": double_backward,
    "double backward to the upstream gradient": double_backward_to_the_upstream_gradient,
    "vmap": lambda f, want, other: assert_close(
        torch.vmap(f)(BATCH), torch.stack([want.value, other.value])
    ),
    "vmap of grad": vmap_of_grad(),
    "torch.export": exported,
    "make_fx": made_by_fx("real"),
    "make_fx, symbolic": made_by_fx("symbolic"),
    "make_fx of the gradient": gradient_made_by_fx("real"),
    "make_fx of the gradient, symbolic": gradient_made_by_fx("symbolic"),
    "torch.jit.trace": scripted,
    "compile": lambda f, want, other: graph_at_two_clouds(compiled(f), want, other),
    **{f"compile of func.{name}": of_func(name, compiled) for name in COMPILED},
    "compile of vmap of grad": vmap_of_grad(compiled),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[Expected, Expected]]:
    return {
        name: (Expected(oracle, CLOUD), Expected(oracle, OTHER))
        for name, (_, oracle) in SUBJECTS.items()
    }


@pytest.fixture(autouse=True)
def _fresh_compiler_and_no_warnings() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracers, and of slow batching rules
        yield
    # A compilation that fails inside of func.jvp leaves its level behind.
    while forward_ad._current_level >= 0:
        forward_ad.exit_dual_level()


def test_the_clouds_are_generic_and_have_different_trees() -> None:
    for length in (euclidean, cosine):
        assert sorted(tree(CLOUD, length)) != sorted(tree(OTHER, length))
        for cloud in (CLOUD, OTHER):
            gaps = deaths_of(cloud, cloud, length).diff()
            assert (gaps > 1e-3).all()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_value_and_derivative_are_those_of_plain_operations(
    subject: str, row: str, expected: dict[str, tuple[Expected, Expected]]
) -> None:
    ROWS[row](SUBJECTS[subject][0](), *expected[subject])
