"""A program: the package on a device that torch is taught here, through torch's own dispatcher.

Tensors there have no memory that can be read, so their numbers are kept in a dictionary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

from tsloss_fast import TSLoss, h0_persistence, h0_persistence_from_distances, h0_persistence_varlen

NAME = "elsewhere"
held: dict[int, tuple[Tensor, Tensor]] = {}  # a tensor there and its numbers, by its storage


def there(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    made = torch._C._acc.create_empty_tensor(tuple(x.shape), x.dtype)
    held[made.untyped_storage()._cdata] = made, x.detach().clone().contiguous()
    return made


def here(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.device.type != NAME:
        return x
    return held[x.untyped_storage()._cdata][1].reshape(x.shape)


def by_the_cpu(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """The fallback of the device for every operator."""
    device = kwargs.pop("device", None)
    found = operator(*tree_map(here, args), **tree_map(here, kwargs))
    leaves = device is not None and torch.device(device).type == "cpu"
    return found if leaves else tree_map(there, found)


def copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    here(target).copy_(here(source))
    return target


def agree(f: Callable[[Tensor], Any], x: Tensor) -> None:
    mine, other = x.clone().requires_grad_(), there(x).requires_grad_()
    expected, found = f(mine), f(other)
    expected, found = ((t,) if isinstance(t, Tensor) else t[:2] for t in (expected, found))
    expected[0].sum().backward()
    found[0].sum().backward()
    for a, b in zip((*expected, mine.grad), (*found, other.grad), strict=True):
        assert b.device.type == NAME
        torch.testing.assert_close(a, here(b))


def main() -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    every = torch.library.Library("_", "IMPL")
    every.fallback(by_the_cpu, "PrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    to_copy = torch.ops.aten._to_copy.default
    own.impl("_to_copy", lambda x, **rest: by_the_cpu(to_copy, x, **rest), "PrivateUse1")
    own.impl("_copy_from", copy, "PrivateUse1")

    points = torch.randn(2, 6, 3, dtype=torch.float64)
    calls: dict[str, Callable[[Tensor], Any]] = {
        "bars": h0_persistence,
        "ragged": lambda x: h0_persistence_varlen(x.reshape(12, 3), [0, 5, 12]),
        "loss": TSLoss(),
        "compiled": torch.compile(
            lambda x: h0_persistence(x).deaths * 2, fullgraph=True, backend="aot_eager"
        ),
    }
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for f in calls.values():
                agree(f, points.to(dtype))
        agree(h0_persistence_from_distances, torch.cdist(points, points))
    said = [str(w.message) for w in found if "no kernels for the device" in str(w.message)]
    assert len(said) == 1, said
    assert f"device {NAME}:0 in this build" in said[0]
    assert "this call copies 288 bytes" in said[0]
    assert "TSLOSS_CUDA" not in said[0]  # a build with CUDA kernels has none for this device
    print("agreed")


if __name__ == "__main__":
    main()
