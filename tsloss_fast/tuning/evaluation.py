"""How well a model answers a split of a task, and what the prompt's topology is meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast import barcode, h0_persistence
from tsloss_fast.tuning.answers import EncodedItem, answer_logits

__all__ = ["Evaluation", "evaluate", "topology"]


@dataclass(frozen=True)
class Evaluation:
    """Rates in [0, 1] over the items of a split, and the cross-entropy.

    Attributes:
        accuracy: every token of the answer is the argmax over the whole vocabulary, the right
            answer being read up to it. That is exactly when greedy decoding gives the answer.
        restricted_accuracy: the answer's first token has the largest logit among the first tokens
            of all answers of the task: it knows the form of an answer beforehand.
        ce: mean cross-entropy over all answer tokens, in nats.
    """

    accuracy: float
    restricted_accuracy: float
    ce: float


@torch.no_grad()
def evaluate(
    model: Any,
    items: Sequence[EncodedItem],
    choices: Sequence[int],
    *,
    share_prompt: bool = False,
    batch_size: int = 32,
) -> Evaluation:
    """Evaluate a peft prompt tuning model, or, for a zero-shot rate, a model without a prompt.

    Args:
        model: as in `answer_logits`.
        items: a non-empty split.
        choices: the distinct first tokens of the task's answers.
        share_prompt, batch_size: change the speed and the memory, not the result.
    """
    # Items of like length side by side: padding is computed too.
    ordered = sorted(items, key=lambda item: len(item.inputs))
    allowed = torch.tensor(sorted(choices), device=model.device)
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
        chosen = allowed[answers.logits[answers.first][:, allowed].argmax(-1)]
        restricted += int((chosen == answers.targets[answers.first]).sum())
        nats += float(F.cross_entropy(answers.logits.float(), answers.targets, reduction="sum"))
        tokens += len(answers.targets)
    return Evaluation(right / len(items), restricted / len(items), nats / tokens)


@torch.no_grad()
def topology(clouds: Tensor) -> dict[str, float]:
    """Means over clouds (B, N, D) of the functionals of H0 that are worth watching.

    `mean_death` is in the units of the embedding; `coefficient_of_variation` and `redundancy` are
    scale-free; `persistent_entropy` is in nats, at most ln(N - 1).
    """
    deaths = h0_persistence(clouds).deaths
    return {
        "mean_death": float(barcode.mean_death(deaths).mean()),
        "coefficient_of_variation": float(barcode.coefficient_of_variation(deaths).mean()),
        "redundancy": float(barcode.redundancy(deaths).mean()),
        "persistent_entropy": float(barcode.persistent_entropy(deaths).mean()),
    }
