"""The page of one experiment in Markdown: tables, and the sentences that they allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from tsloss_fast._terminal import counted, table_lines
from tsloss_fast.benchmarks.study.outcomes import (
    CENSORED,
    OUTCOMES,
    Outcome,
    Record,
    Study,
    equal_methods,
    group_name,
    read_study,
)
from tsloss_fast.benchmarks.study.statistics import MINIMUM_SEEDS, Comparison, compare

MINUS, NONE, NEVER, OTHER_RATE = "\N{MINUS SIGN}", "–", "never reached", "\N{DAGGER}"
_LEVEL = 0.05


def summarize(records: Iterable[Record]) -> str:
    """Return the page of the records of one experiment, which may be underway."""
    study = read_study(records)
    level = f"{100 * study.confidence:g} %"
    blocks = [
        f"# {study.name or 'Study'}",
        *([study.design["question"]] if study.design.get("question") else []),
        f"{counted(len(study.runs), 'run')}. Differences are method − {study.baseline}, paired by "
        f"seed, with Student's {level} interval, the p of the sign-flip test, and this p after "
        "Holm's correction for the primary outcomes of all methods of the group. Better means more "
        "accuracy, fewer steps, less cross-entropy (CE). A run that never reached a threshold "
        "counts with all its steps, so that the mean is a lower bound (≥). Where there are several "
        "learning rates (lr), a seed counts with its mean over them. ± is the standard deviation "
        "over seeds. Milliseconds depend on the machine, its load, and the runs trained together.",
    ]
    for group in study.begun:
        found = compare(study, group, ["final_ce"])
        seeds = study.runs.seed[study.runs.group == group].nunique()
        blocks += [
            f"## {group_name(study.groups[group])}, {counted(seeds, 'seed')}",
            _references(study, group),
            methods_table(study, group),
            *([differences_table(found, level)] if found else []),
            "\n".join(f"- {note}" for note in [*notes(study, group), *conclusions(study, found)]),
        ]
    waiting = [g for k, g in enumerate(study.groups) if k not in study.begun]
    if waiting:
        blocks += ["## No run finished yet", "\n".join(f"- {group_name(g)}" for g in waiting)]
    return "\n\n".join(blocks) + "\n"


def methods_table(study: Study, group: int) -> str:
    """What the arms of a group came to, without any comparison."""
    there = study.seeds[study.seeds.group == group]
    shown = [o for o in OUTCOMES.values() if o.name in study.primary or there[o.name].notna().any()]
    rows = []
    for arm in study.arms_of(group):
        runs, seeds = study.of(group, arm, study.runs), study.of(group, arm)
        lr, weight = (
            ", ".join(f"{value:g}" for value in sorted(runs[name].unique()))
            for name in ("lr", "weight")
        )
        row = [arm, lr, weight, str(len(seeds)), str(int(runs.diverged.sum()))]
        row += [level_text(seeds, outcome, len(lr.split(", "))) for outcome in shown]
        step, term = runs.step.mean(), math.fsum(runs.term) / math.fsum(runs.step)
        row.append(NONE if math.isnan(step) else f"{1000 * step:.3g}")
        rows.append([*row, NONE if math.isnan(term) else f"{100 * term:.2g} %"])
    header = ["method", "lr", "weight", "seeds", "diverged", *(o.label for o in shown)]
    return "\n".join(table_lines([*header, "ms a step", "of it in the loss"], rows))


def level_text(seeds: pd.DataFrame, outcome: Outcome, rates: int = 1) -> str:
    """The mean over seeds ± their standard deviation, and how many runs are censored."""
    values = seeds[outcome.name].dropna()
    if values.empty:
        return NONE
    text = shown(math.fsum(values) / len(values), outcome)
    text += f" ± {shown(float(values.std()), outcome)}" if len(values) > 1 else ""
    late = int(seeds[CENSORED[outcome.name]].sum()) if outcome.threshold else 0
    return f"≥ {text}, {late} of {rates * len(seeds)} never" if late else text


def differences_table(found: Sequence[Comparison], level: str) -> str:
    """Every comparison of a group, a row each."""
    header = ["method", "outcome", "pairs", "difference", f"Student {level}", "excludes 0"]
    header += ["seeds better / worse / equal", "p", "p (Holm)", "equivalence p", "80 % power"]
    rows = []
    for entry in found:
        d, outcome = entry.difference, entry.outcome
        ways = (d.above, d.below) if outcome.better >= 0 else (d.below, d.above)
        pairs = f"{d.pairs}, {entry.censored} runs censored" if entry.censored else str(d.pairs)
        row = [entry.arm + OTHER_RATE * entry.other_rates, outcome.label, pairs]
        row += [NEVER if entry.never else signed(d.mean, outcome), interval_text(entry)]
        row += [
            f"**{entry.verdict}**" if entry.verdict else "",
            " / ".join(map(str, [*ways, d.equal])),
        ]
        row += [
            p_text(d.p),
            p_text(entry.holm),
            p_text(d.equivalence),
            shown(d.detectable, outcome),
        ]
        rows.append(row)
    return "\n".join(table_lines(header, rows))


def difference_text(entry: Comparison) -> str:
    """ "+0.012 (+0.003 to +0.021)", bold where the interval excludes zero."""
    if entry.never or entry.difference.mean is None:
        return NEVER if entry.never else NONE
    text = f"{signed(entry.difference.mean, entry.outcome)} ({interval_text(entry)})"
    text = f"**{text}**" if entry.verdict else text
    return text + OTHER_RATE * entry.other_rates


def interval_text(entry: Comparison) -> str:
    low, high = (
        signed(end, entry.outcome) for end in (entry.difference.low, entry.difference.high)
    )
    return NONE if entry.difference.low is None else f"{low} to {high}"


def shown(value: float | None, outcome: Outcome) -> str:
    return NONE if value is None else f"{value:.{outcome.digits}f}".replace("-", MINUS)


def signed(value: float | None, outcome: Outcome) -> str:
    """With a sign unless it is zero; what only rounds to zero keeps its sign."""
    return f"+{shown(value, outcome)}" if value is not None and value > 0 else shown(value, outcome)


def p_text(p: float | None) -> str:
    return NONE if p is None else f"{p:.3g}" if p >= 1e-4 else "< 0.0001"


def references(study: Study, group: int, name: str) -> float:
    """The mean over seeds of a rate that needs no training; NaN without one."""
    runs = study.runs[study.runs.group == group].drop_duplicates("seed")
    rates = [r["reference"][name] for r in runs.run if r["reference"].get(name) is not None]
    return math.fsum(rates) / len(rates) if rates else math.nan


def _references(study: Study, group: int) -> str:
    names = {
        "majority_rate": "most frequent answer",
        "zero_shot_accuracy": "zero-shot",
        "zero_shot_restricted_accuracy": "zero-shot, restricted to the possible answers",
    }
    rates = [(label, references(study, group, name)) for name, label in names.items()]
    known = [f"{label} {rate:.3f}" for label, rate in rates if not math.isnan(rate)]
    return f"Accuracy without training: {'; '.join(known) or 'not recorded'}."


def notes(study: Study, group: int) -> Iterator[str]:
    """What a reader has to know before the numbers."""
    runs = study.runs[study.runs.group == group]
    for outcome in OUTCOMES.values():
        if outcome.threshold and study.groups[group].get(outcome.threshold) is not None:
            yield f"The {outcome.label} are those to {study.groups[group][outcome.threshold]:g}."
    expected = {*runs.seed, *map(int, study.design.get("seeds", []))}
    for arm in study.arms:
        seeds = study.of(group, arm)
        lacking = sorted(expected - set(seeds.seed))
        if lacking:
            yield f"{arm}: not finished: {'seed' if len(lacking) == 1 else 'seeds'} " + (
                f"{', '.join(map(str, lacking))}."
            )
        broken = [o.label for o in OUTCOMES.values() if 0 < seeds[o.name].isna().sum() < len(seeds)]
        if broken:
            yield f"{arm}: seeds without a finite {', '.join(broken)} are left out there."
    digests = runs.groupby("seed").digest.nunique()
    if (digests > 1).any():
        yield (
            f"The items of {', '.join(f'seed {s}' for s in digests.index[digests > 1])} differ "
            "between methods, because the task changed between runs: these are in no pair."
        )
    yield from without_effect(study, group)


def without_effect(study: Study, group: int) -> Iterator[str]:
    """Which methods were the same thing in these runs."""
    for names, places in equal_methods(study, group):
        rates = {name: set(study.of(group, name, study.runs).lr) for name in names}
        yield (
            f"{' and '.join(names)} are one method here: their training is bit for bit the same "
            f"wherever both ran at the same learning rate ({counted(places, 'time')}), so that what "
            "tells them apart was 0."
            + (
                " Their difference is that of their learning rates."
                if len({frozenset(r) for r in rates.values()}) > 1
                else ""
            )
        )


def conclusions(study: Study, found: Sequence[Comparison]) -> Iterator[str]:
    """What may be said of a group's comparisons."""
    tested = [entry for entry in found if entry.difference.pairs]
    if not tested:
        yield f"Nothing is compared with {study.baseline} yet: there is no pair of finished runs."
        return
    if any(entry.other_rates for entry in tested):
        yield (
            f"{OTHER_RATE} marks rows that compare different learning rates: such a difference is "
            "of the rates and of the methods together, and says nothing of either alone."
        )
    few = sorted({e.difference.pairs for e in tested if e.difference.pairs < MINIMUM_SEEDS})
    if few:
        yield (
            f"Comparisons of {' or '.join(map(str, few))} pairs say nothing about other seeds: "
            f"{MINIMUM_SEEDS} are needed."
        )
    for entry in tested:
        if entry.verdict:
            yield f"The interval excludes zero for {entry.arm}, {entry.verdict} in " + (
                f"{entry.outcome.label}: {difference_text(entry)}."
            )
        margin, p = study.margins.get(entry.outcome.name), entry.difference.equivalence
        if p is not None and p < _LEVEL and entry.difference.pairs >= MINIMUM_SEEDS:
            yield (
                f"{entry.arm} makes no difference of {margin:g} in {entry.outcome.label} (two "
                f"one-sided tests, p = {p_text(p)})."
            )
    yield chance(tested, study.confidence)
    primary = [entry for entry in tested if entry.holm is not None]
    left = [f"{e.arm} in {e.outcome.label}" for e in primary if (e.holm or 0) < _LEVEL]
    least = min([1.0, *(len(primary) * 2 / 2**e.difference.pairs for e in primary)])
    cannot = f"; with so few seeds none can be, {p_text(least)} being the least possible"
    yield (
        f"After Holm's correction for {counted(len(primary), 'primary comparison')}, p is below "
        f"{_LEVEL} for {', '.join(left)}."
        if left
        else f"After Holm's correction for {counted(len(primary), 'primary comparison')}, no p of "
        f"the sign-flip test is below {_LEVEL}{cannot if least >= _LEVEL else ''}."
    )


def chance(found: Sequence[Comparison], confidence: float) -> str:
    """How many intervals exclude zero, and how many would by chance alone."""
    told = [entry for entry in found if entry.difference.low is not None]
    verdicts = [entry.verdict for entry in told]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return (
        f"Of {counted(len(told), 'interval')}, {better + worse} exclude zero: {better} for the "
        f"better, {worse} for the worse. By chance alone about {(1 - confidence) * len(told):.2g} "
        "would, if no method made a difference."
    )
