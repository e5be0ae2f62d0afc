"""The table of all experiments, and that of the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsloss_fast._terminal import table_head, table_row
from tsloss_fast.compare.numbers import decimals, shown
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.run_group import RunGroup
from tsloss_fast.compare.summary import story_table
from tsloss_fast.compare.tables import difference_cell

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
                    row.append(difference_cell(entry, censored=True) if entry else "")
                yield table_row(row)


def _mean_reference(group: RunGroup, name: str) -> float | None:
    rates = group.references(name)
    return sum(rates) / len(rates) if rates else None


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
