"""The parts of a report that need no script: summary, relation to performance, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tsloss_fast.analysis.health import Check
from tsloss_fast.analysis.relation import Correlation, Relation
from tsloss_fast.analysis.report_data import Page
from tsloss_fast.analysis.report_names import visible
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.story import Story
from tsloss_fast.analysis.task_story import control_of, tell_task
from tsloss_fast.analysis.wording import listed, number

__all__ = ["lead", "notes", "relation_section", "summary"]

_DASHES = {"dash": "6 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "10 4"}
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
# So many unhealthy clouds of a run are named, the others counted.
_SHOWN_CLOUDS = 5


def lead(page: Page) -> str:
    """What the runs are, in one line of text."""
    runs = page.data["runs"]
    clouds = [cloud for run in runs for cloud in run["clouds"].values()]
    frames = [cloud["frames"][-1]["n"] for cloud in clouds]
    steps = [step for cloud in clouds for step in (cloud["steps"][0], cloud["steps"][-1])]
    metrics = listed(sorted({visible(run["metric"]) for run in runs}))
    many = len(page.data["clouds"])
    return " · ".join(
        [
            _count(len(runs), "run"),
            *([f"{many} clouds"] if many > 1 else []),
            f"{_range(frames)} virtual token{'s' if max(frames) != 1 else ''} in "
            f"{_range([cloud['features'] for cloud in clouds])} dimensions",
            f"steps {min(steps)} to {max(steps)}",
            f"{metrics} distances",
        ]
    )


def summary(runs: Sequence[Run], page: Page) -> str:
    """A card for each run, with the story of each cloud; all but the first cloud's are hidden."""
    shown = page.data["runs"]
    clouds = [cloud for cloud, _ in page.data["clouds"]]
    blocks = []
    if len(clouds) > 1:
        blocks += [_across(shown[k]["name"], k, page) for k in range(len(runs))]
    for cloud in clouds:
        cards = [
            _card(run, shown[k], page.stories[k, cloud], control_of(run, list(runs)))
            for k, run in enumerate(runs)
            if (k, cloud) in page.stories
        ]
        hidden = " hidden" if cloud != clouds[0] else ""
        one = " one" if len(cards) == 1 else ""
        blocks.append(
            f'<div class="cards{one}" data-cloud="{cloud}"{hidden}>\n'
            + "\n".join(cards)
            + "\n</div>"
        )
    return "\n".join(blocks)


def _across(name: str, run: int, page: Page) -> str:
    """Of many clouds, how many are healthy, and which are not."""
    titles = dict(page.data["clouds"])
    stories = {c: story for (k, c), story in page.stories.items() if k == run}
    bad = [titles[c] for c, story in stories.items() if not story.healthy]
    text = (
        f"{len(stories) - len(bad)} of {_count(len(stories), 'cloud')} healthy at the last record"
    )
    if bad:
        more = f" and {len(bad) - _SHOWN_CLOUDS} more" if len(bad) > _SHOWN_CLOUDS else ""
        text += f"; not: {', '.join(bad[:_SHOWN_CLOUDS])}{more}"
    return f'<p class="across"><bdi>{escape(name)}</bdi>: {escape(text)}.</p>'


def _card(run: Run, shown: Mapping[str, Any], story: Story, control: Run | None) -> str:
    dash = _DASHES.get(shown["dash"])
    stroke = (
        '<svg class="stroke" aria-hidden="true"><line x1="1" x2="25" y1="5" y2="5" '
        f'stroke="{shown["colour"]}" stroke-width="3"'
        + (f' stroke-dasharray="{dash}"' if dash else "")
        + "/></svg>"
    )
    judged = any(check.holds is False for check in story.checks[:3])
    kind = "good" if story.healthy else "bad" if judged else "none"
    task = tell_task(run, control)
    return "\n".join(
        [
            '<article class="card">',
            f'<h3 class="name">{stroke}<bdi>{escape(shown["name"])}</bdi></h3>',
            f'<p class="verdict {kind}">{escape(story.verdict)}</p>',
            *([f"<h4>The prompt</h4>{_items(story.sentences)}"] if story.sentences else []),
            *([f"<h4>The task</h4>{_items(task)}"] if task else []),
            f"<h4>The rules of the verdict</h4>{_rules(story.checks)}",
            "</article>",
        ]
    )


def _rules(checks: Iterable[Check]) -> str:
    marks = {
        True: '<span class="holds">✓ yes</span>',
        False: '<span class="fails">✗ no</span>',
        None: "<span>– </span>",
    }
    rows = [
        f'<tr><th scope="row">{escape(check.name)}<br><span class="note">{escape(check.rule)}'
        f"</span></th><td>{marks[check.holds]}</td><td>{escape(check.found)}</td>"
        f'<td class="number">{check.held} of {check.of}</td></tr>'
        for check in checks
    ]
    return (
        '<table><thead><tr><th scope="col">Rule</th><th scope="col">Holds</th>'
        '<th scope="col">At the last record</th><th scope="col" class="number">Records</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def relation_section(runs: Sequence[Run], relation: Relation) -> str:
    """What correlations allow to be said, and every one that was looked at."""
    if not any(name in run.measured for run in runs for name in ("accuracy", "ce")):
        return (
            '<p class="note">Nothing was measured of a task in these runs (no accuracy, no '
            "held-out cross-entropy), so there is nothing to relate the topology to.</p>"
        )
    blocks = [_items(visible(sentence, 1000) for sentence in relation.sentences())]
    for view, title in _VIEWS.items():
        found = [e for e in relation.correlations if e.view == view and e.coefficient is not None]
        if not found:
            continue
        tested = any(entry.low is not None for entry in found)
        what = (
            f"Spearman's coefficient {title}; the line is its "
            f"{100 * relation.confidence:g} % interval over runs."
            if tested
            else f"Spearman's coefficient {title}: it describes these runs, and says nothing of "
            "others."
        )
        several = len(relation.groups) > 1
        rows = "".join(_correlation(entry, relation, several) for entry in found)
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


def _correlation(entry: Correlation, relation: Relation, several: bool) -> str:
    assert entry.coefficient is not None
    task = relation.groups[entry.group].task or "unknown task"
    group = f' <span class="note">({escape(visible(task, 60))})</span>' if several else ""
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


def notes(sentences: Iterable[str]) -> str:
    return _items(sentences)


def _items(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(round(value, 2))
