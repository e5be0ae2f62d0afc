"""What the comparisons allow to be said, in English, made from the numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsloss_fast._terminal import counted, escape_invisible
from tsloss_fast.compare.comparison import Comparison, Experiment, RunGroup
from tsloss_fast.compare.numbers import decimals, difference_text, p_text, shown
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.statistics import MINIMUM_SEEDS, expected_exclusions, smallest_p

__all__ = [
    "baseline_name",
    "chance",
    "conclusion",
    "group_name",
    "methods_with_equal_runs",
    "short_names",
    "without_effect",
]

# Of the adjusted p, for the words alone.
_LEVEL = 0.05


def baseline_name(experiment: Experiment) -> str:
    return "cross-entropy alone" if experiment.baseline == "ce" else experiment.baseline


def group_name(group: RunGroup) -> str:
    """All that the runs share, for a heading."""
    shared = group.shared
    difficulty = "" if shared["difficulty"] is None else f" (difficulty {shared['difficulty']})"
    adapter = "" if shared["adapter"] in (None, "prompt") else f" ({shared['adapter']})"
    # Tasks and models may be files, whose names can hold anything.
    return escape_invisible(
        f"{shared['task']}{difficulty}, {shared['model']}, {shared['virtual_tokens']} virtual "
        f"tokens{adapter} from {shared['start']}, {shared['train_size']} training items, "
        f"{shared['steps']} steps"
    )


def short_names(groups: Sequence[RunGroup]) -> list[str]:
    """The task, and what else tells the groups apart."""
    words = {
        "difficulty": "difficulty {}",
        "model": "{}",
        "train_size": "{} items",
        "adapter": "{}",
        "virtual_tokens": "N = {}",
        "start": "from {}",
        "steps": "{} steps",
    }
    told = [name for name in words if len({group.shared[name] for group in groups}) > 1]
    return [
        escape_invisible(
            ", ".join(
                [str(group.shared["task"])]
                + [words[n].format(group.shared[n]) for n in told if group.shared[n] is not None]
            )
        )
        for group in groups
    ]


def methods_with_equal_runs(group: RunGroup) -> list[list[str]]:
    """Return each set of methods that came to the same numbers in every run: what tells the
    methods of a set apart had no effect there."""
    numbers: dict[str, list[str]] = {}
    for method, by_seed in group.runs.items():
        seen = repr([(s, r["curve"], r["end"]) for s, r in sorted(by_seed.items())])
        numbers.setdefault(seen, []).append(method)
    return [methods for methods in numbers.values() if len(methods) > 1]


def without_effect(group: RunGroup) -> Iterator[str]:
    """Which methods were the same thing in these runs, and whether redundancy was ever there."""
    for methods in methods_with_equal_runs(group):
        yield (
            f"{' and '.join(methods)} came to the same numbers in every run: what tells them "
            "apart was 0 there."
        )
    points = [p for by_seed in group.runs.values() for r in by_seed.values() for p in r["curve"]]
    redundancies = [p["redundancy"] for p in points if p.get("redundancy") is not None]
    if redundancies and not any(redundancies):
        yield (
            "No prompt of any run had a redundancy above 0 when it was evaluated: from this start "
            "a term against it has nothing to do."
        )


def conclusion(experiment: Experiment, group: RunGroup, found: Sequence[Comparison]) -> list[str]:
    """What excludes zero and in which direction, and how much of that chance alone would give."""
    alone = baseline_name(experiment)
    if not any(entry.difference for entry in found):
        return [f"No pair of runs with {alone} is finished: nothing is compared in this group yet."]
    claims: dict[str, list[Comparison]] = {}
    for entry in found:
        if entry.difference and entry.difference.claim:
            claims.setdefault(entry.method, []).append(entry)
    sentences = [_claim(method, entries) for method, entries in claims.items()]
    if not claims:
        sentences = [f"Conclusion: no difference to {alone} has been shown in this group."]
    few = [e for e in found if e.difference and e.difference.pairs < MINIMUM_SEEDS]
    if few:
        pairs = sorted({e.difference.pairs for e in few if e.difference})
        sentences.append(
            f"{counted(len(few), 'comparison')} of {' or '.join(map(str, pairs))} "
            f"{'pair' if pairs == [1] else 'pairs'} of runs are too few to say anything about "
            f"other seeds: {MINIMUM_SEEDS} are needed."
        )
    return [*sentences, *chance(found, experiment.confidence), *_adjusted(found), *_level(group)]


def chance(found: Sequence[Comparison], confidence: float) -> list[str]:
    """How many intervals there are, how many exclude zero, and how many would by chance alone."""
    tested = [e.difference for e in found if e.difference and e.difference.low is not None]
    if not tested:
        return []
    verdicts = [entry.verdict for entry in found]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    pairs = [difference.pairs for difference in tested]
    nominal, actual = expected_exclusions(pairs, confidence)
    seeds = f"{min(pairs)}" if min(pairs) == max(pairs) else f"{min(pairs)} to {max(pairs)}"
    student = [e.method for e in found if e.difference and e.difference.t_excludes_zero]
    gathered = any(student.count(method) > 1 for method in student)  # chance would spread them
    beyond = (
        "" if better + worse > actual or gathered else "; that is no more than chance alone gives"
    )
    whose = "".join(
        f"{', ' if k else ' ('}{student.count(method)} of {method}"
        for k, method in enumerate(dict.fromkeys(student))
    )
    return [
        f"Of {counted(len(tested), 'interval')} {_excluding(better + worse)}: {better} for the "
        f"better, {worse} for the worse{beyond}. If no method made a difference, about "
        f"{_expected(nominal)} would exclude zero if they covered what they promise, and about "
        f"{_expected(actual)} because bootstrap intervals of {seeds} seeds cover less. Of "
        f"Student's intervals, wider where seeds are few, {_excluding(len(student))}"
        f"{whose + ')' if student else ''}."
    ]


def _excluding(number: int) -> str:
    return "1 excludes zero" if number == 1 else f"{number} exclude zero"


def _expected(number: float) -> str:
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def _claim(method: str, found: Sequence[Comparison]) -> str:
    parts = [
        f"{entry.verdict} in {entry.outcome.label} "
        f"{difference_text(entry.difference, decimals(entry.group, entry.outcome))}"
        for entry in found
    ]
    return f"Conclusion: the interval excludes zero for {method}: {'; '.join(parts)}."


def _adjusted(found: Sequence[Comparison]) -> Iterator[str]:
    """What the sign-flip test leaves after Holm's correction, and whether it could leave any."""
    tested = [(e, e.holm, e.difference) for e in found if e.holm is not None and e.difference]
    if not tested:
        return
    after = f"After Holm's correction for {counted(len(tested), 'primary comparison')}"
    left = [(entry, p) for entry, p, _ in tested if p < _LEVEL]
    for entry, p in left:
        yield (
            f"{after} the sign-flip test leaves {entry.method} in {entry.outcome.label} "
            f"(p = {p_text(p)})."
        )
    if not left:
        least = len(tested) * min(smallest_p(difference.pairs) for _, _, difference in tested)
        cannot = (
            f"; of so few seeds none can be: the least is {p_text(min(1.0, least))}"
            if least >= _LEVEL
            else ""
        )
        yield f"{after} no p of the sign-flip test is below {_LEVEL}{cannot}."


def _level(group: RunGroup) -> Iterator[str]:
    """Methods that do not beat a constant answer are not worth comparing."""
    runs = [run for by_seed in group.runs.values() for run in by_seed.values()]
    rates = [r["reference"]["majority_rate"] for r in runs if "majority_rate" in r["reference"]]
    values = [
        list(found.values())
        for method in group.runs
        if (found := group.values(method, "final_accuracy"))
    ]
    if not rates or not values:
        return
    majority = sum(rates) / len(rates)
    if max(sum(v) / len(v) for v in values) <= majority:
        digits = decimals(group, OUTCOMES["final_accuracy"])
        yield (
            f"No method's mean accuracy is above the majority rate ({shown(majority, digits)}): "
            "differences here are between prompts that learned little."
        )
