"""Generated tasks: answers that a reader of the text finds again, and no item twice."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning.generators import GENERATORS
from tsloss_fast.tuning.navigate import navigate_item
from tsloss_fast.tuning.numbering import take_digits, take_ordered
from tsloss_fast.tuning.splits import split_of
from tsloss_fast.tuning.tasks import BUILTIN_TASKS, load_task

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen"),
)
SORT_OF = {
    noun: sort
    for sort, nouns in {
        "fruits": "apple apples pear pears peach peaches banana bananas orange oranges lemon "
        "lemons",
        "vegetables": "potato potatoes carrot carrots onion onions cucumber cucumbers pepper "
        "peppers beet beets",
        "animals": "cat cats dog dogs cow cows pig pigs goat goats duck ducks",
        "clothes": "shirt shirts hat hats coat coats sock socks glove gloves jacket jackets",
        "vehicles": "car cars bus buses bike bikes truck trucks train trains boat boats",
    }.items()
    for noun in nouns.split()
}


def count_by_reading(question: str) -> str:
    listed, asked = re.fullmatch(
        r"I have (.*)\. How many (\w+) do I have\? Answer:", question
    ).groups()  # type: ignore[union-attr]
    total = 0
    for thing in re.split(", | and ", listed):
        amount, noun = thing.split()
        assert noun.endswith("s") == (amount not in ("a", "an")) or noun == "bus"
        assert (amount == "an") == (amount in ("a", "an") and noun[0] in "aeiou")
        if SORT_OF[noun] == asked:
            total += 1 if amount in ("a", "an") else NUMBERS.index(amount)
    return f" {NUMBERS[total]}"


def walk_by_reading(question: str) -> str:
    *said, asked = question.split(". ")
    assert asked == "Do you return to the start? Answer:"
    position, facing = 0 + 0j, 1j
    for instruction in said:
        if turn := re.fullmatch(r"Turn (left|right|around)", instruction):
            facing *= {"left": 1j, "right": -1j, "around": -1}[turn[1]]
        else:
            walk = re.fullmatch(r"Take (\w+) (steps?)( left| right| back)?", instruction)
            assert walk is not None, instruction
            assert (walk[1] == "one") == (walk[2] == "step")
            side = {None: 1, " left": 1j, " right": -1j, " back": -1}[walk[3]]
            position += facing * side * NUMBERS.index(walk[1])
    return " No" if position else " Yes"


def believe_by_reading(question: str) -> str:
    *said, asked = re.sub(r"\? Answer:$", "", question).split(". ")
    claims = []
    for sentence in said:
        speaker, person, truth = re.fullmatch(  # type: ignore[union-attr]
            r"(?:(\w+) says )?(\w+) (tells the truth|lies)", sentence
        ).groups()
        claims.append((speaker, person, truth == "tells the truth"))
    names = sorted({person for _, person, _ in claims} | {s for s, _, _ in claims if s})
    target = re.fullmatch(r"Does (\w+) tell the truth", asked)[1]  # type: ignore[index]
    found = {
        honest[target]
        for values in itertools.product((True, False), repeat=len(names))
        for honest in [dict(zip(names, values, strict=True))]
        # Those who speak tell the truth if and only if what they say is so.
        if all((honest[p] is t) is (True if s is None else honest[s]) for s, p, t in claims)
    }
    assert len(found) == 1
    return " Yes" if found.pop() else " No"


def evaluate_by_reading(question: str) -> str:
    return f" {eval(question.removesuffix(' is'))}"


READERS = {
    "boolean": evaluate_by_reading,
    "navigate": walk_by_reading,
    "object_counting": count_by_reading,
    "web_of_lies": believe_by_reading,
}
tasks = pytest.mark.parametrize("name", GENERATORS)


def test_every_generated_task_is_read_here_and_built_in() -> None:
    assert READERS.keys() == GENERATORS.keys() < set(BUILTIN_TASKS)


@tasks
@given(st.data())
def test_the_answer_is_what_reading_the_question_gives(name: str, data: st.DataObject) -> None:
    generator = GENERATORS[name]
    difficulty = data.draw(st.sampled_from(generator.difficulties))
    index = data.draw(st.integers(0, generator.count(difficulty) - 1))
    question, answer = generator.item(index, difficulty)
    assert READERS[name](question) == answer


@pytest.mark.parametrize(
    ("name", "difficulty", "count"),
    [
        ("boolean", 4, 32_768),
        ("navigate", 3, 216),
        ("navigate", 4, 5_832),
        ("object_counting", 2, 12_960),
        ("web_of_lies", 2, 960),
        ("web_of_lies", 3, 26_880),
    ],
)
def test_every_number_is_another_question_and_the_count_says_how_many(
    name: str, difficulty: int, count: int
) -> None:
    generator = GENERATORS[name]
    assert generator.count(difficulty) == count
    assert len({generator.item(index, difficulty)[0] for index in range(count)}) == count
    for index in (-1, count):
        with pytest.raises(ValueError, match=f"0 … {count - 1}"):
            generator.item(index, difficulty)


def test_every_walk_of_three_instructions_that_returns_is_there() -> None:
    walks = [
        f"Take {n} step{'s' * (n != 'one')}{side}."
        for n in NUMBERS[1:10]
        for side in ("", " left", " right", " back")
    ]
    turns = ("Turn left.", "Turn right.", "Turn around.")
    ask = "Do you return to the start? Answer:"
    every = (f"{a} {b} {c} {ask}" for a, b, c in itertools.product(walks, turns, walks))
    returning = {question for question in every if walk_by_reading(question) == " Yes"}
    assert returning == {navigate_item(index, 3)[0] for index in range(0, 216, 2)}


@given(st.integers(0, 6), st.integers(0, 6))
def test_orders_and_digits_are_bijections(options: int, length: int) -> None:
    length = min(options, length)
    orders = list(itertools.permutations(range(options), length))
    assert len(orders) == len(
        {tuple(take_ordered(i, range(options), length)[1]) for i in range(len(orders))}
    )
    assert take_ordered(5 * len(orders), range(options), length)[0] == 5
    assert take_digits(234, 10, 2) == (2, [4, 3])


@tasks
def test_neither_an_answer_nor_an_end_gives_the_others_away(name: str) -> None:
    generator = GENERATORS[name]
    task = load_task(name, train_size=1000, test_size=1000, seed=0)
    # Numbers have many values, and of yes and no each is half.
    limit = 0.35 if name == "object_counting" else 0.55
    if name == "boolean":
        limit = 0.6
    counts = Counter(item.answer for item in task.train)
    assert max(counts.values()) / 1000 < limit
    assert generator.default in generator.difficulties


def test_the_last_number_of_steps_does_not_tell_whether_a_walk_returns() -> None:
    """Guessing by it alone is hardly better than guessing."""
    task = load_task("navigate", train_size=2000, test_size=2000, seed=0)
    answers: dict[str, Counter[str]] = {}
    last = re.compile(r"Take (\w+) steps?[^.]*\. Do you")
    for item in task.train:
        answers.setdefault(last.search(item.question)[1], Counter())[item.answer] += 1  # type: ignore[index]
    right = sum(
        answers[last.search(item.question)[1]].most_common()[0][0] == item.answer  # type: ignore[index]
        for item in task.test
    )
    assert right / 2000 < 0.58


@tasks
def test_a_greater_difficulty_is_a_longer_question(name: str) -> None:
    generator = GENERATORS[name]
    lengths = []
    for difficulty in generator.difficulties:
        task = load_task(name, train_size=4, test_size=3, seed=0, difficulty=difficulty)
        lengths.append(sum(len(item.question.split()) for item in task.train + task.test))
    assert lengths == sorted(set(lengths))


@tasks
@pytest.mark.parametrize("split", ["sample", "by_item"])
def test_splits_depend_on_the_seed_and_are_disjoint(name: str, split: str) -> None:
    sizes = {"train_size": 128, "test_size": 200, "validation_size": 60, "split": split}
    loaded = [load_task(name, **sizes, seed=seed) for seed in range(3)]
    assert load_task(name, **sizes, seed=1) == loaded[1] != loaded[2]
    for task in loaded:
        every = task.train + task.validation + task.test
        assert len({item.question for item in every}) == 388
        assert all(item.answer in task.answers for item in every)
        if split == "by_item":
            for where in ("train", "validation", "test"):
                assert {split_of(item.question) for item in getattr(task, where)} == {where}


@tasks
def test_difficulties_out_of_range_and_too_many_items_are_said(name: str) -> None:
    generator = GENERATORS[name]
    low, high = generator.difficulties[0], generator.difficulties[-1]
    for bad in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{low} to {high} {generator.unit}, got {bad}"):
            load_task(name, train_size=1, test_size=1, difficulty=bad)
    count = generator.count(low)
    for split in ("sample", "by_item"):
        with pytest.raises(
            ValueError, match=f"only {count} exist with {low} {generator.unit[:-1]}"
        ):
            load_task(name, train_size=count, test_size=1, difficulty=low, split=split)
    with pytest.raises(ValueError, match=f"{count - 1} train items .*; of all items {count} exist"):
        load_task(name, train_size=count - 1, test_size=1, difficulty=low, split="by_item")
