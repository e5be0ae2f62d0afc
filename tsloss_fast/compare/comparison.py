"""The runs of a comparison sorted by what they share, and every method beside the baseline.

Records are the lines of results.jsonl as dictionaries, in the order of the file; an experiment may
be underway. Only runs of the stage "final" are compared: those of the search chose the settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tsloss_fast.compare.outcomes import OUTCOMES, PRIMARY, Outcome
from tsloss_fast.compare.run_group import SHARED, RunGroup
from tsloss_fast.compare.statistics import PairedDifference, holm, paired_difference

__all__ = ["SHARED", "Comparison", "Experiment", "RunGroup", "read_experiment"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One outcome of one method beside the baseline's, over the seeds that both have.

    Attributes:
        group, method, outcome: what is compared.
        difference: method - baseline; None without a pair.
        missing: seeds of the group that are left out, because one of the two lacks the outcome.
        censored: pairs of which one or both never reached the threshold.
        never: no run of any pair reached it, so there is nothing to compare: `difference` is None.
        holm: the sign-flip p adjusted for all primary outcomes of all methods of the group; None
            if the outcome is not primary.
    """

    group: RunGroup
    method: str
    outcome: Outcome
    difference: PairedDifference | None
    missing: tuple[int, ...]
    censored: int
    never: bool = False
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """Which side of zero the whole interval is on, "better" or "worse", "higher" or "lower"
        where neither is better, empty if it contains zero."""
        if (
            self.difference is None
            or self.difference.low is None
            or not self.difference.excludes_zero
        ):
            return ""
        sign = 1 if self.difference.low > 0 else -1
        if self.outcome.better == 0:
            return "higher" if sign > 0 else "lower"
        return "better" if sign == self.outcome.better else "worse"

    @property
    def seeds_better(self) -> tuple[int, int, int]:
        """Seeds better, worse and equal; where neither is better, higher counts as better."""
        if self.difference is None:
            return 0, 0, 0
        above, below = self.difference.above, self.difference.below
        better, worse = (above, below) if self.outcome.better >= 0 else (below, above)
        return better, worse, self.difference.equal


@dataclass(frozen=True)
class Experiment:
    """All that the results say, sorted.

    Attributes:
        name, design: of the record of the kind "experiment"; empty without one.
        baseline: the method that the others are compared with.
        methods: every method of the design or with a run, the baseline first.
        confidence, resamples: of the bootstrap intervals.
        primary: names of the outcomes that the experiment is about.
        groups: those with runs, in the order of the design.
        not_begun: groups of the design without a finished run.
        choices: records of the kind "choice".
        searching: runs of the search.
    """

    name: str
    design: Record
    baseline: str
    methods: tuple[str, ...]
    confidence: float
    resamples: int
    primary: tuple[str, ...]
    groups: tuple[RunGroup, ...]
    not_begun: tuple[RunGroup, ...]
    choices: tuple[Record, ...]
    searching: tuple[Record, ...]

    @property
    def compared(self) -> list[Outcome]:
        """The primary outcomes, and the cross-entropy at the end."""
        names = dict.fromkeys([*self.primary, "final_ce"])
        return [outcome for name, outcome in OUTCOMES.items() if name in names]

    def chosen(self, group: RunGroup) -> dict[str, Record]:
        """The group's choices by method: the last of each."""
        found = {choice["method"]: choice for choice in self.choices if group.owns(choice)}
        return {name: found[name] for name in self.methods if name in found}

    def compare(
        self, group: RunGroup, outcomes: Sequence[Outcome] | None = None
    ) -> list[Comparison]:
        """Every method of the group but the baseline, in every outcome, by method.

        Args:
            group: one of `groups`.
            outcomes: by default `compared`. An adjusted p is adjusted for all primary outcomes of
                the group, whether asked for or not.
        """
        wanted = self.compared if outcomes is None else list(outcomes)
        asked = {outcome.name for outcome in wanted}
        wanted += [OUTCOMES[name] for name in self.primary if name not in asked]
        found = [
            self._compare(group, method, outcome)
            for method in group.runs
            if method != self.baseline
            for outcome in wanted
        ]
        tested = {
            index: entry.difference.p
            for index, entry in enumerate(found)
            if entry.outcome.name in self.primary and entry.difference is not None
        }
        for index, adjusted in zip(tested, holm(list(tested.values())), strict=True):
            found[index] = replace(found[index], holm=adjusted)
        return [entry for entry in found if entry.outcome.name in asked]

    def _compare(self, group: RunGroup, method: str, outcome: Outcome) -> Comparison:
        ours = group.values(method, outcome.name)
        theirs = group.values(self.baseline, outcome.name)
        # In the order of seeds, so that the bootstrap does not depend on which run ended first.
        common = sorted(
            seed for seed in set(ours) & set(theirs) if group.alike(method, self.baseline, seed)
        )
        late = set(group.censored(method, outcome.name))
        their_late = set(group.censored(self.baseline, outcome.name))
        never = bool(common) and late.issuperset(common) and their_late.issuperset(common)
        difference = None
        if common and not never:
            difference = paired_difference(
                [ours[seed] for seed in common],
                [theirs[seed] for seed in common],
                confidence=self.confidence,
                resamples=self.resamples,
            )
        missing = tuple(seed for seed in group.seeds if seed not in common)
        censored = len((late | their_late).intersection(common))
        return Comparison(group, method, outcome, difference, missing, censored, never)


def read_experiment(records: Iterable[Record]) -> Experiment:
    """Sort the lines of results.jsonl: which runs are compared with which.

    Of runs of the same key, and of final runs of the same group, method and seed, the first counts,
    of designs the last. What is one run by its key may be there under two names of a method.
    Methods and groups are in the order of the design, so that it does not depend on which run ended
    first; what the design does not have comes last. The baseline is the design's first method.
    O(R) for R records.

    Args:
        records: the lines, as `read_results` gives them.

    Raises:
        ValueError: a primary outcome of the design that there is not.
    """
    everything = list(records)
    head: Record = next((r for r in reversed(everything) if r["kind"] == "experiment"), {})
    design: Record = head.get("design", {})
    rules: Record = {**design, **design.get("outcomes", {})}
    primary = tuple(rules.get("primary", PRIMARY))
    unknown = [name for name in primary if name not in OUTCOMES]
    if unknown:
        raise ValueError(
            f"primary outcomes must be of {', '.join(OUTCOMES)}; got {', '.join(unknown)}"
        )
    runs: dict[tuple[Any, ...], Record] = {}
    for record in everything:
        if record["kind"] == "run":
            trial = record["trial"]
            runs.setdefault((record["key"], trial["method"], trial["start"]), record)
    ordered = list(runs.values())
    final = [run for run in ordered if run["trial"]["stage"] == "final"]
    designed = _names(design.get("methods"))
    baseline = rules.get("baseline", designed[0] if designed else "ce")
    ran = [run["trial"]["method"] for run in ordered]
    methods = tuple(dict.fromkeys([baseline, *designed, *ran]))
    groups = _groups(final, design, methods)
    return Experiment(
        str(head.get("name", "")),
        design,
        baseline,
        methods,
        float(rules.get("confidence", 0.95)),
        int(rules.get("bootstrap", 10_000)),
        primary,
        tuple(group for group in groups if group.runs),
        tuple(group for group in groups if not group.runs),
        tuple(r for r in everything if r["kind"] == "choice"),
        tuple(run for run in ordered if run["trial"]["stage"] != "final"),
    )


def _groups(runs: Sequence[Record], design: Record, methods: Sequence[str]) -> list[RunGroup]:
    """Those of the design in its order, begun or not, then others as they first come."""
    found: dict[tuple[Any, ...], list[Record]] = {key: [] for key in _designed(design)}
    for run in runs:
        found.setdefault(tuple(run["trial"].get(name) for name in SHARED), []).append(run)
    groups = []
    for key, members in found.items():
        by_method: dict[str, dict[int, Record]] = {}
        for run in members:
            trial = run["trial"]
            by_method.setdefault(trial["method"], {}).setdefault(int(trial["seed"]), run)
        group = RunGroup(
            dict(zip(SHARED, key, strict=True)),
            {name: dict(sorted(by_method[name].items())) for name in methods if name in by_method},
            repeated=len(members) - sum(map(len, by_method.values())),
        )
        plan: Record = next((task for task in design.get("tasks", []) if group.owns(task)), {})
        groups.append(replace(group, plan=plan))
    return groups


def _designed(design: Record) -> list[tuple[Any, ...]]:
    """What the runs of each group of a design share; empty if the design does not say it all."""
    axes = ("models", "tasks", "adapters", "virtual_tokens", "starts")
    if not all(isinstance(design.get(name), list) for name in axes):
        return []
    found = []
    for model, plan, adapter, count, start in itertools.product(*(design[name] for name in axes)):
        shared = {
            **plan,
            "model": model,
            "adapter": adapter,
            "virtual_tokens": count,
            "start": _name(start),
        }
        found.append(tuple(shared.get(name) for name in SHARED))
    return found


def _names(entries: Any) -> list[str]:
    return [_name(entry) for entry in entries or []]


def _name(entry: Any) -> str:
    """Of a method or a start: mappings, or names alone."""
    return str(entry["name"] if isinstance(entry, Mapping) else entry)
