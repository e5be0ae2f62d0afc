"""The page of evidence, and the tables and figures of every experiment, from their raw results.

Run as ``python -m tsloss_fast.benchmarks.study.page``. Tables and figure of an experiment stand
beside its results (``*.jsonl``), the page above them, and a table between the marks in the README.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tsloss_fast.benchmarks.study import tables
from tsloss_fast.benchmarks.study.design import read_design
from tsloss_fast.benchmarks.study.figure import draw
from tsloss_fast.benchmarks.study.outcomes import OUTCOMES, Record, Study, group_names, read_study
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.statistics import Comparison, compare

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, say, table_lines

_BEGIN, _END = "<!-- evidence -->", "<!-- /evidence -->"
# Other designs follow. The pilot chose how to measure: it has tables, and no number on the page.
_ORDER = ("default", "ablation", "degenerate", "long", "schedules", "prefix")
# A choice has these fields beside those that it shares with the runs of its search and others.
_SEARCHED = {"kind", "trials", "lr", "weight", "eval_every"}
_LEVELS = ("final_accuracy", "coefficient_of_variation")
_SHOWN = ("final_accuracy", "accuracy_area", "steps_to_accuracy", "steps_to_ce", "final_ce")


def own_records(lines: Sequence[Record], everything: Sequence[Record]) -> list[Record]:
    """The lines of a results file, and those runs of its folder that belong to its design too."""
    design = next(line["design"] for line in reversed(lines) if line["kind"] == "experiment")
    if isinstance(design["lr"], list):
        return list(read_design(design).select(everything))
    # Older designs have a search, which chose the learning rate and the weight of each method.
    chosen = [line for line in lines if line["kind"] == "choice"]
    choices = [{k: v for k, v in line.items() if k not in _SEARCHED} for line in chosen]
    runs = [run for run in everything if run["kind"] == "run"]
    own = [run for run in runs if any(each.items() <= run["trial"].items() for each in choices)]
    return [*(line for line in lines if line["kind"] != "run"), *own]


def read_studies(folder: Path) -> dict[str, Study]:
    """The experiments of a folder by the name of their file, in the order of the page."""
    everything = read_results(folder)
    names = sorted(file.stem for file in folder.glob("*.jsonl"))
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    own = ((name, read_results(folder / f"{name}.jsonl")) for name in names)
    return {name: read_study(own_records(lines, everything)) for name, lines in own}


def settings(study: Study) -> Iterator[tuple[int, str]]:
    """Each begun group, and its name with what is reached without training."""
    names = group_names([study.groups[group] for group in study.begun])
    for group, name in zip(study.begun, names, strict=True):
        rates = [tables.reference(study, group, rate) for rate in tables.REFERENCES]
        yield group, f"{name} ({', '.join(f'{rate:.3f}' for rate in rates)})"


def overview(studies: Mapping[str, Study], outcomes: Sequence[str]) -> str:
    """Return the table of all methods of all experiments: outcomes and differences."""
    header = ["setting", "method", "lr", "accuracy", "CV", *(OUTCOMES[n].label for n in outcomes)]
    rows = []
    for name, study in studies.items():
        for group, title in settings(study):
            found = compare(study, group, outcomes)
            for arm in study.arms_of(group):
                where = f"{name}: {title}" if arm == study.arms_of(group)[0] else ""
                row = [where, arm, study.rates(group, arm)]
                row += [tables.level_text(study, group, arm, level) for level in _LEVELS]
                cells = {e.outcome.name: tables.difference_text(e) for e in found if e.arm == arm}
                rows.append([*row, *(cells.get(outcome, "") for outcome in outcomes)])
    return "\n".join(table_lines(header, rows))


def page(studies: Mapping[str, Study], folder: str) -> str:
    """Return the page; `folder` is the relative path of the tables."""
    told = {name: study for name, study in studies.items() if name != "pilot"}
    entries: dict[object, Comparison] = {}
    same = []
    for name, study in told.items():
        for group, title in settings(study):
            for entry in compare(study, group, _SHOWN):
                # Experiments share runs, and two methods may be one: a difference counts once.
                runs = [run["curve"] for run in study.of(group, entry.arm, study.runs).run]
                if entry.difference.pairs:
                    entries.setdefault((repr(runs), entry.outcome), entry)
            equal = tables.same_methods(study, group, ["final_accuracy"])
            same += [f"{name}: {title}: {said}" for said in equal]
    every = list(entries.values())
    sizes = [e.difference.detectable for e in every if e.outcome.name == "final_accuracy"]
    runs = {run["key"]: run for study in told.values() for run in study.trained.run}
    seconds = [run["seconds"]["step"] * len(run["train_ce"]) for run in runs.values()]
    links = "[Tables]({0}/{1}.md), [figure]({0}/{1}.png), [raw results]({0}/{1}.jsonl)."
    experiments = [
        f"- **{name}**: {study.design['question']} {len(study.arms)} methods, "
        f"{study.runs.seed.nunique()} seeds. {links.format(folder, name)}"
        for name, study in told.items()
    ]
    template = Path(__file__).with_name("page_template.md").read_text(encoding="utf-8")
    return template.format(
        experiments="\n".join(experiments),
        mark=tables.OTHER_RATE,
        runs=len(runs),
        hours=math.fsum(seconds) / 3600,
        folder=folder,
        table=overview(told, _SHOWN),
        first=next(iter(told)),
        may="\n".join(f"- {said}" for said in [*tables.chance(every, 0.95), *same]),
        other=sum(entry.other_rates for entry in every),
        count=len(every),
        least=min(filter(None, sizes), default=math.nan),
        most=max(filter(None, sizes), default=math.nan),
    )


def write(folder: Path, output: Path, readme: Path | None) -> list[Path]:
    """Write everything that is made of the raw results; return the paths."""
    studies = read_studies(folder)
    texts = {folder / f"{name}.md": tables.summarize(s.records) for name, s in studies.items()}
    texts[output] = page(studies, folder.name)
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        if text.count(_BEGIN) != 1 or text.count(_END) != 1 or "default" not in studies:
            raise ValueError(f"{readme}: expected {_BEGIN}, {_END} once each, and default.jsonl")
        table = overview({"default": studies["default"]}, ["final_accuracy"])
        texts[readme] = f"{text.split(_BEGIN)[0]}{_BEGIN}\n{table}\n{_END}{text.split(_END)[1]}"
    for path, text in texts.items():
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    drawn = [draw(study.records, folder / f"{name}.png") for name, study in studies.items()]
    return [*texts, *(path for paths in drawn for path in paths)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(description="Write the page of evidence from the raw results.")
    results = Path("benchmarks/results/evidence")
    parser.add_argument("--results", type=Path, default=results, help="folder of *.jsonl")
    parser.add_argument("--output", type=Path, help="the page (by default beside the folder)")
    parser.add_argument("--readme", type=Path, help="a README whose marked table is replaced")
    options = parser.parse_args(argv)
    output = options.output or options.results.with_suffix(".md")
    say(*(f"wrote {path}" for path in write(options.results, output, options.readme)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
