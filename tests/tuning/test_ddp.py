"""Two processes over gloo: the term's gradient is that of one process.

Run as a script, this file is one rank: it trains through the real Trainer and writes what it saw.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

if __name__ != "__main__":
    from tiny_llama import NEEDS

    pytest.importorskip("transformers", reason=NEEDS)
    pytest.importorskip("peft", reason=NEEDS)

WEIGHT = 10.0
N, DIM, ROWS = 5, 32, 16
WORLD = 2
# Accumulation steps, and whether the model's loss is averaged over the tokens of all ranks.
WAYS = [(1, True), (1, False), (2, True), (2, False)]


def initial() -> torch.Tensor:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(5))


def train(
    folder: Path, per_device: int, accumulation: int, average: bool, weight: float, hidden=False
):
    """Gradient of each step, the log of each step, and whether DDP wrapped the model."""
    from tiny_llama import make_tiny_model
    from transformers import TrainerCallback, TrainingArguments

    from tsloss_fast.tuning import TSLossTrainer, add_soft_prompt, hidden_states, prompt_clouds

    steps: list[torch.Tensor] = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            steps.append(next(p.grad for p in model.parameters() if p.requires_grad).clone())

    rows = torch.randint(4, 120, (ROWS, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": r, "attention_mask": torch.ones_like(r), "labels": r} for r in rows]
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        average_tokens_across_devices=average,
        max_steps=2,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
    )
    model = add_soft_prompt(make_tiny_model(), initial())
    trainer = TSLossTrainer(
        model=model,
        args=args,
        train_dataset=data,
        callbacks=[Keep()],
        ts_weight=weight,
        ts_clouds=hidden_states(slice(0, 2 * N)) if hidden else prompt_clouds,
    )
    trainer.train()
    wrapped = isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    return torch.stack(steps), trainer.state.log_history[:2], wrapped


def dtensor_gradient() -> torch.Tensor:
    """The rows of the term's gradient that this rank holds of a prompt sharded as FSDP2 does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from tsloss_fast import TSLoss
    from tsloss_fast.tuning import prompt_clouds

    embedding = torch.nn.Embedding(N, DIM)
    mesh = init_device_mesh("cpu", (WORLD,))
    embedding.weight = torch.nn.Parameter(distribute_tensor(initial(), mesh, [Shard(0)]))
    clouds = prompt_clouds(embedding)
    assert clouds.shape == (1, N, DIM)
    assert not hasattr(clouds, "full_tensor"), "the clouds are whole on every rank"
    (WEIGHT * TSLoss()(clouds)).backward()
    return embedding.weight.grad.to_local()


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    result: dict[str, object] = {}
    for accumulation, average in WAYS:
        per_device = 4 // accumulation
        for weight in (WEIGHT, 0.0):
            way = f"{accumulation}-{average}-{weight}"
            result[way] = train(folder / "out", per_device, accumulation, average, weight)
    result["hidden"] = train(folder / "out", 4, 1, True, WEIGHT, hidden=True)
    result["dtensor"] = dtensor_gradient()
    torch.save(result, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks(__file__, folder, WORLD, HF_HUB_OFFLINE="1")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def expected_gradient() -> torch.Tensor:
    from tsloss_fast import TSLoss

    points = initial().requires_grad_()
    (WEIGHT * TSLoss()(points)).backward()
    return points.grad


@pytest.mark.parametrize(("accumulation", "average"), WAYS)
def test_the_term_s_gradient_on_two_ranks_is_that_of_one_process(ranks, accumulation, average):
    for rank in ranks:
        with_term, _, wrapped = rank[f"{accumulation}-{average}-{WEIGHT}"]
        without, _, _ = rank[f"{accumulation}-{average}-0.0"]
        assert wrapped, "the model was not under DDP, so nothing was tested"
        difference = with_term[0] - without[0]
        torch.testing.assert_close(difference, expected_gradient(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_ranks_train_as_one_process_with_the_same_global_batch(ranks, accumulation, tmp_path):
    alone, expected, wrapped = train(tmp_path, 2 * 4 // accumulation, accumulation, True, WEIGHT)
    assert not wrapped
    assert alone.shape == (2, N, DIM)
    for rank in ranks:
        together, logged, _ = rank[f"{accumulation}-True-{WEIGHT}"]
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
        for name in ("loss", "tsloss/task_loss", "tsloss/total"):
            found = [entry[name] for entry in logged]
            assert found == pytest.approx([entry[name] for entry in expected], rel=1e-4), name


@pytest.mark.parametrize(("accumulation", "average"), WAYS)
def test_the_loss_of_two_ranks_is_that_of_the_task_plus_the_term(ranks, accumulation, average):
    for rank in ranks:
        _, logged, _ = rank[f"{accumulation}-{average}-{WEIGHT}"]
        assert len(logged) == 2
        for entry in logged:
            expected = entry["tsloss/task_loss"] + WEIGHT * entry["tsloss/total"]
            assert entry["loss"] == pytest.approx(expected, rel=2e-6)


def test_clouds_that_differ_between_ranks_train_and_are_logged_as_their_mean(ranks, tmp_path):
    alone, expected, _ = train(tmp_path, 8, 1, True, WEIGHT, hidden=True)
    without, _, _ = train(tmp_path, 8, 1, True, 0.0)
    assert (alone - without)[0].abs().max() > 1e-3
    for rank in ranks:
        together, logged, _ = rank["hidden"]
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
        for entry, other in zip(logged, expected, strict=True):
            total = entry["tsloss/total"]
            assert total == pytest.approx(other["tsloss/total"], rel=1e-4)
            assert entry["loss"] == pytest.approx(entry["tsloss/task_loss"] + WEIGHT * total)


def test_a_sharded_prompt_gets_its_rows_of_the_gradient(ranks):
    rows = torch.cat([rank["dtensor"] for rank in ranks])
    torch.testing.assert_close(rows, expected_gradient(), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
