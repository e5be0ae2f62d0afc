"""Checkpoints of a prompt tuning run: atomic, resumable bit for bit, readable by peft.

checkpoints/step-000040/    adapter_config.json, adapter_model.safetensors (peft's own format)
                            training_state.pt (optimizer, loss module, generator; no pickled code)
prompts/soft_prompt_epoch_002.pt    a tensor (1, N, D), the format of the TSLoss authors
adapter/                    the final prompt, for `PeftModel.from_pretrained`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tsloss_fast._files import remove_folder, remove_temporaries, whole_file, whole_folder
from tsloss_fast.tuning.clouds import prompt_clouds
from tsloss_fast.tuning.run_folder import RunFolderError

__all__ = [
    "Position",
    "load_latest_checkpoint",
    "save_adapter",
    "save_checkpoint",
    "save_epoch_prompt",
]

FOLDER = "checkpoints"
PROMPTS = "prompts"
# The newest, and one to go back to should a disk have damaged it.
KEEP = 2
STATE = "training_state.pt"
WEIGHTS = "adapter_model.safetensors"
STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Position:
    """How far a run is: the steps done, the bytes of its log, and what it decided at its start."""

    step: int = 0
    metrics_bytes: int = 0
    share_prompt: bool | None = None


def save_checkpoint(
    run: Path,
    position: Position,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
) -> Path:
    """Write `checkpoints/step-NNNNNN`, then remove all but the newest two.

    An old checkpoint goes only when the new one is in its place and on the disk.
    """
    folder = run / FOLDER / f"step-{position.step:06d}"
    with whole_folder(folder) as temporary:
        _save_peft(model, temporary)
        state = {
            "position": vars(position),
            "optimizer": optimizer.state_dict(),
            "loss": loss.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, temporary / STATE)
    _prune(run)
    return folder


def load_latest_checkpoint(
    run: Path, model: PeftModel, optimizer: torch.optim.Optimizer, loss: nn.Module
) -> Position:
    """Put the newest checkpoint's state into the arguments; the start position if there is none.

    What a killed process left is removed first: temporary names, and a checkpoint not yet pruned.

    Raises:
        RunFolderError: the checkpoint is damaged or does not fit the model. Nothing is executed
            from the files: they are read with `weights_only=True` and as safetensors.
    """
    for place in (run / FOLDER, run / PROMPTS, run):
        remove_temporaries(place)
    _prune(run)
    checkpoints = _checkpoints(run)
    if not checkpoints:
        return Position()
    folder = checkpoints[-1]
    try:
        state: Mapping[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        position = Position(**state["position"])
        weights = load_file(folder / WEIGHTS)
        _check_shapes(model, weights)
        # Only now is anything touched, so a damaged checkpoint leaves the run as it was.
        set_peft_model_state_dict(model, weights)
        optimizer.load_state_dict(state["optimizer"])
        loss.load_state_dict(state["loss"])
        torch.set_rng_state(state["rng"])
    except Exception as error:
        # A damaged archive shows itself in a dozen types of error, depending on where it is cut.
        if isinstance(error, MemoryError):
            raise
        kind = "" if isinstance(error, (RunFolderError, SafetensorError)) else type(error).__name__
        reason = f"{kind}: {error}".strip(": ").split("\n")[0]
        raise RunFolderError(
            f"the checkpoint {folder} cannot be read ({reason}): delete that folder to go on from "
            f"{checkpoints[-2].name if len(checkpoints) > 1 else 'the start'}"
        ) from error
    return position


def save_epoch_prompt(run: Path, epoch: int, model: PeftModel) -> Path:
    """Write `prompts/soft_prompt_epoch_NNN.pt`, a float32 tensor (1, N, D); 000 is the start."""
    folder = run / PROMPTS
    folder.mkdir(exist_ok=True)
    path = folder / f"soft_prompt_epoch_{epoch:03d}.pt"
    prompt: Tensor = prompt_clouds(model)[:1].detach().cpu().contiguous().clone()
    # Through a handle: given a path, torch writes the file's name, here a temporary one, inside.
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        torch.save(prompt, handle)
    return path


def save_adapter(run: Path, model: PeftModel) -> Path:
    """Write `adapter/`, the folder that `PeftModel.from_pretrained` reads."""
    with whole_folder(run / "adapter") as temporary:
        _save_peft(model, temporary)
    return run / "adapter"


def _checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Temporary names do not match."""
    found = [
        (int(match[1]), path)
        for path in (run / FOLDER).glob("step-*")
        if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def _prune(run: Path) -> None:
    for old in _checkpoints(run)[:-KEEP]:
        remove_folder(old)


def _save_peft(model: PeftModel, folder: Path) -> None:
    # Without save_embedding_layers=False, peft may ask the Hub whether the vocabulary was resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # peft adds the template of a model card with nothing filled in.
    (folder / "README.md").unlink(missing_ok=True)


def _check_shapes(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    found = weights.get("prompt_embeddings")
    expected = tuple(prompt_clouds(model).shape[1:])
    if found is None or tuple(found.shape) != expected:
        shape = "no prompt" if found is None else f"a prompt of shape {tuple(found.shape)}"
        raise RunFolderError(f"it holds {shape}, this run has one of shape {expected}")
