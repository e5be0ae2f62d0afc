"""Tasks: splits that never meet, and expressions with Python's meaning."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from task_items import line, needs_reviews, questions, write

from tsloss_fast.tuning.boolean import boolean_expression, boolean_item, count_boolean_expressions
from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.splits import TEST_SHARE, TRAIN_SHARE, VALIDATION_SHARE, shuffled, split_of
from tsloss_fast.tuning.tasks import Item, Task, load_task


@given(st.data(), st.integers(1, 8))
def test_expressions_have_the_value_that_python_gives_them(
    data: st.DataObject, operands: int
) -> None:
    index = data.draw(st.integers(0, count_boolean_expressions(operands) - 1))
    text, value = boolean_expression(index, operands)
    assert eval(text) is value
    assert boolean_item(index, operands) == (f"{text} is", f" {value}")


def test_every_number_is_another_expression_and_the_count_says_how_many() -> None:
    count = count_boolean_expressions(3)
    assert len({boolean_expression(index, 3)[0] for index in range(count)}) == count == 2048
    with pytest.raises(ValueError, match="0 … 2047"):
        boolean_expression(2048, 3)


def test_asking_for_more_expressions_than_exist_says_how_many_exist() -> None:
    sizes = {"test_size": 30, "validation_size": 18, "seed": 0, "difficulty": 2}
    everything = load_task("boolean", train_size=80, **sizes)
    assert len(questions(everything.train + everything.test + everything.validation)) == 128
    with pytest.raises(ValueError, match="only 128 exist with 2 operands"):
        load_task("boolean", train_size=81, **sizes)
    with pytest.raises(ValueError, match="1 to 8 operands"):
        load_task("boolean", train_size=1, test_size=1, seed=0, difficulty=9)


def test_boolean_items_read_like_the_benchmark_and_are_balanced() -> None:
    task = load_task("boolean", train_size=400, test_size=100, seed=1)
    assert all(item.question.endswith(" is") for item in task.train)
    assert task.answers == (" False", " True")
    counts = Counter(item.answer for item in task.train)
    assert 0.4 < counts[" True"] / 400 < 0.6


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "boolean":
        return "boolean"
    return str(write(tmp_path / "task.jsonl", *[line(f"question {i} ?") for i in range(30)]))


@pytest.mark.parametrize("source", ["boolean", "file"], indirect=True)
def test_splits_are_disjoint_and_depend_on_the_seed_alone(source: str) -> None:
    sizes = {"train_size": 12, "test_size": 10, "validation_size": 8}
    task = load_task(source, **sizes, seed=5)
    splits = (task.train, task.test, task.validation)
    assert [len(split) for split in splits] == [12, 10, 8]
    assert len(questions(task.train) | questions(task.test) | questions(task.validation)) == 30
    assert load_task(source, **sizes, seed=5) == task
    other = load_task(source, **sizes, seed=6)
    assert other.train != task.train
    assert (other.digest == task.digest) is False


def test_growing_the_validation_split_does_not_move_the_test_split() -> None:
    plain = load_task("boolean", train_size=20, test_size=10, seed=2)
    more = load_task("boolean", train_size=20, test_size=10, validation_size=5, seed=2)
    assert (more.train, more.test) == (plain.train, plain.test)
    assert more.digest != plain.digest


@given(st.integers(0, 60), st.integers(0, 2**63 - 1), st.integers(0, 60))
def test_shuffled_gives_every_number_once_and_each_prefix_by_the_seed(
    count: int, seed: int, taken: int
) -> None:
    order = list(shuffled(count, seed))
    assert sorted(order) == list(range(count))
    assert list(itertools.islice(shuffled(count, seed), taken)) == order[:taken]


def test_shuffled_orders_are_equally_likely() -> None:
    counts = Counter(tuple(shuffled(3, seed)) for seed in range(6000))
    assert len(counts) == 6
    assert all(850 < count < 1150 for count in counts.values())


def test_shares_of_the_splits_are_those_of_the_constants() -> None:
    counts = Counter(split_of(f"question {i}") for i in range(20_000))
    shares = {"train": TRAIN_SHARE, "validation": VALIDATION_SHARE, "test": TEST_SHARE}
    assert sum(shares.values()) == 100
    assert {split: round(count / 200) for split, count in counts.items()} == shares
    # What was trained on yesterday is not tested today: the function may never change.
    assert [split_of(q) for q in ("True is", "False is", "not True is")] == [
        "test",
        "train",
        "validation",
    ]


def test_white_space_around_a_question_does_not_move_it_to_another_split() -> None:
    for question in ("True is", "False is", "not True is"):
        assert {split_of(question + end) for end in ("", " ", "\n", "\t ")} == {split_of(question)}


@pytest.mark.parametrize("difficulty", [3, 8])
def test_by_item_no_test_item_of_a_seed_is_trained_on_with_another(difficulty: int) -> None:
    sizes = {"train_size": 128, "test_size": 200, "validation_size": 60, "difficulty": difficulty}
    tasks = [load_task("boolean", **sizes, seed=seed, split="by_item") for seed in range(10)]
    splits = [
        set[str]().union(*(questions(getattr(task, split)) for task in tasks))
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, splits)) == len(splits[0] | splits[1] | splits[2])
    assert [len(x) for x in (tasks[0].train, tasks[0].validation, tasks[0].test)] == [128, 60, 200]
    assert len(questions(tasks[0].train)) == 128
    assert tasks[0].train != tasks[1].train
    assert load_task("boolean", **sizes, seed=0, split="by_item") == tasks[0]


def test_by_item_the_size_of_a_split_has_no_influence_on_the_others() -> None:
    plain = load_task("boolean", train_size=20, test_size=10, seed=2, split="by_item")
    more = load_task(
        "boolean", train_size=90, test_size=10, validation_size=5, seed=2, split="by_item"
    )
    assert (more.train[:20], more.test) == (plain.train, plain.test)


def test_by_item_a_split_that_is_too_small_says_how_many_there_are(tmp_path: Path) -> None:
    sizes = {"train_size": 2, "difficulty": 1, "seed": 4, "split": "by_item"}
    there = Counter(split_of(boolean_item(index, 1)[0]) for index in range(8))
    task = load_task("boolean", test_size=there["test"], **sizes)
    assert len(questions(task.test)) == there["test"]
    too_many = there["test"] + 1
    message = f"{too_many} test items were asked for, but .* only {there['test']} .*1 operand:"
    with pytest.raises(ValueError, match=message):
        load_task("boolean", test_size=too_many, **sizes)
    path = write(tmp_path / "t.jsonl", *[line(f"{i} ?") for i in range(20)])
    with pytest.raises(ValueError, match=r"15 train items were asked for.* of all items 20"):
        load_task(path, train_size=15, test_size=1, split="by_item")


def test_a_run_with_a_tasks_own_difficulty_is_the_run_that_names_it() -> None:
    assert TuneConfig("x").identity() == TuneConfig("y", difficulty=3).identity()
    assert TuneConfig("x", task="navigate").identity()["difficulty"] == 4
    assert TuneConfig("x", task="rotten_tomatoes").identity()["difficulty"] is None


# A run that was stopped goes on only with the same items.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("boolean", "4eae050019bfd8e9039e659cebba82141f3a9d1f13e18730818ace83f1b7d964"),
        pytest.param(
            "rotten_tomatoes",
            "bdb58e5e8a8c7101f88312d459187074c080c63fd368df2fab095ed48d0e5b03",
            marks=needs_reviews,
        ),
    ],
)
def test_the_items_of_a_seed_are_the_same_for_ever(name: str, digest: str) -> None:
    assert load_task(name, train_size=128, test_size=60, seed=0).digest == digest


def test_majority_rate_is_that_of_the_test_split() -> None:
    test = tuple(Item(f"q{i}", answer) for i, answer in enumerate("aaab"))
    train = tuple(Item(f"t{i}", "b") for i in range(9))
    assert Task("x", train, test).majority_rate == 0.75
