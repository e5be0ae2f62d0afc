"""How numbers and lists are written in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["capital", "change", "listed", "moved", "number"]

# Smaller relative changes are called none.
STEADY = 0.01


def moved(start: float, end: float) -> bool:
    return abs(end - start) > STEADY * max(abs(start), abs(end))


def change(start: float, end: float, relative: bool = True) -> str:
    """Such as "rose from 3.05 to 4.1 (+34 %)", or "stayed at 3.05"."""
    if not moved(start, end):
        return f"stayed at {number(end)}"
    verb = "rose" if end > start else "fell"
    text = f"{verb} from {number(start)} to {number(end)}"
    if not relative:
        return text
    share = (end - start) / abs(start) if start else np.inf
    if abs(share) > 9.995:
        return text if not np.isfinite(share) else f"{text} ({number(end / start)} times)"
    return f"{text} ({share:+.0%})".replace("%", "\u00a0%").replace("-", "−")


def number(value: float) -> str:
    """Three significant digits; no exponent from 0.0001 to a million."""
    if not np.isfinite(value):
        return str(float(value))
    if 999.5 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
