"""The tables of a comparison, in Markdown, from the lines of its results; it may be underway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tsloss_fast.compare.comparison import Comparison, Experiment, RunGroup, read_experiment
from tsloss_fast.compare.numbers import (
    NEVER,
    NONE,
    counted,
    decimals,
    difference_text,
    interval_text,
    p_text,
    signed,
    span,
)
from tsloss_fast.compare.outcomes import OUTCOMES, run_outcomes
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
        row = [method]
        for index, group in enumerate(experiment.groups):
            entry = cells.get((method, index))
            text = NEVER if entry and entry.never else NONE
            if entry and entry.difference:
                text = difference_text(entry.difference, decimals(group, chosen))
            claim = entry is not None and entry.difference is not None and entry.difference.claim
            row.append(f"**{text}**" if claim else text)
        rows.append(row)
    return _table(["method", *short_names(experiment.groups)], rows)


def edge_warnings(experiment: Experiment, group: RunGroup) -> list[str]:
    """Chosen values at the end of what was tried: the best may lie beyond. A sentence for each, of
    one group of the experiment."""
    found = []
    for choice in _choices(experiment, group).values():
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
    yield _methods_table(group)
    notes = [*_missing(experiment, group), *_remarks(experiment, group)]
    if notes:
        yield "\n".join(f"- {note}" for note in notes)
    if found:
        yield f"Differences to {baseline_name(experiment)}:"
        yield _differences_table(experiment, found)
    searched = _search_table(experiment, group)
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
    # One for each seed, whatever its methods: they share the items.
    by_seed = {seed: run["reference"] for runs in group.runs.values() for seed, run in runs.items()}
    parts = []
    for name, (label, places) in names.items():
        values = [r[name] for r in by_seed.values() if r.get(name) is not None]
        if values:
            parts.append(f"{label} {span(values, places)}")
    return f"Without a prompt: {'; '.join(parts)}." if parts else "No reference rates."


def _methods_table(group: RunGroup) -> str:
    columns = (
        "final_accuracy",
        "final_restricted_accuracy",
        "accuracy_area",
        "steps_to_accuracy",
        "steps_to_ce",
        "final_ce",
        "coefficient_of_variation",
    )
    rows = []
    for method, by_seed in group.runs.items():
        runs = list(by_seed.values())
        diverged = sum(run.get("diverged") is not None for run in runs)
        row = [
            method,
            *(_distinct(runs, name) for name in ("lr", "weight")),
            f"{len(runs)}, {diverged} diverged" if diverged else str(len(runs)),
        ]
        for name in columns:
            values = list(group.values(method, name).values())
            text = span(values, decimals(group, OUTCOMES[name]))
            late = len(group.censored(method, name))
            row.append(f"≥ {text}, {late} of {len(values)} never" if late else text)
        rows.append([*row, *_time(runs)])
    labels = [OUTCOMES[name].label for name in columns]
    return _table(
        ["method", "lr", "weight", "seeds", *labels, "ms a step", "of it in the loss"], rows
    )


def _differences_table(experiment: Experiment, found: Sequence[Comparison]) -> str:
    rows = []
    for entry in found:
        difference, digits = entry.difference, decimals(entry.group, entry.outcome)
        if difference is None:
            pairs, what = (str(entry.censored), NEVER) if entry.never else ("0", NONE)
            rows.append([entry.method, entry.outcome.label, pairs, what, *[NONE] * 6])
            continue
        censored = f", {entry.censored} censored" if entry.censored else ""
        rows.append(
            [
                entry.method,
                entry.outcome.label,
                f"{difference.pairs}{censored}",
                signed(difference.mean, digits),
                interval_text(difference.low, difference.high, digits),
                f"**{entry.verdict}**" if difference.claim else entry.verdict,
                interval_text(difference.t_low, difference.t_high, digits),
                " / ".join(map(str, entry.seeds_better)),
                p_text(difference.p),
                p_text(entry.holm),
            ]
        )
    level = f"{100 * experiment.confidence:g}%"
    header = [
        "method",
        "outcome",
        "pairs",
        "difference",
        f"bootstrap {level}",
        "excludes 0",
        f"Student {level}",
        "seeds better / worse / equal",
        "p (sign flips)",
        "p (Holm)",
    ]
    return _table(header, rows)


def _search_table(experiment: Experiment, group: RunGroup) -> str:
    choices = {m: c for m, c in _choices(experiment, group).items() if c["trials"]}
    rates = sorted({trial["lr"] for choice in choices.values() for trial in choice["trials"]})
    rows = [
        [method, *(", ".join(_tried(choice, rate)) or NONE for rate in rates)]
        for method, choice in choices.items()
    ]
    return _table(["method", *(f"lr {rate:g}" for rate in rates)], rows) if rows else ""


def _tried(choice: Record, rate: float) -> Iterator[str]:
    """The criterion of each trial at a learning rate, by weight if there are several."""
    weighted = len({trial["weight"] for trial in choice["trials"]}) > 1
    at_rate = [trial for trial in choice["trials"] if trial["lr"] == rate]
    for trial in sorted(at_rate, key=lambda trial: float(trial["weight"])):
        value = trial["criterion"]
        text = "diverged" if value is None else f"{value:.4g}"
        text += f" ({trial['weight']:g})" if weighted else ""
        yield f"**{text}**" if _is(choice, rate, trial["weight"]) else text


def _is(trial: Record, rate: float, weight: float) -> bool:
    return bool(trial["lr"] == rate and trial["weight"] == weight)


def _choices(experiment: Experiment, group: RunGroup) -> dict[str, Record]:
    """The group's choices by method: the last of each."""
    found = {c["method"]: c for c in experiment.choices if group.owns(c)}
    return {name: found[name] for name in experiment.methods if name in found}


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
    for method, choice in _choices(experiment, group).items():
        for run in list(group.runs.get(method, {}).values())[:1]:
            if not _is(run["trial"], choice["lr"], choice["weight"]):
                yield f"{method} was not run with the learning rate and weight that were chosen."
    yield from without_effect(group)


def _distinct(runs: Sequence[Record], name: str) -> str:
    return ", ".join(f"{value:g}" for value in sorted({run["trial"][name] for run in runs}))


def _time(runs: Sequence[Record]) -> tuple[str, str]:
    """Milliseconds a step, and the share of the loss in them."""
    seconds = [run["seconds"] for run in runs if run.get("seconds", {}).get("step")]
    if not seconds:
        return NONE, NONE
    step = math.fsum(entry["step"] for entry in seconds)
    terms = [entry["term"] for entry in seconds if entry.get("term") is not None]
    share = f"{100 * math.fsum(terms) / step:.2g}%" if len(terms) == len(seconds) else NONE
    return f"{1000 * step / len(seconds):.3g}", share


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
