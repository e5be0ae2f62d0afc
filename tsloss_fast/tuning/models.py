"""The models that prompts are tuned for: loading one, and a digest of its values."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from tsloss_fast.analysis.vocabulary.models import ModelNotAvailableError, load_model

__all__ = ["ModelNotAvailableError", "load_model", "model_digest"]


def model_digest(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, of all weights of a model and of its configuration.

    It is that of the values in memory: a copy of the model's files gives the same one, and times
    and names of files have no part in it. A second reads one to two gigabytes of weights.
    """
    settings = model.config.to_dict() | {"class": type(model).__name__}
    # These keys say how the files were written, or repeat what the tensors say.
    for name in ("_name_or_path", "architectures", "dtype", "transformers_version"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    saved = model.state_dict().keys()
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
