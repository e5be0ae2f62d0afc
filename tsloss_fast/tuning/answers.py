"""Logits of a model at the answer tokens of a task, and how often its answers are right.

A training step of prompt tuning runs a frozen model over [prompt][question][answer] for each item.
Two parts of that are not needed. Under causal attention the prompt's keys and values are the same
for every item, so they are computed for one row and repeated. And only the positions before an
answer token need logits, which are a large part of the arithmetic of a small model with a large
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast.tuning.tasks import Item

__all__ = [
    "AnswerLogits",
    "Choices",
    "EncodedItem",
    "answer_logits",
    "can_share_prompt",
    "encode_items",
    "evaluate",
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
    """Return the tokens of each item, without an end-of-sequence token that a tokenizer appends.

    Question and answer are tokenised together, so that the answer's tokens are those that follow
    the question in running text; where a token would span both, each is tokenised alone.

    Raises:
        ValueError: a question or an answer has no tokens.
    """
    end = tokenizer.eos_token_id

    def tokens(text: str, special: bool = True) -> list[int]:
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[:-1] if special and len(ids) > 1 and ids[-1] == end else ids

    encoded = []
    for item in items:
        question, both = tokens(item.question), tokens(item.question + item.answer)
        answer = both[len(question) :]
        if not answer or both[: len(question)] != question:
            answer = tokens(item.answer, special=False)
        for name, ids in (("question", question), ("answer", answer)):
            if not ids:
                raise ValueError(
                    f"the {name} of {item.question!r} -> {item.answer!r} has no tokens in this "
                    "model's vocabulary; change the item"
                )
        encoded.append(EncodedItem(tuple(question), tuple(answer)))
    return encoded


def answer_logits(
    model: Any, items: Sequence[EncodedItem], *, share_prompt: bool = False
) -> AnswerLogits:
    """Return the logits at the answer tokens, the right answer being read up to each.

    Args:
        model: a peft prompt tuning model, or a causal language model without a prompt.
        items: a batch.
        share_prompt: run the prompt once for the whole batch. The result equals that of the plain
            forward pass up to rounding wherever `can_share_prompt` is true; the model must be a
            peft model then.
    """
    device = next(model.parameters()).device
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
    """Return logits (B, keep, V) of the last positions: [prompt] once, then [pad][inputs]."""
    base = model.get_base_model()
    prompt = model.get_prompt(batch_size=1).to(base.get_input_embeddings().weight.dtype)
    # The inner model has no head: logits of the prompt itself are not needed.
    cache = base.base_model(inputs_embeds=prompt, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(items))
    ids, mask = pad_tokens([item.inputs for item in items], "left", prompt.device)
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
    """Return token numbers and attention mask (B, T). The padding is token 0, which is masked."""
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        start = width - len(tokens) if side == "left" else 0
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    return ids.to(device), mask.to(device)


def can_share_prompt(model: Any, items: Sequence[EncodedItem]) -> bool:
    """Return whether sharing the prompt gives this model's plain loss and gradient, by trying both.

    Some architectures keep no key-value cache, do not take position ids or detach what they cache,
    and a list of them would not stay true. The trial costs two small training steps.
    """
    # The two items that differ most in length are enough to tell.
    by_length = sorted(items, key=lambda item: len(item.inputs))
    pair = [by_length[0], by_length[-1]]
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for share_prompt in (False, True):
        try:
            loss = answer_logits(model, pair, share_prompt=share_prompt).cross_entropy()
            gradients = torch.autograd.grad(loss, parameters)
        except Exception:
            if not share_prompt:
                raise
            # Any error means that this model cannot be run in this way.
            return False
        found.append((loss.detach(), torch.cat([g.flatten().float() for g in gradients])))
    (loss, gradient), (shared_loss, shared_gradient) = found
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    return bool(
        (shared_loss - loss).abs() <= tolerance * (1 + loss.abs())
        and (shared_gradient - gradient).norm() <= tolerance * gradient.norm()
    )


class Choices:
    """The answers of a task as a tree of tokens, in which greedy decoding has to stay.

    A token is chosen wherever the answers part, by the largest logit among the tokens that go on.
    Where one answer is the beginning of another, every token that does not go on ends it, so the
    longer one has to be the choice among the whole vocabulary there. Whether the model would end
    an answer is not asked.

    Args:
        answers: the tokens of every answer of the task; repetitions do not count.
    """

    def __init__(self, answers: Iterable[tuple[int, ...]]) -> None:
        ends = set(answers)
        following: dict[tuple[int, ...], set[int]] = {}
        for answer in ends:
            for length, token in enumerate(answer):
                following.setdefault(answer[:length], set()).add(token)
        # None: any token of the vocabulary. Beginnings with one way to go on are left out.
        self._allowed: dict[tuple[int, ...], list[int] | None] = {
            begun: None if begun in ends else sorted(tokens)
            for begun, tokens in following.items()
            if begun in ends or len(tokens) > 1
        }

    def chosen(self, logits: Tensor, items: Sequence[EncodedItem]) -> Tensor:
        """Return whether each item's own answer is chosen, (..., B) bool on the CPU.

        Args:
            logits: (..., M, V) at the M answer tokens of B items, item after item, the right answer
                being read up to each. No more is needed: a wrong turn is the end of an answer.
            items: the B items.
        """
        right = torch.ones(*logits.shape[:-2], len(items), dtype=torch.bool)
        partings: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
        row = 0
        for index, item in enumerate(items):
            for length, token in enumerate(item.answer):
                begun = item.answer[:length]
                if begun in self._allowed:
                    partings.setdefault(begun, []).append((index, row + length, token))
            row += len(item.answer)
        for begun, places in partings.items():
            owners, rows, tokens = (torch.tensor(column) for column in zip(*places, strict=True))
            here = logits[..., rows.to(logits.device), :]
            allowed = self._allowed[begun]
            if allowed is None:
                choice = here.argmax(-1).cpu()
            else:
                among = torch.tensor(allowed)
                choice = among[here[..., among.to(logits.device)].argmax(-1).cpu()]
            right[..., owners] &= choice == tokens
        return right


@torch.no_grad()
def evaluate(
    model: Any,
    items: Sequence[EncodedItem],
    choices: Choices,
    *,
    share_prompt: bool = False,
    batch_size: int = 32,
) -> dict[str, float]:
    """Evaluate a peft prompt tuning model, or, for a zero-shot rate, a model without a prompt.

    Args:
        model: as in `answer_logits`.
        items: a non-empty split.
        choices: the answers of the task, those of the items among them.
        share_prompt, batch_size: these change the speed and the memory, not the result.

    Returns:
        accuracy: share of items of which every answer token is the argmax over the whole
            vocabulary, which is when greedy decoding gives the answer.
        restricted_accuracy: share of items for which greedy decoding gives the answer when it can
            say nothing but the answers of the task (`Choices`): it knows the form of an answer.
        ce: mean cross-entropy over all answer tokens, in nats.
    """
    # Items of like length side by side: padding is computed too.
    ordered = sorted(items, key=lambda item: len(item.inputs))
    right = restricted = tokens = 0
    nats = 0.0
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        answers = answer_logits(model, batch, share_prompt=share_prompt)
        wrong = (answers.logits.argmax(-1) != answers.targets).cpu()
        parts = wrong.split([len(item.answer) for item in batch])
        right += sum(not bool(part.any()) for part in parts)
        restricted += int(choices.chosen(answers.logits, batch).sum())
        nats += float(F.cross_entropy(answers.logits.float(), answers.targets, reduction="sum"))
        tokens += len(answers.targets)
    count = len(items)
    return {
        "accuracy": right / count,
        "restricted_accuracy": restricted / count,
        "ce": nats / tokens,
    }
