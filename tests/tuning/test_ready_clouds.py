"""Clouds of LoRA matrices and of hidden states are the model's own numbers, with their gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft_models import N, make_peft, trainable
from tiny_llama import NEEDS, make_tiny_model
from torch import Tensor

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
from trained import WEIGHT, Gradients, arguments, sentences, soft_prompt
from transformers import LlamaConfig, LlamaForCausalLM

from tsloss_fast import TSLoss
from tsloss_fast.analysis import read_record
from tsloss_fast.tuning import (
    PromptTopologyCallback,
    TSLossTrainer,
    hidden_states,
    lora_clouds,
)

PROJECTIONS = ("q_proj", "down_proj")


def with_lora(rank: int = 4, name: str = "default", **settings: Any) -> Any:
    """Adapters on two layers of each of two blocks: inputs of 32 and 64, outputs of 32."""
    config = peft.LoraConfig(
        r=rank, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM", **settings
    )
    model = peft.get_peft_model(make_tiny_model(), config, adapter_name=name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def layers(model: Any) -> dict[str, list[Any]]:
    blocks = model.get_base_model().model.layers
    return {
        "q_proj": [block.self_attn.q_proj for block in blocks],
        "down_proj": [block.mlp.down_proj for block in blocks],
    }


def test_the_rows_of_a_and_the_columns_of_b_are_the_points() -> None:
    model = with_lora()
    queries, downs = layers(model).values()
    by_width = lora_clouds(model)
    assert [tuple(clouds.shape) for clouds in by_width] == [(2, 4, 32), (2, 4, 64)]
    for clouds, expected in zip(by_width, (queries, downs), strict=True):
        stacked = torch.stack([layer.lora_A["default"].weight for layer in expected])
        assert torch.equal(clouds, stacked)
    columns = lora_clouds(model, "B")
    in_order = [
        layer.lora_B["default"].weight.T
        for pair in zip(queries, downs, strict=True)
        for layer in pair
    ]
    assert torch.equal(columns, torch.stack(in_order))
    only = lora_clouds(model, modules=r"layers\.1\..*q_proj$")
    assert torch.equal(only[0], queries[1].lora_A["default"].weight)
    assert len(only) == 1


def test_the_gradient_of_the_clouds_reaches_the_matrices() -> None:
    model = with_lora()
    for matrix in "AB":
        clouds = lora_clouds(model, matrix, modules="down_proj")
        gradient = torch.randn(clouds.shape)
        clouds.backward(gradient)
        for layer, expected in zip(layers(model)["down_proj"], gradient, strict=True):
            weight = getattr(layer, f"lora_{matrix}")["default"].weight
            assert torch.equal(weight.grad, expected if matrix == "A" else expected.T)


def test_another_adapter_and_other_ranks_are_found_by_name() -> None:
    model = with_lora(rank_pattern={"down_proj": 6})
    assert [tuple(c.shape) for c in lora_clouds(model, "B")] == [(2, 4, 32), (2, 6, 32)]
    model.add_adapter("second", peft.LoraConfig(r=3, target_modules=["q_proj"]))
    assert lora_clouds(model, adapter="second").shape == (2, 3, 32)
    assert lora_clouds(model, modules="q_proj").shape == (2, 4, 32)
    model.set_adapter("second")
    assert lora_clouds(model).shape == (2, 3, 32)


def test_clouds_of_lora_are_trained_and_recorded(tmp_path: Path) -> None:
    model = with_lora()
    expected = torch.stack([TSLoss()(clouds) for clouds in lora_clouds(model)]).mean()
    trainer = TSLossTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate=0.01),
        train_dataset=sentences(),
        ts_clouds=lora_clouds,
        callbacks=[PromptTopologyCallback(clouds=lora_clouds)],
    )
    trainer.train()
    total = trainer.state.log_history[0]["tsloss/total"]
    assert total == pytest.approx(float(expected.detach()), rel=1e-5)
    assert len(read_record(tmp_path).clouds) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": "C"}, "expected 'A' or 'B', got 'C'"),
        ({"modules": "k_proj"}, "whose name contains 'k_proj' has a LoRA matrix A"),
        ({"adapter": "none"}, "matrix A of the adapter 'none'"),
    ],
)
def test_matrices_that_are_not_there_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_clouds(with_lora(), **options)
    with pytest.raises(ValueError, match="no module of PeftModelForCausalLM"):
        lora_clouds(soft_prompt())


def batch(rows: int = 3) -> dict[str, Tensor]:
    data = sentences(rows)
    return {name: torch.stack([row[name] for row in data]) for name in data[0]}


POSITIONS = [slice(0, N), slice(-3, None), [0, 2, 7, 11]]


@pytest.mark.parametrize("positions", POSITIONS, ids=["virtual", "last", "chosen"])
@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
def test_hidden_states_and_their_gradient_are_those_of_the_model(
    method: str, positions: Any
) -> None:
    if method != "prompt" and isinstance(positions, list):
        positions = positions[:-1]  # no virtual token stands before the text
    chosen = [0, 1, -1] if method == "prompt" else [1, -1]
    make = with_lora if method == "lora" else lambda: make_peft(method)

    plain = make().train()
    output = plain(**batch(), output_hidden_states=True)
    expected = torch.cat([output.hidden_states[layer][:, positions] for layer in chosen])
    (output.loss + TSLoss()(expected)).backward()

    model = make().train()
    clouds = hidden_states(positions, layers=chosen).attach(model)
    output = model(**batch())
    found = clouds(model)
    (output.loss + TSLoss()(found)).backward()
    assert torch.equal(found, expected)
    assert found.shape[:2] == (3 * len(chosen), expected.shape[1])
    for name, parameter in trainable(model).items():
        assert torch.equal(parameter.grad, trainable(plain)[name].grad), name
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("reentrant", [None, True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_trainer_trains_by_hidden_states_with_and_without_checkpointing(
    reentrant: bool | None, accumulation: int, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {}
    if reentrant is not None:
        changes["gradient_checkpointing"] = True
        changes["gradient_checkpointing_kwargs"] = {"use_reentrant": reentrant}
    changes |= {"max_steps": 1, "gradient_accumulation_steps": accumulation}
    kept, plain = Gradients(), Gradients()
    clouds = hidden_states(slice(0, N), layers=[1, -1])
    for callback, options in ((kept, {"ts_clouds": clouds}), (plain, {"ts_weight": 0})):
        trainer = TSLossTrainer(
            model=soft_prompt(),
            args=arguments(tmp_path, per_device_train_batch_size=16 // accumulation, **changes),
            train_dataset=sentences(),
            eval_dataset=sentences(4),
            callbacks=[callback],
            **options,
        )
        trainer.train()
        trainer.evaluate()  # leaves nothing for a later use
    with pytest.raises(RuntimeError, match="has not run with gradients since the last use"):
        clouds(trainer.model)

    model = soft_prompt().train()
    states = model(**batch(16), output_hidden_states=True).hidden_states
    total = TSLoss()(torch.cat([states[1][:, :N], states[-1][:, :N]]))
    (WEIGHT * total).backward()
    (parameter,) = trainable(model).values()
    difference = kept.steps[0] - plain.steps[0]
    torch.testing.assert_close(difference, parameter.grad, rtol=1e-3, atol=1e-5)


def test_states_of_an_earlier_or_a_failed_forward_are_never_used() -> None:
    model = soft_prompt().train()
    clouds = hidden_states(slice(0, N)).attach(model)
    stale = pytest.raises(RuntimeError, match="has not run with gradients since the last use")
    with stale:
        clouds(model)
    model(**batch())
    clouds(model)
    with stale:
        clouds(model)
    model(**batch())
    handle = model.get_base_model().model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**batch())
    handle.remove()
    with stale:
        clouds(model)
    with torch.no_grad():
        assert model(**batch()).hidden_states is None
    with stale:
        clouds(model)


def test_only_the_model_that_was_attached_last_is_watched() -> None:
    first, second = soft_prompt().train(), soft_prompt().train()
    clouds = hidden_states(slice(0, N)).attach(first).attach(first)
    assert len(first.get_base_model()._forward_hooks) == 1
    clouds.attach(second)
    assert not first.get_base_model()._forward_hooks
    assert not first.get_base_model()._forward_pre_hooks
    first(**batch())
    with pytest.raises(RuntimeError, match="has not run"):
        clouds(second)


def test_states_that_nothing_trains_are_refused() -> None:
    model = with_lora()
    clouds = hidden_states([0, 1, 2], layers=[0]).attach(model)
    model(**batch())
    with pytest.raises(RuntimeError, match=r"the layers \[0\] have no gradient"):
        clouds(model)


def test_a_model_without_peft_is_watched_too() -> None:
    sizes = {"vocab_size": 130, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes)).train()
    clouds = hidden_states([1, 4], layers=[2, 1]).attach(model)
    states = model(**batch()).hidden_states
    expected = torch.cat([states[2][:, [1, 4]], states[1][:, [1, 4]]])
    assert torch.equal(clouds(model), expected)
