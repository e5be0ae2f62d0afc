"""Tensors that say they are on a CUDA device, on machines without one.

Each holds an ordinary tensor on the CPU. Operations on it give others of its kind, tensors on two
devices do not mix, and the operators of the package are called as the dispatcher has them for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
# Torch takes an index or a source on the CPU in these operators.
_MIX = ("aten::index", "aten::index_put", "aten::_index_put_impl_", "aten::copy_")
# Under ``torch.func`` the gradient of `index_select` makes zeros on the device of a C++ tensor,
# which is the CPU here, and adds to them.
_ONTO_ZEROS = "aten::index_add"
_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
_FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "ones",
    "tensor",
    "triu_indices",
    "zeros",
)


class CudaTensor(Tensor):
    inner: Tensor
    is_cuda = True
    device = DEVICE
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> CudaTensor:
        made: Any = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CudaTensor({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "tsloss_fast":
            return func.redispatch(_CUDA, *args, **kwargs)
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if func._schema.name not in _MIX:
            checked = tensors[func._schema.name == _ONTO_ZEROS :]
            strangers = [t for t in checked if not isinstance(t, CudaTensor) and t.dim()]
            assert not strangers, f"{func} mixes devices"
        if "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        args, kwargs = tree_map(
            lambda t: t.inner if isinstance(t, CudaTensor) else t, (args, kwargs)
        )
        return tree_map(
            lambda t: CudaTensor(t) if isinstance(t, Tensor) else t, func(*args, **kwargs)
        )


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Tensor:
        return x.inner.clone()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return CudaTensor(grads[0])


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return CudaTensor(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].inner


def _moved(x: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and not isinstance(x, CudaTensor):
        return _Up.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    if device.type == "cpu" and isinstance(x, CudaTensor):
        return _Down.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return x


def install(patch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Let torch's functions move tensors to the device and make them there; return a list that
    gains what is copied: the device it goes to, and its bytes."""
    copies: list[tuple[str, int]] = []
    plain_to = Tensor.to

    def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        place = kwargs.get("device", args[0] if args else None)
        if not isinstance(place, (str, torch.device)):
            return plain_to(x, *args, **kwargs)
        moved = _moved(x, torch.device(place))
        if moved is not x:
            copies.append((torch.device(place).type, x.nbytes))
        elif not isinstance(x, CudaTensor):
            return plain_to(x, *args, **kwargs)
        dtypes = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.dtype)]
        return plain_to(moved, *dtypes) if dtypes else moved

    def on_device(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is None or torch.device(kwargs["device"]).type != "cuda":
                return make(*args, **kwargs)
            found = make(*args, **{**kwargs, "device": "cpu"})
            return found if isinstance(found, CudaTensor) else CudaTensor(found)

        return made

    patch.setattr(Tensor, "to", to)
    patch.setattr(Tensor, "cpu", lambda x: x.to("cpu"))
    for name in _FACTORIES:
        patch.setattr(torch, name, on_device(getattr(torch, name)))
    patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return copies
