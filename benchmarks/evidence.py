"""The page of evidence, and every table and figure of the experiments, from their raw results.

Run as ``python -m tsloss_fast.benchmarks.evidence``. Reads the results that `tsloss compare` wrote
(``*.jsonl``), writes beside each its tables and its figure, the page ``evidence.md`` above them,
and the table between the marks in the README. Nothing is trained, and no result stands here.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tsloss_fast._atomic import whole_file
from tsloss_fast.compare.comparison import Comparison, Experiment, RunGroup, read_experiment
from tsloss_fast.compare.design import Design
from tsloss_fast.compare.figure import draw
from tsloss_fast.compare.numbers import NEVER, NONE, decimals, difference_text, shown
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.results import read_results
from tsloss_fast.compare.statistics import MINIMUM_SEEDS
from tsloss_fast.compare.summary import edge_warnings, story_table, summarize
from tsloss_fast.compare.words import chance, group_name, short_names, twins, without_effect

_BEGIN, _END = "<!-- evidence -->", "<!-- /evidence -->"
_OUTCOMES = ("final_accuracy", "accuracy_area", "steps_to_accuracy", "steps_to_ce", "final_ce")
# The order of the page; a design that is not named here comes last.
_ORDER = ("default", "ablation", "degenerate", "long", "schedules", "prefix")


@dataclass(frozen=True)
class _Experiment:
    """The results of one design."""

    file: Path
    lines: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    designs: list[dict[str, Any]]
    """Each time that a design was written down, and the runs that followed it."""

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def design(self) -> dict[str, Any]:
        return dict(self.designs[-1]["design"])

    @cached_property
    def experiment(self) -> Experiment:
        return read_experiment(self.lines)

    @cached_property
    def compared(self) -> list[tuple[RunGroup, str, list[Comparison]]]:
        """Each group, its short name, and every method in every outcome of the page."""
        outcomes = [OUTCOMES[name] for name in _OUTCOMES]
        groups = self.experiment.groups
        return [
            (group, name, self.experiment.compare(group, outcomes))
            for group, name in zip(groups, short_names(groups), strict=True)
        ]


def read(folder: Path) -> list[_Experiment]:
    """The experiments of a folder, each with the runs of others that belong to it."""
    everything = read_results(folder)
    found = []
    for file in sorted(folder.glob("*.jsonl"), key=lambda file: (_place(file.stem), file.stem)):
        own = read_results(file)
        designs: list[dict[str, Any]] = []
        for line in own:
            if line["kind"] == "experiment":
                designs.append({**line, "runs before the next": 0})
            elif line["kind"] == "run" and designs:
                designs[-1]["runs before the next"] += 1
        if not designs:
            raise ValueError(f"{file} holds no design; tsloss compare writes it first")
        plan = Plan.of_records(Design.from_mapping(designs[-1]["design"]), everything)
        sessions = [line for line in own if line["kind"] == "session"]
        found.append(_Experiment(file, plan.lines(), sessions, designs))
    return found


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def table(experiments: Sequence[_Experiment]) -> Iterator[str]:
    """Every method beside its baseline: what was reached, and the paired differences."""
    outcomes = [OUTCOMES[name] for name in _OUTCOMES]
    header = ["experiment", "setting", "majority", "zero-shot", "method", "seeds", "accuracy", "CV"]
    header += [outcome.label for outcome in outcomes]
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
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
                yield "| " + " | ".join(row) + " |"


def _mean_reference(group: RunGroup, key: str) -> float:
    """Over the seeds; the methods of a seed share its items."""
    by_seed = {
        seed: run["reference"][key] for runs in group.runs.values() for seed, run in runs.items()
    }
    return float(sum(by_seed.values()) / len(by_seed))


def conclusions(experiments: Sequence[_Experiment]) -> Iterator[str]:
    """The settings whose interval excludes zero, those whose does not, and what chance gives."""
    everything: dict[float, list[Comparison]] = {}
    better: list[str] = []
    worse: list[str] = []
    neither: list[str] = []
    unfinished: list[str] = []
    seen = set()
    for each in experiments:
        for group, name, found in each.compared:
            methods: dict[str, list[Comparison]] = {}
            same = {method: many for many in twins(group) for method in many}
            for entry in found:
                # Experiments share runs: a comparison is told once, and counted once even where
                # methods were the same thing.
                where = (*group.shared.values(), entry.outcome.name)
                if (*where, entry.method) in seen or entry.difference is None:
                    continue
                if all((*where, method) not in seen for method in same.get(entry.method, ())):
                    everything.setdefault(each.experiment.confidence, []).append(entry)
                seen.add((*where, entry.method))
                methods.setdefault(entry.method, []).append(entry)
            for method, entries in methods.items():
                told = f"{method} ({each.name}: {name})"
                claims = [e for e in entries if e.difference is not None and e.difference.claim]
                for verdict, into in (("better", better), ("worse", worse)):
                    which = [e.outcome.label for e in claims if e.verdict == verdict]
                    if which:
                        into.append(f"{told}: {', '.join(which)}")
                if not claims:
                    few = any(e.difference and e.difference.pairs < MINIMUM_SEEDS for e in entries)
                    (unfinished if few else neither).append(told)
    for title, lines in (
        ("The interval excludes zero, for the better", better),
        ("The interval excludes zero, for the worse", worse),
        ("No interval excludes zero", neither),
        ("Too few seeds so far to say anything", unfinished),
    ):
        if lines or title.startswith("The interval"):
            yield f"- {title}: {'; '.join(lines) if lines else 'nowhere'}."
    for level, entries in sorted(everything.items()):
        yield from (f"- {sentence}" for sentence in chance(entries, level))
    for each in experiments:
        for group, name, _ in each.compared:
            for sentence in without_effect(group):
                yield f"- {each.name}: {name}: {sentence}"
    yield from (f"- {sentence}" for sentence in _at_the_edge(experiments))


def _at_the_edge(experiments: Sequence[_Experiment]) -> Iterator[str]:
    """Choices at the end of what was tried."""
    found = total = 0
    for each in experiments:
        for group in each.experiment.groups:
            found += len(edge_warnings(each.experiment, group))
        for choice in each.experiment.choices:
            for name in ("lr", "weight"):
                total += len({trial[name] for trial in choice["trials"]}) > 1
    if found:
        yield (
            f"Of {total} learning rates and weights that were chosen, {found} are the smallest or "
            "the largest that was tried: a better one may lie beyond. The tables name them."
        )


def _protocol(experiments: Sequence[_Experiment]) -> Iterator[str]:
    for each in experiments:
        design = each.design
        search = design["search"]
        tasks = "; ".join(
            f"{plan['task']} ({plan['train_size']} training items, {plan['steps']} steps of "
            f"{plan['batch_size']}, {plan['test_size']} test items)"
            for plan in design["tasks"]
        )
        chosen = (
            f"{search['trials'] * len(search['seeds'])} runs a method choose learning rate and "
            "weight"
            if search
            else "fixed learning rate and weights"
        )
        place = f"{each.file.parent.name}/{each.name}"
        yield (
            f"- **{each.name}**: {design['question']} {len(design['methods'])} methods, "
            f"{len(design['seeds'])} seeds; {tasks}; {chosen}. [Tables]({place}.md), "
            f"[figure]({place}.png), [raw results]({place}.jsonl)."
            f"{_changes(each)}{_unfinished(each)}"
        )


def _unfinished(each: _Experiment) -> str:
    """The settings of a design without a finished run."""
    names = [group_name(group) for group in each.experiment.not_begun]
    return f" Not run yet: {'; '.join(names)}." if names else ""


def _changes(each: _Experiment) -> str:
    """What of a design was changed after it was first written down."""
    text = ""
    for before, after in itertools.pairwise(each.designs):
        keys = sorted({*before["design"], *after["design"]})
        changed = [k for k in keys if before["design"].get(k) != after["design"].get(k)]
        runs = before["runs before the next"]
        if changed and runs:
            text += (
                f" The design was changed after {runs} runs ({after['date'][:10]}): "
                f"{', '.join(changed)}."
            )
    return text


def _machines(experiments: Sequence[_Experiment]) -> str:
    found: dict[str, set[str]] = {}
    for each in experiments:
        for session in each.sessions:
            machine = session["machine"]
            text = (
                f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']} "
                f"({machine['instruction set of torch']}), {session['processes']} processes of "
                f"{session['threads']} thread(s)"
            )
            found.setdefault(text, set()).add(session["date"][:10])
    return "; ".join(f"{text} ({', '.join(sorted(days))})" for text, days in found.items())


def page(everything: Sequence[_Experiment]) -> str:
    """The page for a reader who has five minutes."""
    # The pilot chose how to measure: its tables are there, its numbers are in no conclusion.
    experiments = [each for each in everything if each.name != "pilot"]
    pilots = [each for each in everything if each.name == "pilot"]
    if not experiments:
        raise ValueError("no results but those of the pilot: there is nothing to tell yet")
    runs = {
        line["key"]: line for each in experiments for line in each.lines if line["kind"] == "run"
    }
    trials = [run["trial"] for run in runs.values()]
    seconds = sum(run["seconds"]["step"] * run["trial"]["steps"] for run in runs.values())
    models = sorted({trial["model"] for trial in trials})
    seeds = sorted({len(each.design["seeds"]) for each in experiments})
    counts = " or ".join(map(str, seeds))
    levels = " or ".join(sorted({f"{100 * each.design['confidence']:g} %" for each in experiments}))
    folder = experiments[0].file.parent.name
    lines = [
        "# Does TSLoss help?",
        "",
        "Made from the raw results by `python -m tsloss_fast.benchmarks.evidence`.",
        "",
        "## Question",
        "",
        "The paper (arXiv 2602.16500) reports faster convergence and better accuracy for prompt "
        f"tuning with a topological term. Does {', '.join(models)}, prompt-tuned on "
        f"{', '.join(sorted({trial['task'] for trial in trials}))}, show it?",
        "",
        "## Protocol",
        "",
        "- Within a seed all methods have the same first prompt, the same items in the same order "
        "and the same steps; no test item of a seed is a training or validation item of another.",
        "- Learning rate and weight of each method are chosen by the cross-entropy of validation "
        "items, with the same number of runs for every method and with seeds of their own; no test "
        "item is looked at before that.",
        "- The outcomes (steps to a cross-entropy and to an accuracy, area under the accuracy "
        "curve, accuracy at the end) were fixed in the designs, which were committed before the "
        "runs (`tsloss_fast/compare/presets/`).",
        "- Differences to cross-entropy alone are paired by seed, with percentile bootstrap "
        f"intervals of {levels}; **bold** excludes zero. With {counts} seeds such intervals cover "
        "less than they promise: the last lines of this page count how many would exclude zero by "
        "chance.",
        "- The runs of a seed go through the frozen model together, packed into one forward pass. "
        "The tests hold that, with a small model, a run alone and among others has the same bits, "
        "and up to rounding those of peft's own forward pass.",
        f"- {len(runs)} runs; {seconds / 3600:.1f} hours for the training alone, if they had come "
        f"one after another. {_machines(experiments)}.",
        "- What the loss itself costs in a step is measured elsewhere, on an idle machine: "
        "`python -m tsloss_fast.benchmarks.price`.",
        "",
        *_protocol(experiments),
        *(
            f"- A pilot of {sum(line['kind'] == 'run' for line in each.lines)} runs came before "
            "and is in no conclusion. Its search tied each learning rate to one weight and rested "
            "on one evaluation, and its learning rate was constant; all three were changed, and "
            "the thresholds were taken from its runs of cross-entropy alone. "
            f"[Tables]({folder}/{each.name}.md), [raw results]({folder}/{each.name}.jsonl)."
            for each in pilots
        ),
        "",
        "## Result",
        "",
        "Majority is the rate of the most frequent answer, zero-shot that of the model without a "
        "prompt, given the form of an answer. Accuracy is the mean at the end, CV the coefficient "
        "of variation of the prompt's bars at the end (what TSLoss is to lower); the columns after "
        "it are differences to the first method of the setting.",
        "",
        *table(experiments),
        "",
        *(
            f"![Accuracy and differences of {each.name}]({folder}/{each.name}.png)"
            for each in experiments[:1]
        ),
        "",
        "## What we conclude, and what we do not",
        "",
        *conclusions(experiments),
        "- Nothing here speaks of larger models, longer training or other tasks.",
        "",
    ]
    return "\n".join(lines)


def readme_table(experiments: Sequence[_Experiment]) -> str:
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


def write(folder: Path, output: Path, readme: Path | None) -> list[Path]:
    """Write everything; the paths written."""
    experiments = read(folder)
    written = []
    for each in experiments:
        tables = folder / f"{each.name}.md"
        with whole_file(tables) as temporary:
            temporary.write_text(summarize(each.lines), encoding="utf-8")
        written += [tables, *draw(each.lines, folder / f"{each.name}.png")]
    with whole_file(output) as temporary:
        temporary.write_text(page(experiments), encoding="utf-8")
    written.append(output)
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        if text.count(_BEGIN) != 1 or text.count(_END) != 1:
            raise ValueError(f"{readme} must hold {_BEGIN} and {_END} once each")
        head, rest = text.split(_BEGIN)
        _, tail = rest.split(_END)
        with whole_file(readme) as temporary:
            temporary.write_text(
                f"{head}{_BEGIN}\n{readme_table(experiments)}\n{_END}{tail}", encoding="utf-8"
            )
        written.append(readme)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.evidence",
        description="Write the page of evidence, its tables and figures from raw results.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/evidence"),
        help="folder of *.jsonl (benchmarks/results/evidence)",
    )
    parser.add_argument("--output", type=Path, help="the page (evidence.md beside the folder)")
    parser.add_argument("--readme", type=Path, help="a README whose marked table is replaced")
    options = parser.parse_args(argv)
    if not options.results.is_dir():
        parser.error(f"{options.results} is no folder; tsloss compare --out makes one")
    output = options.output or options.results.with_suffix(".md")
    for path in write(options.results, output, options.readme):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
