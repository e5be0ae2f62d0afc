"""Tokens as a reader can tell them apart: spaces visible, bytes decoded, controls escaped."""

from __future__ import annotations

import functools
import re

from tsloss_fast._terminal import escape_invisible

__all__ = ["readable", "text_of_byte_level", "text_of_sentencepiece"]

SPACE = "␣"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def readable(text: str) -> str:
    """A name for a token's text: "␣film" for " film", "\\\\n" for a line break.

    What cannot be seen is written as in a Python string, as `escape_invisible` says.
    """
    return escape_invisible(text).replace(" ", SPACE)


def text_of_byte_level(token: str) -> str:
    """The text of a byte-level token (GPT-2's alphabet): "Ġfilm" is " film".

    Bytes that are part of a character only are escaped. A token with other characters than the
    alphabet's, such as one that was added later, is its own text.
    """
    alphabet = _alphabet()
    try:
        encoded = bytes(alphabet[char] for char in token)
    except KeyError:
        return token
    return encoded.decode("utf-8", "backslashreplace")


def text_of_sentencepiece(token: str) -> str:
    """The text of a SentencePiece token: "▁film" is " film", "<0x0A>" a line break."""
    byte = _BYTE.fullmatch(token)
    if byte:
        return bytes.fromhex(byte[1]).decode("utf-8", "backslashreplace")
    return token.replace("▁", " ")


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: themselves where they can be seen, else from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    found = {chr(byte): byte for byte in visible}
    return found | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
