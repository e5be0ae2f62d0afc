"""What a design may hold, checked in words: the file is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tsloss_fast._terminal import escape_invisible

__all__ = ["as_list", "at_least_one", "different_seeds", "known", "label", "text"]


def at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def different_seeds(name: str, seeds: Sequence[Any]) -> None:
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"{name}: expected different integers >= 0, got {list(seeds)}")


def as_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, got {value!r}")
    for number, each in enumerate(value, start=1):
        if each is None:
            raise ValueError(
                f"{name}: number {number} is empty (YAML takes null and ~ for nothing): write a "
                "value, in quotes if it is that word, or leave the entry out"
            )
    return list(value)


def text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        hint = " (write it in quotes)" if isinstance(value, (bool, int, float)) else ""
        raise ValueError(f"{name} must be text, got {value!r}{hint}")


def label(name: str, value: Any) -> None:
    """Refuse names that tables and figures cannot show."""
    text(name, value)
    if value != escape_invisible(value):
        raise ValueError(f"{name} must consist of visible characters, got {value!r}")


def _numbers(name: str, value: Any) -> None:
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, bool) or not isinstance(each, (int, float)):
            hint = " (YAML takes 1e-2 for text: write 0.01 or 1.0e-2)" if "e" in str(each) else ""
            raise ValueError(f"{name} must be a number, got {each!r}{hint}")


def known(kind: type, given: Any, what: str) -> Mapping[str, Any]:
    names = {each.name for each in fields(kind)}
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping, got {given!r}")
    for field_ in fields(kind):
        if field_.name in given and "float" in str(field_.type):
            _numbers(f"{what}: {field_.name}", given[field_.name])
    unknown = sorted(str(name) for name in set(given) - names)
    if unknown:
        raise ValueError(f"{what} has no {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    return given
