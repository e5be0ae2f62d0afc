"""Several soft prompts through one forward pass, with no token computed twice and none padded.

The runs of an experiment that share a seed read the same items in the same order, and only their
prompts differ. So a batch is packed: [prompt][item 1][item 2]… is one row, in which every item sees
the prompt and itself (a block mask, with positions that begin again after the prompt), and the R
prompts are the R rows. Nothing is cached and nothing is left out, so that loss and gradient of each
prompt are those of the plain forward pass up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem, pad_tokens, shortest_and_longest

__all__ = [
    "ADAPTERS",
    "PackedAnswers",
    "can_pack",
    "initial_adapter",
    "packed_answers",
    "padded_answers",
]

ADAPTERS = ("prompt", "prefix")


@dataclass(frozen=True)
class PackedAnswers:
    """What R prompts say at the M answer tokens of B items.

    Attributes:
        logits: (R, M, V), item after item.
        targets: (M,) token numbers.
        owner: (M,) the item of each answer token.
        hidden: (R, L, N, D) the outputs of the L layers at the prompt's positions, where asked for.
    """

    logits: Tensor
    targets: Tensor
    owner: Tensor
    hidden: Tensor | None

    def token_losses(self) -> Tensor:
        """Negative log-likelihood (R, M) of each answer token, in nats."""
        runs = self.logits.shape[0]
        return F.cross_entropy(
            self.logits.float().flatten(0, 1), self.targets.repeat(runs), reduction="none"
        ).view(runs, -1)

    def cross_entropy(self) -> Tensor:
        """Mean over the answer tokens (R,)."""
        return self.token_losses().mean(1)


def initial_adapter(base: Any, prompt: Tensor, adapter: str) -> Tensor:
    """The first values of an adapter's parameter, from a soft prompt (N, D).

    `"prompt"`: the prompt itself. `"prefix"`: the keys and values (2·L, N, kv) that the prompt has
    in each of the L layers, keys before values, so that both adapters begin as the same function.

    Raises:
        ValueError: an unknown adapter.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {adapter!r}")
    if adapter == "prompt":
        return prompt.detach().clone()
    weight = base.get_input_embeddings().weight
    with torch.no_grad():
        cache = base.base_model(
            inputs_embeds=prompt[None].to(weight), use_cache=True
        ).past_key_values
    # (1, heads, N, dim) each, to (N, heads · dim).
    parts = [
        part[0].transpose(0, 1).flatten(1)
        for part in [layer.keys for layer in cache.layers]
        + [layer.values for layer in cache.layers]
    ]
    return torch.stack(parts).float().cpu()


def packed_answers(
    base: Any, prompts: Tensor, items: Sequence[EncodedItem], *, hidden: bool = False
) -> PackedAnswers:
    """Logits at the answers' tokens behind each of R prompts, the right answer being read.

    Args:
        base: a causal language model without an adapter that takes a mask (R, 1, T, T) and
            positions; `can_pack` says whether it does.
        prompts: (R, N, D) soft prompts, N >= 0, or (R, 2·L, N, kv) prefixes.
        items: a batch, at least one.
        hidden: also return the hidden states at the prompt's positions (soft prompts only).

    Time is that of one forward pass over R·(N + Σ tokens) tokens; the attention is computed for
    all pairs of a row, which for short items costs less than padding.
    """
    device = prompts.device
    embeddings = base.get_input_embeddings()
    runs, count = prompts.shape[0], prompts.shape[-2]
    prefix = prompts.ndim == 4
    lengths = torch.tensor([len(item.inputs) for item in items], device=device)
    ids = torch.tensor([token for item in items for token in item.inputs], device=device)
    item_of = torch.repeat_interleave(torch.arange(len(items), device=device), lengths)
    begins = lengths.cumsum(0) - lengths
    positions = count + torch.arange(len(ids), device=device) - begins[item_of]

    # −1 marks the prompt, which everybody sees.
    shared = torch.full((count,), -1, device=device)
    seen = torch.cat((shared, item_of))
    reads = item_of if prefix else seen
    own = (reads[:, None] == seen[None, :]) | (seen[None, :] == -1)
    mask = own & torch.ones_like(own).tril(diagonal=len(seen) - len(reads))

    inputs = embeddings(ids).expand(runs, -1, -1)
    if getattr(base.config, "_attn_implementation", None) != "sdpa":
        # Others add the mask to the attention's logits.
        mask = torch.zeros_like(own, dtype=inputs.dtype).masked_fill(
            ~mask, torch.finfo(inputs.dtype).min
        )
    cache = None
    if prefix:
        cache = _prefix_cache(base, prompts.to(inputs.dtype))
    else:
        positions = torch.cat((torch.arange(count, device=device), positions))
        inputs = torch.cat((prompts.to(inputs.dtype), inputs), dim=1)
    targets, first, owner = _answer_tokens(items, device)
    # The token before an answer token predicts it.
    questions = torch.tensor([len(item.question) for item in items], device=device)
    within = torch.arange(len(owner), device=device) - first[owner]
    keep = (0 if prefix else count) + (begins + questions - 1)[owner] + within
    out = base(
        inputs_embeds=inputs,
        attention_mask=mask.expand(runs, 1, -1, -1),
        position_ids=positions.expand(runs, -1),
        past_key_values=cache,
        use_cache=prefix,
        logits_to_keep=keep,
        output_hidden_states=hidden,
    )
    return PackedAnswers(
        out.logits,
        targets,
        owner,
        torch.stack([state[:, :count] for state in out.hidden_states[1:]], 1) if hidden else None,
    )


def _prefix_cache(base: Any, prefixes: Tensor) -> Any:
    from transformers import DynamicCache

    runs, double, count, width = prefixes.shape
    config = base.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache = DynamicCache(config=config)
    parts = prefixes.view(runs, double, count, heads, width // heads).transpose(2, 3)
    for layer in range(double // 2):
        cache.update(parts[:, layer], parts[:, double // 2 + layer], layer)
    return cache


def padded_answers(base: Any, prompts: Tensor, items: Sequence[EncodedItem]) -> PackedAnswers:
    """The same by the plain forward pass: a padded batch for each of R soft prompts (R, N, D).

    For models that `can_pack` refuses, and what it compares with.
    """
    if prompts.ndim != 3:
        raise ValueError(
            f"this model can only be run with soft prompts (R, N, D), got a parameter "
            f"of shape {tuple(prompts.shape)}; use the adapter 'prompt'"
        )
    ids, mask = pad_tokens([item.inputs for item in items], "right", prompts.device)
    inputs = base.get_input_embeddings()(ids)
    count = prompts.shape[1]
    mask = torch.cat((mask.new_ones(len(items), count), mask), dim=1)
    targets, _, owner = _answer_tokens(items, prompts.device)
    columns = [
        count + column
        for item in items
        for column in range(len(item.question) - 1, len(item.inputs))
    ]
    logits = []
    for prompt in prompts:
        repeated = prompt.to(inputs.dtype).expand(len(items), -1, -1)
        out = base(inputs_embeds=torch.cat((repeated, inputs), dim=1), attention_mask=mask)
        logits.append(out.logits[owner, columns])
    return PackedAnswers(torch.stack(logits), targets, owner, None)


def _answer_tokens(
    items: Sequence[EncodedItem], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (M,), the place of each item's first (B,), and the item of each (M,)."""
    lengths = torch.tensor([len(item.answer) for item in items], device=device)
    targets = torch.tensor([token for item in items for token in item.answer], device=device)
    owner = torch.repeat_interleave(torch.arange(len(items), device=device), lengths)
    return targets, lengths.cumsum(0) - lengths, owner


def can_pack(
    base: Any, prompt: Tensor, items: Sequence[EncodedItem], adapter: str = "prompt"
) -> float:
    """The largest relative error of packing for this model, by trying it; infinity if it fails.

    Packs the two items that differ most in length behind the prompt (N, D) and behind a second one,
    and compares loss and gradient with those of the plain forward pass. Of a prefix it is the loss
    alone, at its start, where the prompt's plain forward pass is that of the prefix.
    """
    pair = shortest_and_longest(items)
    prompts = torch.stack((prompt, prompt.flip(0))).to(base.device).requires_grad_()
    adapters: Tensor = prompts
    try:
        if adapter != "prompt":
            starts = [initial_adapter(base, each, adapter) for each in prompts.detach()]
            adapters = torch.stack(starts).to(base.device).requires_grad_()
        losses = packed_answers(base, adapters, pair).cross_entropy()
        (gradients,) = torch.autograd.grad(losses.sum(), adapters)
    except Exception:
        # Whatever the error is, it means that this model cannot be run in this way.
        return float("inf")
    plain = padded_answers(base, prompts, pair).cross_entropy()
    errors = (losses - plain).detach().abs() / (1 + plain.detach().abs())
    if adapter == "prompt":
        (expected,) = torch.autograd.grad(plain.sum(), prompts)
        apart = (gradients - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        errors = torch.cat((errors, apart))
    return float(errors.max())
