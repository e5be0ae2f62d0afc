"""Several soft prompts through one forward pass, with no token computed twice and none padded.

Runs that share a seed read the same items in the same order, and only their prompts differ. So a
batch is packed: [prompt][item 1][item 2]… is one row, in which every item sees the prompt and
itself (a block mask, with positions that begin again after the prompt), and the R prompts are the R
rows. Loss and gradient of each prompt are those of the plain forward pass up to rounding. One after
another by the plain pass, six runs of SmolLM2 take twice as long on one thread, or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem

__all__ = ["Answers", "check_packing", "initial_adapter", "packed_answers", "plain_losses"]


@dataclass(frozen=True)
class Answers:
    """Logits of R prompts at the M answer tokens of B items.

    Attributes:
        logits: (R, M, V), item after item.
        targets, owner: (M,) the right token, and the item that it belongs to.
    """

    logits: Tensor
    targets: Tensor
    owner: Tensor

    def token_losses(self) -> Tensor:
        """Return the negative log-likelihood (R, M) of each answer token, in nats."""
        logits, targets = self.logits.float().flatten(0, 1), self.targets.repeat(len(self.logits))
        return F.cross_entropy(logits, targets, reduction="none").view(len(self.logits), -1)


def initial_adapter(base: Any, prompt: Tensor, adapter: str) -> Tensor:
    """Return the first values of an adapter's parameter, from a soft prompt (N, D).

    `"prompt"`: the prompt itself. `"prefix"`: the keys and values (2·L, N, kv) that the prompt has
    in each of the L layers, keys before values, so that both adapters begin as the same function.
    """
    if adapter == "prompt":
        return prompt.detach().clone()
    inputs = prompt[None].to(base.get_input_embeddings().weight)
    with torch.no_grad():
        layers = base.base_model(inputs_embeds=inputs, use_cache=True).past_key_values.layers
    # (1, heads, N, dim) each, to (N, heads · dim).
    parts = [layer.keys for layer in layers] + [layer.values for layer in layers]
    return torch.stack([part[0].transpose(0, 1).flatten(1) for part in parts]).float()


def packed_answers(base: Any, prompts: Tensor, items: Sequence[EncodedItem]) -> Answers:
    """Return the logits behind each of R soft prompts (R, N, D) or prefixes (R, 2·L, N, kv).

    The model has to take a mask (R, 1, T, T) and positions; `check_packing` tries it.
    """
    device, (runs, count) = prompts.device, (prompts.shape[0], prompts.shape[-2])
    ids, reads, places, keep, owner, targets = (list[int]() for _ in range(6))
    for row, item in enumerate(items):
        # The token before an answer token predicts it.
        keep += range(len(ids) + len(item.question) - 1, len(ids) + len(item.inputs))
        ids += item.inputs
        reads += [row] * len(item.inputs)
        places += range(count, count + len(item.inputs))
        owner += [row] * len(item.answer)
        targets += item.answer

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    inputs = base.get_input_embeddings()(tensor(ids)).expand(runs, -1, -1)
    # -1 marks the prompt, which every item sees.
    seen = [-1] * count + reads
    cache = None
    if prompts.ndim == 4:
        cache = _prefix_cache(base, prompts.to(inputs.dtype))
    else:
        inputs = torch.cat((prompts.to(inputs.dtype), inputs), dim=1)
        reads, places = seen, [*range(count), *places]
        keep = [column + count for column in keep]
    own = (tensor(reads)[:, None] == tensor(seen)) | (tensor(seen) == -1)
    mask = own.tril(diagonal=len(seen) - len(reads))
    if base.config._attn_implementation != "sdpa":
        # Other implementations add the mask to the logits of the attention.
        lowest = torch.finfo(inputs.dtype).min
        mask = torch.zeros_like(mask, dtype=inputs.dtype).masked_fill(~mask, lowest)
    out = base(
        inputs_embeds=inputs,
        attention_mask=mask.expand(runs, 1, -1, -1),
        position_ids=tensor(places).expand(runs, -1),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=tensor(keep),
    )
    return Answers(out.logits, tensor(targets), tensor(owner))


def _prefix_cache(base: Any, prefixes: Tensor) -> Any:
    from transformers import DynamicCache

    runs, double, count, width = prefixes.shape
    config = base.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    parts = prefixes.view(runs, double, count, heads, width // heads).transpose(2, 3)
    cache = DynamicCache(config=config)
    for layer in range(double // 2):
        cache.update(parts[:, layer], parts[:, double // 2 + layer], layer)
    return cache


def check_packing(base: Any, prompt: Tensor, items: Sequence[EncodedItem], adapter: str) -> None:
    """Raise ValueError unless packing is the plain forward pass up to rounding, by trying it.

    The two items that differ most in length are packed behind the prompt (N, D) and behind it
    reversed, or behind the prefixes made of the two. Gradients of prompts are compared too.
    """
    ordered = sorted(items, key=lambda item: len(item.inputs))
    pair = [ordered[0], ordered[-1]]
    prompts = torch.stack((prompt, prompt.flip(0))).requires_grad_()
    plain = torch.stack([torch.cat([plain_losses(base, p, i) for i in pair]) for p in prompts])
    try:
        starts = prompts
        if adapter != "prompt":
            starts = torch.stack([initial_adapter(base, each, adapter) for each in prompts])
        losses = packed_answers(base, starts, pair).token_losses()
        differences = [(losses - plain) / (1 + plain)]
        if adapter == "prompt":
            slopes = [torch.autograd.grad(each.sum(), prompts)[0] for each in (losses, plain)]
            differences.append((slopes[0] - slopes[1]) / slopes[1].norm())
        error = max(float(each.detach().norm()) for each in differences)
    except Exception as failure:
        # Any failure means that this model cannot be run in this way.
        raise ValueError(f"{type(base).__name__} cannot be run packed: {failure}") from failure
    if not error < 1e-3:
        raise ValueError(
            f"{type(base).__name__} cannot be run packed, with an error of {error:.2g}; expected a "
            "model that takes positions and a mask for each row, so choose another one"
        )


def plain_losses(base: Any, prompt: Tensor, item: EncodedItem) -> Tensor:
    """Return the losses of an item's answer tokens behind a soft prompt (N, D)."""
    ids, answer = (torch.tensor(t, device=prompt.device) for t in (item.inputs, item.answer))
    embedded = base.get_input_embeddings()(ids)
    logits = base(inputs_embeds=torch.cat((prompt.to(embedded), embedded))[None]).logits
    return F.cross_entropy(logits[0, -len(answer) :].float(), answer, reduction="none")
