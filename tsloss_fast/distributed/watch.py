"""How far the search for a tree is: to be shown, to be saved, and to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cloud import Edges


@dataclass
class Begun:
    """What is done of a stage: so many units, what they found, and whether digits were lost."""

    units: int = 0
    found: list[Edges] = field(default_factory=list)
    lost: bool = False


class Watch:
    """Who wants to know how far the search is, and may have it begin where it was left."""

    def begin(self, stage: str, units: int) -> Begun:
        """A stage of so many units: "sample", "own pairs" or "ring" of a search, and each again if
        squares are lost."""
        return Begun()

    def done(self, begun: Begun, forest: Edges) -> None:
        """How far the stage is. What a process leaves out, `forest` and what it found rule out: who
        goes on has to know both."""
