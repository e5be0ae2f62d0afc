"""The table of all experiments, and that of the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsloss_fast.compare.numbers import NEVER, NONE, decimals, difference_text, shown
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.run_group import RunGroup
from tsloss_fast.compare.summary import story_table

from ..markdown import table_head, table_row
from .results import SHOWN, ExperimentResults


def table(experiments: Sequence[ExperimentResults]) -> Iterator[str]:
    """Every method beside its baseline: what was reached, and the paired differences."""
    outcomes = [OUTCOMES[name] for name in SHOWN]
    header = ["experiment", "setting", "majority", "zero-shot", "method", "seeds", "accuracy", "CV"]
    header += [outcome.label for outcome in outcomes]
    yield from table_head(header)
    for each in experiments:
        for group, name, entries in each.compared:
            found = {(e.method, e.outcome.name): e for e in entries}
            digits = decimals(group, OUTCOMES["final_accuracy"])
            rates = [
                shown(_mean_reference(group, key), digits)
                for key in ("majority_rate", "zero_shot_restricted_accuracy")
            ]
            for method in group.runs:
                levels = []
                for outcome in (OUTCOMES["final_accuracy"], OUTCOMES["coefficient_of_variation"]):
                    values = list(group.values(method, outcome.name).values())
                    mean = sum(values) / len(values) if values else None
                    levels.append(shown(mean, decimals(group, outcome)))
                row = [each.name, name, *rates, method, str(len(group.runs[method])), *levels]
                for outcome in outcomes:
                    entry = found.get((method, outcome.name))
                    if entry is None:
                        row.append("")
                        continue
                    text = NEVER if entry.never else NONE
                    if entry.difference is not None:
                        text = difference_text(entry.difference, decimals(group, outcome))
                    if entry.censored and not entry.never:
                        text += f", {entry.censored} censored"
                    claim = entry.difference is not None and entry.difference.claim
                    row.append(f"**{text}**" if claim else text)
                yield table_row(row)


def _mean_reference(group: RunGroup, key: str) -> float:
    """Over the seeds; the methods of a seed share its items."""
    by_seed = {
        seed: run["reference"][key] for runs in group.runs.values() for seed, run in runs.items()
    }
    return float(sum(by_seed.values()) / len(by_seed))


def readme_table(experiments: Sequence[ExperimentResults]) -> str:
    """What the README shows: the default comparison in one outcome."""
    default = next((each for each in experiments if each.name == "default"), None)
    if default is None:
        raise ValueError("the README shows the experiment 'default', which has no results here")
    baseline = default.experiment.baseline
    rates = []
    for group, name, _ in default.compared:
        reached = group.values(baseline, "final_accuracy").values()
        majority = _mean_reference(group, "majority_rate")
        zero_shot = _mean_reference(group, "zero_shot_restricted_accuracy")
        rates.append(
            f"{name}: {shown(sum(reached) / len(reached), 3)} with cross-entropy alone, "
            f"{shown(majority, 3)} by the majority answer, {shown(zero_shot, 3)} without a prompt "
            "given the form of an answer"
        )
    return f"{story_table(default.lines, 'final_accuracy')}\n\nAccuracy on {'; on '.join(rates)}."
