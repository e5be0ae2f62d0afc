"""The words, thresholds and colours of reports and figures, which `words.json` holds.

The scripts of the report's page read the same file, so that a name or a rule stands once.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["LOSSES", "METRICS", "PALETTE", "QUANTITIES", "RATES", "THRESHOLDS", "WORDS", "label_of"]

WORDS: dict[str, Any] = json.loads(
    resources.files(__package__).joinpath("words.json").read_text("utf-8")
)
THRESHOLDS: dict[str, float] = WORDS["thresholds"]
PALETTE: dict[str, list[str]] = WORDS["palette"]
LOSSES: dict[str, str] = WORDS["losses"]
METRICS: dict[str, str] = WORDS["metrics"]
RATES: dict[str, str] = WORDS["reference_rates"]
QUANTITIES: dict[str, dict[str, str]] = WORDS["quantities"]


def label_of(quantity: str) -> str:
    """Return a quantity's name for an axis or a column, with its unit: "entropy gap (nats)".

    A name without an entry is written with spaces for its underscores.
    """
    known = QUANTITIES.get(quantity)
    if known is None:
        return quantity.replace("_", " ")
    return f"{known['label']} ({known['unit']})" if "unit" in known else known["label"]
