"""Functionals of jagged tensors and of arrays, under other default devices and under transforms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from clouds import gaussian
from oracles import Array
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tsloss_fast import barcode, h0_persistence

Function = Callable[..., Tensor]
OTHER = [0.4, 1.0, 2.5]
SCALES = [0.0, 0.9, 3.0]
SIZES = (6, 1, 4, 2)


def like(x: Tensor | Array, constant: list[float]) -> Tensor | Array:
    """Return the constant as a tensor if x is one, else as an array, and of the type of x."""
    if isinstance(x, np.ndarray):
        return np.array(constant, dtype=x.dtype)
    return torch.tensor(constant, dtype=x.dtype, device="cpu")


# Every public function with all arguments fixed but the deaths and their lengths.
FUNCTIONS: dict[str, Function] = {
    "total persistence": lambda d, n=None: barcode.total_persistence(d, 1.5, n),
    "total deviation": lambda d, n=None: barcode.total_deviation(d, 1.0, n),
    "mean death": barcode.mean_death,
    "variance": barcode.variance,
    "relative variance": barcode.relative_variance,
    "coefficient of variation": barcode.coefficient_of_variation,
    "redundancy": lambda d, n=None: barcode.redundancy(d, 0.9, n),
    "scale-free terms": lambda d, n=None: barcode.scale_free_terms(d, 0.9, n)[1],
    "entropy": barcode.persistent_entropy,
    "entropy, normalized": lambda d, n=None: barcode.persistent_entropy(d, n, normalize=True),
    "Betti curve": lambda d, n=None: barcode.betti_curve(d, like(d, SCALES), n),
    "smooth Betti curve": lambda d, n=None: barcode.betti_curve(d, like(d, SCALES), n, 0.3),
    "smooth number of components": lambda d, n=None: barcode.num_components(d, 0.9, n, 0.3),
    "bottleneck": lambda d, n=None: barcode.bottleneck_distance(d, like(d, OTHER), n),
    "1-Wasserstein": lambda d, n=None: barcode.wasserstein_distance(d, like(d, OTHER), lengths_a=n),
    "2-Wasserstein": lambda d, n=None: barcode.wasserstein_distance(
        like(d, OTHER), d, 2.0, lengths_b=n
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def deaths(*batch: int) -> Tensor:
    r = np.random.default_rng(3)
    return torch.from_numpy(np.sort(0.2 + r.gamma(1.5, 1.0, (*batch, 5)), axis=-1))


def jagged(clouds: Sequence[Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        return torch.nested.as_nested_tensor(list(clouds), layout=torch.jagged)


def clouds() -> list[Tensor]:
    return [torch.from_numpy(gaussian(n, 3, n, np.float64)).requires_grad_() for n in SIZES]


@every_function
def test_a_function_of_jagged_deaths_is_that_of_the_padded_ones(name: str) -> None:
    function, leaves = FUNCTIONS[name], clouds()
    lengths = torch.tensor(SIZES)
    padded = torch.nn.utils.rnn.pad_sequence(leaves, batch_first=True)
    got = function(h0_persistence(jagged(leaves)).deaths)
    expected = function(h0_persistence(padded, lengths=lengths).deaths, lengths)
    assert got.layout is torch.strided
    assert torch.equal(got, expected)
    if got.dtype.is_floating_point:
        weights = torch.linspace(1, 2, got.numel(), dtype=got.dtype).reshape(got.shape)
        by_jagged = torch.autograd.grad((weights * got).sum(), leaves)
        by_padded = torch.autograd.grad((weights * expected).sum(), leaves)
        assert all(map(torch.equal, by_jagged, by_padded))


@pytest.mark.parametrize("distance", [barcode.bottleneck_distance, barcode.wasserstein_distance])
def test_a_distance_takes_jagged_deaths_on_either_side_and_on_both(distance: Function) -> None:
    rows = [deaths()[:k] for k in (5, 0, 3)]
    others = [2 * deaths()[:k] for k in (1, 2, 4)]
    expected = torch.stack([distance(a, b) for a, b in zip(rows, others, strict=True)])
    padded = torch.nn.utils.rnn.pad_sequence(others, batch_first=True)
    torch.testing.assert_close(distance(jagged(rows), jagged(others)), expected)
    torch.testing.assert_close(distance(jagged(rows), padded, lengths_b=[2, 3, 5]), expected)
    torch.testing.assert_close(distance(padded, jagged(rows), lengths_a=[2, 3, 5]), expected)


@every_function
def test_jagged_deaths_without_bars_are_those_of_single_points(name: str) -> None:
    function = FUNCTIONS[name]
    expected = function(torch.zeros(2, 0, dtype=torch.float64))
    assert torch.equal(function(jagged([deaths()[:0]] * 2)), expected)


@every_function
def test_numpy_in_gives_numpy_out_with_the_bits_of_tensors(name: str) -> None:
    function = FUNCTIONS[name]
    d = deaths(3).numpy()
    read_only = d.copy()
    read_only.flags.writeable = False
    arrays = [d, d[0], d[:, ::-1], d[:, :0], d[:0], read_only, d.T.copy().T]
    arrays += [d.astype(kind) for kind in (">f8", np.float32, np.float16, ">f2")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in arrays:
            native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
            got = function(array)
            expected = function(torch.from_numpy(native)).numpy()
            assert type(got) is np.ndarray
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
        for lengths in ([6, 3, 0], np.array([6, 3, 0]), np.array([6, 3, 0], np.uint16)):
            expected = function(torch.from_numpy(d), torch.tensor([6, 3, 0])).numpy()
            np.testing.assert_array_equal(function(d, lengths), expected)


def test_scales_may_be_arrays_of_any_layout() -> None:
    d = deaths(2)
    expected = barcode.betti_curve(d, torch.tensor([0.0, 1.0, 2.0]))
    for scales in ([0, 1, 2], np.array([2, 1, 0], ">i2")[::-1], np.arange(3, dtype=np.longdouble)):
        assert torch.equal(barcode.betti_curve(d, scales), expected)
        np.testing.assert_array_equal(barcode.betti_curve(d.numpy(), scales), expected.numpy())
    for scale in (1, np.float32(1), np.array(1.0), np.array([1.0]), torch.tensor(1)):
        assert torch.equal(barcode.num_components(d, scale), expected[:, 1])


@every_function
def test_the_default_device_does_not_matter(name: str) -> None:
    function, d, lengths = FUNCTIONS[name], deaths(3), torch.tensor([6, 3, 0])
    nested = jagged([deaths(), deaths()[:2]])
    for arguments in ((d,), (d, lengths), (nested,), (d.numpy(),)):
        expected = function(*arguments)
        with torch.device("meta"):
            got = function(*arguments)
        if isinstance(got, Tensor):
            assert got.device.type == "cpu"
        np.testing.assert_allclose(got, expected, rtol=1e-15)


def smooth_functions(d: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Every function that has a derivative, (..., F)."""
    found = [FUNCTIONS[name](d, lengths) for name in FUNCTIONS if name != "Betti curve"]
    return torch.cat([y if y.dim() == d.dim() else y.unsqueeze(-1) for y in found], dim=-1)


def their_sum(d: Tensor, lengths: Tensor | None = None) -> Tensor:
    return smooth_functions(d, lengths).sum()


def jacobian(f: Function, *arguments: Tensor) -> Tensor:
    """The Jacobian with respect to the deaths, row by row and by backward."""
    d, *lengths = arguments
    return torch.autograd.functional.jacobian(lambda x: f(x, *lengths), d)


def fake(d: Tensor, *lengths: Tensor) -> None:
    with FakeTensorMode() as mode:
        x, *n = (mode.from_tensor(t) for t in (d, *lengths))
        result = smooth_functions(x.requires_grad_(), *n)
        (gradient,) = torch.autograd.grad(result.sum(), x)
    assert result.shape == smooth_functions(d, *lengths).shape
    assert gradient.shape == d.shape


def traced(mode: str, *arguments: Tensor) -> None:
    graph = make_fx(lambda *t: smooth_functions(*t), tracing_mode=mode)(*arguments)
    d, *lengths = arguments
    close(graph(2 * d, *lengths), smooth_functions(2 * d, *lengths))
    close(jacobian(graph, 2 * d, *lengths), jacobian(smooth_functions, 2 * d, *lengths))


def scripted(d: Tensor) -> None:
    graph = torch.jit.trace(smooth_functions, d)
    close(graph(2 * d), smooth_functions(2 * d))
    close(jacobian(graph, 2 * d), jacobian(smooth_functions, 2 * d))


def exported(d: Tensor) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return smooth_functions(x)

    module = torch.export.export(Module(), (d,)).module()
    close(module(2 * d), smooth_functions(2 * d))
    close(jacobian(module, 2 * d), jacobian(smooth_functions, 2 * d))


close = torch.testing.assert_close
autograd = torch.autograd.functional
TRANSFORMS: dict[str, Callable[[Tensor, Tensor], None]] = {
    "batched gradients": lambda d, n: close(
        autograd.jacobian(smooth_functions, d, vectorize=True), jacobian(smooth_functions, d)
    ),
    "dual numbers": lambda d, n: close(
        autograd.jacobian(smooth_functions, d, vectorize=True, strategy="forward-mode"),
        jacobian(smooth_functions, d),
    ),
    "jacfwd with lengths": lambda d, n: close(
        torch.func.jacfwd(smooth_functions)(d, n), jacobian(smooth_functions, d, n)
    ),
    "jacrev": lambda d, n: close(
        torch.func.jacrev(smooth_functions)(d), jacobian(smooth_functions, d)
    ),
    "linearize": lambda d, n: close(
        torch.func.linearize(smooth_functions, d)[1](d),
        torch.tensordot(jacobian(smooth_functions, d), d, 2),
    ),
    "hessian": lambda d, n: close(torch.func.hessian(their_sum)(d), autograd.hessian(their_sum, d)),
    "vmap with lengths": lambda d, n: close(
        torch.vmap(smooth_functions)(d, n), smooth_functions(d, n)
    ),
    "vmap of grad": lambda d, n: close(
        torch.vmap(torch.func.grad(their_sum))(d), jacobian(their_sum, d)
    ),
    "fake tensors": lambda d, n: fake(d),
    "make_fx": lambda d, n: traced("real", d),
    "make_fx with symbolic sizes": lambda d, n: traced("symbolic", d),
    "torch.jit.trace": lambda d, n: scripted(d),
    "torch.export": lambda d, n: exported(d),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_and_derivatives_under_a_transform_are_those_without(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a batching rule of torch is slow
        TRANSFORMS[name](deaths(3), torch.tensor([6, 3, 1]))


def test_values_and_derivatives_compile_in_one_graph() -> None:
    def all_of_them(d: Tensor) -> list[Tensor]:
        gradient = torch.func.grad(their_sum)
        return [
            smooth_functions(d),
            torch.func.jvp(smooth_functions, (d,), (d,))[1],
            torch.func.jvp(gradient, (d,), (d,))[1],
            torch.vmap(gradient)(torch.stack([d, 2 * d])),
        ]

    torch._dynamo.reset()
    compiled = torch.compile(all_of_them, backend="eager", fullgraph=True)
    close(compiled(deaths()), all_of_them(deaths()))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "mode", [fake, lambda *t: traced("real", *t), lambda *t: traced("symbolic", *t)]
)
def test_lengths_are_not_looked_at_where_they_have_no_values(mode: Callable[..., None]) -> None:
    mode(deaths(3), torch.tensor([6, 3, 1]))
