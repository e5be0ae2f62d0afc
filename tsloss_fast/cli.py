"""The command `tsloss`: which command is meant, and what becomes of its errors.

Each command parses its own options before it imports what it needs, so that `--help` and a mistyped
option wait neither for torch nor for transformers.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tsloss_fast import __version__
from tsloss_fast._terminal import CommandParser, one_line, say, usable_streams

__all__ = ["main"]

INTERRUPTED = 130
# Each command has a module, whose `main` runs it, and a line in the help. The benchmarks lie in a
# folder of their own and join the package when it is installed.
COMMANDS = {
    "tune": ("tsloss_fast.tuning.command", "tune a soft prompt with a topological loss"),
    "compare": (
        "tsloss_fast.benchmarks.study.command",
        "compare losses over tasks and seeds; does the topological one help?",
    ),
    "analyze": (
        "tsloss_fast.analysis.analyze.command",
        "measure saved prompts, adapters and runs; the paper's numbers too",
    ),
    "plot": (
        "tsloss_fast.analysis.plots.command",
        "draw recorded runs for a paper: barcode, diagram, curves, map and more",
    ),
    "report": (
        "tsloss_fast.analysis.report.command",
        "write one HTML page: how soft prompts evolved, and their health",
    ),
    "barcode": (
        "tsloss_fast.analysis.table.command",
        "the barcode and linkage of a whole table of embeddings",
    ),
    "bench": (
        "tsloss_fast.benchmarks.suite",
        "measure against GUDHI and the other libraries on this machine",
    ),
    "doctor": ("tsloss_fast.doctor", "say what this installation is and can do"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error, 130 for an interrupt.

    Without any argument it shows the help.

    An error is one line on standard error; `--debug` shows its traceback.

    Raises:
        SystemExit: from argparse, with code 2 for wrong usage and 0 after `--help` or `--version`.
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
    if command is None:
        parser.print_help()
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "tsloss --help lists the commands"
        parser.error(f"there is no command {command!r}; {hint}")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = int(importlib.import_module(COMMANDS[command][0]).main(arguments[1:]))
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
        usage="tsloss [-h] [--version] [--debug] COMMAND ...",
        description="Exact 0-dimensional persistence of point clouds, and the topological soft "
        f"prompt loss.\n\ncommands (tsloss COMMAND --help explains one):\n{listing}",
        epilog="example: tsloss tune --model smollm2 --task boolean --control --out runs/boolean",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"tsloss_fast {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error (in every command)"
    )
    return parser
