"""Packing several prompts and items into one forward pass changes no loss and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llama import NEEDS, VOCABULARY

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning import add_soft_prompt, initial_prompt, packed
from tsloss_fast.tuning.answers import EncodedItem, answer_logits
from tsloss_fast.tuning.packed import (
    can_pack,
    initial_adapter,
    packed_answers,
    padded_answers,
)


@pytest.fixture
def prompts(tiny_model: Any, tiny_tokenizer: Any) -> torch.Tensor:
    found = [initial_prompt(tiny_model, tiny_tokenizer, 6, seed=seed) for seed in range(3)]
    return torch.stack(found).requires_grad_()


def other_models() -> list[Any]:
    """Learned positions, parallel blocks, windows, scaled embeddings: two layers of each."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        OPTConfig,
        OPTForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    common = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 1,
    }
    neox = {k: v for k, v in common.items() if k not in ("num_key_value_heads", "head_dim")}
    gpt2 = {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 2, "n_head": 4}
    opt = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            GPT2LMHeadModel(GPT2Config(**gpt2)).eval(),
            Qwen2ForCausalLM(Qwen2Config(**common)).eval(),
            GPTNeoXForCausalLM(GPTNeoXConfig(**neox)).eval(),
            Gemma2ForCausalLM(Gemma2Config(**common)).eval(),
            OPTForCausalLM(OPTConfig(**opt)).eval(),
        ]


def by_peft(model: Any, prompt: torch.Tensor, items: list[EncodedItem]) -> tuple[Any, Any]:
    """Loss and gradient of one prompt by peft's own forward pass of a padded batch."""
    wrapped = add_soft_prompt(model, prompt.detach())
    parameter = next(p for p in wrapped.parameters() if p.requires_grad)
    loss = answer_logits(wrapped, items).cross_entropy()
    return loss.detach(), torch.autograd.grad(loss, parameter)[0]


@pytest.mark.parametrize("run", [packed_answers, padded_answers])
def test_each_prompts_loss_and_gradient_are_those_of_peft(
    run: Any, tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    losses = run(tiny_model, prompts, items).cross_entropy()
    (gradients,) = torch.autograd.grad(losses.sum(), prompts)
    for loss, gradient, prompt in zip(losses, gradients, prompts, strict=True):
        expected, slope = by_peft(tiny_model, prompt, items)
        torch.testing.assert_close(loss.detach(), expected)
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


def test_the_losses_of_single_tokens_belong_to_their_items(
    tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    packed = packed_answers(tiny_model, prompts, items)
    assert packed.targets.tolist() == [token for item in items for token in item.answer]
    assert packed.owner.tolist() == [row for row, item in enumerate(items) for _ in item.answer]
    for row, item in enumerate(items):
        alone = packed_answers(tiny_model, prompts, [item])
        torch.testing.assert_close(
            packed.token_losses()[:, packed.owner == row], alone.token_losses()
        )


def test_a_prompt_does_not_see_the_others(
    tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    together = packed_answers(tiny_model, prompts, items).logits
    changed = prompts.detach().clone()
    changed[0] += 1.0
    assert torch.equal(packed_answers(tiny_model, changed, items).logits[1:], together[1:])
    assert not torch.equal(packed_answers(tiny_model, changed, items).logits[0], together[0])


def test_without_a_prompt_it_is_the_bare_model(tiny_model: Any, items: list[EncodedItem]) -> None:
    packed = packed_answers(tiny_model, torch.zeros(1, 0, 32), items)
    expected = answer_logits(tiny_model, items).cross_entropy()
    torch.testing.assert_close(packed.cross_entropy()[0], expected)


def test_prefixes_are_those_of_peft(
    tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    from tsloss_fast.tuning import prompt_clouds

    prefixes = torch.stack([initial_adapter(tiny_model, p, "prefix") for p in prompts])
    prefixes = (prefixes + 0.1 * torch.arange(3).view(3, 1, 1, 1)).requires_grad_()
    losses = packed_answers(tiny_model, prefixes, items).cross_entropy()
    (gradients,) = torch.autograd.grad(losses.sum(), prefixes)
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=6)
    wrapped = get_peft_model(tiny_model, config).eval()
    parameter = wrapped.prompt_encoder["default"].embedding.weight
    # peft puts keys and values side by side; `prompt_clouds` says where.
    place = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter)
    parameter.data = place
    order = prompt_clouds(wrapped).detach().long()
    layers = len(order) // 2
    keys_first = torch.cat([order[0::2], order[1::2]])
    assert keys_first.shape == prefixes[0].shape == (2 * layers, 6, 16)
    for prefix, loss, gradient in zip(prefixes, losses, gradients, strict=True):
        flat = torch.empty(parameter.numel())
        flat[keys_first.flatten()] = prefix.detach().flatten()
        parameter.data = flat.view_as(parameter)
        # One item at a time: nothing is padded, so that no position can be wrong.
        total = sum(
            answer_logits(wrapped, [item]).cross_entropy() * len(item.answer) for item in items
        )
        expected = total / sum(len(item.answer) for item in items)
        torch.testing.assert_close(loss.detach(), expected.detach())
        slope = torch.autograd.grad(expected, parameter)[0].flatten()[keys_first]
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


def test_a_prefix_begins_as_the_prompt_it_is_made_of(
    tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    prefix = initial_adapter(tiny_model, prompts[0], "prefix")
    assert prefix.shape == (4, 6, 16)
    of_prompt = packed_answers(tiny_model, prompts[:1], items).cross_entropy()
    of_prefix = packed_answers(tiny_model, prefix[None], items).cross_entropy()
    torch.testing.assert_close(of_prefix, of_prompt)
    assert torch.equal(initial_adapter(tiny_model, prompts[0], "prompt"), prompts[0])
    with pytest.raises(ValueError, match="one of prompt, prefix, got 'lora'"):
        initial_adapter(tiny_model, prompts[0], "lora")


def test_hidden_states_are_those_at_the_prompts_positions(
    tiny_model: Any, prompts: torch.Tensor, items: list[EncodedItem]
) -> None:
    hidden = packed_answers(tiny_model, prompts, items, hidden=True).hidden
    assert hidden is not None
    assert hidden.shape == (3, 2, 6, 32)
    for run, prompt in enumerate(prompts):
        # Causal: nothing that follows the prompt changes them.
        states = tiny_model(inputs_embeds=prompt[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(hidden[run], torch.cat(states[1:]))


def test_models_that_can_be_packed_are_told_from_those_that_cannot(
    tiny_tokenizer: Any, items: list[EncodedItem]
) -> None:
    for model in other_models():
        prompt = initial_prompt(model, tiny_tokenizer, 6)
        assert can_pack(model, prompt, items) < 1e-4, type(model).__name__

        original = model.forward

        def shifted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            # A model that makes its positions itself.
            if kwargs.get("position_ids") is not None:
                length = kwargs["inputs_embeds"].shape[1]
                kwargs["position_ids"] = torch.arange(length)[None]
            return original(*args, **kwargs)

        model.forward = shifted
        assert can_pack(model, prompt, items) > 1e-3, type(model).__name__


def test_prefixes_that_would_be_read_wrongly_are_found_out(
    tiny_model: Any,
    prompts: torch.Tensor,
    items: list[EncodedItem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = prompts[0].detach()
    assert can_pack(tiny_model, prompt, items, "prefix") < 1e-4
    original = packed._prefix_cache
    # Values before keys.
    monkeypatch.setattr(packed, "_prefix_cache", lambda base, p: original(base, p.flip(1)))
    assert can_pack(tiny_model, prompt, items, "prefix") > 1e-3


def test_a_recurrent_model_is_refused(tiny_tokenizer: Any, items: list[EncodedItem]) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MambaConfig(
            vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, state_size=4
        )
        model = MambaForCausalLM(config).eval()
    assert can_pack(model, initial_prompt(model, tiny_tokenizer, 6), items) > 1e-3


def test_a_model_that_is_run_padded_has_no_prefixes(
    tiny_model: Any, items: list[EncodedItem]
) -> None:
    with pytest.raises(ValueError, match="use the adapter 'prompt'"):
        padded_answers(tiny_model, torch.zeros(1, 4, 6, 16), items)
