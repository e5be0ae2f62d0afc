"""The file from which a stopped cohort goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tsloss_fast._files import whole_file

__all__ = ["read_checkpoint", "write_checkpoint"]

# A change of what is in the file, or of how a run goes on from it, is a new one.
_VERSION = 2


def write_checkpoint(path: Path, keys: Sequence[str], state: Mapping[str, Any]) -> None:
    """Write the state of the runs of these keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        torch.save({"version": _VERSION, "keys": list(keys), **state}, handle)


def read_checkpoint(path: Path, keys: Sequence[str], device: str) -> dict[str, Any] | None:
    """The state of the runs of these keys; None if there is none that they can go on from."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["version"] != _VERSION:
            return None  # of an older tsloss_fast: begun again
        if state["keys"] != list(keys):
            raise ValueError("it belongs to other runs")
    except Exception as error:
        # A damaged archive shows itself in a dozen types of error.
        if isinstance(error, MemoryError):
            raise
        raise RuntimeError(
            f"the state {path} cannot be read ({' '.join(str(error).split())[:200]}): "
            "delete it, and these runs begin again"
        ) from error
    return state
