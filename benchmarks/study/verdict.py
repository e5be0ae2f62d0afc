"""The claims about TSLoss that a study allows, by rules that were fixed before its runs.

The rules look at the primary outcomes of a design alone. A repair is an arm of cross-entropy alone
with a start of its own, such as vocabulary rows in place of tokens that coincide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsloss_fast.benchmarks.study.outcomes import Study
from tsloss_fast.benchmarks.study.statistics import MINIMUM_SEEDS, Comparison, compare

__all__ = ["FORMS", "Verdict", "overall", "verdict"]

# The strongest claim stands first. The numbers beside a verdict say more than its form.
FORMS = {
    "helps": "TSLoss helps",
    "repairs": "TSLoss repairs a degenerate start, as a trivial repair does for nothing",
    "no difference": "TSLoss makes no difference of 3 points of accuracy",
    "not shown": "TSLoss has not been shown to help",
    "pending": "There is no verdict yet",
}


@dataclass(frozen=True)
class Verdict:
    """The claim of a study, by group of its design.

    Attributes:
        form: a key of `FORMS`.
        better, worse: TSLoss beside cross-entropy alone, where an interval excludes zero.
        found: all comparisons of the primary outcomes with cross-entropy alone, of every arm.
    """

    form: str
    better: tuple[Comparison, ...]
    worse: tuple[Comparison, ...]
    found: tuple[Comparison, ...]


def verdict(study: Study, group: int = 0, loss: str = "tsloss") -> Verdict:
    """Return what the runs of a group say of the arms with a loss.

    "helps" needs an arm and a primary outcome whose interval excludes zero on the better side, and
    whose mean is at least that of every repair. If only the interval is there, it "repairs". With
    neither, equivalence in accuracy (two one-sided tests at 5 %) of all arms gives "no difference".
    """
    methods = {method["name"]: method for method in study.design["methods"]}
    own = {name for name, method in methods.items() if method["loss"] == loss}
    repairs = [n for n, m in methods.items() if m["loss"] == "ce" and m.get("start") is not None]
    found = compare(study, group) if group in study.begun else []
    ours = [entry for entry in found if entry.arm in own]
    better = tuple(entry for entry in ours if entry.verdict == "better")
    worse = tuple(entry for entry in ours if entry.verdict == "worse")
    accuracy = [e.difference for e in ours if e.outcome.name == "final_accuracy"]
    same = [d.equivalence for d in accuracy if d.equivalence is not None]
    if not ours or min(entry.difference.pairs for entry in ours) < MINIMUM_SEEDS:
        form = "pending"
    elif any(_at_least(study, group, entry, repairs) for entry in better):
        form = "helps"
    elif better:
        form = "repairs"
    elif same and len(same) == len(accuracy) and max(same) < 0.05 and not worse:
        form = "no difference"
    else:
        form = "not shown"
    return Verdict(form, better, worse, tuple(found))


def _at_least(study: Study, group: int, ours: Comparison, repairs: Sequence[str]) -> bool:
    """Whether the mean of an arm's outcome is at least as good as that of every repair."""
    there = [repair for repair in repairs if repair in study.arms_of(group)]
    for repair in there:
        (beside,) = (
            entry
            for entry in compare(study, group, baseline=repair)
            if (entry.arm, entry.outcome) == (ours.arm, ours.outcome)
        )
        if (beside.difference.mean or 0.0) * ours.outcome.better < 0:
            return False
    return True


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the form for all studies: the strongest claim that one of them allows.

    The claim that there is no difference needs the same claim of every study.
    """
    forms = [each.form for each in verdicts]
    for form in ("helps", "repairs"):
        if form in forms:
            return form
    if not forms or "pending" in forms:
        return "pending"
    return "no difference" if set(forms) == {"no difference"} else "not shown"
