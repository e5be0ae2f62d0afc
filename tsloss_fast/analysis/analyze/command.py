"""The command `tsloss analyze`: a row of numbers for every cloud in the files and folders given."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsloss_fast._files import check_writable, whole_file
from tsloss_fast._terminal import CommandParser, encodable, escape_invisible, one_line, require, say
from tsloss_fast.analysis.analyze import COLUMNS, MAX_EDGE_LENGTH, MAX_POINTS
from tsloss_fast.analysis.record import RECORD

if TYPE_CHECKING:
    from tsloss_fast.analysis.analyze.sources import Cloud

__all__ = ["ALL_COLUMNS", "main"]

ALL_COLUMNS: Mapping[str, type] = {
    **{"source": str, "label": str, "step": int, "stored": str},
    **COLUMNS,
}
# Columns on the terminal: name, heading, and how a number is written. "paper" counts no bar of
# length 0 and the infinite one; "cut" is the same with edges of at most --max-edge-length.
_SHOWN = (
    ("step", "step", "d"),
    ("n_points", "N", "d"),
    ("n_features", "D", "d"),
    ("h0_bars", "bars", "d"),
    ("h0_mean_lifetime", "mean death", ".4g"),
    ("h0_coefficient_of_variation", "CV", ".4f"),
    ("h0_persistent_entropy", "entropy", ".4f"),
    ("h1_bars", "H1 bars", "d"),
)
_WIDE = (
    *_SHOWN,
    ("h0_zero_bars", "length 0", "d"),
    *(
        (f"{column}_{name}", f"{heading} {what}", form)
        for column, heading in (("paper", "paper"), ("paper_cut", "cut"))
        for name, what, form in (
            ("h0_bars", "H0", "d"),
            ("h1_bars", "H1", "d"),
            ("h0_mean_lifetime", "mean H0", ".4g"),
            ("entropy", "entropy", ".4f"),
        )
    ),
)
_OUTPUTS = (".csv", ".json")
_LEAST_WIDTH = 8  # of a source or a label that is shortened


def main(argv: Sequence[str]) -> int:
    """Run `tsloss analyze`.

    Returns:
        0 when everything was read, 1 when something damaged or unusable was skipped.

    Raises SourceError if nothing could be read, OSError if the file of `--out` cannot be written,
    and ImportError if a package is needed and not installed.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    out, cut = options.out, options.max_edge_length
    if out is not None and out.suffix not in _OUTPUTS:
        parser.error(f"-o: expected a file ending in {', '.join(_OUTPUTS)}, got {out}")
    if not 0 <= cut < math.inf:
        parser.error(f"--max-edge-length: expected a finite number >= 0, got {cut}")
    require("tsloss analyze", "analysis", "tqdm")
    if out is not None:
        check_writable(out)
    from tsloss_fast.analysis.analyze.tensor_files import SourceError

    skipped: list[str] = []
    rows = list(_rows(options, skipped))
    if not rows:
        raise SourceError("nothing could be read: see above")
    # Before anything that is only shown: what was computed is not to be lost.
    if out is not None:
        _write(rows, out)
    say(*_table(rows, cut, options.wide))
    if left_out := sum("more than" in (row["note"] or "") for row in rows):
        said = f"no H1 for {left_out} of {len(rows)} clouds: more than {options.max_points} points"
        say("", f"{said} (--max-points raises the limit)")
    width = shutil.get_terminal_size().columns
    for sentence in _relation(rows):
        say("", *textwrap.wrap(sentence, width))
    if out is not None:
        say("", f"wrote {out} ({len(rows)} rows, {len(ALL_COLUMNS)} columns)")
    return 1 if skipped else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss analyze",
        description="Measure the topology of clouds of points: exact H0 and H1 by tsloss_fast's "
        "definitions, and beside them the numbers of the authors of TSLoss by theirs (--wide, "
        "--out). Of runs of 5 seeds or more it also says how topology goes with performance.",
        epilog="example: tsloss analyze runs/boolean adapter/ prompts.npy -o topology.csv",
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = "topology.arrows, a run's folder, a folder saved by peft, .safetensors (for a sharded "
    text += "checkpoint its .safetensors.index.json), .npy, .npz, .pt, .pth, .bin, .ckpt, .gguf, "
    text += "or a folder of these. float16 and bfloat16 are computed as float32; Python objects in "
    add("paths", nargs="+", type=Path, metavar="PATH", help=f"{text}a file are never loaded")
    text = "name of a tensor or a pattern such as '*lora_A*', in files that hold several; of "
    add("--key", help=f"{text}LoRA's matrices the rows of A and the columns of B are the points")
    text = f"write all columns: {', '.join(_OUTPUTS)}"
    add("-o", "--out", "--output", type=Path, metavar="FILE", help=text)
    add("--wide", action="store_true", help="show the authors' numbers too, and whole names")
    text = "the authors' cut; their numbers without a cut are given too (default: %(default)g)"
    add("--max-edge-length", type=float, default=MAX_EDGE_LENGTH, metavar="X", help=text)
    add("--no-h1", action="store_true", help="dimension 0 only; needs no GUDHI")
    text = "no H1 of clouds of more points than this (default: %(default)d)"
    add("--max-points", type=int, default=MAX_POINTS, metavar="N", help=text)
    return parser


def _rows(options: argparse.Namespace, skipped: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of all clouds; a file that is skipped is named on standard error and noted."""
    from tqdm import tqdm

    from tsloss_fast.analysis.analyze.sources import find_sources, read_source
    from tsloss_fast.analysis.analyze.tensor_files import NoCloudError, SourceError

    @contextlib.contextmanager
    def skipping(given: bool = True) -> Iterator[None]:
        try:
            yield
        except (SourceError, OSError) as error:
            # A file that merely lies in a folder need not hold a cloud, as an optimizer's state.
            passed_over = isinstance(error, NoCloudError) and not given
            skipped.extend([str(error)] * (not passed_over))
            how = "passed over" if passed_over else "skipped"
            # tqdm moves its bar out of the way.
            tqdm.write(f"tsloss: warning: {how}: {one_line(str(error))}", file=sys.stderr)

    sources: dict[Path, bool] = {}  # whether each was given, and not merely found in a folder
    for path in options.paths:
        with skipping():
            found = find_sources(path)
            sources |= dict.fromkeys(found, len(found) == 1)
    # disable=None: no bar where standard error is a file.
    bar = tqdm(sources, unit="file", dynamic_ncols=True, disable=None)
    for source in bar:
        bar.set_postfix_str(escape_invisible(source.name), refresh=False)
        with skipping(sources[source]):
            for cloud in read_source(source, options.key):
                with skipping():
                    yield _row(cloud, options)


def _row(cloud: Cloud, options: argparse.Namespace) -> dict[str, Any]:
    from tsloss_fast.analysis.analyze.quantities import measure
    from tsloss_fast.analysis.analyze.tensor_files import SourceError

    limits = {"max_points": options.max_points, "max_edge_length": options.max_edge_length}
    try:
        measured = measure(cloud.points, h1=not options.no_h1, **limits)
    except (ValueError, MemoryError) as error:
        step = "" if cloud.step is None else f"step {cloud.step}"
        place = ", ".join(filter(None, [str(cloud.source), cloud.label, step]))
        raise SourceError(f"{place}: {error or 'not enough memory'}") from error
    names = {"source": encodable(str(cloud.source)), "label": encodable(cloud.label)}
    return names | {"step": cloud.step, "stored": cloud.stored} | measured


def _table(rows: Sequence[Mapping[str, Any]], cut: float, wide: bool) -> Iterator[str]:
    """Yield the lines of the table, and one that says which columns the authors' cut made zero.

    The table fits the terminal, for which long names lose their beginnings; a `wide` one need not.
    """
    names = [escape_invisible(row["source"]) for row in rows]
    # A relative path and an absolute one have no common folder.
    folders = {os.path.dirname(os.path.abspath(name)) for name in names}
    common = os.path.commonpath(folders)
    sources = [os.path.relpath(name, common).removesuffix(f"/{RECORD}") for name in names]
    labels = [escape_invisible(row["label"]) for row in rows]
    alike = len(set(labels)) == 1
    texts = [["source", *sources]] + [["label", *labels]] * (not alike)
    yield f"in {common}{f', label {labels[0]}' * (alike and labels[0] != '')}:"
    numbers, zero = [], []
    for name, heading, form in _WIDE if wide else _SHOWN:
        values = [row[name] for row in rows]
        if name.startswith("paper_cut_") and all(value == 0 for value in values):
            zero.append(heading)
        elif any(value is not None for value in values):
            cells = ["-" if value is None else format(value, form) for value in values]
            width = max(map(len, [heading, *cells]))
            numbers.append([cell.rjust(width) for cell in (heading, *cells)])
    # Labels may have half of the width that the numbers leave, sources what the labels leave.
    left = shutil.get_terminal_size().columns - sum(len(column[0]) + 2 for column in numbers)
    for column, share in zip(reversed(texts), (len(texts), 1), strict=False):
        longest = max(map(len, column)) if wide else max(left // share, _LEAST_WIDTH)
        column[:] = [text if len(text) <= longest else f"…{text[1 - longest :]}" for text in column]
        column[:] = [text.ljust(max(map(len, column))) for text in column]
        left -= len(column[0]) + 2
    for parts in zip(*texts, *numbers, strict=True):
        yield "  ".join(parts).rstrip()
    if zero:
        yield f"0 in every row, because no edge longer than {cut:g} counts: {', '.join(zero)}"


def _relation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what can be said of runs of 5 seeds or more with measured outcomes, if anything."""
    records = dict.fromkeys(row["source"] for row in rows if row["source"].endswith(RECORD))
    if not records:
        return []
    from tsloss_fast.analysis.relation import MINIMUM_SEEDS, relate
    from tsloss_fast.analysis.runs import load_runs

    if len(records) < MINIMUM_SEEDS:
        return []
    require("relating topology to performance", "analysis", "scipy")
    try:
        relation = relate(load_runs(Path(record).parent for record in records))
    except (ValueError, RuntimeError, OSError) as error:
        return [f"How topology goes with performance is not looked at: {one_line(str(error))}"]
    tested = any(entry.low is not None for entry in relation.correlations)
    return relation.sentences() if tested else []


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{name: row[name] for name in ALL_COLUMNS} for row in rows]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            json.dump(plain, file, indent=1, allow_nan=False)
        else:
            writer = csv.DictWriter(file, list(ALL_COLUMNS), lineterminator="\n")
            writer.writeheader()
            writer.writerows(plain)
