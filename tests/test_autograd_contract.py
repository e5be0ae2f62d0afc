"""Inside PyTorch: autograd, torch.func, checkpointing, autocast, modules and operators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from clouds import crowded, gaussian
from oracles import METRICS, same_bits
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tsloss_fast import TSLoss, h0_persistence, h0_persistence_from_distances

FORMS: dict[str, Callable[[], TSLoss]] = {
    "exact": lambda: TSLoss(compactness=0.3, reference=1.0),
    "surrogate": lambda: TSLoss(form="surrogate"),
    "total": lambda: TSLoss(form="total", p=2.0),
}
every_metric = pytest.mark.parametrize("metric", METRICS)
every_form = pytest.mark.parametrize("form", FORMS)


def batch(count: int = 4, n: int = 7, d: int = 3, dtype: type = np.float64) -> Tensor:
    return torch.from_numpy(np.stack([crowded(n, d, s).astype(dtype) for s in range(count)]))


def energy(x: Tensor, metric: str = "euclidean") -> Tensor:
    return h0_persistence(x, metric).deaths.square().sum()


def distances(x: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - x.unsqueeze(-3)).abs().sum(-1)


@every_metric
def test_func_grad_vmap_and_jacrev_agree_with_autograd(metric: str) -> None:
    x = batch()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(leaf, metric), leaf)
    one = torch.func.grad(lambda c: energy(c, metric))
    torch.testing.assert_close(torch.func.grad(lambda c: energy(c, metric))(x), expected)
    torch.testing.assert_close(torch.func.vmap(one)(x), expected)
    torch.testing.assert_close(torch.stack([one(c) for c in x]), expected)

    def deaths(c: Tensor) -> Tensor:
        return h0_persistence(c, metric).deaths

    jacobian = torch.func.jacrev(deaths)(x[0])
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(deaths, x[0]))
    torch.testing.assert_close(torch.func.jacfwd(deaths)(x[0]), jacobian)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(deaths))(x)[0], jacobian)


@every_metric
def test_func_second_derivatives_agree_with_autograd(metric: str) -> None:
    x = batch()[0]
    expected = torch.autograd.functional.hessian(lambda c: energy(c, metric), x)
    hessian = torch.func.jacrev(torch.func.grad(lambda c: energy(c, metric)))(x)
    torch.testing.assert_close(hessian, expected)
    torch.testing.assert_close(torch.func.hessian(lambda c: energy(c, metric))(x), expected)


@every_metric
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_vmap_over_any_dimension_is_a_batch(dim: int, metric: str) -> None:
    x = batch()
    expected = h0_persistence(x, metric)
    moved = x.movedim(0, dim)
    got = torch.func.vmap(lambda c: h0_persistence(c, metric), in_dims=dim)(moved)
    assert same_bits(got, expected)
    nested = torch.func.vmap(torch.func.vmap(lambda c: h0_persistence(c, metric)))
    assert same_bits([t[0] for t in nested(x.unsqueeze(0))], expected)


def test_vmap_takes_lengths_of_each_cloud_or_for_all() -> None:
    x = batch()
    lengths = torch.tensor([7, 5, 1, 0])
    expected = h0_persistence(x, lengths=lengths)
    got = torch.func.vmap(lambda c, n: h0_persistence(c, lengths=n))(x, lengths)
    assert same_bits(got, expected)
    grid = batch(6).reshape(2, 3, 7, 3)
    shared = torch.func.vmap(lambda c: h0_persistence(c, lengths=torch.tensor([7, 4, 2])))(grid)
    assert same_bits(shared, h0_persistence(grid, lengths=torch.tensor([[7, 4, 2]] * 2)))
    other = torch.func.vmap(lambda n: h0_persistence(x[0], lengths=n))(torch.tensor([7, 3]))
    both = h0_persistence(x[:1].expand(2, 7, 3), lengths=torch.tensor([7, 3]))
    assert same_bits(other, both)


def test_distance_matrices_work_under_the_same_transforms() -> None:
    d = distances(batch())
    expected = h0_persistence_from_distances(d)
    assert same_bits(torch.func.vmap(h0_persistence_from_distances)(d), expected)

    def squares(m: Tensor) -> Tensor:
        return h0_persistence_from_distances(m).deaths.square().sum()

    leaf = d.clone().requires_grad_()
    (grad,) = torch.autograd.grad(squares(leaf), leaf)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(squares))(d), grad)


@every_form
def test_the_loss_works_under_func_and_functional_call(form: str) -> None:
    loss, x = FORMS[form](), batch()
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(x), leaf.grad)
    each = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(each / len(x), leaf.grad)
    called = torch.func.functional_call(loss, dict(loss.named_buffers()), (x,))
    torch.testing.assert_close(called, loss(x))


@every_metric
def test_checkpointing_gives_the_same_gradient(metric: str) -> None:
    grads = []
    for use_reentrant in (None, False, True):
        x = batch().requires_grad_()
        run = lambda c: energy(2 * c, metric)  # noqa: E731
        value = run(x) if use_reentrant is None else checkpoint(run, x, use_reentrant=use_reentrant)
        value.backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


@every_metric
def test_autocast_changes_neither_type_nor_bits(metric: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = batch(n=30).to(dtype).requires_grad_()
        expected = h0_persistence(x, metric)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h0 = h0_persistence(x, metric)
            product = x.detach()[0] @ x.detach()[0].T
            lowered = h0_persistence(product, metric)
        assert same_bits(h0, expected)
        (a,) = torch.autograd.grad(expected.deaths.sum(), x)
        (b,) = torch.autograd.grad(h0.deaths.sum(), x)
        assert b.dtype == dtype
        assert torch.equal(a, b)
        assert same_bits(lowered, h0_persistence(product, metric))


@every_form
def test_the_loss_under_autocast_is_the_loss(form: str) -> None:
    x = batch(n=30).float()
    loss = FORMS[form]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x)
    torch.testing.assert_close(inside, loss(x), rtol=1e-6, atol=0)


def test_edges_have_no_gradient_and_deaths_may_go_unused() -> None:
    x = batch().requires_grad_()
    h0 = h0_persistence(x)
    assert not h0.edges.requires_grad
    assert h0.deaths.requires_grad
    ends = torch.gather(x, 1, h0.edges[..., 0, None].expand(-1, -1, 3))
    (grad,) = torch.autograd.grad(ends.sum(), x)  # the edges alone: a constant selection
    counts = torch.zeros(4, 7, dtype=x.dtype).scatter_add(
        1, h0.edges[..., 0], torch.ones(4, 6, dtype=x.dtype)
    )
    assert torch.equal(grad, counts.unsqueeze(-1).expand(4, 7, 3))
    (unused,) = torch.autograd.grad(x.sum() + 0 * h0.edges.sum(), x)
    assert torch.equal(unused, torch.ones_like(x))


def test_without_gradient_mode_nothing_is_recorded_and_the_bits_are_the_same() -> None:
    x = batch().requires_grad_()
    expected = h0_persistence(x)
    with torch.no_grad():
        quiet = h0_persistence(x)
    with torch.inference_mode():
        inference = h0_persistence(x)
    assert not quiet.deaths.requires_grad
    assert not inference.deaths.requires_grad
    assert same_bits(quiet, expected)
    assert same_bits(inference, expected)
    assert not h0_persistence(x.detach()).deaths.requires_grad


def test_a_graph_is_freed_by_backward_and_kept_on_request() -> None:
    x = batch().requires_grad_()
    value = energy(x)
    value.backward(retain_graph=True)
    first = x.grad.clone()
    value.backward()
    assert torch.equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


def test_points_changed_before_backward_are_noticed_or_remembered() -> None:
    x = batch().requires_grad_()
    (expected,) = torch.autograd.grad(energy(x), x)
    held = x * 1
    value = energy(held)
    with torch.no_grad():
        held.mul_(-3)
    try:
        (got,) = torch.autograd.grad(value, x)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(got, expected)


def test_edges_changed_behind_autograds_back_never_reach_foreign_memory() -> None:
    # `numpy()` shares the memory and tells autograd nothing: one-based indices, for example.
    code = (
        "import torch, tsloss_fast\n"
        "for offset in (1, 10**7, -10**7, 2**40):\n"
        "    x = torch.randn(20, 3, requires_grad=True)\n"
        "    h0 = tsloss_fast.h0_persistence(x)\n"
        "    h0.edges.numpy()[...] += offset\n"
        "    try:\n"
        "        h0.deaths.sum().backward()\n"
        "    except (ValueError, IndexError, RuntimeError) as error:\n"
        "        print(error)\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"the process died: {done.returncode}"
    assert done.stdout.endswith("alive\n")


def test_deaths_may_be_changed_in_place_without_harm_to_the_gradient() -> None:
    x = batch().requires_grad_()
    (expected,) = torch.autograd.grad((3 * h0_persistence(x).deaths).sum(), x)
    deaths = h0_persistence(x).deaths
    try:
        deaths.mul_(3)
        (got,) = torch.autograd.grad(deaths.sum(), x)
    except RuntimeError as error:
        assert "inplace" in str(error) or "in-place" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(got, expected)


@every_metric
def test_second_gradients_flow_also_to_the_upstream_gradient(metric: str) -> None:
    x = batch().requires_grad_()
    v = torch.linspace(1, 2, 24, dtype=x.dtype).reshape(4, 6).requires_grad_()
    deaths = h0_persistence(x, metric).deaths
    (grad,) = torch.autograd.grad(deaths, x, v, create_graph=True)
    direction = torch.from_numpy(np.stack([gaussian(7, 3, s, np.float64) for s in range(4)]))
    (at_v,) = torch.autograd.grad((grad * direction).sum(), v, retain_graph=True)
    _, tangent = torch.func.jvp(
        lambda c: h0_persistence(c, metric).deaths, (x.detach(),), (direction,)
    )
    torch.testing.assert_close(at_v, tangent)


def test_infinite_deaths_have_the_same_gradient_under_torch_func() -> None:
    inf = float("inf")
    graph = torch.tensor([[0, 1, inf], [1, 0, inf], [inf, inf, 0]])
    far = torch.tensor([[1e30], [0.0], [2.5e20]])
    for x, deaths in (
        (graph, lambda d: h0_persistence_from_distances(d, check_finite=False).deaths),
        (far, lambda p: h0_persistence(p, "sqeuclidean", check_finite=False).deaths),
    ):
        leaf = x.clone().requires_grad_()
        assert deaths(leaf).isinf().any()
        (expected,) = torch.autograd.grad(deaths(leaf).sum(), leaf)
        assert expected.any()
        assert torch.equal(torch.func.grad(lambda x: deaths(x).sum())(x), expected)  # noqa: B023


def test_batched_gradients_of_the_loss_carry_no_graph() -> None:
    x = batch()[0].requires_grad_()
    (grads,) = torch.autograd.grad(TSLoss()(x), x, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    (expected,) = torch.autograd.grad(TSLoss()(x), x)
    torch.testing.assert_close(grads, torch.stack([expected, 2 * expected]))
    assert not grads.requires_grad


def test_threads_of_python_do_not_disturb_each_other() -> None:
    clouds = [torch.from_numpy(gaussian(50 + k, 9, k)) for k in range(16)]

    def work(cloud: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        leaf = cloud.clone().requires_grad_()
        h0 = h0_persistence(leaf)
        h0.deaths.sum().backward()
        return h0.deaths.detach(), h0.edges, leaf.grad

    expected = [work(cloud) for cloud in clouds]
    with ThreadPoolExecutor(8) as pool:
        for got, right in zip(pool.map(work, clouds * 8), expected * 8, strict=True):
            assert same_bits(got, right)
