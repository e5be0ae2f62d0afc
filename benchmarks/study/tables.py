"""The page of one experiment in Markdown: tables, and the sentences that they allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tsloss_fast.benchmarks.study import outcomes
from tsloss_fast.benchmarks.study.outcomes import CENSORED, OUTCOMES, Outcome, Record, Study
from tsloss_fast.benchmarks.study.statistics import (
    ASSIGNMENTS,
    MINIMUM_SEEDS,
    Comparison,
    compare,
)

from tsloss_fast._terminal import counted, table_lines

NONE, NEVER = "–", "never reached"
REFERENCES = ("majority_rate", "zero_shot_restricted_accuracy")


def summarize(records: Iterable[Record]) -> str:
    """Return the page of the records of one experiment, which may be underway."""
    study = outcomes.read_study(records)
    blocks: list[str] = []
    names = outcomes.group_names(study.groups, short=False)
    for group in study.begun:
        found = [
            e
            for e in compare(study, group, ["final_ce"])
            if e.difference.pairs or e.never or e.outcome.name in study.primary
        ]
        blocks += [f"## {names[group]}", methods_table(study, group), differences_table(found)]
        blocks += ["\n".join(f"- {s}" for s in [*notes(study, group), *conclusions(study, found)])]
    waiting = [f"- {name}" for group, name in enumerate(names) if group not in study.begun]
    blocks += ["## No run finished yet", "\n".join(waiting)] if waiting else []
    template = Path(__file__).with_name("tables_template.md").read_text(encoding="utf-8")
    head = {"name": study.name, "question": study.design["question"], "baseline": study.arms[0]}
    groups = "\n\n".join(filter(None, blocks))
    return template.format(**head, runs=counted(len(study.runs), "run"), groups=groups)


def methods_table(study: Study, group: int) -> str:
    """Return the outcomes of each arm of a group, without any comparison."""
    there = study.seeds[study.seeds.group == group]
    names = [n for n in OUTCOMES if n in study.primary or there[n].notna().any()]
    rows = []
    for arm in study.arms_of(group):
        runs = study.of(group, arm, study.runs)
        weights = ", ".join(f"{weight:g}" for weight in sorted(set(runs.weight)))
        row = [arm, study.rates(group, arm), weights, str(len(study.of(group, arm)))]
        row += [str(runs.diverged.sum()), *(level_text(study, group, arm, n) for n in names)]
        step, share = runs.step.mean(), runs.term.mean() / runs.step.mean()
        row += [NONE if math.isnan(step) else f"{1000 * step:.4g}"]
        rows.append([*row, NONE if math.isnan(share) else f"{100 * share:.2g} %"])
    header = ["method", "lr", "weight", "seeds", "diverged", *(OUTCOMES[n].label for n in names)]
    return "\n".join(table_lines([*header, "ms a step", "of it in the loss"], rows))


def differences_table(found: Sequence[Comparison]) -> str:
    """Return a row for each comparison of a group; an empty text if there is none."""
    header = ["method", "outcome", "pairs", "difference", "Student", "excludes 0"]
    header += ["seeds better / worse / equal", "p", "p (Holm)", "p (equivalence)", "80 % power"]
    rows = []
    for entry in found:
        d, outcome = entry.difference, entry.outcome
        ways = [d.above, d.below, d.equal] if outcome.better >= 0 else [d.below, d.above, d.equal]
        row = [entry.arm, outcome.label]
        late = f", {counted(entry.censored, 'run')} censored" if entry.censored else ""
        row += [f"{d.pairs}{late}"]
        row += [NEVER if entry.never else shown(d.mean, outcome, "+"), interval_text(entry)]
        row += [f"**{entry.verdict}**" if entry.verdict else "", " / ".join(map(str, ways))]
        p_values = [NONE if p is None else f"{p:.3g}" for p in (d.p, entry.holm, d.equivalence)]
        rows.append([*row, *p_values, shown(d.detectable, outcome)])
    return "\n".join(table_lines(header, rows)) if rows else ""


def level_text(study: Study, group: int, arm: str, name: str) -> str:
    """The mean of an outcome over seeds ± their standard deviation; how many runs are censored."""
    seeds, outcome = study.of(group, arm), OUTCOMES[name]
    values = seeds[name].dropna()
    if values.empty:
        return NONE
    text = shown(math.fsum(values) / len(values), outcome)
    text += f" ± {shown(float(values.std()), outcome)}" if len(values) > 1 else ""
    late = int(seeds[CENSORED[name]].sum()) if outcome.series else 0
    return f"≥ {text}, {late} of {sum(map(len, seeds.rates))} never" if late else text


def difference_text(entry: Comparison) -> str:
    """ "+0.012 (+0.003 to +0.021)", bold where the interval excludes zero."""
    if entry.difference.mean is None:
        return NEVER if entry.never else NONE
    text = f"{shown(entry.difference.mean, entry.outcome, '+')} ({interval_text(entry)})"
    return f"**{text}**" if entry.verdict else text


def interval_text(entry: Comparison) -> str:
    ends = [shown(e, entry.outcome, "+") for e in (entry.difference.low, entry.difference.high)]
    return NONE if NONE in ends else " to ".join(ends)


def shown(value: float | None, outcome: Outcome, sign: str = "") -> str:
    """Rounded; with the sign "+", what only rounds to zero keeps its sign, and zero has none."""
    text = NONE if value is None else f"{value:{sign if value else ''}.{outcome.digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def reference(study: Study, group: int, name: str) -> float:
    """The mean over seeds of a rate that needs no training; NaN without one."""
    runs = study.runs[study.runs.group == group].drop_duplicates("seed").run
    return float(runs.map(lambda run: run["reference"].get(name)).astype(float).mean())


def notes(study: Study, group: int) -> Iterator[str]:
    """Yield the conditions under which the numbers of a group were measured."""
    names = (*REFERENCES, "zero_shot_accuracy")
    majority, restricted, zero = (reference(study, group, name) for name in names)
    if study.groups[group]["test_size"] >= outcomes.FEW_ITEMS:
        yield (
            f"Accuracy without training: {majority:.3f} with the most frequent answer, {zero:.3f} "
            f"without a prompt, {restricted:.3f} then restricted to the possible answers."
        )
    for outcome in OUTCOMES.values():
        threshold = study.groups[group].get(f"{outcome.series}_threshold")
        if threshold is not None:
            yield f"The {outcome.label} are those to {threshold:g}."
    runs = study.runs[study.runs.group == group]
    for arm in study.arms:
        seeds = study.of(group, arm)
        lacking = sorted({*runs.seed, *study.design["seeds"]} - set(seeds.seed))
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            yield f"{arm} is not finished: seed {', '.join(map(str, lacking[:5]))}{more}."
        broken = [OUTCOMES[n].label for n in OUTCOMES if seeds[n][seeds.diverged > 0].isna().any()]
        if broken:
            yield f"{arm}: seeds that diverged have no {', '.join(broken)}, and no pair of it."
    digests = runs.groupby("seed").digest.nunique()
    for seed in digests.index[digests > 1]:
        yield f"The task changed between runs of seed {seed}, which are in no pair."


def conclusions(study: Study, found: Sequence[Comparison]) -> Iterator[str]:
    """Yield the sentences that the comparisons of a group allow."""
    tested = [entry for entry in found if entry.difference.pairs]
    if not tested:
        yield f"Nothing is compared with {study.arms[0]}: there is no pair of finished runs."
        return
    if any(entry.difference.pairs < MINIMUM_SEEDS for entry in tested):
        yield f"Fewer than {MINIMUM_SEEDS} pairs say nothing of other seeds."
    for entry in tested:
        p = entry.difference.equivalence
        enough = entry.difference.pairs >= MINIMUM_SEEDS and not entry.censored
        if p is not None and p < 0.05 and enough:
            margin = study.design["margins"][entry.outcome.name]
            yield f"{entry.arm} makes no difference of {margin:g} in {entry.outcome.label}."
    yield from chance(tested, study.design["confidence"])


def chance(found: Sequence[Comparison], confidence: float) -> Iterator[str]:
    """Yield the number of intervals that exclude zero, and the claims that Holm's test leaves."""
    told = [entry for entry in found if entry.difference.pairs >= MINIMUM_SEEDS]
    clear = [f"{e.arm} {e.verdict} in {e.outcome.label}" for e in told if e.verdict]
    yield (
        f"{len(clear)} of {counted(len(told), 'interval')} exclude zero: "
        f"{'; '.join(clear) or 'none'}. If no method made a difference, about "
        f"{(1 - confidence) * len(told):.2g} would."
    )
    primary = [(e.holm, e) for e in found if e.holm is not None]
    left = [f"{e.arm} in {e.outcome.label}" for p, e in primary if p < 0.05]
    most = max((entry.difference.pairs for _, entry in primary), default=1)
    least = 2 / min(2**most, ASSIGNMENTS)
    yield (
        f"The sign-flip test finds, after Holm's correction: {', '.join(left) or 'nothing'}. Its "
        f"least p with {counted(most, 'pair')} is {least:.3g} before the correction."
    )
