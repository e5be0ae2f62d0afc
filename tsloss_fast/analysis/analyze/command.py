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
from tsloss_fast.analysis.analyze.columns import COLUMNS, MAX_EDGE_LENGTH, MAX_POINTS
from tsloss_fast.analysis.record import RECORD, RecordError

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
_OUTPUTS = (".csv", ".parquet", ".json")
_LEAST_WIDTH = 8  # of a source or a label that is shortened


def main(argv: Sequence[str]) -> int:
    """Run `tsloss analyze`.

    Returns:
        0 when everything was read, 1 when something damaged or unusable was skipped.

    Raises:
        SourceError: nothing at all could be read.
        OSError: the file of `--out` cannot be written.
        ImportError: GUDHI or another package is needed and not installed.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    out, cut = options.out, options.max_edge_length
    if out is not None and out.suffix not in _OUTPUTS:
        parser.error(f"-o: expected a file ending in {', '.join(_OUTPUTS)}, got {out}")
    if not cut >= 0:
        parser.error(f"--max-edge-length: expected a number >= 0, got {cut}")
    require("tsloss analyze", "analysis", "tqdm")
    if out is not None:
        if out.suffix == ".parquet":
            require("writing a .parquet file", "analysis", "pyarrow")
        check_writable(out)
    from tsloss_fast.analysis.analyze.stored import SourceError

    reader = _Reader(options)
    rows = list(reader)
    if not rows:
        raise SourceError("nothing could be read: see above")
    # Before anything that is only shown: what was computed is not to be lost.
    if out is not None:
        _write(rows, out)
    say(*_table(rows, cut, options.wide))
    left_out = sum("more than" in (row["note"] or "") for row in rows)
    if left_out:
        say(
            "",
            f"no H1 for {left_out} of {len(rows)} clouds: more than {options.max_points} points "
            "(--max-points raises the limit)",
        )
    if relation := _relation(reader.runs):
        width = shutil.get_terminal_size().columns
        say("", *(line for text in relation for line in textwrap.wrap(text, width)))
    if out is not None:
        say("", f"wrote {out} ({len(rows)} rows, {len(ALL_COLUMNS)} columns)")
    return 1 if reader.skipped else 0


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
    add(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="topology.arrows, a run's folder, a folder saved by peft, .safetensors (for a sharded "
        "checkpoint its .safetensors.index.json), .npy, .npz, .pt, .pth, .bin, .ckpt, .gguf, or a "
        "folder of these. float16 and bfloat16 are computed as float32, float8 is multiplied by "
        "its scales; Python objects in a file are never loaded",
    )
    add(
        "--key",
        help="name of a tensor or a pattern such as '*lora_A*', in files that hold several; of "
        "LoRA's matrices the rows of A and the columns of B are the points",
    )
    of_out = "write all columns: .csv, .parquet, .json"
    add("-o", "--out", type=Path, metavar="FILE", help=of_out)
    add("--output", dest="out", type=Path, help=argparse.SUPPRESS)  # the former name
    add("--wide", action="store_true", help="show the authors' numbers too, and whole names")
    of_cut = "the authors' cut; their numbers without a cut are given too (default: %(default)g)"
    add("--max-edge-length", type=float, default=MAX_EDGE_LENGTH, metavar="X", help=of_cut)
    add("--no-h1", action="store_true", help="dimension 0 only; needs no GUDHI")
    of_points = "no H1 of clouds of more points than this (default: %(default)d)"
    add("--max-points", type=int, default=MAX_POINTS, metavar="N", help=of_points)
    return parser


class _Reader:
    """The rows of all clouds. Sources that are skipped are named on standard error and counted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.skipped = 0
        self.runs: list[Path] = []  # folders whose record was read

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from tqdm import tqdm

        from tsloss_fast.analysis.analyze.sources import find_sources, read_source

        sources: dict[Path, bool] = {}  # whether each was given, and not merely found in a folder
        for path in self.options.paths:
            with self._skipping():
                found = find_sources(path)
                sources |= dict.fromkeys(found, len(found) == 1)
        # disable=None: no bar where standard error is a file.
        with tqdm(sources, unit="file", dynamic_ncols=True, disable=None) as bar:
            for source in bar:
                bar.set_postfix_str(escape_invisible(source.name), refresh=False)
                with self._skipping(sources[source]):
                    for cloud in read_source(source, self.options.key):
                        with self._skipping():
                            yield self._row(cloud)
                    self.runs += [source.parent] * (source.name == RECORD)

    def _row(self, cloud: Cloud) -> dict[str, Any]:
        from tsloss_fast.analysis.analyze.quantities import measure
        from tsloss_fast.analysis.analyze.stored import SourceError

        options = self.options
        limits = {"max_points": options.max_points, "max_edge_length": options.max_edge_length}
        try:
            measured = measure(cloud.points, h1=not options.no_h1, **limits)
        except (ValueError, MemoryError) as error:
            step = "" if cloud.step is None else f"step {cloud.step}"
            place = ", ".join(filter(None, [str(cloud.source), cloud.label, step]))
            raise SourceError(f"{place}: {error or 'not enough memory'}") from error
        names = {"source": encodable(str(cloud.source)), "label": encodable(cloud.label)}
        return names | {"step": cloud.step, "stored": cloud.stored} | measured

    @contextlib.contextmanager
    def _skipping(self, given: bool = True) -> Iterator[None]:
        from tsloss_fast.analysis.analyze.stored import NoCloudError, SourceError

        try:
            yield
        except (SourceError, OSError) as error:
            # A file that merely lies in a folder need not hold a cloud, as an optimizer's state.
            passed_over = isinstance(error, NoCloudError) and not given
            self.skipped += not passed_over
            _warn(f"{'passed over' if passed_over else 'skipped'}: {error}")


def _warn(message: object) -> None:
    from tqdm import tqdm

    # tqdm moves its bar out of the way.
    tqdm.write(f"tsloss: warning: {one_line(str(message))}", file=sys.stderr)


def _table(rows: Sequence[Mapping[str, Any]], cut: float, wide: bool) -> Iterator[str]:
    """Yield the lines of the table, and one that says which columns the authors' cut made zero."""
    common, names = _within([escape_invisible(row["source"]) for row in rows])
    sources = ["source", *(name.removesuffix(f"/{RECORD}") for name in names)]
    labels = ["label", *(escape_invisible(row["label"]) for row in rows)]
    texts = [sources, labels] if len(set(labels[1:])) > 1 else [sources]
    head = [f"in {common}" * bool(common), f"label {labels[1]}" * (labels[1:] != [""] * len(rows))]
    if any(head := head[: 3 - len(texts)]):
        yield ", ".join(filter(None, head)) + ":"
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
        column[:] = [_middle(text, longest) for text in column]
        column[:] = [text.ljust(max(map(len, column))) for text in column]
        left -= len(column[0]) + 2
    for parts in zip(*texts, *numbers, strict=True):
        yield "  ".join(parts).rstrip()
    if zero:
        yield f"0 in every row, because no edge longer than {cut:g} counts: {', '.join(zero)}"


def _within(sources: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that all files lie in, "" for the current one, and their names within."""
    # A relative path and an absolute one have no common folder.
    folders = {os.path.dirname(source) for source in sources}
    if len({os.path.isabs(folder) for folder in folders}) > 1:
        folders = {os.path.abspath(folder) for folder in folders}
    common = os.path.commonpath(folders)
    return common, [os.path.relpath(source, common or os.curdir) for source in sources]


def _middle(text: str, longest: int) -> str:
    """Return at most `longest` characters of a text: its beginning, … and its end."""
    end = longest // 2
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[-end:]}"


def _relation(folders: Sequence[Path]) -> list[str]:
    """Return what can be said of runs of 5 seeds or more with measured outcomes, if anything."""
    if not folders:
        return []
    from tsloss_fast.analysis.relation import MINIMUM_SEEDS, relate
    from tsloss_fast.analysis.runs import load_runs

    if len(folders) < MINIMUM_SEEDS:
        return []
    require("relating topology to performance", "analysis", "scipy")
    try:
        relation = relate(load_runs(folders))
    except (ValueError, RecordError, OSError) as error:
        _warn(f"how topology goes with performance is not looked at: {error}")
        return []
    tested = any(entry.low is not None for entry in relation.correlations)
    return relation.sentences() if tested else []


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{name: row[name] for name in ALL_COLUMNS} for row in rows]
    with whole_file(path) as temporary:
        if path.suffix == ".json":
            for row in plain:
                # JSON has no infinity: a cut at infinity is none.
                limit = row["max_edge_length"]
                row["max_edge_length"] = limit if math.isfinite(limit) else None
            temporary.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", "utf-8")
        elif path.suffix == ".csv":
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(ALL_COLUMNS), lineterminator="\n")
                writer.writeheader()
                writer.writerows(plain)
        else:
            import pyarrow as pa
            import pyarrow.parquet

            types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
            schema = pa.schema([(name, types[kind]) for name, kind in ALL_COLUMNS.items()])
            # Opened here, as Arrow opens no file whose name is not UTF-8.
            with open(temporary, "wb") as binary:
                pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema), binary)
