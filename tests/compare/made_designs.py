"""A small design, and others that differ from it."""

from __future__ import annotations

from typing import Any

from tsloss_fast.compare.design import Design

SMALL: dict[str, Any] = {
    "name": "small",
    "tasks": ["boolean"],
    "methods": ["ce", "tsloss"],
    "seeds": [0, 1],
    "search": {"trials": 3, "weights": 1, "evaluations": 1, "seeds": [7, 8]},
}


def made(**changes: Any) -> Design:
    return Design.from_mapping(SMALL | changes)
