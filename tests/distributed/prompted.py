"""A prompt before a frozen body, in place of a language model, and what it is trained on."""

from __future__ import annotations

import torch
from torch import nn

ROWS, N, DIM, WIDTH = 8, 6, 16, 12
WEIGHT = 3.0


class Prompted(nn.Module):
    """A frozen body behind a prompt that is trained."""

    def __init__(self, checkpoint: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.prompt = nn.Embedding(N, DIM)
        self.body = nn.Sequential(nn.Linear(DIM, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
        self.checkpoint = checkpoint
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.body.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (R, N) -> (R,): attention over the prompt, in place of a language model."""
        rows = self.prompt(torch.arange(N))
        mixed = x.to(rows.dtype).softmax(-1) @ rows
        if self.checkpoint:
            out = torch.utils.checkpoint.checkpoint(self.body, mixed, use_reentrant=False)
        else:
            out = self.body(mixed)
        return out.squeeze(-1).float()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, N, generator=generator), torch.randn(ROWS, generator=generator)
