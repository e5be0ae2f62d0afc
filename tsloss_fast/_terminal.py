"""Output of the commands: any text reaches any terminal, and no text moves its cursor."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

from tsloss_fast._text import escape_invisible

__all__ = ["CommandParser", "say", "usable_streams"]


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
