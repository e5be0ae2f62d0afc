"""How soft prompts do on the items of a split, several prompts at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem
from tsloss_fast.tuning.evaluation import Choices
from tsloss_fast.tuning.packed import PackedAnswers

__all__ = ["Score", "score_prompts", "six_digits"]

# The tokens of a row: attention looks at all pairs of a row.
_ROW = 400
# The nats of a token whose probability is 0 or no number: a sum must stay one that JSON can hold.
_LOST = 100.0

Answers = Callable[[Tensor, Sequence[EncodedItem]], PackedAnswers]


@dataclass(frozen=True)
class Score:
    """What a run makes of each item of a split, in the order of the split.

    `right`, `restricted` (B,) bool, as in `tuning.Evaluation`; `nats`, `tokens` (B,).
    """

    right: Tensor
    restricted: Tensor
    nats: Tensor
    tokens: Tensor

    def summary(self, items: int) -> dict[str, float]:
        """The rates over the first `items` items, and the cross-entropy of their answer tokens."""
        return {
            "accuracy": float(self.right[:items].double().mean()),
            "restricted_accuracy": float(self.restricted[:items].double().mean()),
            "ce": six_digits(float(self.nats[:items].sum() / self.tokens[:items].sum())),
        }


@torch.no_grad()
def score_prompts(
    run: Answers, prompts: Tensor, items: Sequence[EncodedItem], choices: Choices
) -> list[Score]:
    """The score of each of R prompts.

    Args:
        run: the model, of prompts (R, N, D) or (R, 2·L, N, kv) and a batch.
        items: a split, at least one.
        choices: all answers of the task.
    """
    runs = len(prompts)
    wrong, restricted, nats = torch.zeros(3, runs, len(items), dtype=torch.float64)
    for batch in _batches(items):
        here = [items[i] for i in batch]
        answers = run(prompts, here)
        places = torch.tensor(batch)
        rows = places[answers.owner.cpu()]
        misses = (answers.logits.argmax(-1) != answers.targets).double().cpu()
        wrong.index_add_(1, rows, misses)
        losses = answers.token_losses().double().cpu()
        nats.index_add_(1, rows, losses.nan_to_num(_LOST, _LOST).clamp(max=_LOST))
        restricted[:, places] = choices.chosen(answers.logits, here).double()
    tokens = torch.tensor([float(len(item.answer)) for item in items])
    return [Score(wrong[r] == 0, restricted[r] > 0, nats[r], tokens) for r in range(runs)]


def _batches(items: Sequence[EncodedItem]) -> list[list[int]]:
    """Items in their order, in rows of so many tokens."""
    batches: list[list[int]] = []
    tokens = _ROW
    for index, item in enumerate(items):
        if tokens + len(item.inputs) > _ROW:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += len(item.inputs)
    return batches


def six_digits(value: float) -> float:
    """Six digits: more are rounding, and every one is a byte in the results."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
