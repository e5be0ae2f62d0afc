"""Items of tasks, taken apart."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning.task_files import INSTALL_REVIEWS, REVIEWS_PACKAGE
from tsloss_fast.tuning.tasks import Item

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
