"""What every call of the native core needs: codes, checked pointers, room for the bars, and errors
from what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2, "manhattan": 3}
DTYPES = {torch.float32: 0, torch.float64: 1}


_CPU = torch.device("cpu")


def _key_set(*names: str) -> int:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return int(keys.raw_repr())


# The dispatch keys of a dense tensor with memory of its own, in and outside of inference mode. As
# numbers: before torch 2.8, sets of keys are compared by identity.
DENSE_ON_CPU = tuple(
    _key_set("CPU", "AutocastCPU", *more) for more in (("ADInplaceOrView", "AutogradCPU"), ())
)
_ON_CUDA = tuple(
    _key_set("CUDA", "AutocastCUDA", *more) for more in (("ADInplaceOrView", "AutogradCUDA"), ())
)
keys_of = torch._C._dispatch_keys
PLAIN = (Tensor, torch.nn.Parameter)


def is_dense_on_cpu(t: Tensor) -> bool:
    """Return whether a tensor is an ordinary dense tensor on the CPU with memory of its own.

    A tensor that is batched by vmap, functional, fake, nested, sparse, lazily negated or zero, or a
    subclass with a ``__torch_dispatch__``, has other dispatch keys, and often no memory.
    """
    return keys_of(t).raw_repr() in DENSE_ON_CPU


def readable(t: Tensor, name: str) -> Tensor:
    """Return the tensor, contiguous, after a check that the memory it stands for exists."""
    if not is_dense_on_cpu(t) and keys_of(t).raw_repr() not in _ON_CUDA:
        raise TypeError(
            f"{name}: expected an ordinary dense tensor on the CPU or a CUDA device, got a "
            f"{type(t).__name__} on {t.device} with the dispatch keys {keys_of(t)}, whose memory "
            "a kernel cannot read; pass the plain tensor that it stands for"
        )
    return plain_readable(t, name)


def plain_readable(t: Tensor, name: str) -> Tensor:
    """Return what `readable` does, for a tensor that is known to be ordinary and dense."""
    check_storage(t, name)
    return t.contiguous()


def check_storage(t: Tensor, name: str) -> None:
    """Raise unless the storage of an ordinary dense tensor is as long as the tensor.

    torch checks this neither in ``data_ptr()`` nor in ``contiguous()``. A storage may have been
    emptied, as FSDP does with parameters that it puts away.
    """
    held = t.untyped_storage().nbytes() - t.storage_offset() * t.itemsize
    if t.is_contiguous():
        needed = t.nbytes
    else:
        steps = zip(t.shape, t.stride(), strict=True)
        needed = t.numel() and (1 + sum((size - 1) * step for size, step in steps)) * t.itemsize
    if needed and held < needed:  # an empty view may begin behind its storage
        raise ValueError(
            f"{name}: expected a tensor whose storage holds its {t.numel()} numbers, got a storage "
            f"of {t.untyped_storage().nbytes()} bytes; the storage was resized, as FSDP does with "
            "parameters that it has put away: gather the parameter first, for example inside "
            "summon_full_params"
        )


def still_readable(t: Tensor, name: str) -> Tensor:
    """Return what `plain_readable` does, for a tensor that was readable in an earlier call.

    The check notices a storage that has been emptied since, and not one that was made smaller: to
    ask a storage for its size makes an object for it, which would cost more than this.
    """
    if t.is_contiguous() and t.data_ptr() != t.storage_offset() * t.itemsize:
        return t
    return plain_readable(t, name)


def pointer(
    t: Tensor,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device = _CPU,
) -> int:
    """Return the address of a tensor that a kernel may access as ``shape`` numbers of ``dtype``.

    A wrong type or layout, or a tensor without memory, would not raise in C++ but corrupt memory.
    """
    if t.dtype is not dtype or t.shape != shape or t.device != device:
        raise TypeError(
            f"{name}: expected a tensor on {device} of shape {shape} and type {dtype}, "
            f"got {t.device}, {tuple(t.shape)}, {t.dtype}"
        )
    if not t.is_contiguous():
        raise TypeError(f"{name}: expected a contiguous tensor, got strides {t.stride()}")
    found = t.data_ptr()
    if not found or type(t) not in PLAIN:
        readable(t, name)
    return found


def check_lengths_range(lengths: Tensor, points: int) -> None:
    """ValueError unless all numbers are in [0, points]."""
    bad = (lengths < 0) | (lengths > points)
    if bool(bad.any()):
        cloud = int(bad.flatten().nonzero()[0])
        raise ValueError(
            f"lengths: expected numbers between 0 and {points} (the points of a padded cloud), "
            f"got {int(lengths.flatten()[cloud])} for cloud {cloud}"
        )


def offsets_of_bars(offsets: Tensor) -> Tensor:
    """Where the bars of each cloud begin, (B+1,), from where its points do."""
    bars = (offsets.diff() - 1).clamp(min=0).cumsum(0)
    return torch.nn.functional.pad(bars, (1, 0))


def shape_error(name: str, shape: Sequence[int], expected: str) -> ValueError:
    return ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def type_of_deaths(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def empty_bars(t: Tensor) -> tuple[Tensor, Tensor]:
    """Deaths (B, M) and edges (B, M, 2) of points (B, N, ...), to be written."""
    batch, n = t.shape[0], t.shape[1]
    bars = torch.sym_max(n - 1, 0)
    deaths = t.new_empty((batch, bars), dtype=type_of_deaths(t.dtype))
    return deaths, t.new_empty((batch, bars, 2), dtype=torch.int64)


_CURES = {"lengths": "mask it with `lengths`", "check_finite": "pass check_finite=False"}


def _any_of(*choices: str) -> str:
    *first, last = choices
    return f"{', '.join(first)}{', or ' if len(first) > 1 else ' or ' if first else ''}{last}"


def raise_finding(
    finding: tuple[int, int, int, int],
    batch: int,
    what: str,
    dtype: torch.dtype,
    options: tuple[str, ...] = ("lengths", "check_finite"),
) -> NoReturn:
    """Raise the ValueError for what the core found. The advice names the `options` that the public
    function has."""
    problem, cloud, i, j = finding
    where = f"cloud {cloud} of {batch}" if batch > 1 else "the cloud"
    if what == "distances":
        entry = f"distances: entry ({i}, {j}) of {where}"
        raise ValueError(
            {
                1: f"{entry} is NaN or infinite; expected finite distances. If an infinite entry "
                "means that two points are not connected, pass check_finite=False: bars that no "
                "finite entry ends then have infinite deaths. A point with NaN can be removed, or "
                "masked with `lengths`; with check_finite=False the deaths of its cloud are NaN",
                4: f"{entry} is negative; expected distances, which are >= 0",
                5: f"{entry} is on the diagonal and not zero; expected the distance of a point to "
                "itself to be 0. If the matrix comes from torch.cdist, pass "
                "compute_mode='donot_use_mm_for_euclid_dist' there, or give the points to "
                "h0_persistence",
                6: f"{entry} differs from its mirror image ({j}, {i}); expected a symmetric "
                "matrix. Pass (d + d.mT) / 2 if the difference is meant to be averaged",
            }[problem]
        )
    cures = ["remove it", *(_CURES[option] for option in options)]
    raise ValueError(
        {
            1: f"points: point {i} of {where} contains NaN or infinity; {_any_of(*cures)}"
            + (" to get NaN deaths" if "check_finite" in options else ""),
            2: f"points: point {i} of {where} is the zero vector, to which the cosine distance is "
            f"undefined; {_any_of(*cures[: 1 + ('lengths' in options)], 'use another metric')}",
            3: f"points: the distance of points {i} and {j} of {where} is above the largest "
            f"{dtype}; rescale the points" + (" or use float64" if dtype is torch.float32 else ""),
        }[problem]
    )
