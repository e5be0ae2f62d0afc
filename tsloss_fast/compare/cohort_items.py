"""What the runs of a cohort read: the same items in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsloss_fast.tuning.answers import EncodedItem, encode_items
from tsloss_fast.tuning.evaluation import Choices
from tsloss_fast.tuning.run import epoch_order
from tsloss_fast.tuning.tasks import load_task, majority_rate

__all__ = ["CohortItems"]


class CohortItems:
    """The items of the task of a trial.

    Attributes:
        task: its splits.
        train: those trained on.
        split_name, split: those evaluated: "validation" in a search, else "test".
        curve_size: how many of them are evaluated along the way.
        choices: all answers of the task.
        majority_rate: of the split.
    """

    def __init__(self, trial: Mapping[str, Any], tokenizer: Any) -> None:
        self.task = load_task(
            trial["task"],
            train_size=trial["train_size"],
            test_size=trial["test_size"],
            validation_size=trial["validation_size"],
            seed=trial["seed"],
            difficulty=trial["difficulty"],
            split="by_item",
        )
        self.train = encode_items(self.task.train, tokenizer)
        searching = trial["stage"] == "search"
        self.split_name = "validation" if searching else "test"
        evaluated = self.task.validation if searching else self.task.test
        self.split = encode_items(evaluated, tokenizer)
        self.majority_rate = majority_rate(evaluated)
        self.curve_size = trial["validation_size" if searching else "curve_size"]
        answers = (*self.task.train, *self.task.validation, *self.task.test)
        self.choices = Choices(item.answer for item in encode_items(answers, tokenizer))
        self._seed, self._batch_size = trial["seed"], trial["batch_size"]

    def batch(self, step: int) -> list[EncodedItem]:
        """Of a step in 1, 2, …"""
        epoch, index = divmod(step - 1, -(-len(self.train) // self._batch_size))
        order = epoch_order(self._seed, epoch, len(self.train))
        first = index * self._batch_size
        return [self.train[item] for item in order[first : first + self._batch_size]]
