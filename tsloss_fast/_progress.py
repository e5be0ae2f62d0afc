"""Watching long calls."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import _core

# A bar for calls shorter than this would be gone before it is read.
_PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def progress(callback: Callable[[float], Any] | None = None) -> Iterator[None]:
    """Within this context, long calls made by this thread tell how far they are.

    Args:
        callback: is called about ten times a second with the fraction of the work that is done, in
            [0, 1]; an exception it raises stops the call and reaches the caller. Default: a bar on
            the standard error output (by tqdm, if it is installed) once a call has taken two
            seconds.

    The fraction is an estimate. Short calls say nothing. Ctrl-C stops a call with or without this.

    Example:
        >>> import torch
        >>> from tsloss_fast import h0_persistence
        >>> points = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
        >>> with progress():
        ...     h0 = h0_persistence(points)
        >>> len(h0.deaths)
        2999
    """
    bar = _Bar() if callback is None else None
    _core.set_progress(callback or bar)
    try:
        yield
    finally:
        _core.set_progress(None)
        if bar is not None:
            bar.close()


class _Bar:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = 1.0
        self._bar: Any = None

    def __call__(self, fraction: float) -> None:
        if fraction < self._last:  # another call
            self._start = time.monotonic()
        self._last = fraction
        # Daemons have no standard error output, and nothing to show there.
        shown = sys.stderr is not None
        if self._bar is None and shown and time.monotonic() - self._start > _PATIENCE_SECONDS:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                self._bar = _Percent()
            else:
                self._bar = tqdm(total=100, desc="tsloss_fast", unit="%", leave=False)
        if self._bar is not None:
            self._bar.n = round(100 * fraction)
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Percent:
    """What tqdm would do, in one line."""

    n = 0

    def refresh(self) -> None:
        sys.stderr.write(f"\rtsloss_fast: {self.n}%")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
