"""The command `tsloss analyze`: a row of numbers for every cloud in the files and folders given."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, encodable, escape_invisible, one_line, require, say
from tsloss_fast.analysis.analyze.quantities import COLUMNS, MAX_EDGE_LENGTH, MAX_POINTS, measure
from tsloss_fast.analysis.analyze.sources import (
    Cloud,
    NoCloudError,
    SourceError,
    find_sources,
    read_source,
)

__all__ = ["ALL_COLUMNS", "main"]

ALL_COLUMNS: Mapping[str, type] = {
    "source": str,
    "label": str,
    "step": int,
    "stored": str,
    **COLUMNS,
}
# What the terminal shows, a group at a time: the column, its heading, how a number is written.
_SHOWN: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "cloud": (("step", "step", "d"), ("n_points", "N", "d"), ("n_features", "D", "d")),
    "tsloss_fast: every bar": (
        ("h0_bars", "H0 bars", "d"),
        ("h0_zero_bars", "length 0", "d"),
        ("h0_mean_lifetime", "H0 mean", ".4g"),
        ("h0_coefficient_of_variation", "CV", ".4f"),
        ("h0_persistent_entropy", "H0 entropy", ".4f"),
        ("h1_bars", "H1 bars", "d"),
    ),
    "paper: no length 0, with infinite": (
        ("paper_h0_bars", "H0", "d"),
        ("paper_h1_bars", "H1", "d"),
        ("paper_h0_mean_lifetime", "H0 mean", ".4g"),
        ("paper_entropy", "H0+H1 entropy", ".4f"),
    ),
    "paper, edges <= {cut:g}": (
        ("paper_cut_h0_bars", "H0", "d"),
        ("paper_cut_h1_bars", "H1", "d"),
        ("paper_cut_h0_mean_lifetime", "H0 mean", ".4g"),
        ("paper_cut_entropy", "H0+H1 entropy", ".4f"),
    ),
}
_OUTPUTS = (".csv", ".parquet", ".json")


def main(argv: Sequence[str]) -> int:
    """Run `tsloss analyze`.

    Returns:
        0 when everything was read, 1 when something damaged or unusable was skipped.

    Raises:
        SourceError: nothing at all could be read.
        ImportError: GUDHI or another package is needed and not installed.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.output is not None and options.output.suffix not in _OUTPUTS:
        parser.error(f"-o: expected a file ending in {', '.join(_OUTPUTS)}, got {options.output}")
    if not options.max_edge_length >= 0:
        parser.error(f"--max-edge-length: expected a number >= 0, got {options.max_edge_length}")
    require("tsloss analyze", "analysis", "tqdm")
    reader = _Reader(options)
    rows = list(reader)
    if not rows:
        raise SourceError("nothing could be read: see above")
    # Before anything that is only shown: what was computed is not to be lost.
    if options.output is not None:
        _write(rows, options.output)
    say(*_table(rows, options.max_edge_length))
    left_out = sum("more than" in (row["note"] or "") for row in rows)
    if left_out:
        say(
            "",
            f"no H1 for {left_out} of {len(rows)} clouds: more than {options.max_points} points "
            "(--max-points raises the limit)",
        )
    if options.output is not None:
        say("", f"wrote {options.output} ({len(rows)} rows, {len(ALL_COLUMNS)} columns)")
    return 1 if reader.skipped else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss analyze",
        description="Measure the topology of clouds of points: exact H0 and H1 by tsloss_fast's "
        "definitions, and beside them the numbers of the authors of TSLoss by theirs.",
        epilog="example: tsloss analyze runs/boolean adapter/ prompts.npy -o topology.csv",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="topology.arrows, a run's folder, a folder saved by peft, .safetensors (for a sharded "
        "checkpoint its .safetensors.index.json), .npy, .npz, .pt, .pth, .bin, .ckpt, .gguf, or a "
        "folder of these. float16 and bfloat16 are computed as float32, float8 is multiplied by "
        "its scales; Python objects in a file are never loaded",
    )
    parser.add_argument(
        "--key",
        help="name of a tensor or a pattern such as '*lora_A*', in files that hold several; of "
        "LoRA's matrices the rows of A and the columns of B are the points",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write all columns: .csv, .parquet, .json"
    )
    parser.add_argument(
        "--max-edge-length",
        type=float,
        default=MAX_EDGE_LENGTH,
        metavar="X",
        help="the authors' cut; their numbers without a cut are given too (default: %(default)g)",
    )
    parser.add_argument("--no-h1", action="store_true", help="dimension 0 only; needs no GUDHI")
    parser.add_argument(
        "--max-points",
        type=int,
        default=MAX_POINTS,
        metavar="N",
        help="no H1 of clouds of more points than this (default: %(default)d)",
    )
    return parser


class _Reader:
    """The rows of all clouds; names what it skips on standard error, and counts it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.skipped = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from tqdm import tqdm

        sources: list[tuple[Path, bool]] = []
        for path in self.options.paths:
            try:
                found = find_sources(path)
                sources += [(source, len(found) == 1) for source in found]
            except (SourceError, OSError) as error:
                self._skip(error)
        # disable=None: no bar where standard error is a file.
        with tqdm(sources, unit="file", dynamic_ncols=True, disable=None) as bar:
            for source, given in bar:
                bar.set_postfix_str(escape_invisible(source.name), refresh=False)
                yield from self._rows(source, given)

    def _rows(self, source: Path, given: bool) -> Iterator[dict[str, Any]]:
        try:
            for cloud in read_source(source, self.options.key):
                if (row := self._row(cloud)) is not None:
                    yield row
        except NoCloudError as error:
            # What was merely found lying in a folder need not be a cloud: an optimizer's state.
            if given:
                self._skip(error)
            else:
                _say(f"passed over: {error}")
        except (SourceError, OSError) as error:
            self._skip(error)

    def _row(self, cloud: Cloud) -> dict[str, Any] | None:
        try:
            measured = measure(
                cloud.points,
                h1=not self.options.no_h1,
                max_points=self.options.max_points,
                max_edge_length=self.options.max_edge_length,
            )
        except (ValueError, MemoryError) as error:
            self._skip(f"{_place(cloud)}: {error or 'not enough memory'}")
            return None
        place = {"source": encodable(str(cloud.source)), "label": encodable(cloud.label)}
        return place | {"step": cloud.step, "stored": cloud.stored} | measured

    def _skip(self, reason: object) -> None:
        self.skipped += 1
        _say(f"skipped: {reason}")


def _place(cloud: Cloud) -> str:
    step = None if cloud.step is None else f"step {cloud.step}"
    return ", ".join(filter(None, [str(cloud.source), cloud.label, step]))


def _say(message: object) -> None:
    from tqdm import tqdm

    # tqdm moves its bar out of the way.
    tqdm.write(f"tsloss: warning: {one_line(str(message))}", file=sys.stderr)


def _table(rows: Sequence[Mapping[str, Any]], cut: float) -> list[str]:
    common, names = _shortened([escape_invisible(row["source"]) for row in rows])
    labels = [escape_invisible(row["label"]) for row in rows]
    blocks = [_block("", ["source", *names], ["label", *labels] if any(labels) else None)]
    for title, columns in _SHOWN.items():
        cells = [
            [heading, *(_cell(row[name], form) for row in rows)] for name, heading, form in columns
        ]
        if any(cell != "-" for column in cells for cell in column[1:]):
            blocks.append(_block(title.format(cut=cut), *cells, right=True))
    lines = [" | ".join(parts).rstrip() for parts in zip(*blocks, strict=True)]
    return [f"in {common}:"] * bool(common) + lines


def _shortened(sources: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all files lie in, "" for the current one, and their names within it."""
    # There is no common folder of a relative path and an absolute one, or of two drives.
    folders = {os.path.dirname(source) for source in sources}
    if len({os.path.isabs(folder) for folder in folders}) > 1:
        folders = {os.path.abspath(folder) for folder in folders}
    if len({os.path.splitdrive(folder)[0] for folder in folders}) > 1:
        return "", list(sources)
    common = os.path.commonpath(folders)
    return common, [os.path.relpath(source, common or os.curdir) for source in sources]


def _block(title: str, *columns: Sequence[str] | None, right: bool = False) -> list[str]:
    """A title over aligned columns, all lines of one width."""
    shown = [column for column in columns if column is not None]
    widths = [max(map(len, column)) for column in shown]
    align = str.rjust if right else str.ljust
    lines = ["  ".join(map(align, row, widths)) for row in zip(*shown, strict=True)]
    width = max(len(title), *map(len, lines))
    return [title.ljust(width), *(align(line, width) for line in lines)]


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        if path.suffix == ".json":
            # JSON has no infinity: a cut at infinity is none.
            plain = [{name: _finite(row[name]) for name in ALL_COLUMNS} for row in rows]
            temporary.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", "utf-8")
            return
        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        schema = pa.schema([(name, types[kind]) for name, kind in ALL_COLUMNS.items()])
        table = pa.Table.from_pylist([dict(row) for row in rows], schema)
        # Opened here, as Arrow opens no file whose name is not UTF-8.
        with open(temporary, "wb") as file:
            if path.suffix == ".csv":
                pyarrow.csv.write_csv(table, file)
            else:
                pyarrow.parquet.write_table(table, file)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
