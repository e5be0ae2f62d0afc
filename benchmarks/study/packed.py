"""Several soft prompts through one forward pass, with no token computed twice and none padded.

Runs that share a seed read the same items in the same order, and only their prompts differ. So a
batch is packed: [prompt][item 1][item 2]… is one row, in which every item sees the prompt and
itself (a block mask, with positions that begin again after the prompt), and the R prompts are the R
rows. Loss and gradient of each prompt are those of the plain forward pass up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem

__all__ = ["Answers", "check_packing", "packed_answers", "plain_losses"]


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


def check_packing(base: Any, prompt: Tensor, items: Sequence[EncodedItem]) -> None:
    """Raise ValueError unless packing is the plain forward pass up to rounding, by trying it.

    The two items that differ most in length are packed behind the prompt (N, D) and behind it
    reversed; losses and gradients are compared with those of plain forward passes.
    """
    ordered = sorted(items, key=lambda item: len(item.inputs))
    pair = [ordered[0], ordered[-1]]
    prompts = torch.stack((prompt, prompt.flip(0))).requires_grad_()
    plain = torch.stack([torch.cat([plain_losses(base, p, i) for i in pair]) for p in prompts])
    try:
        losses = packed_answers(base, prompts, pair).token_losses()
        slope, expected = (torch.autograd.grad(each.sum(), prompts)[0] for each in (losses, plain))
        differences = ((losses - plain) / (1 + plain), (slope - expected) / expected.norm())
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
