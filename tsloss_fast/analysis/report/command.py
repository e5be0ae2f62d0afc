"""The command `tsloss report`: one HTML page that shows how soft prompts evolved.

Everything is in the page: it opens without any network, and asks for none.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsloss_fast import __version__
from tsloss_fast._files import check_writable, whole_file
from tsloss_fast._terminal import CommandParser, require, say
from tsloss_fast.analysis.words import QUANTITIES, WORDS, label_of

if TYPE_CHECKING:
    from tsloss_fast.analysis.runs import Run

__all__ = ["context", "main", "write_report"]

TITLE = "How the soft prompt evolved"
# In the order in which they need each other.
SCRIPTS = ("draw.js", "figures.js", "page.js")
# So many unhealthy clouds of a run are named, the others counted.
SHOWN_CLOUDS = 5


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    names: bool = True,
) -> Path:
    """Write the page of the runs; it is there whole or not at all, in the place of an older one.

    Args:
        runs: folders with a record, each with the control in its folder `control`, or folders that
            hold such folders for several seeds (`load_runs`).
        out: the file, whose name ends in .html or .htm; its folder is made.
        model: whose vocabulary names the tokens; by default the model that each run says.
        names: whether to look for names at all.

    Raises:
        FileNotFoundError, RecordError, ValueError: as `load_runs`; `out` has another ending, or
            the vocabulary of `model` cannot be read.
        OSError: `out` cannot be written; raised before the runs are read.
        ModuleNotFoundError: a package of the extra `analysis` is not installed.
    """
    require("tsloss report", "analysis", "jinja2", "scipy", "pyarrow")
    from tsloss_fast.analysis.report.names import find_names
    from tsloss_fast.analysis.runs import load_runs

    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"the page cannot have the name {str(out)!r}: expected one that ends in .html or .htm"
        )
    check_writable(out)
    loaded = load_runs(runs)
    found: Sequence[Any] = [None] * len(loaded)
    missing = ["Tokens have numbers and no names, as asked for."]
    if names:
        found, missing = find_names(loaded, model)
    page = _rendered(context(loaded, found, missing))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        temporary.write_text(page, "utf-8", newline="\n")
    return out


def context(runs: Sequence[Run], names: Sequence[Any], missing: Sequence[str]) -> dict[str, Any]:
    """Return what the template is filled with, but for the style sheet and the scripts.

    Args:
        names: of the tokens of each run, as `find_names` returns them.
        missing: sentences on names that could not be had.
    """
    from tsloss_fast.analysis.report.answer import Ending, answer, facts, pair_table, run_table
    from tsloss_fast.analysis.report.data import methods, page_data
    from tsloss_fast.analysis.report.names import named
    from tsloss_fast.analysis.report.story import Course, tell, tell_task

    groups = methods(runs)
    data, notes = page_data(runs, names, groups)
    titles = dict(data["clouds"])
    courses = [{c: Course(run.record, c) for c in run.record.clouds} for run in runs]

    def card(k: int, cloud: int) -> dict[str, Any]:
        # A token has the name that it has in the last frame of its map.
        drawn = data["runs"][k]["clouds"][str(cloud)]["map"] or {"frames": [{}]}
        tokens = [drawn["tokens"][i] for i in drawn["frames"][-1].get("nearest", [])]
        story = tell(courses[k][cloud], functools.partial(named, names=tokens))
        place = f"run-{k}" + f"-cloud-{cloud}" * (cloud != runs[k].record.clouds[0])
        return {**data["runs"][k], **story, "id": place, "task": tell_task(runs[k])}

    told = {c: {k: card(k, c) for k in range(len(runs)) if c in courses[k]} for c in titles}
    verdicts = [_overall([(titles[c], told[c][k]) for c in courses[k]]) for k in range(len(runs))]
    method = WORDS["names"] * any(names) + WORDS["method"]
    ends = [Ending.of(run, [*had.values()]) for run, had in zip(runs, courses, strict=True)]
    return {
        "title": TITLE,
        "facts": facts(ends),
        "answer": answer(ends, groups, verdicts),
        "table": run_table(ends, verdicts, data["runs"], groups),
        "pairs": pair_table(ends, groups),
        # The name of the only cloud tells nothing.
        "stories": [
            {"cloud": cloud, "title": title if len(titles) > 1 else None, "hidden": place > 0}
            | {"cards": [*told[cloud].values()]}
            for place, (cloud, title) in enumerate(titles.items())
        ],
        "relation": _relation(runs),
        "notes": [*notes, *missing, *method, f"Made by tsloss_fast {__version__}."],
        "data": _embedded(data),
    }


def _overall(told: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, str]:
    """The verdict on a run and its kind; of many clouds, how many are healthy and which are not."""
    if len(told) == 1:
        return told[0][1]["verdict"], told[0][1]["kind"]
    kinds = {card["kind"] for _, card in told}
    bad = [title for title, card in told if card["kind"] != "good"]
    text = f"{len(told) - len(bad)} of {len(told)} clouds healthy"
    if bad:
        more = f" and {len(bad) - SHOWN_CLOUDS} more" if len(bad) > SHOWN_CLOUDS else ""
        text += f"; not: {', '.join(bad[:SHOWN_CLOUDS])}{more}"
    return text, next(kind for kind in ("bad", "none", "good") if kind in kinds)


def _relation(runs: Sequence[Run]) -> dict[str, Any]:
    """Sentences on correlations of topology with performance, and those that have an interval."""
    from tsloss_fast.analysis.relation import relate
    from tsloss_fast.analysis.report.answer import COLUMNS
    from tsloss_fast.analysis.report.data import CURVES
    from tsloss_fast.analysis.report.names import visible
    from tsloss_fast.analysis.report.story import capital

    if not any(name in run.measured for run in runs for name in ("accuracy", "ce")):
        nothing = (
            "Neither accuracy nor held-out cross-entropy was measured in these runs, so there "
        )
        nothing += "is nothing to relate the topology to."
        return {"sentences": [nothing], "rows": []}
    found, known = relate(runs), {*CURVES, *COLUMNS}
    several, rows = len({entry.group for entry in found.correlations}) > 1, []
    for entry in found.correlations:
        if entry.low is not None:
            text = f"{entry.coefficient:+.2f} ({entry.low:+.2f} to {entry.high:+.2f})"
            group = f" ({visible(entry.group, 80)})" * several
            row = asdict(entry) | {"text": text.replace("-", "−"), "claim": entry.claim}
            row["quantity"] = label_of(entry.quantity) + group
            rows.append(row | {"outcome": label_of(entry.outcome)})
    # The table has each of the intervals that exclude zero.
    said = [visible(s, 1000) for s in found.sentences() if not rows or " Spearman " not in s]
    # Quantities of the table that the rest of the page does not explain.
    new = dict.fromkeys(c.quantity for c in found.correlations if c.quantity not in known)
    explained = [f"{capital(label_of(name))}: {QUANTITIES[name]['says']}" for name in new]
    return {"sentences": [*said, *[WORDS["spearman"], *explained] * bool(rows)], "rows": rows}


def _rendered(filled: Mapping[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    folder = resources.files(__package__).joinpath("page")
    files = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    script = "".join(files[name] for name in SCRIPTS)
    if re.search("</script|\r|\0", script, re.IGNORECASE):
        raise ValueError("a script cannot be written into the page: it holds </script>, CR or NUL")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, autoescape=True, undefined=jinja2.StrictUndefined,
        loader=jinja2.DictLoader(files),
    )  # fmt: skip
    # The browser runs this script and refuses any other that might come to stand in the page.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    safe = {"data": filled["data"], "css": files["page.css"], "script": script}
    safe["hash"] = f"'sha256-{digest}'"
    marked = {name: Markup(text) for name, text in safe.items()}
    return environment.get_template("page.html.j2").render({**filled, **marked})


def _embedded(data: object) -> str:
    """JSON that can stand in a <script>: no character in it means anything to HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def main(argv: Sequence[str]) -> int:
    """Run `tsloss report`; returns the exit code 0, raises on errors."""
    parser = CommandParser(
        prog="tsloss report",
        description="Write one HTML page that shows how the soft prompts of tracked runs evolved: "
        "the result with its uncertainty, what changed and when in plain sentences, barcodes, "
        "merge trees, maps and curves, and how topology goes with performance. It opens without "
        "any network.",
        epilog="example: tsloss report runs/boolean -o report.html",
        allow_abbrev=False,
    )
    runs = (
        "folder of a tracked run (with topology.arrows); its control/ comes with it. A folder of "
        "`tsloss tune --seeds` stands for all its seeds"
    )
    out = "the page to write (default: %(default)s)"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help=out)
    group = parser.add_mutually_exclusive_group()
    model = "the model whose vocabulary names the tokens (default: the model that the run says)"
    group.add_argument("--model", metavar="NAME", help=model)
    none = "numbers instead of names; reads no model"
    group.add_argument("--no-model", action="store_true", help=none)
    options = parser.parse_args(argv)
    page = write_report(options.runs, options.out, model=options.model, names=not options.no_model)
    say(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0
