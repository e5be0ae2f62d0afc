"""Which steps of a training are recorded."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Schedule", "schedule"]

Schedule = int | Callable[[int], bool]


def schedule(name: str, value: Schedule) -> Callable[[int], bool]:
    """The steps that a number divides, or a function says yes to.

    Raises:
        ValueError: neither; `name` is what it was given for.
    """
    if callable(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1 or a function, got {value!r}")
    return lambda step: step % value == 0
