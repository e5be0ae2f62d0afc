"""Two processes that share the rows of a prompt: all gather it at the same steps, one records it.

Run as a script, this file is one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks

if __name__ != "__main__":
    from tiny_llama import NEEDS

    pytest.importorskip("transformers", reason=NEEDS)
    pytest.importorskip("peft", reason=NEEDS)
    pytest.importorskip("pyarrow", reason=NEEDS)

STEPS, EVERY = 7, 3


def initial() -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(5))


def main(folder: str) -> None:
    """What a Trainer calls, with a prompt that is a `DTensor` as FSDP2 makes it."""
    from tiny_llama import make_tiny_model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import TrainerControl, TrainerState

    from tsloss_fast.tuning import PromptTopologyCallback, add_soft_prompt

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    model = add_soft_prompt(make_tiny_model(), initial())
    prompt = model.prompt_encoder[model.active_adapter]
    fully_shard(prompt, mesh=mesh)
    state = TrainerState(max_steps=STEPS, is_world_process_zero=rank == 0)
    args = SimpleNamespace(output_dir=folder, report_to=[])
    control = TrainerControl()
    rows = PromptTopologyCallback(
        Path(folder, "rows.arrows"), clouds=lambda m: prompt.embedding.weight, every=EVERY
    )
    callbacks = [PromptTopologyCallback(every=EVERY), rows]
    for callback in callbacks:
        callback.on_train_begin(args, state, control, model=model)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            prompt.embedding.weight.mul_(1.5)
        state.global_step = step
        for callback in callbacks:
            callback.on_step_end(args, state, control, model=model)
    for callback in callbacks:
        callback.on_train_end(args, state, control, model=model)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_sharded_prompt_is_gathered_by_all_and_recorded_by_one(tmp_path: Path) -> None:
    from tsloss_fast.analysis import read_record

    run_ranks(__file__, tmp_path)
    for name in ("topology.arrows", "rows.arrows"):
        record = read_record(tmp_path / name)
        assert record.steps().tolist() == [0, 3, 6, 7]
        expected = initial().double() * 1.5**STEPS
        torch.testing.assert_close(
            torch.from_numpy(record.row(7)["points"]), expected, rtol=1e-5, atol=0
        )
    assert read_record(tmp_path).cloud_name(0) == "prompt"


if __name__ == "__main__":
    main(sys.argv[1])
