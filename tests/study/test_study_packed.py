"""Packing several prompts and items into one forward pass changes no loss and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llama import UNEVEN_ITEMS, VOCABULARY
from tsloss_fast.benchmarks.study import packed
from tsloss_fast.benchmarks.study.packed import (
    check_packing,
    initial_adapter,
    packed_answers,
    plain_losses,
)

from tsloss_fast.tuning import add_soft_prompt, initial_prompt, prompt_clouds
from tsloss_fast.tuning.answers import EncodedItem, answer_logits, encode_items
from tsloss_fast.tuning.tasks import Item


@pytest.fixture
def items(tiny: Any) -> list[EncodedItem]:
    return encode_items([Item(*pair) for pair in UNEVEN_ITEMS], tiny[1])


@pytest.fixture
def prompts(tiny: Any) -> torch.Tensor:
    return torch.stack([initial_prompt(*tiny, 6, seed=seed) for seed in range(3)]).requires_grad_()


def test_each_prompts_losses_and_gradient_are_those_of_peft(
    tiny: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    found = packed_answers(tiny[0], prompts, items)
    losses = found.token_losses()
    (gradients,) = torch.autograd.grad(losses.mean(1).sum(), prompts)
    assert found.targets.tolist() == [token for item in items for token in item.answer]
    for loss, gradient, prompt in zip(losses, gradients, prompts, strict=True):
        wrapped = add_soft_prompt(tiny[0], prompt.detach())
        parameter = next(p for p in wrapped.parameters() if p.requires_grad)
        expected = answer_logits(wrapped, items).cross_entropy()
        (slope,) = torch.autograd.grad(expected, parameter)
        torch.testing.assert_close(loss.mean().detach(), expected.detach())
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)
        for row, item in enumerate(items):
            alone = plain_losses(tiny[0], prompt, item)
            torch.testing.assert_close(loss[found.owner == row], alone)


def test_prefixes_are_those_of_peft(
    tiny: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    prefixes = torch.stack([initial_adapter(tiny[0], p, "prefix") for p in prompts])
    prefixes = (prefixes + 0.1 * torch.arange(3).view(3, 1, 1, 1)).requires_grad_()
    losses = packed_answers(tiny[0], prefixes, items).token_losses().mean(1)
    (gradients,) = torch.autograd.grad(losses.sum(), prefixes)
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=6)
    wrapped = get_peft_model(tiny[0], config).eval()
    parameter = wrapped.prompt_encoder["default"].embedding.weight
    # peft puts keys and values side by side; `prompt_clouds` says where.
    parameter.data = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter)
    order = prompt_clouds(wrapped).detach().long()
    keys_first = torch.cat([order[0::2], order[1::2]])
    assert keys_first.shape == prefixes[0].shape == (4, 6, 16)
    for prefix, loss, gradient in zip(prefixes, losses, gradients, strict=True):
        flat = torch.empty(parameter.numel())
        flat[keys_first.flatten()] = prefix.detach().flatten()
        parameter.data = flat.view_as(parameter)
        # One item at a time: nothing is padded, so no position can be wrong.
        sums = [answer_logits(wrapped, [i]).cross_entropy() * len(i.answer) for i in items]
        expected = sum(sums) / sum(len(item.answer) for item in items)
        torch.testing.assert_close(loss.detach(), expected.detach())
        slope = torch.autograd.grad(expected, parameter)[0].flatten()[keys_first]
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


def other_models() -> list[Any]:
    """Learned positions, and rotary ones with shared heads: two layers of each."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    common = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 4, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    grouped = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = (
            GPT2LMHeadModel(GPT2Config(**common)),
            Qwen2ForCausalLM(Qwen2Config(**common | grouped)),
        )
        return [model.eval() for model in models]


def test_models_that_can_be_packed_are_told_from_those_that_cannot(
    tiny: Any, items: list[EncodedItem]
) -> None:
    for model in other_models():
        prompt = initial_prompt(model, tiny[1], 6)
        check_packing(model, prompt, items, "prompt")
        original = model.forward

        def shifted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            # A model that makes its positions itself.
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = torch.arange(kwargs["inputs_embeds"].shape[1])[None]
            return original(*args, **kwargs)

        model.forward = shifted
        with pytest.raises(ValueError, match="cannot be run packed, with an error of"):
            check_packing(model, prompt, items, "prompt")


def test_a_recurrent_model_and_prefixes_read_wrongly_are_refused(
    tiny: Any, items: list[EncodedItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).eval()
    with pytest.raises(ValueError, match="MambaForCausalLM cannot be run packed"):
        check_packing(model, initial_prompt(model, tiny[1], 6), items, "prompt")
    prompt = initial_prompt(*tiny, 6)
    check_packing(tiny[0], prompt, items, "prefix")
    original = packed._prefix_cache
    # Values before keys.
    monkeypatch.setattr(packed, "_prefix_cache", lambda base, p: original(base, p.flip(1)))
    with pytest.raises(ValueError, match="cannot be run packed, with an error of"):
        check_packing(tiny[0], prompt, items, "prefix")
