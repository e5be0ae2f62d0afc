"""Packing several prompts and items into one forward pass changes no loss and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llama import UNEVEN_ITEMS, VOCABULARY
from tsloss_fast.benchmarks.study.packed import check_packing, packed_answers, plain_losses

from tsloss_fast.tuning import add_soft_prompt, initial_prompt
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
        alone = [plain_losses(tiny[0], prompt, item) for item in items]
        torch.testing.assert_close(loss, torch.cat(alone))


def test_models_that_can_be_packed_are_told_from_those_that_cannot(
    tiny: Any, items: list[EncodedItem]
) -> None:
    import transformers as hf

    common = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 4, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    grouped = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    learned = hf.GPT2LMHeadModel(hf.GPT2Config(**common)).eval()
    rotary = hf.Qwen2ForCausalLM(hf.Qwen2Config(**common | grouped)).eval()
    for model in (learned, rotary):
        prompt = initial_prompt(model, tiny[1], 6)
        check_packing(model, prompt, items)
        original = model.forward

        def shifted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            # A model that makes its positions itself.
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = torch.arange(kwargs["inputs_embeds"].shape[1])[None]
            return original(*args, **kwargs)

        model.forward = shifted
        with pytest.raises(ValueError, match="cannot be run packed, with an error of"):
            check_packing(model, prompt, items)
    # A recurrent model.
    config = hf.MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = hf.MambaForCausalLM(config).eval()
    with pytest.raises(ValueError, match="MambaForCausalLM cannot be run packed"):
        check_packing(model, initial_prompt(model, tiny[1], 6), items)
