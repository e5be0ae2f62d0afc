"""The head of a report, which needs no script: what the runs are, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.report.data import Page
from tsloss_fast.analysis.report.health import Check
from tsloss_fast.analysis.report.names import visible
from tsloss_fast.analysis.report.story import Story
from tsloss_fast.analysis.report.task_story import control_of, tell_task
from tsloss_fast.analysis.report.wording import listed, number
from tsloss_fast.analysis.runs import Run

__all__ = ["items", "lead", "summary"]

_DASHES = {"dash": "6 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "10 4"}
# From so many runs on a table comes first and the words are folded away.
_OVERVIEW = 3
_OVERVIEW_COLUMNS = {
    "mean_lifetime": "Mean death",
    "coefficient_of_variation": "Variation of the bars",
    "accuracy": "Accuracy",
    "ce": "Cross-entropy",
}
_METRICS = {
    "euclidean": "Euclidean",
    "manhattan": "Manhattan",
    "sqeuclidean": "squared Euclidean",
}
# So many unhealthy clouds of a run are named, the others counted.
_SHOWN_CLOUDS = 5


def lead(page: Page) -> str:
    """What the runs are, in one line of text."""
    runs = page.data["runs"]
    clouds = [cloud for run in runs for cloud in run["clouds"].values()]
    frames = [cloud["frames"][-1]["n"] for cloud in clouds]
    steps = [step for cloud in clouds for step in cloud["ends"]]
    metrics = listed(sorted({_METRICS.get(run["metric"], visible(run["metric"])) for run in runs}))
    many = len(page.data["clouds"])
    return " · ".join(
        [
            counted(len(runs), "run"),
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
    # The name of the only cloud tells nothing.
    titles = dict(page.data["clouds"]) if len(clouds) > 1 else dict.fromkeys(clouds)
    blocks = []
    folded = len(runs) >= _OVERVIEW
    if len(clouds) > 1:
        blocks += [_across(shown[k]["name"], k, page) for k in range(len(runs))]
    for cloud in clouds:
        stories = {
            k: page.stories[k, cloud] for k in range(len(runs)) if (k, cloud) in page.stories
        }
        cards = [
            _card(runs[k], shown[k], titles[cloud], story, control_of(runs[k], list(runs)))
            for k, story in stories.items()
        ]
        inside = f'<div class="cards{" one" * (len(cards) == 1)}">' + "\n".join(cards) + "</div>"
        if folded:
            inside = (
                f"{_overview(runs, shown, stories, cloud)}\n"
                f'<details class="story"><summary>Each run in words</summary>{inside}</details>'
            )
        hidden = " hidden" if cloud != clouds[0] else ""
        blocks.append(f'<div data-cloud="{cloud}"{hidden}>\n{inside}\n</div>')
    return "\n".join(blocks)


def _across(name: str, run: int, page: Page) -> str:
    """Of many clouds, how many are healthy, and which are not."""
    titles = dict(page.data["clouds"])
    stories = {c: story for (k, c), story in page.stories.items() if k == run}
    bad = [titles[c] for c, story in stories.items() if not story.healthy]
    text = (
        f"{len(stories) - len(bad)} of {counted(len(stories), 'cloud')} healthy at the last record"
    )
    if bad:
        more = f" and {len(bad) - _SHOWN_CLOUDS} more" if len(bad) > _SHOWN_CLOUDS else ""
        text += f"; not: {', '.join(bad[:_SHOWN_CLOUDS])}{more}"
    return f'<p class="across"><bdi>{escape(name)}</bdi>: {escape(text)}.</p>'


def _overview(
    runs: Sequence[Run],
    shown: Sequence[Mapping[str, Any]],
    stories: Mapping[int, Story],
    cloud: int,
) -> str:
    """A row for each run: the verdict, and where it began and ended."""
    rows = []
    for k, story in stories.items():
        cells = [f'<th scope="row">{_title(shown[k])}</th>']
        cells.append(f'<td class="{_kind(story)}">{escape(story.verdict)}</td>')
        for name in _OVERVIEW_COLUMNS:
            if name in ("accuracy", "ce"):
                series = runs[k].measured.get(name)
                values = [] if series is None else series.values.tolist()
            else:
                values = runs[k].record.series(name, cloud).tolist()
            ends = f"{number(values[0])} → {number(values[-1])}" if values else "–"
            cells.append(f'<td class="number">{escape(ends)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f'<th scope="col" class="number">{t}</th>' for t in _OVERVIEW_COLUMNS.values())
    return (
        '<div class="scroll-x" tabindex="0" role="region" aria-label="All runs"><table class="all">'
        "<caption>First → last value of each run.</caption>"
        f'<thead><tr><th scope="col">Run</th><th scope="col">Verdict</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _title(shown: Mapping[str, Any]) -> str:
    """The stroke of a run in the figures, and its name."""
    dash = _DASHES.get(shown["dash"])
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        '<span class="name"><svg class="stroke" aria-hidden="true"><line x1="1" x2="25" y1="5" '
        f'y2="5" stroke="{shown["colour"]}" stroke-width="3"{style}/></svg>'
        f"<bdi>{escape(shown['name'])}</bdi></span>"
    )


def _kind(story: Story) -> str:
    judged = any(check.holds is False for check in story.checks[:3])
    return "good" if story.healthy else "bad" if judged else "none"


def _card(
    run: Run, shown: Mapping[str, Any], cloud: str | None, story: Story, control: Run | None
) -> str:
    of = "" if cloud is None else f' <span class="note"><bdi>{escape(cloud)}</bdi></span>'
    task = tell_task(run, control)
    return "\n".join(
        [
            '<article class="card">',
            f"<h3>{_title(shown)}{of}</h3>",
            f'<p class="verdict {_kind(story)}">{escape(story.verdict)}</p>',
            *([f"<h4>The prompt</h4>{items(story.sentences)}"] if story.sentences else []),
            *([f"<h4>The task</h4>{items(task)}"] if task else []),
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


def items(sentences: Iterable[str]) -> str:
    """A list of sentences, whatever is in them."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
