"""Several soft prompts through one forward pass, with no token computed twice and none padded.

Runs that share a seed read the same items in the same order, and only their prompts differ. So a
batch is packed: [prompt][item 1][item 2]… is one row, in which every item sees the prompt and
itself (a block mask, with positions that begin again after the prompt), and the R prompts are the R
rows. Loss and gradient of each prompt are those of the plain forward pass up to rounding.

Runs of different seeds read different items. Then every item of every run is a row, with padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem, pad_tokens

__all__ = [
    "Answers",
    "check_packing",
    "check_padding",
    "means",
    "packed_answers",
    "padded_scores",
    "plain_losses",
]


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


def packed_answers(base: Any, prompts: Tensor, items: Sequence[EncodedItem]) -> Answers:
    """Return the logits behind each of R soft prompts (R, N, D).

    The model has to take a mask (R, 1, T, T) and positions; `check_packing` tries it.
    """
    device, (runs, count, _) = prompts.device, prompts.shape
    # -1 marks the prompt, which every item sees.
    reads, places = [-1] * count, [*range(count)]
    ids, keep, owner, targets = (list[int]() for _ in range(4))
    for row, item in enumerate(items):
        # The token before an answer token predicts it.
        keep += range(len(reads) + len(item.question) - 1, len(reads) + len(item.inputs))
        ids += item.inputs
        reads += [row] * len(item.inputs)
        places += range(count, count + len(item.inputs))
        owner += [row] * len(item.answer)
        targets += item.answer

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    inputs = base.get_input_embeddings()(tensor(ids)).expand(runs, -1, -1)
    inputs = torch.cat((prompts.to(inputs.dtype), inputs), dim=1)
    seen = tensor(reads)
    mask = ((seen[:, None] == seen) | (seen == -1)).tril()
    if base.config._attn_implementation != "sdpa":
        # Other implementations add the mask to the logits of the attention.
        lowest = torch.finfo(inputs.dtype).min
        mask = torch.zeros_like(mask, dtype=inputs.dtype).masked_fill(~mask, lowest)
    out = base(
        inputs_embeds=inputs,
        attention_mask=mask.expand(runs, 1, -1, -1),
        position_ids=tensor(places).expand(runs, -1),
        use_cache=False,
        logits_to_keep=tensor(keep),
    )
    return Answers(out.logits, tensor(targets), tensor(owner))


def padded_scores(base: Any, prompts: Tensor, batches: Sequence[Sequence[EncodedItem]]) -> Tensor:
    """Return (R, B, 3) for R soft prompts (R, N, D), each before B items of its own: the nats of
    each answer, its tokens that are not the likeliest, and its tokens.

    Padding stands on the right, where causal attention does not see it. So it needs no mask, and
    changes no position; `check_padding` tries it.
    """
    device, count = prompts.device, prompts.shape[1]
    items = [item for batch in batches for item in batch]
    ids, _ = pad_tokens([item.inputs for item in items], "right", device)
    # The token before an answer token predicts it.
    spans = [range(len(item.question) - 1, len(item.inputs)) for item in items]
    places = torch.tensor([count + place for span in spans for place in span], device=device)
    rows = torch.tensor([row for row, span in enumerate(spans) for _ in span], device=device)
    targets = torch.tensor([token for item in items for token in item.answer], device=device)
    keep, column = places.unique(return_inverse=True)
    inputs = base.get_input_embeddings()(ids)
    own = prompts.repeat_interleave(len(batches[0]), 0).to(inputs.dtype)
    out = base(inputs_embeds=torch.cat((own, inputs), 1), use_cache=False, logits_to_keep=keep)
    logits = out.logits[rows, column].float()
    losses = F.cross_entropy(logits, targets, reduction="none")
    each = torch.stack((losses, logits.argmax(-1) != targets, torch.ones_like(losses)), 1)
    return each.new_zeros(len(items), 3).index_add(0, rows, each).view(len(prompts), -1, 3)


def means(scores: Tensor) -> Tensor:
    """Return (2, R) from the scores (R, B, 3) of R prompts: the mean loss of an answer token, and
    the share of items that are answered right."""
    nats, wrong, tokens = scores.unbind(-1)
    return torch.stack((nats.sum(1) / tokens.sum(1), (wrong == 0).float().mean(1)))


def check_packing(base: Any, prompt: Tensor, items: Sequence[EncodedItem]) -> None:
    """Raise ValueError unless packing is the plain forward pass up to rounding, by trying it."""

    def losses(prompts: Tensor, pair: Sequence[EncodedItem]) -> Tensor:
        found = packed_answers(base, prompts, pair)
        each = found.token_losses()
        return each.new_zeros(len(prompts), len(pair)).index_add(1, found.owner, each)

    _check(base, prompt, items, "packed", losses)


def check_padding(base: Any, prompt: Tensor, items: Sequence[EncodedItem]) -> None:
    """Raise ValueError unless padding is the plain forward pass up to rounding, by trying it."""

    def losses(prompts: Tensor, pair: Sequence[EncodedItem]) -> Tensor:
        return padded_scores(base, prompts, [pair] * len(prompts))[..., 0]

    _check(base, prompt, items, "with padding", losses)


def _check(
    base: Any,
    prompt: Tensor,
    items: Sequence[EncodedItem],
    how: str,
    answer_losses: Callable[[Tensor, Sequence[EncodedItem]], Tensor],
) -> None:
    """Compare losses (R, 2) and gradients of the two items that differ most in length with those of
    plain forward passes, behind the prompt (N, D) and behind it reversed."""
    ordered = sorted(items, key=lambda item: len(item.inputs))
    pair = [ordered[0], ordered[-1]]
    prompts = torch.stack((prompt, prompt.flip(0))).requires_grad_()
    plain = torch.stack([plain_losses(base, p, i).sum() for p in prompts for i in pair]).view(2, 2)
    try:
        losses = answer_losses(prompts, pair)
        slope, expected = (torch.autograd.grad(each.sum(), prompts)[0] for each in (losses, plain))
        differences = ((losses - plain) / (1 + plain), (slope - expected) / expected.norm())
        error = max(float(each.detach().norm()) for each in differences)
    except Exception as failure:
        # Any failure means that this model cannot be run in this way.
        raise ValueError(f"{type(base).__name__} cannot be run {how}: {failure}") from failure
    if not error < 1e-3:
        raise ValueError(
            f"{type(base).__name__} cannot be run {how}, with an error of {error:.2g}; expected a "
            "causal model that takes positions and a mask for each row, so choose another one"
        )


def plain_losses(base: Any, prompt: Tensor, item: EncodedItem) -> Tensor:
    """Return the losses of an item's answer tokens behind a soft prompt (N, D)."""
    ids, answer = (torch.tensor(t, device=prompt.device) for t in (item.inputs, item.answer))
    embedded = base.get_input_embeddings()(ids)
    logits = base(inputs_embeds=torch.cat((prompt.to(embedded), embedded))[None]).logits
    return F.cross_entropy(logits[0, -len(answer) :].float(), answer, reduction="none")
