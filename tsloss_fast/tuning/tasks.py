"""Question and answer tasks for prompt tuning, split so that no test item is ever trained on."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

__all__ = [
    "OPERANDS",
    "Item",
    "Task",
    "boolean_item",
    "count_boolean_items",
    "load_task",
    "majority_rate",
    "read_json_lines",
    "same_spacing",
]

# How many operands a boolean expression has where none are asked for, and at most: the space
# grows by a factor of 16 an operand, and beyond 8 a question is longer than a prompt.
OPERANDS, MOST_OPERANDS = 3, 8
# The eight operands: a literal, bare or in parentheses, negated or not. With repeated negations a
# model of 135M parameters stays at chance for the length of a demonstration.
_OPERANDS = tuple(
    (negation + shape.format(literal), literal != bool(negation))
    for negation, shape, literal in product(("", "not "), ("{}", "( {} )"), (True, False))
)
_OPERATORS = ("and", "or")


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
    """Return the accuracy on items, at least one, of always giving their most frequent answer."""
    return max(Counter(item.answer for item in items).values()) / len(items)


def load_task(
    name_or_path: str | Path,
    *,
    train_size: int,
    test_size: int,
    validation_size: int = 0,
    seed: int = 0,
    difficulty: int | None = None,
) -> Task:
    """Draw disjoint train, validation and test splits of a task.

    Args:
        name_or_path: `"boolean"`, or the path of a JSON Lines file. `"boolean"` is generated in the
            style of BIG-Bench Hard: expressions in words, answered by " True" or " False". Every
            line of a file is an object with the strings `question` and `answer`. Where neither the
            question ends nor the answer begins with white space, one space is put between them.
            Blank lines are allowed.
        train_size, test_size, validation_size: items of each split.
        seed: chooses the items and their order; the same arguments give the same task.
        difficulty: operands of a boolean expression, 1 … 8, by default 3. A file has none.

    Raises:
        ValueError: a split is too small or more items are asked for than there are; a difficulty
            that the task does not have; a line of the file is bad (with the file's name, the
            line's number and what is wrong with it), or asks again what an earlier line asked,
            which would let a test item be trained on. White space tells no two lines apart.
        FileNotFoundError: `name_or_path` is neither "boolean" nor a file.

    Example:
        >>> task = load_task("boolean", train_size=8, test_size=4)
        >>> len(task.train), len(task.test), task.answers
        (8, 4, (' False', ' True'))
    """
    sizes = {"train_size": train_size, "test_size": test_size, "validation_size": validation_size}
    for size, value in sizes.items():
        least = 0 if size == "validation_size" else 1
        if value < least:
            raise ValueError(f"{size} must be at least {least}, got {value}")
    name, total = str(name_or_path), sum(sizes.values())
    pool: Sequence[tuple[str, str]] = ()
    operands = OPERANDS if difficulty is None else difficulty
    if name == "boolean":
        count = count_boolean_items(operands)
        remedy = f"exist with {operands} operand{'s' * (operands > 1)}: ask for fewer, or for more"
        remedy += " operands (difficulty)" * (operands < MOST_OPERANDS)
    else:
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"the task {name!r} is neither a file nor 'boolean'; a file holds one JSON object "
                'with "question" and "answer" a line'
            )
        if difficulty is not None:
            raise ValueError(
                f"the task {name!r} has no difficulty, got {difficulty!r}: leave it out; 'boolean' "
                "has one"
            )
        pool = read_json_lines(Path(name))
        count, remedy = len(pool), "distinct ones exist: ask for fewer"
    if total > count:
        raise ValueError(
            f"{total} items were asked for (train {train_size}, test {test_size}, validation "
            f"{validation_size}), but of the task {name!r} only {count} {remedy}"
        )
    drawn = [
        Item(*(pool[index] if pool else boolean_item(index, operands)))
        for index in random.Random(seed).sample(range(count), total)
    ]
    train, rest = drawn[:train_size], drawn[train_size:]
    return Task(name, tuple(train), tuple(rest[:test_size]), tuple(rest[test_size:]))


def count_boolean_items(operands: int) -> int:
    """Return how many distinct expressions with exactly `operands` operands exist: 8ᵏ·2ᵏ⁻¹.

    Raises:
        ValueError: `operands` is not an integer from 1 to 8.
    """
    integer = isinstance(operands, int) and not isinstance(operands, bool)
    if not integer or not 1 <= operands <= MOST_OPERANDS:
        raise ValueError(
            f"the difficulty of the task 'boolean' is an integer, 1 to {MOST_OPERANDS} operands, "
            f"got {operands!r}"
        )
    return int(len(_OPERANDS) ** operands * len(_OPERATORS) ** (operands - 1))


def boolean_item(index: int, operands: int) -> tuple[str, str]:
    """Return the expression number `index` as a question, and its answer.

    The number is read in mixed radix, an operand and an operator at a time. An operand can be
    recovered from the text, so the reading is a bijection: a sample of distinct numbers has no
    repeats, and no list of expressions has to be held. As in Python, "not" binds tighter than
    "and", and "and" tighter than "or".

    Args:
        index: 0 … `count_boolean_items(operands)` - 1.
        operands: number of operands.
    """
    count = count_boolean_items(operands)
    if not 0 <= index < count:
        raise ValueError(f"index must be in 0 … {count - 1} for {operands} operands, got {index}")
    index, operand = divmod(index, len(_OPERANDS))
    text, value = _OPERANDS[operand]
    # A disjunction of conjunctions: `settled` is what stands left of the last "or".
    settled, conjunction = False, value
    for _ in range(operands - 1):
        index, operator = divmod(index, len(_OPERATORS))
        index, operand = divmod(index, len(_OPERANDS))
        word, value = _OPERANDS[operand]
        text += f" {_OPERATORS[operator]} {word}"
        if _OPERATORS[operator] == "and":
            conjunction = conjunction and value
        else:
            settled, conjunction = settled or conjunction, value
    return f"{text} is", f" {settled or conjunction}"


def same_spacing(text: str) -> str:
    """Return the text with one space for each run of white space and none at its ends: two texts
    that agree in this are one item, and must not be both trained on and tested."""
    return " ".join(text.split())


def read_json_lines(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a JSON Lines file, with a space between question and answer.

    Raises:
        ValueError: no item, a bad line, or one that asks again what an earlier one asked. White
            space tells no two questions apart, nor does the place at which a text is cut into its
            question and its answer.
    """
    items: list[tuple[str, str]] = []
    first_question: dict[str, int] = {}
    first_text: dict[str, int] = {}
    # Bytes, so that a line number counts what an editor counts: U+2028 may stand in a string.
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"{path}, line {number}"
        item = _parse_line(raw, where)
        for first_line_of, repeated, text in (
            (first_question, "the question", item[0]),
            (first_text, "the text (question and answer together)", "".join(item)),
        ):
            earlier = first_line_of.setdefault(same_spacing(text), number)
            if earlier != number:
                raise ValueError(
                    f"{where}: {repeated} of line {earlier} stands here again (white space does "
                    "not count); remove one of the two, so that no item can be trained on and "
                    "tested"
                )
        items.append(item)
    if not items:
        raise ValueError(
            f"{path} holds no item; write one JSON object with question and answer a line"
        )
    return items


def _parse_line(raw: bytes, where: str) -> tuple[str, str]:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (RecursionError, ValueError) as error:
        # Nested thousands deep, or an integer of thousands of digits.
        raise ValueError(f"{where}: not an item ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(record).__name__}")
    for key in ("question", "answer"):
        if key not in record:
            raise ValueError(f"{where}: the key {key!r} is missing (found: {sorted(record)})")
        value = record[key]
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key!r} must be a string, got {type(value).__name__}")
        if not value.strip():
            raise ValueError(f"{where}: {key!r} is empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{where}: {key!r} holds half of a surrogate pair, which is no text")
    question, answer = record["question"], record["answer"]
    joined = question[-1].isspace() or answer[0].isspace()
    return question, answer if joined else f" {answer}"
