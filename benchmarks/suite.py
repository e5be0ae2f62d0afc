"""Run the benchmark: measure, print the table, write Markdown, JSON and a plot."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TextIO

from tsloss_fast._files import check_writable, whole_file
from tsloss_fast._terminal import CommandParser, say
from tsloss_fast.doctor import machine

from . import report
from .records import Results, Row, results_from_json
from .workloads import DEFAULT, FORM, ON_REQUEST, Workload, select


def run(
    sizes: Sequence[str] | None = None,
    *,
    quick: bool = False,
    threads: int = 1,
    output: Path | None = None,
    seconds: float | None = None,
    isa: str | None = None,
    limit: float = 8.0,
    goals: bool = False,
    stream: TextIO | None = None,
) -> Results:
    """Measure tsloss_fast and every installed baseline, and report.

    Args:
        sizes: names such as ``20x2048`` or ``64x100x128`` (see ``workloads``); None is the default
            set.
        quick: the training steps and four sizes, in less than a minute, instead of the default
            set. Without effect if ``sizes`` are given.
        threads: thread count of every library, set before it loads; a size may name its own.
        output: a Markdown file, or a folder for ``benchmark.md``; the raw numbers (``.json``) and
            the plot (``.png``, with matplotlib) get the same name. None writes nothing.
        seconds: time for each implementation on each workload; 0.5, or 0.2 if ``quick``.
        isa: instruction set of tsloss_fast (``TSLOSS_ISA``, whose value is the default), to which
            torch and the others are held as far as they can be. None leaves each its own.
        limit: an implementation is left out where one call would take more seconds than this.
        goals: also report the developers' goals of ``goals.py``, and by how much each was missed.
        stream: where the table goes; standard output if None.

    Returns:
        The results; ``files`` names what was written.

    Raises:
        ValueError: an argument is out of range or a size has no meaning.
        WorkerError: the measuring process could not start.
        OSError: the output cannot be written; found out before anything is measured.
    """
    from .worker import supervise  # which imports torch

    workloads = select(sizes, quick)
    seconds = (0.2 if quick else 0.5) if seconds is None else seconds
    isa = os.environ.get("TSLOSS_ISA") or None if isa is None else isa
    if threads < 1:
        raise ValueError(f"threads is {threads}: expected a positive number")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}: expected a positive time for each measurement")
    if not limit > 0:
        raise ValueError(f"limit is {limit}: expected a positive time for one call")
    _check_isa(isa)
    stream = sys.stdout if stream is None else stream
    target = None if output is None else target_file(output, "benchmark.md")

    settings = {"threads": threads, "seconds per measurement": seconds, "isa": isa}
    results = Results({}, settings | {"date": date.today().isoformat()}, [])
    show = _Progress(stream, workloads)
    try:
        for found in supervise(
            workloads,
            seconds=seconds,
            threads=threads,
            isa=isa,
            limit=limit,
            progress=show.at,
        ):
            if isinstance(found, Row):
                results.rows.append(found)
                show.finished(found)
            else:
                results.machine = results.machine or found
    finally:
        show.clear()
    results.rows.sort(key=lambda row: workloads.index(row.work))
    if target is not None:
        _write(results, target, goals)
    stream.write("\n" + report.text(results, goals=goals))
    stream.flush()
    return results


def show(
    saved: Path,
    *,
    output: Path | None = None,
    readme: Path | None = None,
    goals: bool = False,
    stream: TextIO | None = None,
) -> Results:
    """Report a run again from its JSON file.

    Args:
        saved: the ``.json`` of a run.
        output: as of ``run``.
        readme: a page whose table between ``<!-- benchmark -->`` and ``<!-- /benchmark -->`` is
            replaced. There it says that it was measured on another machine, since for a reader it
            was.
        goals, stream: as of ``run``.

    Raises:
        ValueError: the file is not of a benchmark, or the page has no place for the table.
        OSError: a file cannot be read or written.
    """
    results = results_from_json(saved.read_text(encoding="utf-8"))
    if output is not None:
        _write(results, target_file(output, "benchmark.md"), goals)
    if readme is not None:
        begin, end = "<!-- benchmark -->", "<!-- /benchmark -->"
        head, _, rest = readme.read_text(encoding="utf-8").partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise ValueError(f"{readme} must hold {begin} and, after it, {end}")
        table = f"{begin}\n```\n{report.text(results, elsewhere=True)}```\n{end}"
        replace(readme, f"{head}{table}{tail}".encode())
        results.files.append(str(readme))
    stream = sys.stdout if stream is None else stream
    stream.write(report.text(results, goals=goals, elsewhere=is_elsewhere(results)))
    return results


def is_elsewhere(results: Results) -> bool:
    """Whether another machine than this one was measured."""
    return any(results.machine.get(k) != machine()[k] for k in ("processor", "cores", "system"))


def _check_isa(isa: str | None) -> None:
    if isa is not None:
        from tsloss_fast import _core

        if isa not in (supported := list(_core.supported_isas())):
            raise ValueError(f"isa is {isa!r}: this machine supports {', '.join(supported)}")


def target_file(output: Path, name: str) -> Path:
    """The Markdown file to write, in a folder that was made and can be written to."""
    target = output if output.suffix == ".md" else output / name
    check_writable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _write(results: Results, target: Path, goals: bool) -> None:
    """All files appear whole or not at all; the Markdown, which shows the plot, comes last."""
    contents = {target.with_suffix(".json"): results.to_json().encode()}
    picture = target.with_suffix(".png")
    try:
        from .plot import png

        contents[picture] = png(results)
    except ImportError:
        results.settings["plot"] = "none, matplotlib is not installed (pip install matplotlib)"
    text = report.markdown(
        results,
        picture.name if picture in contents else None,
        goals=goals,
        elsewhere=is_elsewhere(results),
    )
    contents[target] = text.encode()
    for path, content in contents.items():
        replace(path, content)
    results.files = [str(path) for path in (target, *contents) if path in contents]
    results.files = list(dict.fromkeys(results.files))


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it holds either what it held before or all of ``content``."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def print_and_write(
    parser: argparse.ArgumentParser, lines: Iterable[str], output: Path | None, name: str
) -> None:
    """Print lines as they come; all of them go to ``output`` (a file, or a folder for ``name``) at
    the end. A place that cannot be written is an error of ``parser``, before any measurement."""
    try:
        target = None if output is None else target_file(output, name)
    except OSError as problem:
        parser.error(str(problem))
    printed = []
    for line in lines:
        print(line, flush=True)
        printed.append(line)
    if target is not None:
        replace(target, ("\n".join(printed) + "\n").encode())


class _Progress:
    """One line for each finished workload; on a terminal also what is running now."""

    def __init__(self, stream: TextIO, workloads: Sequence[Workload]) -> None:
        self._stream, self._total, self._done = stream, len(workloads), 0
        self._live = stream.isatty()

    def at(self, workload: Workload, label: str) -> None:
        if self._live:
            doing = f"comparing {label}" if label else "timing"
            self._stream.write(f"\r\x1b[K{self._count()} {workload.label}: {doing} ")
            self._stream.flush()

    def finished(self, row: Row) -> None:
        self.clear()
        self._done += 1
        others = row.of_role("baseline")
        best = (
            f", next {others[0].label} at {report.multiple(row.ratio(others[0]))}" if others else ""
        )
        ours = report.duration(row.ours.minimum) if row.ours.seconds else row.ours.status
        self._stream.write(f"{self._count()} {row.label}: {ours}{best}\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")

    def _count(self) -> str:
        return f"[{self._done}/{self._total}]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Status 0: measured; 1: a wrong result of tsloss_fast; 2: could not run."""
    parser = CommandParser(
        prog="tsloss bench",
        description="Measure tsloss_fast against GUDHI and the other libraries on this machine.",
        epilog="example: tsloss bench --quick --out benchmark.md",
    )
    parser.add_argument(
        "sizes", nargs="*", help=f"{FORM}, for example 20x2048 or loss-10x576; without any, "
        f"{len(DEFAULT)} sizes are measured; on request: {' '.join(ON_REQUEST)}",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="only the training steps and four sizes, in a minute"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every library (1)")
    parser.add_argument(
        "--seconds", type=float, help="time per measurement (0.5, with --quick 0.2)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, help="Markdown file or folder; also .json and .png"
    )
    # The name that it had before all commands agreed on one.
    parser.add_argument("--output", dest="out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--isa", help="hold tsloss_fast, and the others as far as possible, to baseline or avx2"
    )
    parser.add_argument(
        "--limit", type=float, default=8.0,
        help="leave out what would take more seconds for one call (8; inf leaves out nothing)",
    )  # fmt: skip
    parser.add_argument("--show", type=Path, metavar="JSON", help="report a saved run again")
    parser.add_argument(
        "--readme", type=Path, metavar="PAGE", help="with --show: also replace the table there"
    )
    parser.add_argument(
        "--goals", action="store_true", help="also compare with the goals that the developers set"
    )
    options = parser.parse_args(argv)
    from .worker import WorkerError  # which imports torch

    try:
        if options.readme is not None and options.show is None:
            raise ValueError("--readme is given without --show, the saved run that it shows")
        if options.show is not None:
            results = show(
                options.show, output=options.out, readme=options.readme, goals=options.goals
            )
        else:
            results = run(
                options.sizes or None,
                quick=options.quick,
                threads=options.threads,
                output=options.out,
                seconds=options.seconds,
                isa=options.isa,
                limit=options.limit,
                goals=options.goals,
            )
    except (ValueError, WorkerError, OSError) as problem:
        say(f"{parser.prog}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"{parser.prog}: interrupted, nothing was written", file=sys.stderr)
        return 130
    if results.files:
        say("", "wrote " + ", ".join(results.files))
    return 1 if results.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
