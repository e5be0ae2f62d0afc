"""TSLoss under DeepSpeed ZeRO-3: the gradient is that of one process.

Run as a script, this file is one rank.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ != "__main__":
    pytest.importorskip("deepspeed", reason="needs deepspeed, which installs on Linux alone")

from prompted import WEIGHT, N, Prompted, data
from ranks import run_ranks

from tsloss_fast import TSLoss

# What the loss is given, the steps of accumulation, and whether in bfloat16.
WAYS = (("module", 1, False), ("prompt_clouds", 2, False), ("prompt_clouds", 1, True))


def gradient(model: Any, clouds: Any, accumulation: int, rows: Any) -> None:
    """Calls backward of the engine, or of one process."""
    x, y = rows
    loss = TSLoss()
    for k in range(accumulation):
        error = (model(x.chunk(accumulation)[k]) - y.chunk(accumulation)[k]).square().mean()
        total = error + WEIGHT * loss(clouds())
        model.backward(total) if hasattr(model, "backward") else (total / accumulation).backward()


def main(folder: str) -> None:
    import deepspeed

    # Else it compiles, for minutes, what only makes messages faster.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
    deepspeed.init_distributed(dist_backend="gloo")
    for number, way in enumerate(WAYS):
        torch.save(routed(*way), Path(folder, f"{number}-{torch.distributed.get_rank()}.pt"))
    torch.distributed.destroy_process_group()


def routed(given: str, accumulation: int, half: bool) -> Any:
    """The gradient of the prompt, whole."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    from tsloss_fast.tuning import prompt_clouds

    model = Prompted(checkpoint=True)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD([model.prompt.weight], lr=0.1),
        config={
            "train_micro_batch_size_per_gpu": 4 // accumulation,
            "gradient_accumulation_steps": accumulation,
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": half},
            "zero_allow_untested_optimizer": True,
        },
    )
    prompt = engine.module.prompt
    assert prompt.weight.numel() == 0, "ZeRO-3 has not partitioned the prompt"
    with pytest.raises(ValueError, match="partitioned by DeepSpeed"):
        TSLoss()(prompt.weight)

    def clouds() -> Any:
        if given == "module":
            return prompt(torch.arange(N)).float()
        return prompt_clouds(prompt)

    rank = torch.distributed.get_rank()
    gradient(engine, clouds, accumulation, [part.chunk(2)[rank] for part in data()])
    return safe_get_full_grad(prompt.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks saved."""
    folder = tmp_path_factory.mktemp("zero3")
    run_ranks(__file__, folder, DS_ACCELERATOR="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(WAYS)), ids=["module", "accumulation", "bfloat16"])
def test_the_gradient_is_that_of_one_process(folder: Path, number: int) -> None:
    model = Prompted()
    gradient(model, lambda: model.prompt.weight, 1, data())
    expected = model.prompt.weight.grad
    half = WAYS[number][2]
    tolerance: dict[str, float] = dict(rtol=3e-2, atol=3e-2) if half else dict(rtol=1e-5, atol=1e-6)
    for rank in range(2):
        found = torch.load(folder / f"{number}-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found.float(), expected, **tolerance)


if __name__ == "__main__":
    main(sys.argv[1])
