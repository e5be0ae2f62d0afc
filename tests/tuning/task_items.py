"""Items of tasks, taken apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning.tasks import Item


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def line(question: str, answer: str = "yes") -> str:
    return json.dumps({"question": question, "answer": answer})


def questions(items: tuple[Item, ...]) -> set[str]:
    return {item.question for item in items}
