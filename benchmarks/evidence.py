"""The page of evidence, and every table and figure of the experiments, from their raw results.

Run as ``python -m tsloss_fast.benchmarks.evidence``. Reads the results that `tsloss compare` wrote
(``*.jsonl``), writes beside each its tables and its figure, the page ``evidence.md`` above them,
and the table between the marks in the README. Nothing is trained, and no result stands here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsloss_fast._atomic import whole_file

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

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def design(self) -> dict[str, Any]:
        return dict(self.lines[0]["design"])


def read(folder: Path) -> list[_Experiment]:
    """The experiments of a folder, each with the runs of others that belong to it."""
    from tsloss_fast.compare.design import Design
    from tsloss_fast.compare.plan import Plan
    from tsloss_fast.compare.results import read_results

    everything = read_results(folder)
    found = []
    for file in sorted(folder.glob("*.jsonl"), key=lambda file: (_place(file.stem), file.stem)):
        own = read_results(file)
        designs = [line["design"] for line in own if line["kind"] == "experiment"]
        if not designs:
            raise ValueError(f"{file} holds no design; tsloss compare writes it first")
        plan = Plan.of_records(Design.from_mapping(designs[-1]), everything)
        sessions = [line for line in own if line["kind"] == "session"]
        found.append(_Experiment(file, plan.lines(), sessions))
    return found


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def table(experiments: Sequence[_Experiment]) -> Iterator[str]:
    """Every method beside its baseline: what was reached, and the paired differences."""
    from tsloss_fast.compare.comparison import read_experiment
    from tsloss_fast.compare.numbers import decimals, difference_text, shown
    from tsloss_fast.compare.outcomes import OUTCOMES
    from tsloss_fast.compare.words import short_names

    outcomes = [OUTCOMES[name] for name in _OUTCOMES]
    header = ["experiment", "setting", "majority", "zero-shot", "method", "seeds", "accuracy", "CV"]
    header += [outcome.label for outcome in outcomes]
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for each in experiments:
        experiment = read_experiment(each.lines)
        names = short_names(experiment.groups)
        for group, name in zip(experiment.groups, names, strict=True):
            found = {(e.method, e.outcome.name): e for e in experiment.compare(group, outcomes)}
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
                    text = difference_text(entry.difference, decimals(group, outcome))
                    claim = entry.difference is not None and entry.difference.claim
                    row.append(f"**{text}**" if claim else text)
                yield "| " + " | ".join(row) + " |"


def _mean_reference(group: Any, key: str) -> float:
    """Over the seeds; the methods of a seed share its items."""
    by_seed = {
        seed: run["reference"][key] for runs in group.runs.values() for seed, run in runs.items()
    }
    return float(sum(by_seed.values()) / len(by_seed))


def conclusions(experiments: Sequence[_Experiment]) -> Iterator[str]:
    """The settings whose interval excludes zero, those whose does not, and what chance gives."""
    from tsloss_fast.compare.comparison import read_experiment
    from tsloss_fast.compare.words import chance, short_names

    everything = []
    better: list[str] = []
    worse: list[str] = []
    neither: list[str] = []
    seen = set()
    for each in experiments:
        experiment = read_experiment(each.lines)
        for group, name in zip(experiment.groups, short_names(experiment.groups), strict=True):
            methods: dict[str, list[Any]] = {}
            for entry in experiment.compare(group):
                # Experiments share runs: a comparison counts once.
                key = (*group.shared.values(), entry.method, entry.outcome.name)
                if key in seen or entry.difference is None:
                    continue
                seen.add(key)
                everything.append(entry)
                methods.setdefault(entry.method, []).append(entry)
            for method, entries in methods.items():
                where = f"{method} ({each.name}: {name})"
                claims = [e for e in entries if e.difference is not None and e.difference.claim]
                for verdict, into in (("better", better), ("worse", worse)):
                    which = [e.outcome.label for e in claims if e.verdict == verdict]
                    if which:
                        into.append(f"{where}: {', '.join(which)}")
                if not claims:
                    neither.append(where)
    for title, lines in (
        ("The interval excludes zero, for the better", better),
        ("The interval excludes zero, for the worse", worse),
        ("No interval excludes zero", neither),
    ):
        yield f"- {title}: {'; '.join(lines) if lines else 'nowhere'}."
    yield from (f"- {sentence}" for sentence in chance(everything, 0.95))


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
            f"{search['trials']} runs a method choose learning rate and weight"
            if search
            else "fixed learning rate and weights"
        )
        yield (
            f"- **{each.name}**: {design['question']} {len(design['methods'])} methods, "
            f"{len(design['seeds'])} seeds; {tasks}; {chosen}. [Tables]({each.file.parent.name}/"
            f"{each.name}.md), [figure]({each.file.parent.name}/{each.name}.png), "
            f"[raw results]({each.file.parent.name}/{each.name}.jsonl)."
        )


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


def page(experiments: Sequence[_Experiment]) -> str:
    """The page for a reader who has five minutes."""
    runs = {
        line["key"]: line for each in experiments for line in each.lines if line["kind"] == "run"
    }
    seconds = sum(run["seconds"]["step"] * run["trial"]["steps"] for run in runs.values())
    folder = experiments[0].file.parent.name
    lines = [
        "# Does TSLoss help?",
        "",
        "Made from the raw results by `python -m tsloss_fast.benchmarks.evidence`.",
        "",
        "## Question",
        "",
        "The paper (arXiv 2602.16500) reports faster convergence and better accuracy for prompt "
        "tuning with a topological term. Does SmolLM2-135M, prompt-tuned on a few tasks, show it?",
        "",
        "## Protocol",
        "",
        "- Within a seed all methods have the same first prompt, the same items in the same order "
        "and the same steps; no test item of a seed is a training or validation item of another.",
        "- Learning rate and weight of each method are chosen by the cross-entropy of validation "
        "items, with another seed and the same number of runs for every method; no test item is "
        "looked at before that.",
        "- The outcomes (steps to a cross-entropy and to an accuracy, area under the accuracy "
        "curve, accuracy at the end) were fixed in the designs, which were committed before the "
        "runs (`tsloss_fast/compare/presets/`).",
        "- Differences to cross-entropy alone are paired by seed, with percentile bootstrap "
        "intervals of 95 %; **bold** excludes zero. With five seeds such intervals cover less than "
        "they promise, and no exact test of a single comparison can reach 0.05.",
        "- The runs of a seed go through the frozen model together, packed into one forward pass. "
        "That changes no run: alone and among others the same bits, and up to rounding those of "
        "peft's own forward pass (both are tests).",
        f"- {len(runs)} runs, {seconds / 3600:.1f} hours of one thread for the training alone. "
        f"{_machines(experiments)}.",
        "",
        *_protocol(experiments),
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
        f"![Accuracy and differences of the default comparison]({folder}/default.png)",
        "",
        "## What we conclude, and what we do not",
        "",
        *conclusions(experiments),
        "- We do not conclude that TSLoss has no effect on larger models, on longer training or on "
        "other tasks: one model of 135 million parameters and five seeds cannot show that.",
        "",
    ]
    return "\n".join(lines)


def readme_table(experiments: Sequence[_Experiment]) -> str:
    """What the README shows: the default comparison in one outcome."""
    from tsloss_fast.compare.comparison import read_experiment
    from tsloss_fast.compare.numbers import shown
    from tsloss_fast.compare.summary import story_table
    from tsloss_fast.compare.words import short_names

    (default,) = [each for each in experiments if each.name == "default"]
    experiment = read_experiment(default.lines)
    rates = []
    for group, name in zip(experiment.groups, short_names(experiment.groups), strict=True):
        reached = group.values(experiment.baseline, "final_accuracy").values()
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
    from tsloss_fast.compare.figure import draw
    from tsloss_fast.compare.summary import summarize

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
