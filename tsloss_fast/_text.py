"""Words of messages and reports: text of others, made safe to show on one line, and counts."""

from __future__ import annotations

__all__ = ["counted", "encodable", "escape_invisible", "one_line", "shorten"]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escape_invisible(text: str, keep: str = "") -> str:
    """Characters that cannot be seen, or that turn or move what is beside them, as in a Python
    string (a line break as "\\\\n"), but for the space and those in `keep`.

    A backslash stays single, as it is far more often part of a formula than of anything escaped.
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
    """A message for a terminal: what a file put into it cannot move the cursor or end the line."""
    return escape_invisible(" ".join(text.split()))


def shorten(text: str, longest: int) -> str:
    """At most `longest` characters; the end of a longer text is …."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
