"""The claims about TSLoss that a study allows, by rules and not by hand.

The rules look at the primary outcomes of a design alone. A repair is an arm of cross-entropy alone
with a start of its own, such as vocabulary rows in place of tokens that coincide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsloss_fast.benchmarks.study.outcomes import Study
from tsloss_fast.benchmarks.study.statistics import Comparison, compare

__all__ = ["FORMS", "Verdict", "overall", "verdict"]

# The strongest claim stands first. The numbers beside a verdict say more than its form.
FORMS = {
    "helps": "TSLoss helps",
    "repairs": "TSLoss repairs a degenerate start, as a trivial repair does for nothing",
    "mixed": "TSLoss is better in one respect and worse in another",
    "harms": "TSLoss does not help: where it makes a difference, it is worse",
    "no difference": "TSLoss makes no difference as large as the margins",
    "not shown": "TSLoss has not been shown to help",
    "pending": "There is no verdict yet",
}


@dataclass(frozen=True)
class Verdict:
    """The claim of a study about the first group of its design.

    Attributes:
        form: a key of `FORMS`.
        better, worse: TSLoss beside cross-entropy alone, where an interval excludes zero and p is
            below 0.05 after Holm's correction.
        found: all comparisons of the primary outcomes with cross-entropy alone, of every arm.
        diverged: runs with TSLoss that diverged.
    """

    form: str
    better: tuple[Comparison, ...] = ()
    worse: tuple[Comparison, ...] = ()
    found: tuple[Comparison, ...] = ()
    diverged: int = 0


def verdict(study: Study) -> Verdict:
    """Return what the runs of the first group say of the arms with TSLoss.

    A verdict needs every seed of every arm. "helps" needs an arm that is better in a primary
    outcome and worse in none, and whose mean there is at least that of every repair that is itself
    better than cross-entropy alone. If only a repair stands in its way, TSLoss "repairs". Without
    any clear difference, equivalence (two one-sided tests at 5 %) of all arms in all primary
    outcomes that have a margin gives "no difference". Runs that diverged forbid both.
    """
    group = 0
    methods = {method["name"]: method for method in study.design["methods"]}
    own = [name for name, method in methods.items() if method["loss"] == "tsloss"]
    repairs = [n for n, m in methods.items() if m["loss"] == "ce" and m.get("start") is not None]
    found = tuple(compare(study, group)) if group in study.begun else ()
    wanted = set(study.design["seeds"])
    if not own or any(wanted - set(study.of(group, arm).seed) for arm in methods):
        return Verdict("pending", found=found)
    diverged = int(sum(study.of(group, arm).diverged.sum() for arm in own))
    clear = [e for e in found if e.verdict and e.holm is not None and e.holm < 0.05]
    better = tuple(e for e in clear if e.arm in own and e.verdict == "better")
    worse = tuple(e for e in clear if e.arm in own and e.verdict == "worse")
    rivals = {(e.arm, e.outcome.name) for e in clear if e.arm in repairs and e.verdict == "better"}
    clean = [e for e in better if e.arm not in {each.arm for each in worse}]
    if better and worse and not clean:
        form = "mixed"
    elif clean and not diverged:
        beaten = [
            any(_beats(study, group, e, arm) for arm, name in rivals if name == e.outcome.name)
            for e in clean
        ]
        form = "repairs" if all(beaten) else "helps"
    elif worse:
        form = "harms"
    else:
        form = "not shown" if diverged or not _equivalent(study, found, own) else "no difference"
    return Verdict(form, better, worse, found, diverged)


def _beats(study: Study, group: int, ours: Comparison, repair: str) -> bool:
    """Whether the mean of a repair is better than that of an arm in the same outcome."""
    (beside,) = (
        entry
        for entry in compare(study, group, baseline=repair)
        if (entry.arm, entry.outcome) == (ours.arm, ours.outcome)
    )
    return (beside.difference.mean or 0.0) * ours.outcome.better < 0


def _equivalent(study: Study, found: Sequence[Comparison], arms: Sequence[str]) -> bool:
    """Whether all arms are equivalent to cross-entropy alone in all outcomes with a margin."""
    margins = set(study.design.get("margins", {})).intersection(study.primary)
    told = [e for e in found if e.arm in arms and e.outcome.name in margins]
    return bool(told) and all(
        e.difference.equivalence is not None and e.difference.equivalence < 0.05 and not e.censored
        for e in told
    )


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the form for all studies, which needs every one of them to be finished.

    A gain in one study and a loss in another are "mixed"; "no difference" needs all to say so.
    """
    forms = {each.form for each in verdicts}
    if not forms or "pending" in forms:
        return "pending"
    gains = [form for form in ("helps", "repairs") if form in forms]
    if "mixed" in forms or (gains and "harms" in forms):
        return "mixed"
    for form in (*gains, "harms"):
        if form in forms:
            return form
    return "no difference" if forms == {"no difference"} else "not shown"
