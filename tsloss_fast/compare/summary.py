"""The page of a comparison, in Markdown, from the lines of its results; it may be underway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tsloss_fast._terminal import counted, table_lines
from tsloss_fast.compare.comparison import Comparison, Experiment, read_experiment
from tsloss_fast.compare.numbers import decimals, span
from tsloss_fast.compare.outcomes import OUTCOMES, run_outcomes
from tsloss_fast.compare.run_group import RunGroup
from tsloss_fast.compare.tables import (
    difference_cell,
    differences_table,
    methods_table,
    search_table,
)
from tsloss_fast.compare.words import (
    baseline_name,
    chance,
    conclusion,
    group_name,
    short_names,
    without_effect,
)

__all__ = ["edge_warnings", "story_table", "story_tables", "summarize"]

Record = Mapping[str, Any]


def summarize(records: Iterable[Record]) -> str:
    """A page in Markdown: for each group what its methods came to, and what may be said of it.

    Args:
        records: the lines of results.jsonl, in their order. What is not finished is told from the
            lists in the design, as far as it has them, and from what other methods have.
    """
    experiment = read_experiment(records)
    compared = [experiment.compare(group) for group in experiment.groups]
    blocks = [f"# {experiment.name or 'Comparison'}", _head(experiment)]
    for group, found in zip(experiment.groups, compared, strict=True):
        blocks += _block(experiment, group, found)
    if experiment.not_begun:
        names = (f"- {group_name(group)}" for group in experiment.not_begun)
        blocks += ["## No run finished yet", "\n".join(names)]
    everything = [entry for found in compared for entry in found]
    if len(compared) > 1 and any(entry.difference for entry in everything):
        blocks += ["## All groups together", *chance(everything, experiment.confidence)]
    return "\n\n".join(blocks) + "\n"


def story_tables(records: Iterable[Record]) -> str:
    """Two compact tables, of final accuracy and of the area under it, and how much is chance.

    Args:
        records: as `summarize`.
    """
    everything = list(records)
    experiment = read_experiment(everything)
    if not experiment.groups:
        return "No run of the comparison is finished yet.\n"
    outcomes = [OUTCOMES["final_accuracy"], OUTCOMES["accuracy_area"]]
    found = [e for group in experiment.groups for e in experiment.compare(group, outcomes)]
    blocks = []
    for outcome in outcomes:
        caption = f"Difference to {baseline_name(experiment)} in {outcome.label}"
        blocks += [
            f"{caption}{_interval_words(experiment)}:",
            story_table(everything, outcome.name),
        ]
    return "\n\n".join([*blocks, *chance(found, experiment.confidence)]) + "\n"


def story_table(records: Iterable[Record], outcome: str = "final_accuracy") -> str:
    """Method × group: the paired difference in one outcome, bold where its interval excludes zero
    and there are 5 seeds at least.

    Args:
        records: as `summarize`.
        outcome: the name of one.

    Raises:
        KeyError: there is no such outcome.
    """
    experiment = read_experiment(records)
    chosen = OUTCOMES[outcome]
    cells = {
        (entry.method, index): entry
        for index, group in enumerate(experiment.groups)
        for entry in experiment.compare(group, [chosen])
    }
    rows = []
    for method in experiment.methods:
        if method == experiment.baseline:
            continue
        row = [
            difference_cell(cells.get((method, index))) for index in range(len(experiment.groups))
        ]
        rows.append([method, *row])
    return "\n".join(table_lines(["method", *short_names(experiment.groups)], rows))


def edge_warnings(experiment: Experiment, group: RunGroup) -> list[str]:
    """Chosen values at the end of what was tried: the best may lie beyond. A sentence for each, of
    one group of the experiment."""
    found = []
    for choice in experiment.chosen(group).values():
        for name, word in (("lr", "learning rate"), ("weight", "weight")):
            tried = sorted({float(trial[name]) for trial in choice["trials"]})
            if len(tried) > 1 and choice[name] in (tried[0], tried[-1]):
                end = "smallest" if choice[name] == tried[0] else "largest"
                found.append(
                    f"Warning: the {word} chosen for {choice['method']}, {choice[name]:g}, is the "
                    f"{end} that was tried: a better one may lie beyond."
                )
    return found


def _head(experiment: Experiment) -> str:
    runs = sum(len(by_seed) for group in experiment.groups for by_seed in group.runs.values())
    searching = len(experiment.searching)
    search = f", and {counted(searching, 'run')} of the search" if searching else ""
    return (
        f"{counted(runs, 'run')} in {counted(len(experiment.groups), 'group')}{search}. "
        f"Differences are method − {baseline_name(experiment)}, paired by seed"
        f"{_interval_words(experiment)}; better means more accuracy, fewer steps, less "
        "cross-entropy (CE). Steps to a threshold that a run never reached count as all its "
        "steps: the mean is then a lower bound (≥). Milliseconds are a run's share of the step of "
        "the runs that were packed together; they tell of the machine and its load too."
    )


def _interval_words(experiment: Experiment) -> str:
    return (
        f", with percentile bootstrap intervals of {100 * experiment.confidence:g}% over seeds "
        f"({experiment.resamples} resamples)"
    )


def _block(experiment: Experiment, group: RunGroup, found: Sequence[Comparison]) -> Iterator[str]:
    yield f"## {group_name(group)}, {counted(len(group.seeds), 'seed')}"
    yield _references(group)
    yield methods_table(group)
    notes = [*_missing(experiment, group), *_remarks(experiment, group)]
    if notes:
        yield "\n".join(f"- {note}" for note in notes)
    if found:
        yield f"Differences to {baseline_name(experiment)}:"
        yield differences_table(experiment, found)
    searched = search_table(experiment, group)
    if searched:
        yield (
            "Searched on validation items: their cross-entropy at the end by learning rate (lr), "
            "in brackets the weight; chosen in bold."
        )
        yield searched
    warnings = edge_warnings(experiment, group)
    if warnings:
        yield "\n".join(f"- {warning}" for warning in warnings)
    yield "\n".join(f"- {sentence}" for sentence in conclusion(experiment, group, found))


def _references(group: RunGroup) -> str:
    digits = decimals(group, OUTCOMES["final_accuracy"])
    names = {
        "majority_rate": ("majority answer", digits),
        "zero_shot_accuracy": ("zero-shot", digits),
        "zero_shot_restricted_accuracy": ("zero-shot, given the answers' form", digits),
        "zero_shot_ce": ("zero-shot CE", 3),
    }
    parts = []
    for name, (label, places) in names.items():
        values = group.references(name)
        if values:
            parts.append(f"{label} {span(values, places)}")
    return f"Without a prompt: {'; '.join(parts)}." if parts else "No reference rates."


def _missing(experiment: Experiment, group: RunGroup) -> Iterator[str]:
    """Which seeds of which methods are not there yet, and so in no pair."""
    expected = {*group.seeds, *map(int, experiment.design.get("seeds", []))}
    for method in experiment.methods:
        lacking = sorted(expected - set(group.runs.get(method, {})))
        if lacking:
            word = "seed" if len(lacking) == 1 else "seeds"
            yield f"Not finished: {method}, {word} {', '.join(map(str, lacking))}."


def _remarks(experiment: Experiment, group: RunGroup) -> Iterator[str]:
    """What a reader must know before reading the numbers."""
    if group.repeated:
        yield (
            f"Left out, because their method and seed are there already: "
            f"{counted(group.repeated, 'run')}. They differ in something that is not shown here."
        )
    changed = [
        str(seed)
        for seed in group.seeds
        if len({r[seed].get("task_digest") for r in group.runs.values() if seed in r}) > 1
    ]
    if changed:
        yield (
            f"The items of seed {', '.join(changed)} differ between methods, because the task "
            "changed between their runs: they are in no pair."
        )
    for name, key in (("accuracy", "accuracy_threshold"), ("CE", "ce_threshold")):
        value = group.plan.get(key)
        if value is not None:
            yield f"Steps to {name} are those to {value:g}."
    for method, by_seed in group.runs.items():
        lacking = [
            OUTCOMES[name].label
            for name in ("final_accuracy", "accuracy_area", "final_ce")
            if any(run_outcomes(r, group.plan)[name] is None for r in by_seed.values())
        ]
        if lacking:
            yield f"{method}: runs without a finite {', '.join(lacking)} are left out there."
    for method, choice in experiment.chosen(group).items():
        for run in list(group.runs.get(method, {}).values())[:1]:
            if any(run["trial"][name] != choice[name] for name in ("lr", "weight")):
                yield f"{method} was not run with the learning rate and weight that were chosen."
    yield from without_effect(group)
