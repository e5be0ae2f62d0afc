"""How topology goes with performance, for a report: what may be said, and every pair in a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from tsloss_fast.analysis.relation import Correlation, Relation
from tsloss_fast.analysis.report.html import items
from tsloss_fast.analysis.report.names import visible
from tsloss_fast.analysis.report.wording import number
from tsloss_fast.analysis.runs import Run

__all__ = ["relation_section"]

_QUANTITIES = {
    "mean_lifetime": "mean death",
    "max_lifetime": "longest bar",
    "total_persistence": "total persistence",
    "coefficient_of_variation": "coefficient of variation",
    "entropy_gap": "entropy gap",
    "redundancy": "redundancy",
    "displacement_first": "displacement since the start",
    "bottleneck_previous": "distance to the barcode before",
    "wasserstein_first": "distance to the first barcode (Wasserstein)",
    "accuracy": "accuracy",
    "ce": "cross-entropy",
}
_VIEWS = {"steps": "over the steps, within each run", "runs": "over the runs, last values"}
# What the table below says of each pair.
_CLAIM = re.compile(r"^Over the (steps|runs), ")


def relation_section(runs: Sequence[Run], relation: Relation) -> str:
    """What correlations allow to be said, and every one that was looked at."""
    if not any(name in run.measured for run in runs for name in ("accuracy", "ce")):
        return (
            '<p class="note">Nothing was measured of a task in these runs (no accuracy, no '
            "held-out cross-entropy), so there is nothing to relate the topology to.</p>"
        )
    tested = [entry for entry in relation.correlations if entry.low is not None]
    claims = sum(entry.claim for entry in tested)
    said = [s for s in relation.sentences() if not (tested and _CLAIM.search(s))]
    if tested:
        said.insert(0, f"{claims} of {len(tested)} intervals exclude zero; they are blue below.")
    blocks = [items(visible(sentence, 1000) for sentence in said)]
    for view, title in _VIEWS.items():
        found = [e for e in relation.correlations if e.view == view and e.coefficient is not None]
        if not found:
            continue
        what = (
            f"Spearman's coefficient {title}; the line is its 95 % interval over seeds."
            if tested
            else f"Spearman's coefficient {title}: it describes these runs, and says nothing of "
            "others."
        )
        several = len({entry.group for entry in found}) > 1
        rows = "".join(_correlation(entry, several) for entry in found)
        table = (
            '<div class="relation"><table><thead><tr><th scope="col">Quantity</th>'
            '<th scope="col">Outcome</th><th scope="col" class="number">Coefficient</th>'
            '<th scope="col" class="wide-only">−1 … 0 … +1</th>'
            f'<th scope="col" class="number">Runs</th></tr></thead><tbody>{rows}</tbody></table>'
            "</div>"
        )
        mark = " open" if tested else ""
        blocks.append(f"<details{mark}><summary>{escape(what)}</summary>{table}</details>")
    return "\n".join(blocks)


def _correlation(entry: Correlation, several: bool) -> str:
    assert entry.coefficient is not None
    group = f' <span class="note">({escape(visible(entry.group, 60))})</span>' if several else ""
    interval = ""
    if entry.low is not None and entry.high is not None:
        interval = f" ({_signed(entry.low)} to {_signed(entry.high)})"
    return (
        f"<tr><td>{escape(_QUANTITIES.get(entry.quantity, entry.quantity))}{group}</td>"
        f"<td>{escape(_QUANTITIES.get(entry.outcome, entry.outcome))}</td>"
        f'<td class="number">{_signed(entry.coefficient)}{interval}</td>'
        f'<td class="wide-only">{_forest(entry)}</td><td class="number">{entry.runs}</td></tr>'
    )


def _forest(entry: Correlation) -> str:
    """The coefficient as a dot between -1 and 1, with its interval as a line."""

    def x(value: float) -> float:
        return round(70 + 62 * value, 1)

    assert entry.coefficient is not None
    colour = "#0072B2" if entry.claim else "#6b6b6b"
    line = ""
    if entry.low is not None and entry.high is not None:
        line = (
            f'<line x1="{x(entry.low)}" x2="{x(entry.high)}" y1="8" y2="8" stroke="{colour}" '
            'stroke-width="2"/>'
        )
    return (
        '<svg viewBox="0 0 140 16" aria-hidden="true"><line x1="8" x2="132" y1="8" y2="8" '
        'stroke="#e2e2e2"/><line x1="70" x2="70" y1="1" y2="15" stroke="#9a9a9a"/>'
        f'{line}<circle cx="{x(entry.coefficient)}" cy="8" r="4" fill="{colour}"/></svg>'
    )


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(round(value, 2))
