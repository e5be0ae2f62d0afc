"""The command `tsloss analyze`: a row of numbers for every cloud in the files and folders given."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsloss_fast._files import check_writable, whole_file
from tsloss_fast._terminal import CommandParser, encodable, escape_invisible, one_line, require, say
from tsloss_fast.analysis.analyze.quantities import COLUMNS, MAX_EDGE_LENGTH, MAX_POINTS, measure
from tsloss_fast.analysis.analyze.sources import Cloud, find_sources, read_source
from tsloss_fast.analysis.analyze.stored import NoCloudError, SourceError
from tsloss_fast.analysis.record import RECORD, RecordError

__all__ = ["ALL_COLUMNS", "main"]

ALL_COLUMNS: Mapping[str, type] = {
    **{"source": str, "label": str, "step": int, "stored": str},
    **COLUMNS,
}
# Groups of columns on the terminal: each column's name, its heading, how a number is written.
_Group = Sequence[tuple[str, str, str]]
_CLOUD: _Group = (("step", "step", "d"), ("n_points", "N", "d"), ("n_features", "D", "d"))
_NARROW: Mapping[str, _Group] = {
    "": (
        *_CLOUD,
        ("h0_bars", "bars", "d"),
        ("h0_mean_lifetime", "mean death", ".4g"),
        ("h0_coefficient_of_variation", "CV", ".4f"),
        ("h0_persistent_entropy", "entropy", ".4f"),
        ("h1_bars", "H1 bars", "d"),
    )
}
_WIDE: Mapping[str, _Group] = {
    "cloud": _CLOUD,
    "tsloss_fast: every bar": (
        ("h0_bars", "H0 bars", "d"),
        ("h0_zero_bars", "length 0", "d"),
        *_NARROW[""][4:],
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
    if relation := _relation(reader.sources):
        say("", "How this goes with what was measured of the task:", *relation)
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
        self.sources: list[Path] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from tqdm import tqdm

        given = set()
        for path in self.options.paths:
            try:
                found = find_sources(path)
            except (SourceError, OSError) as error:
                self._skip(error)
                continue
            self.sources += found
            given |= {*found} if len(found) == 1 else {path}
        # disable=None: no bar where standard error is a file.
        with tqdm(self.sources, unit="file", dynamic_ncols=True, disable=None) as bar:
            for source in bar:
                bar.set_postfix_str(escape_invisible(source.name), refresh=False)
                try:
                    yield from filter(None, map(self._row, read_source(source, self.options.key)))
                except NoCloudError as error:
                    # A file that merely lies in a folder need not hold a cloud: it can hold an
                    # optimizer's state.
                    if source in given:
                        self._skip(error)
                    else:
                        _warn(f"passed over: {error}")
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
            step = "" if cloud.step is None else f"step {cloud.step}"
            place = ", ".join(filter(None, [str(cloud.source), cloud.label, step]))
            self._skip(f"{place}: {error or 'not enough memory'}")
            return None
        place = {"source": encodable(str(cloud.source)), "label": encodable(cloud.label)}
        return place | {"step": cloud.step, "stored": cloud.stored} | measured

    def _skip(self, reason: object) -> None:
        self.skipped += 1
        _warn(f"skipped: {reason}")


def _warn(message: object) -> None:
    from tqdm import tqdm

    # tqdm moves its bar out of the way.
    tqdm.write(f"tsloss: warning: {one_line(str(message))}", file=sys.stderr)


def _table(rows: Sequence[Mapping[str, Any]], cut: float, wide: bool) -> Iterator[str]:
    """Yield the lines of the table, and one that says which columns the authors' cut made zero."""
    common, names = _shortened([escape_invisible(row["source"]) for row in rows])
    if common:
        yield f"in {common}:"
    numbers, zero = [], []
    for title, group in (_WIDE if wide else _NARROW).items():
        columns = []
        for name, heading, form in group:
            values = [row[name] for row in rows]
            if name.startswith("paper_cut_") and not any(values):
                zero += [heading] * (values[0] is not None)
            elif any(value is not None for value in values):
                cells = ["-" if value is None else format(value, form) for value in values]
                columns.append([heading, *cells])
        if columns:
            numbers.append(_block(title.format(cut=cut), columns, right=True))
    labels = [escape_invisible(row["label"]) for row in rows]
    texts = [["source", *names], *([["label", *labels]] if any(labels) else [])]
    if not wide:
        left = shutil.get_terminal_size().columns - sum(len(block[0]) + 3 for block in numbers)
        # Labels are shortened to half of the width at most, sources to what labels leave.
        for column, share in zip(reversed(texts), (len(texts), 1), strict=False):
            longest = max(left // share, _LEAST_WIDTH)
            column[:] = [_middle(text, longest) for text in column]
            left -= max(map(len, column)) + 2
    blocks = [_block("", texts), *numbers]
    for parts in list(zip(*blocks, strict=True))[0 if wide else 1 :]:
        yield " | ".join(parts).rstrip()
    if zero:
        yield (
            f"0 at the authors' cut in all rows (no edge is <= {cut:g}, or no loop): "
            + ", ".join(zero)
        )


def _shortened(sources: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that all files lie in, "" for the current one, and their names within."""
    # There is no common folder of a relative path and an absolute one, or of two drives.
    folders = {os.path.dirname(source) for source in sources}
    if len({os.path.isabs(folder) for folder in folders}) > 1:
        folders = {os.path.abspath(folder) for folder in folders}
    common = os.path.commonpath(folders)
    return common, [os.path.relpath(source, common or os.curdir) for source in sources]


def _middle(text: str, longest: int) -> str:
    """Return at most `longest` characters of a text: its beginning, … and its end."""
    end = longest // 2
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[-end:]}"


def _block(title: str, columns: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Return a title over aligned columns, all lines of one width."""
    widths = [max(map(len, column)) for column in columns]
    align = str.rjust if right else str.ljust
    lines = ["  ".join(map(align, row, widths)) for row in zip(*columns, strict=True)]
    width = max(map(len, [title, *lines]))
    return [title.ljust(width), *(align(line, width) for line in lines)]


def _relation(sources: Sequence[Path]) -> list[str]:
    """Return what can be said of runs of 5 seeds or more with measured outcomes; nothing of others.

    The runs are those whose records were read.
    """
    folders = [source.parent for source in sources if source.name == RECORD]
    if not folders:
        return []
    require("relating topology to performance", "analysis", "scipy")
    from tsloss_fast.analysis.relation import relate
    from tsloss_fast.analysis.runs import load_runs

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
            # JSON has no infinity: a cut at infinity is none.
            plain = [{name: _finite(value) for name, value in row.items()} for row in plain]
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


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
