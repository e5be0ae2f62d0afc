"""Text that the commands show: names made safe, tables in Markdown, streams, the parser.

Any text reaches any terminal, and no text moves its cursor. Reports and figures show names of
files and tokens too, so they make them safe by the same functions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, TextIO

__all__ = [
    "CommandParser",
    "counted",
    "encodable",
    "escape_invisible",
    "one_line",
    "require",
    "say",
    "shorten",
    "table_head",
    "table_lines",
    "table_row",
    "usable_streams",
]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escape_invisible(text: str, keep: str = "") -> str:
    """Return the text with every character that cannot be seen, or that turns or moves what is
    beside it, written as in a Python string (a line break as "\\\\n").

    Spaces and the characters in `keep` are not escaped, and neither is a backslash: formulas hold
    backslashes far more often than escape sequences do.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def encodable(text: str) -> str:
    """Return text that can be written as UTF-8: lone surrogates, by which Python denotes the bytes
    of a file name that are not UTF-8, are escaped.

    The escapes are those of `escape_invisible`, so that a name has one form in a table and on the
    terminal.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return a message as one line, in which the text of a file cannot move the cursor."""
    return escape_invisible(" ".join(text.split()))


def shorten(text: str, longest: int) -> str:
    """Return at most `longest` characters; a longer text ends in …."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def table_row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown, which can be shown as soon as it was measured."""
    return "| " + " | ".join(cells) + " |"


def table_head(names: Sequence[str], numbers: bool = False) -> Iterator[str]:
    """Yield the two lines above the rows; with `numbers`, all columns but the first are aligned at
    the right."""
    yield table_row(names)
    yield table_row(["---"] + ["---:" if numbers else "---"] * (len(names) - 1))


def table_lines(
    names: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False
) -> Iterator[str]:
    yield from table_head(names, numbers)
    yield from map(table_row, rows)


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines, by default on standard output; `file` may be standard error.

    Names of files and strings in files can hold escape sequences, which would command the terminal,
    and line breaks, which would begin a line in the name of the command: both are escaped.
    """
    for line in lines:
        print(escape_invisible(str(line)), file=file, flush=file is sys.stderr)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are safe to show: an argument may be any name that the shell found."""

    def error(self, message: str) -> NoReturn:
        super().error(escape_invisible(message))


def require(user: str, extra: str, *modules: str) -> None:
    """Raise ModuleNotFoundError, with the line that installs them, unless all modules are there.

    Args:
        user: the command or package that needs them, as the message calls it.
        extra: the extra of this package that installs them.
        modules: what has to be importable; no module is imported.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{user} needs {', '.join(missing)}, not installed here; install what it needs with: "
            f'pip install "tsloss-fast[{extra}]"',
            name=missing[0],
        )


def _restore(stream: io.TextIOWrapper, errors: str | None) -> None:
    """Give a stream its own way with characters again, which also writes what it still holds."""
    try:
        stream.reconfigure(errors=errors)
    except OSError:
        # Its reader has left, or its disk is full, and the command has said so. What is held would
        # be tried once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Within it, standard output and standard error take every text.

    A character that the terminal's encoding lacks is escaped. A stream that is closed, as daemons
    have it, is replaced by one that leads nowhere: its descriptor would otherwise be given to the
    next file that is opened, and a library that writes to it would write into that file.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                sink = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                setattr(sys, name, sink)
                stack.callback(setattr, sys, name, None)
            elif isinstance(stream, io.TextIOWrapper):
                stack.callback(_restore, stream, stream.errors)
                stream.reconfigure(errors="backslashreplace")
        yield
