"""An interrupt that waits for the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["deferred_interrupt"]


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT is noted instead of raised; yields a function that says whether it was.

    An interrupt in the middle of an optimizer's step would leave a prompt that no uninterrupted
    run ever has. A second SIGINT is raised at once. Only the main thread can set this up;
    elsewhere nothing changes.
    """
    noted = False

    def note(number: int, frame: Any) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        # None: the handler was set outside Python, and cannot be put back from here.
        signal.signal(signal.SIGINT, previous if previous is not None else signal.SIG_DFL)
