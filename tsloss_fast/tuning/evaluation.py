"""How well a model answers a split of a task, and what the prompt's topology is meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast import barcode
from tsloss_fast.tuning.answers import EncodedItem, answer_logits

__all__ = ["Choices", "Evaluation", "evaluate", "topology"]


@dataclass(frozen=True)
class Evaluation:
    """Rates in [0, 1] over the items of a split, and the cross-entropy.

    Attributes:
        accuracy: every token of the answer is the argmax over the whole vocabulary, the right
            answer being read up to it. That is exactly when greedy decoding gives the answer.
        restricted_accuracy: greedy decoding gives the answer when it can say nothing but the
            answers of the task: it knows the form of an answer beforehand. See `Choices`.
        ce: mean cross-entropy over all answer tokens, in nats.
    """

    accuracy: float
    restricted_accuracy: float
    ce: float


class Choices:
    """The answers of a task as a tree of tokens, in which greedy decoding has to stay.

    A token is chosen wherever the answers part, by the largest logit among the tokens that go on.
    Where all answers begin differently, their first tokens decide and nothing else does. Where one
    answer is the beginning of another, every token that does not go on ends it, so that the longer
    one has to be the choice among the whole vocabulary there; that an answer ends is not asked.

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
        """Whether each item's own answer is chosen, (..., B) bool on the CPU.

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
) -> Evaluation:
    """Evaluate a peft prompt tuning model, or, for a zero-shot rate, a model without a prompt.

    Args:
        model: as in `answer_logits`.
        items: a non-empty split.
        choices: the answers of the task, those of the items among them.
        share_prompt, batch_size: change the speed and the memory, not the result.
    """
    # Items of like length side by side: padding is computed too.
    ordered = sorted(items, key=lambda item: len(item.inputs))
    right = restricted = tokens = 0
    nats = 0.0
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        answers = answer_logits(model, batch, share_prompt=share_prompt)
        wrong = answers.logits.argmax(-1) != answers.targets
        owner = torch.repeat_interleave(torch.tensor([len(item.answer) for item in batch]))
        wrong_items = torch.zeros(len(batch), dtype=torch.long)
        wrong_items.index_add_(0, owner, wrong.long().cpu())
        right += int((wrong_items == 0).sum())
        restricted += int(choices.chosen(answers.logits, batch).sum())
        nats += float(F.cross_entropy(answers.logits.float(), answers.targets, reduction="sum"))
        tokens += len(answers.targets)
    return Evaluation(right / len(items), restricted / len(items), nats / tokens)


@torch.no_grad()
def topology(deaths: Tensor) -> dict[str, float]:
    """Means over clouds, whose deaths are (B, N-1), of the functionals of H0 that are worth
    watching.

    `mean_death` is in the units of the embedding; `coefficient_of_variation` and `redundancy` are
    scale-free; `persistent_entropy` is in nats, at most ln(N - 1).
    """
    return {
        "mean_death": float(barcode.mean_death(deaths).mean()),
        "coefficient_of_variation": float(barcode.coefficient_of_variation(deaths).mean()),
        "redundancy": float(barcode.redundancy(deaths).mean()),
        "persistent_entropy": float(barcode.persistent_entropy(deaths).mean()),
    }
