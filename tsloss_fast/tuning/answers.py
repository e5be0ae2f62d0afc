"""Logits of the answer tokens alone, with everything that prompt tuning repeats computed once.

A training step of prompt tuning runs a frozen model over [prompt][question][answer] for each item.
Two parts of it are not needed. Under causal attention the prompt's keys and values are the same for
every item, so they are computed for one row and repeated. And only the positions before an answer
token need logits, which are a fifth of the arithmetic of a small model with a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.tasks import Item

__all__ = [
    "AnswerLogits",
    "EncodedItem",
    "answer_logits",
    "can_share_prompt",
    "encode_items",
    "pad_tokens",
]


@dataclass(frozen=True)
class EncodedItem:
    """Token numbers of a question and of its answer, each at least one."""

    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: the last answer token is only ever predicted."""
        return self.question + self.answer[:-1]


@dataclass(frozen=True)
class AnswerLogits:
    """Logits (M, V) and targets (M,) of the M answer tokens of a batch, item after item."""

    logits: Tensor
    targets: Tensor

    def cross_entropy(self) -> Tensor:
        """Mean negative log-likelihood, in nats, over the answer tokens of the batch."""
        return F.cross_entropy(self.logits.float(), self.targets)


def encode_items(items: Sequence[Item], tokenizer: Any) -> list[EncodedItem]:
    """Tokens of each item. An end-of-sequence token that a tokenizer appends is taken off.

    Question and answer are tokenised together, so that the answer's tokens are those that follow
    the question in running text; where a token would span both, each is tokenised alone.

    Raises:
        ValueError: a question or an answer has no tokens.
    """
    return [_encode(item, tokenizer) for item in items]


def _encode(item: Item, tokenizer: Any) -> EncodedItem:
    end = tokenizer.eos_token_id

    def tokens(text: str, special: bool = True) -> list[int]:
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[:-1] if special and len(ids) > 1 and ids[-1] == end else ids

    question, both = tokens(item.question), tokens(item.question + item.answer)
    if both[: len(question)] == question and len(both) > len(question):
        answer = both[len(question) :]
    else:
        answer = tokens(item.answer, special=False)
    for name, ids in (("question", question), ("answer", answer)):
        if not ids:
            raise ValueError(
                f"the {name} of {item.question!r} -> {item.answer!r} has no tokens in this "
                "model's vocabulary; change the item"
            )
    return EncodedItem(tuple(question), tuple(answer))


def answer_logits(
    model: Any, items: Sequence[EncodedItem], *, share_prompt: bool = False
) -> AnswerLogits:
    """Logits at the answer's tokens, the right answer being read up to each (teacher forcing).

    Args:
        model: a peft prompt tuning model, or a causal language model without a prompt.
        items: a batch.
        share_prompt: run the prompt once for the whole batch. Equal to the plain forward up to
            rounding wherever `can_share_prompt` says so; the model must be a peft model then.
    """
    device = model.device
    keep = max(len(item.answer) for item in items)
    if share_prompt:
        logits = _shared_forward(model, items, keep)
        # Padded on the left: every item's answer ends in the last column.
        columns = [range(keep - len(item.answer), keep) for item in items]
    else:
        ids, mask = pad_tokens([item.inputs for item in items], "right", device)
        logits = model(input_ids=ids, attention_mask=mask).logits
        before = logits.shape[1] - ids.shape[1]
        columns = [
            range(before + len(item.question) - 1, before + len(item.inputs)) for item in items
        ]
    rows = [row for row, item in enumerate(items) for _ in item.answer]
    flat = [column for run in columns for column in run]
    return AnswerLogits(
        logits[torch.tensor(rows, device=device), torch.tensor(flat, device=device)],
        torch.tensor([token for item in items for token in item.answer], device=device),
    )


def _shared_forward(model: Any, items: Sequence[EncodedItem], keep: int) -> Tensor:
    """Logits (B, keep, V) of the last `keep` positions: [prompt] once, then [pad][inputs]."""
    base = model.get_base_model()
    prompt = model.get_prompt(batch_size=1).to(base.get_input_embeddings().weight.dtype)
    # The inner model: nobody reads logits of the prompt itself.
    cache = base.base_model(inputs_embeds=prompt, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(items))
    ids, mask = pad_tokens([item.inputs for item in items], "left", model.device)
    length, width = prompt.shape[1], ids.shape[1]
    logits: Tensor = base(
        input_ids=ids,
        # Padding stands after the prompt, so no row of the attention is ever without a key.
        attention_mask=torch.cat((mask.new_ones(len(items), length), mask), dim=1),
        position_ids=length + (mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        # Positions and not their number: a slice of the hidden states is not contiguous, and torch
        # then repeats the head's weights for every row (ten times the time for one position).
        logits_to_keep=torch.arange(width - keep, width, device=ids.device),
    ).logits
    return logits


def pad_tokens(
    sequences: Sequence[tuple[int, ...]], side: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token numbers and attention mask (B, T). The padding is token 0: it is masked anyway."""
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        start = width - len(tokens) if side == "left" else 0
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    return ids.to(device), mask.to(device)


def shortest_and_longest(items: Sequence[EncodedItem]) -> list[EncodedItem]:
    """The two items that differ most in length: enough to tell whether a way of running works."""
    by_length = sorted(items, key=lambda item: len(item.inputs))
    return [by_length[0], by_length[-1]]


def can_share_prompt(model: Any, items: Sequence[EncodedItem]) -> bool:
    """Whether sharing the prompt gives this model's plain loss and gradient, by trying both.

    Some architectures keep no key-value cache, do not take position ids or detach what they cache;
    no list of them would stay true. The two items that differ most in length are enough to tell.
    Costs two small training steps, once a run.
    """
    pair = shortest_and_longest(items)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss_and_gradient(share_prompt: bool) -> tuple[Tensor, Tensor]:
        loss = answer_logits(model, pair, share_prompt=share_prompt).cross_entropy()
        gradients = torch.autograd.grad(loss, parameters)
        return loss.detach(), torch.cat([g.flatten().float() for g in gradients])

    loss, gradient = loss_and_gradient(False)
    try:
        shared_loss, shared_gradient = loss_and_gradient(True)
    except Exception:
        # Whatever the error is, it means that this model cannot be run in this way.
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return bool(
        (shared_loss - loss).abs() <= tolerance * (1 + loss.abs())
        and (shared_gradient - gradient).norm() <= tolerance * gradient.norm()
    )
