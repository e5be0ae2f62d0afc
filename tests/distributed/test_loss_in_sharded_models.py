"""TSLoss under DDP and FSDP2: the gradient is that of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from processes import Processes
from prompted import WEIGHT, Prompted, data
from torch import nn

from tsloss_fast import TSLoss


def gradient(
    rank: int, size: int, wrap: str, accumulation: int, checkpoint: bool, half: bool
) -> torch.Tensor:
    """The whole gradient of the prompt after one step; this rank sees its part of the rows."""
    model: Any = Prompted(checkpoint)
    trained = model.prompt
    precision = torch.autocast("cpu", torch.bfloat16, enabled=half)
    if wrap == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    elif wrap == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh("cpu", (size,))
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16) if half else MixedPrecisionPolicy()
        )
        fully_shard(model.prompt, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        precision = torch.autocast("cpu", enabled=False)
    loss = TSLoss()
    x, y = (part.chunk(size)[rank].chunk(accumulation) for part in data())
    for k in range(accumulation):
        last = k == accumulation - 1
        if wrap == "fsdp":
            model.set_requires_gradient_sync(last)
        with model.no_sync() if wrap == "ddp" and not last else torch.enable_grad():
            with precision:
                error = (model(x[k]) - y[k]).square().mean()
            term = loss(trained.weight)
            ((error + WEIGHT * term) / accumulation).backward()
    found = trained.weight.grad
    assert (type(found).__name__ == "DTensor") == (wrap == "fsdp")
    return found.full_tensor() if wrap == "fsdp" else found


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_gradient_is_that_of_one_process(
    pair: Processes, wrap: str, accumulation: int, checkpoint: bool, half: bool
) -> None:
    alone = gradient(0, 1, "none", 1, False, half)
    # Without the term it is another gradient: what is compared is there.
    assert not torch.allclose(alone, gradient_without_term(), rtol=0.1)
    tolerance: dict[str, float] = dict(rtol=2e-2, atol=2e-2) if half else dict(rtol=1e-5, atol=1e-6)
    results = pair.run(gradient, pair.size, wrap, accumulation, checkpoint, half)
    for found in results:
        torch.testing.assert_close(found, alone, **tolerance)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def gradient_without_term() -> torch.Tensor:
    model = Prompted()
    x, y = data()
    (model(x) - y).square().mean().backward()
    assert model.prompt.weight.grad is not None
    return model.prompt.weight.grad


# ---- checkpoints ----


def make_state(size: int) -> tuple[Any, Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Prompted()
    fully_shard(model.prompt, mesh=init_device_mesh("cpu", (size,)))
    loss = TSLoss(compactness=0.5)
    optimizer = torch.optim.AdamW([model.prompt.weight], lr=0.05)
    return model, loss, optimizer


def train(model: Any, loss: Any, optimizer: Any, steps: int) -> None:
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        # All ranks see the same rows, so that the number of ranks changes nothing.
        ((model(x) - y).square().mean() + WEIGHT * loss(model.prompt.weight)).backward()
        optimizer.step()


def states(model: Any, loss: Any, optimizer: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    parameters, of_optimizer = get_state_dict(model, optimizer)
    return {"model": parameters, "optimizer": of_optimizer, "loss": loss.state_dict()}


def save_run(rank: int, size: int, folder: str) -> torch.Tensor:
    import torch.distributed.checkpoint as dcp

    run = make_state(size)
    train(*run, 3)
    dcp.save(states(*run), checkpoint_id=folder)
    train(*run, 3)
    return run[0].prompt.weight.detach().full_tensor()


def resume_run(rank: int, size: int, folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_state_dict

    model, loss, optimizer = make_state(size)
    found = states(model, loss, optimizer)
    dcp.load(found, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"]
    )
    loss.load_state_dict(found["loss"])
    reference = loss.m_ref.clone()
    train(model, loss, optimizer, 3)
    return model.prompt.weight.detach().full_tensor(), reference


def test_a_run_saved_on_two_ranks_resumes_on_one_and_on_four(
    processes_of: Callable[[int], Processes], tmp_path: Any
) -> None:
    whole = processes_of(2).run(save_run, 2, str(tmp_path))
    for size in (1, 2, 4):
        for found, reference in processes_of(size).run(resume_run, size, str(tmp_path)):
            torch.testing.assert_close(found, whole[0], rtol=1e-5, atol=1e-6)
            assert reference.isfinite(), "the reference of compactness is part of the state"
