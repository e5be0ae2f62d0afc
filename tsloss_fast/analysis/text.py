"""Text of others, made safe to show on one line."""

from __future__ import annotations

__all__ = ["escape_invisible", "shorten"]


def escape_invisible(text: str, keep: str = "") -> str:
    """Characters that cannot be seen, or that turn or move what is beside them, as in a Python
    string (a line break as "\\\\n"), but for the space and those in `keep`.

    A backslash stays single, as it is far more often part of a formula than of anything escaped.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def shorten(text: str, longest: int) -> str:
    """At most `longest` characters; the end of a longer text is …."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
