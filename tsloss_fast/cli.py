"""The command `tsloss`: which command is meant, and what becomes of its errors.

Each command parses its own options and imports what it needs when it runs, so that `--help` and a
mistyped option do not wait for transformers.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tsloss_fast._terminal import CommandParser, one_line, say, usable_streams

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error, 130 for an interrupt.

    An error is one line on standard error; `--debug` shows its traceback.

    Raises:
        SystemExit: from argparse, with code 2 for wrong usage and 0 after `--help`.
    """
    with usable_streams():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    # Taken out here, so that it may stand before the command and after it.
    arguments = [argument for argument in arguments if argument != "--debug"]
    parser = _parser()
    # Options before the command are ours, what follows the command is the command's.
    command = parser.parse_args(arguments[:1]).command
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = COMMANDS[command][0](arguments[1:])
            sys.stdout.flush()  # here, where an error has its words
            return code
        except KeyboardInterrupt as interrupt:
            say(f"tsloss: {str(interrupt) or 'interrupted'}", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read the output left, as `head` does: nothing may be written at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if debug:
                raise
            say(f"tsloss: error: {_one_line(error)}", file=sys.stderr)
            return 1


def _one_line(error: Exception) -> str:
    message = one_line(str(error))
    # These say in words what is wrong; of others the type is half of the message (a KeyError).
    plain = (ValueError, TypeError, RuntimeError, OSError, ImportError, ArithmeticError)
    if message and isinstance(error, plain):
        return message
    return f"{type(error).__name__}: {message or 'no message'} (--debug shows where)"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Deprecations are for developers of libraries, not for the user of a command.
    if issubclass(category, UserWarning):
        say(f"tsloss: warning: {one_line(str(message))}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = CommandParser(
        prog="tsloss",
        usage="tsloss [-h] [--debug] COMMAND ...",
        description="Exact 0-dimensional persistence of point clouds, and the topological soft "
        f"prompt loss.\n\ncommands (tsloss COMMAND --help explains one):\n{listing}",
        epilog="example: tsloss tune --model smollm2 --task boolean --control --out runs/boolean",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error (in every command)"
    )
    return parser


def _tune(argv: Sequence[str]) -> int:
    from tsloss_fast.tuning.command import main as tune_main

    return tune_main(argv)


def _compare(argv: Sequence[str]) -> int:
    from tsloss_fast.benchmarks.study.command import main as compare_main

    return int(compare_main(argv))


def _analyze(argv: Sequence[str]) -> int:
    from tsloss_fast.analysis.analyze.command import main as analyze_main

    return analyze_main(argv)


def _plot(argv: Sequence[str]) -> int:
    from tsloss_fast.analysis.plots.command import main as plot_main

    return plot_main(argv)


def _report(argv: Sequence[str]) -> int:
    from tsloss_fast.analysis.report.command import main as report_main

    return report_main(argv)


def _barcode(argv: Sequence[str]) -> int:
    from tsloss_fast.analysis.table.command import main as barcode_main

    return barcode_main(argv)


def _bench(argv: Sequence[str]) -> int:
    from tsloss_fast.benchmarks.suite import main as bench_main

    # The benchmarks lie in a folder of their own and join the package when it is installed.
    return int(bench_main(argv))


def _doctor(argv: Sequence[str]) -> int:
    parser = CommandParser(
        prog="tsloss doctor",
        description="Say what this installation is and can do: instruction set, threads, CUDA "
        "build and device, versions.",
        epilog="example: tsloss doctor",
    )
    parser.parse_args(argv)
    from tsloss_fast.doctor import report

    facts = report()
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:{width}}  {value}")
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "tune": (_tune, "tune a soft prompt with a topological loss"),
    "compare": (_compare, "compare losses over tasks and seeds; does the topological one help?"),
    "analyze": (_analyze, "measure saved prompts, adapters and runs; the paper's numbers too"),
    "plot": (_plot, "draw recorded runs for a paper: barcode, diagram, curves, map and more"),
    "report": (_report, "write one HTML page: how soft prompts evolved, and their health"),
    "barcode": (_barcode, "the barcode and linkage of a whole table of embeddings"),
    "bench": (_bench, "measure against GUDHI and the other libraries on this machine"),
    "doctor": (_doctor, "say what this installation is and can do"),
}
