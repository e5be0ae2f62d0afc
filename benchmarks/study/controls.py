"""Positive controls: published uses of H0 losses, which a right implementation should reproduce.

Run as ``python -m tsloss_fast.benchmarks.study.controls``: minutes on one core, with the extras
study and analysis. A run that was stopped goes on when it is started again. Sources:

- Hofer, Graf, Niethammer, Kwitt, Topologically Densified Distributions, ICML 2020. A classifier
  learns from few samples; in each step the deaths of the samples of a class are drawn to β.
- Moor, Horn, Rieck, Borgwardt, Topological Autoencoders, ICML 2020. The edges of the minimum
  spanning trees of a mini-batch and of its codes keep their lengths.

Each control has a third arm, which no paper has: the same term on the edges of random paths through
the points, as many as the tree has. It shows what such a term does without any topology. Arms are
paired by seed: they share data, first weights and mini-batches. Outcomes are averaged over a grid
of learning rates. The weights, β = 1, grids and sizes were fixed by a pilot with the seeds 1000 to
1007, which are not run here; it had no random paths. The rule for the verdicts was fixed then too.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm
from tsloss_fast.benchmarks.study.control_training import ARMS, CONTROLS, Control, train
from tsloss_fast.benchmarks.study.results import ResultsFile, read_results
from tsloss_fast.benchmarks.study.statistics import (
    MINIMUM_SEEDS,
    Difference,
    holm,
    paired_difference,
)

from tsloss_fast._files import exclusive, whole_file
from tsloss_fast._terminal import CommandParser, say, table_lines
from tsloss_fast.doctor import machine

# These fields identify a run.
KEY = ("control", "arm", "seed", "lr")


class Measure(NamedTuple):
    """A number that a run comes to; +1 is `better` if more is, else -1. The role "claim" is the
    published finding, "check" what the term optimises, "price" what may be worse by `PRICE`."""

    label: str
    better: int
    role: str = ""


MEASURES = {
    "accuracy": Measure("accuracy", +1, "claim"),
    "deviation": Measure("mean of abs(death / β - 1)", -1, "check"),
    "variation": Measure("coefficient of variation of deaths", -1),
    "kl_0.1": Measure("KL of densities, σ = 0.1", -1, "claim"),
    "kl_0.01": Measure("KL of densities, σ = 0.01", -1),
    "trustworthiness": Measure("trustworthiness", +1),
    "correlation": Measure("Spearman correlation of distances", +1),
    "reconstruction": Measure("reconstruction error", -1, "price"),
    "mismatch": Measure("mismatch of the trees' edges", -1, "check"),
}
PRICE = 0.05
VERDICTS = {
    "no verdict": "there are too few seeds",
    "void": "the term did not even improve what it optimises, on new data",
    "contradicted": "the interval is on the wrong side of zero",
    "not reproduced": "there is no clear difference",
    "reproduced at a price": f"but the reconstruction error may be worse by {PRICE:g} or more",
    "reproduced": "the interval is on the published side of zero, and p after Holm is below 0.05",
}


PAGE = """# Positive controls

Published uses of H0 losses, run with this package, whose operation finds the trees and their
gradients. The arm "random paths" has the same term with the same weight on as many edges that
were drawn at random, and shows what the term does without any topology; no weight was tuned for it.
Measures are means over the learning rates, on data that were not trained on. Intervals are
Student's with 95 %, p is of the two-sided sign-flip test, and Holm's correction is over the
measures of a control. The words in bold below follow from the numbers by the rule in
`benchmarks/study/controls.py`, which was fixed before the runs.

{verdicts}

{blocks}

{runs} runs; tsloss_fast {versions}; {sessions}.
"""


class Compared(NamedTuple):
    """A measure of the topological arm beside another arm's; p is adjusted for all measures."""

    measure: Measure
    difference: Difference
    p: float

    @property
    def side(self) -> int:
        """+1 if the whole interval is better than zero, -1 if it is worse, else 0; also 0 with few
        seeds, which say nothing of others."""
        if self.difference.pairs < MINIMUM_SEEDS:
            return 0
        low, high = self.difference.low or 0.0, self.difference.high or 0.0
        return self.measure.better * ((low > 0) - (high < 0))

    @property
    def text(self) -> str:
        d = self.difference
        ends = "" if d.low is None else f" ({d.low:+.3f} to {d.high:+.3f})"
        return "–" if d.mean is None else f"{d.mean:+.3f}{ends}".replace("-", "\N{MINUS SIGN}")


def run_controls(controls: Mapping[str, Control], file: Path) -> None:
    """Run what is missing in a results file. Its lines are of the kinds "controls", what is run
    (a file has one such line), "session", date and machine, and "run"."""
    settings = {name: asdict(control) for name, control in controls.items()}
    for each in settings.values():
        del each["finding"]  # It is text, on which no run depends.
    head = {"kind": "controls", "arms": list(ARMS), "controls": settings}
    with exclusive(file.parent, passing=True), contextlib.closing(ResultsFile(file)) as results:
        if results.records[:1] not in ([], [head]):
            raise ValueError(
                f"{file}: holds runs of other settings, expected those of this command; choose "
                "another --output, or remove the file"
            )
        done = {tuple(map(line.get, KEY)) for line in results.records if line["kind"] == "run"}
        # The arms of a pair follow each other, so that a stopped run has whole pairs.
        keys = [
            (name, arm, seed, lr)
            for name, control in controls.items()
            for seed, lr, arm in itertools.product(range(control.seeds), control.rates, ARMS)
            if (name, arm, seed, lr) not in done
        ]
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        session = {"kind": "session", "date": now, "machine": machine()}
        results.append([] if results.records else [head])
        results.append([session] if keys else [])
        for key in tqdm(keys, desc="controls"):
            found = train(controls[key[0]], *key)
            results.append([{"kind": "run", **dict(zip(KEY, key, strict=True)), **found}])


def means(runs: Sequence[Mapping[str, Any]], rates: int) -> dict[str, pd.DataFrame]:
    """Return for each measure of a control its mean over the learning rates by seed (rows) and arm
    (columns), NaN where a rate is missing."""
    table = pd.DataFrame(runs).groupby(["seed", "arm"])
    whole = table.size().unstack() == rates
    names = [name for name in MEASURES if name in runs[0]]
    return {n: table[n].mean().unstack().where(whole).reindex(columns=ARMS) for n in names}


def compare(tables: Mapping[str, pd.DataFrame], other: str) -> list[Compared]:
    """Compare the topological arm with another in all measures."""
    found = [paired_difference(t["topological"], t[other]) for t in tables.values()]
    p_values = holm([1.0 if each.p is None else each.p for each in found])
    measures = [MEASURES[name] for name in tables]
    return [Compared(*each) for each in zip(measures, found, p_values, strict=True)]


def verdict(found: Iterable[Compared]) -> str:
    """Return the key of `VERDICTS` that follows from the comparison with the plain arm."""
    by_role = {each.measure.role: each for each in found}
    claim, price = by_role["claim"], by_role.get("price")
    if claim.difference.pairs < MINIMUM_SEEDS:
        return "no verdict"
    if by_role["check"].side < 1:
        return "void"
    if claim.side < 0:
        return "contradicted"
    if not claim.side or claim.p >= 0.05:
        return "not reproduced"
    # The price is an error, so that the upper end is the worst.
    dear = price is not None and (price.difference.high or 0.0) >= PRICE
    return "reproduced at a price" if dear else "reproduced"


def tables_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the tables of `means` of each control of a results file; a control without a finished
    run has none."""
    head = next(line for line in records if line["kind"] == "controls")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name, control in head["controls"].items():
        runs = [line for line in records if line["kind"] == "run" and line["control"] == name]
        found[name] = means(runs, len(control["rates"])) if runs else {}
    return found


def verdict_lines(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the list of what the runs say of each control."""
    lines = []
    for name, tables in tables_of(records).items():
        lines.append(f"- **{name}**: no run finished yet.")
        if tables:
            ours, paths = compare(tables, "plain"), compare(tables, "random paths")
            lines[-1] = " ".join(sentences(name, ours, paths))
    return "\n".join(lines)


def summarize(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a results file, which may be underway."""
    head = next(line for line in records if line["kind"] == "controls")
    sessions = [line for line in records if line["kind"] == "session"]
    versions = [f"{s['machine'][name]}" for s in sessions[-1:] for name in ("tsloss-fast", "torch")]
    blocks = []
    for name, tables in tables_of(records).items():
        if not tables:
            continue
        control = head["controls"][name]
        ours, paths = compare(tables, "plain"), compare(tables, "random paths")
        facts = {"learning rates": ", ".join(map(str, control["rates"]))}
        facts |= {key: control[key] for key in ("weight", "steps", "batch")}
        blocks += [
            f"## {name}",
            "; ".join(f"{key} {value}" for key, value in facts.items()) + ".",
            levels_table(tables),
            differences_table("topological \N{MINUS SIGN} plain", ours),
            differences_table("topological \N{MINUS SIGN} random paths", paths),
        ]
    return PAGE.format(
        verdicts=verdict_lines(records),
        blocks="\n\n".join(blocks),
        runs=sum(line["kind"] == "run" for line in records),
        sessions="; ".join(f"{s['date']}, {s['machine']['processor']}" for s in sessions),
        versions=" and torch ".join(versions),
    )


def sentences(name: str, ours: Sequence[Compared], paths: Sequence[Compared]) -> Iterator[str]:
    """Yield the verdict, its numbers, and the comparison with random paths."""
    claim, other = (next(e for e in each if e.measure.role == "claim") for each in (ours, paths))
    found = verdict(ours)
    yield f"- **{name}: {found}** ({VERDICTS[found]}). Published: {CONTROLS[name].finding}."
    label, pairs = claim.measure.label, claim.difference.pairs
    yield f"Topological minus plain, {label}: {claim.text}, from {pairs} pairs."
    if found == "not reproduced" and claim.difference.detectable is not None:
        yield f"A change of {claim.difference.detectable:.3f} would be seen in 80 % of studies."
    for price in (each for each in ours if each.measure.role == "price"):
        yield f"The {price.measure.label}, 1 for the mean of the data, changes by {price.text}."
    word = {1: "better than", 0: "not told apart from", -1: "worse than"}[other.side]
    yield f"In this measure the edges of trees are {word} those of random paths: {other.text}."


def levels_table(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return mean ± standard deviation over seeds of each measure and arm."""
    rows = [
        [MEASURES[name].label, *(f"{t[arm].mean():.3f} ± {t[arm].std():.3f}" for arm in ARMS)]
        for name, t in tables.items()
    ]
    return "\n".join(table_lines(["measure", *ARMS], rows))


def differences_table(title: str, found: Iterable[Compared]) -> str:
    rows = []
    for entry in found:
        d, sign = entry.difference, entry.measure.better
        ways = (d.above, d.below, d.equal) if sign > 0 else (d.below, d.above, d.equal)
        row = [entry.measure.label + f" ({entry.measure.role})" * bool(entry.measure.role)]
        row += [str(d.pairs), entry.text, {1: "**better**", 0: "", -1: "**worse**"}[entry.side]]
        p = "–" if d.p is None else f"{d.p:.3g}"
        rows.append([*row, " / ".join(map(str, ways)), p, f"{entry.p:.3g}"])
    header = [title, "pairs", "difference (Student)", "excludes 0"]
    return "\n".join(table_lines([*header, "seeds better / worse / equal", "p", "p (Holm)"], rows))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(description="Run the positive controls of the study, and write a page.")
    output = Path("benchmarks/results/evidence/controls/controls.md")
    parser.add_argument("--output", type=Path, default=output, help="page; results stand beside it")
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps")
    parser.add_argument("--tables", action="store_true", help="only write the page again")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    file = options.output.with_suffix(".jsonl")
    controls = dict(CONTROLS)
    if options.quick:
        controls = {n: replace(c, seeds=2, steps=4, rates=[0.01]) for n, c in controls.items()}
    if not options.tables:
        torch.set_num_threads(options.threads)
        run_controls(controls, file)
    text = summarize(read_results(file))
    with whole_file(options.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
