"""A frozen model that a process trains cohorts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tsloss_fast.tuning.answers import EncodedItem
from tsloss_fast.tuning.packed import PackedAnswers, can_pack, packed_answers, padded_answers

__all__ = ["Model"]

# Packing is the plain forward pass up to rounding, or it is not used.
_TOLERANCE = 1e-3


@dataclass
class Model:
    """A frozen model, and how it is run, which is found out by trying.

    `packed`: by adapter and number of virtual tokens, since a model may look back only so far.
    """

    base: Any
    tokenizer: Any
    device: str = "cpu"
    packed: dict[tuple[str, int], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = self.base.to(self.device).eval()
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)

    def can_pack(self, adapter: str, prompt: Tensor, items: Sequence[EncodedItem]) -> bool:
        """Whether batches behind this adapter can be packed; tried once for each length."""
        key = (adapter, len(prompt))
        if key not in self.packed:
            self.packed[key] = can_pack(self.base, prompt, items, adapter) <= _TOLERANCE
        return self.packed[key]

    def answers(
        self, prompts: Tensor, items: Sequence[EncodedItem], *, packed: bool, hidden: bool = False
    ) -> PackedAnswers:
        if packed:
            return packed_answers(self.base, prompts, items, hidden=hidden)
        if hidden:
            raise ValueError(
                "this model cannot be run packed, so its hidden states are not at hand; leave out "
                "the methods that act on them"
            )
        return padded_answers(self.base, prompts, items)
