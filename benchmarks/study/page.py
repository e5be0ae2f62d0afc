"""The page of evidence, and the tables and figures of every study, from their raw results.

Run as ``python -m tsloss_fast.benchmarks.study.page``. Tables and figure of a study stand beside
its results (``*.jsonl``), the page above them, and the verdict between the marks in the README.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tsloss_fast.benchmarks.study import controls, tables
from tsloss_fast.benchmarks.study.design import read_design
from tsloss_fast.benchmarks.study.figure import draw, draw_all
from tsloss_fast.benchmarks.study.first_study import first_study
from tsloss_fast.benchmarks.study.outcomes import Study, read_study
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.statistics import Comparison
from tsloss_fast.benchmarks.study.verdict import FORMS, Verdict, overall, verdict

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, counted, say, table_lines

_BEGIN, _END = "<!-- evidence -->", "<!-- /evidence -->"
# The studies of the verdict; others have tables alone.
DECIDING = ("convergence", "degenerate", "few_shot")


def read_studies(folder: Path) -> dict[str, Study]:
    """The deciding studies of a folder by name, then the others, each with its runs."""
    everything = read_results(folder)
    heads = {each["name"]: each["design"] for each in everything if each["kind"] == "experiment"}
    names = sorted(heads, key=lambda n: (DECIDING.index(n) if n in DECIDING else 99, n))
    return {name: read_study(read_design(heads[name]).select(everything)) for name in names}


def verdicts_of(studies: Mapping[str, Study]) -> dict[str, Verdict]:
    """The verdict of each deciding study; one that has not begun is pending."""
    pending = Verdict("pending")
    return {n: verdict(studies[n]) if n in studies else pending for n in DECIDING}


def verdict_table(verdicts: Mapping[str, Verdict], studies: Mapping[str, Study]) -> str:
    """Return the differences of every method of the deciding studies in the primary outcomes."""
    header = ["study", "method", "pairs", "outcome", "difference", "p (Holm)"]
    rows = []
    for name, said in verdicts.items():
        methods = {m["name"]: m for m in studies[name].design["methods"]} if said.found else {}
        for number, entry in enumerate(said.found):
            weight = methods[entry.arm]["weight"]
            arm = f"{entry.arm} ({weight:g})" if weight not in (0, 10) else entry.arm
            p = tables.NONE if entry.holm is None else f"{entry.holm:.2g}"
            row = [name if not number else "", arm, str(entry.difference.pairs)]
            rows.append([*row, entry.outcome.label, tables.difference_text(entry), p])
    return "\n".join(table_lines(header, rows)) if rows else "No study has begun."


def sentences(verdicts: Mapping[str, Verdict], studies: Mapping[str, Study]) -> Iterator[str]:
    """Yield a sentence for each deciding study: what its runs say, in plain words."""
    for name, said in verdicts.items():
        if said.form == "pending":
            have = len(studies[name].runs) if name in studies else 0
            yield f"{name}: not finished, {counted(have, 'run')} so far."
        else:
            told = [_told(entry, "better") for entry in said.better]
            told += [_told(entry, "worse") for entry in said.worse]
            told += [f"{counted(said.diverged, 'run')} diverged"] * (said.diverged > 0)
            clear = "; ".join(told) or "no outcome of TSLoss differs clearly"
            yield f"{name}: {FORMS[said.form]}; {clear}."


def _told(entry: Comparison, side: str) -> str:
    """One clear difference in words; steps are compared by their ratio."""
    difference = entry.difference
    if entry.outcome.name == "steps_to_train_ce":
        times = [2**value for value in (difference.mean, difference.low, difference.high)]
        said = "{} needs {:.2f} ({:.2f} to {:.2f}) times the steps of cross-entropy alone"
        late = f" ({counted(entry.censored, 'run')} never arrived)" if entry.censored else ""
        return said.format(entry.arm, *times) + late
    return f"{entry.arm} is {side} in {entry.outcome.label} by {tables.difference_text(entry)}"


def study_lines(studies: Mapping[str, Study], folder: str) -> str:
    """Return what each study asks, with its size and its files."""
    links = "[tables]({0}/{1}.md), [figure]({0}/{1}.png), [raw results]({0}/{1}.jsonl)"
    lines = []
    for name, study in studies.items():
        seconds = [run["seconds"]["step"] * len(run["train_ce"]) for run in study.runs.run]
        lines.append(
            f"- **{name}**: {study.design['question']} {counted(len(study.runs), 'run')}, "
            f"{counted(study.runs.seed.nunique(), 'seed')}, {math.fsum(seconds) / 3600:.1f} hours "
            "of steps: "
            f"{links.format(folder, name)}."
        )
    return "\n".join(lines)


def write(folder: Path, output: Path, readme: Path | None) -> list[Path]:
    """Write everything that is made of the raw results; return the paths."""
    studies = read_studies(folder)
    verdicts = verdicts_of(studies)
    form = FORMS[overall(list(verdicts.values()))]
    said = "".join(f"\n- {each}" for each in sentences(verdicts, studies))
    table = verdict_table(verdicts, studies)
    template = Path(__file__).with_name("page_template.md").read_text(encoding="utf-8")
    texts = {folder / f"{name}.md": tables.summarize(s.records) for name, s in studies.items()}
    texts[output] = template.format(
        verdict=f"{form}.",
        sentences=f"\n{said}",
        table=table,
        folder=folder.name,
        controls=controls.verdict_lines(read_results(folder / "controls")),
        studies=study_lines(studies, folder.name),
        **first_study(folder / "first"),
    )
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        if text.count(_BEGIN) != 1 or text.count(_END) != 1:
            raise ValueError(f"{readme}: expected {_BEGIN} and {_END} once each")
        block = f"**{form}.**\n{said}\n\n{table}"
        texts[readme] = f"{text.split(_BEGIN)[0]}{_BEGIN}\n{block}\n{_END}{text.split(_END)[1]}"
    for path, text in texts.items():
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    drawn = [path for n, s in studies.items() for path in draw(s.records, folder / f"{n}.png")]
    drawn += draw_all([studies[n] for n in DECIDING if n in studies], folder / "verdict.png")
    return [*texts, *drawn]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(description="Write the page of evidence from the raw results.")
    results = Path("benchmarks/results/evidence")
    parser.add_argument("--results", type=Path, default=results, help="folder of *.jsonl")
    parser.add_argument("--output", type=Path, help="the page (by default beside the folder)")
    parser.add_argument("--readme", type=Path, help="a README whose marked verdict is replaced")
    options = parser.parse_args(argv)
    output = options.output or options.results.with_suffix(".md")
    say(*(f"wrote {path}" for path in write(options.results, output, options.readme)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
