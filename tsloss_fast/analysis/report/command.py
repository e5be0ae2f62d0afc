"""The command `tsloss report`: one HTML page that shows how soft prompts evolved.

Everything is in the page, plotly's script too: it opens without any network, and asks for none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, require, say

__all__ = ["main", "write_report"]

TITLE = "How the soft prompt evolved"
# In the order in which they need each other.
_FIGURES = ("words.js", "drawing.js", "barcode.js", "tree.js", "map.js", "curve.js")
_PAGE = ("shown.js", "elements.js", "places.js", "views.js", "panels.js", "page.js")
_METHOD = (
    "Deaths and merges are exact: they are the edges of a minimum spanning tree of the virtual "
    "tokens. Tokens are counted from 0.",
    "The name of a virtual token is the vocabulary token nearest to it (Euclidean) at the newest "
    "step at which the points were kept. It is a label: a virtual token is no word.",
    "“Since step s” means: in every record from s to the last. What happened between two records "
    "is not known.",
)


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    names: bool = True,
) -> Path:
    """Write the page of the runs; it is there whole or not at all, in the place of an older one.

    Args:
        runs: folders with a record; the control in the folder `control` of one joins it.
        out: the file, usually .html; its folder is made.
        model: whose vocabulary names the tokens; by default the model that each run says.
        names: whether to look for names at all.

    Raises:
        FileNotFoundError, RecordError, ValueError: as `load_runs`.
        IsADirectoryError: `out` is a folder.
        ModuleNotFoundError: plotly is not installed.
    """
    require("tsloss report", "analysis", "plotly")
    from plotly.offline import get_plotlyjs

    from tsloss_fast.analysis.relation import relate
    from tsloss_fast.analysis.report.data import page_data
    from tsloss_fast.analysis.report.html import items, lead, summary
    from tsloss_fast.analysis.report.names import find_names
    from tsloss_fast.analysis.report.relation_table import relation_section
    from tsloss_fast.analysis.runs import load_runs

    out = Path(out)
    if out.is_dir():
        raise IsADirectoryError(
            f"{out} is a folder: expected the file to write, such as {out}/report.html"
        )
    loaded = load_runs(runs)
    if names:
        found, missing = find_names(loaded, model)
    else:
        found, missing = [None] * len(loaded), ["Tokens have numbers and no names, as asked for."]
    page = page_data(loaded, found)
    parts = {
        "title": escape(TITLE),
        "lead": escape(lead(page)),
        "summary": summary(loaded, page),
        "relation": relation_section(loaded, relate(loaded)),
        "notes": items([*page.notes, *missing, *_METHOD, _made()]),
        "data": _embedded(page.data),
        "css": _assets("page.css"),
        "plotly": get_plotlyjs(),
        "figures": _assets(*_FIGURES),
        "script": _assets(*_PAGE),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        temporary.write_text(_filled(parts), "utf-8", newline="\n")
    return out


def _filled(parts: Mapping[str, str]) -> str:
    """The page: each place of the template filled once, and nothing that fills it read again."""
    scripts = [parts[name] for name in ("plotly", "figures", "script")]
    if any(re.search("</script|\r|\0", script, re.IGNORECASE) for script in scripts):
        raise ValueError("a script cannot be written into the page: it holds </script>, CR or NUL")
    # Only these three scripts run, whatever else might come to stand in the page.
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    places = {**parts, "hashes": hashes}
    return re.sub(r"\{\{(\w+)\}\}", lambda place: places[place[1]], _assets("page.html"))


def _embedded(data: object) -> str:
    """JSON that can stand in a <script>: no character in it means anything to HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _assets(*names: str) -> str:
    folder = resources.files(__package__).joinpath("page")
    return "".join(folder.joinpath(name).read_text("utf-8") for name in names)


def _made() -> str:
    from tsloss_fast import __version__

    return f"Made by tsloss_fast {__version__}."


def main(argv: Sequence[str]) -> int:
    """Run `tsloss report`; returns the exit code 0, raises on errors."""
    parser = CommandParser(
        prog="tsloss report",
        description="Write one HTML page that shows how the soft prompts of tracked runs evolved: "
        "what changed and when in plain sentences, barcodes, merge trees and maps at every step, "
        "curves beside the control, and how topology goes with performance. It opens without any "
        "network.",
        epilog="example: tsloss report runs/boolean -o report.html",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a tracked run (with topology.arrows); its control/ comes with it",
    )
    parser.add_argument(
        "-o",
        "--out",
        default="report.html",
        metavar="FILE",
        help="the page to write (default: %(default)s)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--model",
        metavar="NAME",
        help="the model whose vocabulary names the tokens (default: the model that the run says)",
    )
    group.add_argument(
        "--no-model", action="store_true", help="numbers instead of names; reads no model"
    )
    options = parser.parse_args(argv)
    out = write_report(options.runs, options.out, model=options.model, names=not options.no_model)
    say(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
