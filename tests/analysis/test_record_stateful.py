"""A tracker that is killed anywhere and goes on, again and again: its record has every row once."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tsloss_fast import h0_persistence
from tsloss_fast.analysis import TopologyTracker, read_record


class Records(RuleBasedStateMachine):
    """A tracker against a list of what was recorded."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.step = 0
        self.deaths: dict[int, np.ndarray] = {}
        self.tracker = self.open(None)

    def open(self, resume: int | None) -> TopologyTracker:
        return TopologyTracker(self.path, h1_every=None, points_every=3, resume=resume)

    @rule(forward=st.integers(1, 4), n=st.integers(1, 6))
    def record(self, forward: int, n: int) -> None:
        self.step += forward
        points = self.random.standard_normal((n, 3))
        self.tracker.record(self.step, points)
        self.deaths[self.step] = h0_persistence(points).deaths

    @rule()
    def record_an_old_step(self) -> None:
        if self.deaths:
            with pytest.raises(ValueError, match="is not above the last recorded step"):
                self.tracker.record(max(self.deaths), np.zeros((2, 2)))

    @rule(back=st.integers(0, 6), half=st.integers(0, 40))
    def go_on(self, back: int, half: int) -> None:
        """From an earlier step, after a kill that left half a row."""
        self.tracker.close()
        if half:
            with (self.path / "topology.arrows").open("ab") as file:
                file.write(self.random.bytes(half))
        self.step = max(self.step - back, 0)
        self.deaths = {s: d for s, d in self.deaths.items() if s <= self.step}
        last = max(self.deaths, default=None)
        where = "before its first row" if last is None else f"after step {last}"
        # Rows that are to be dropped hide the damage behind them.
        damaged = half > 0 and last != self.step
        with pytest.warns(UserWarning, match=where) if damaged else contextlib.nullcontext():
            self.tracker = self.open(self.step)

    @rule()
    def read(self) -> None:
        self.tracker.flush()
        record = read_record(self.path)
        assert record.steps().tolist() == sorted(self.deaths)
        for step, deaths in self.deaths.items():
            assert np.array_equal(record.row(step)["deaths"], deaths)
            assert record.diagrams(step)[0].shape == (len(deaths) + 1, 2)

    def teardown(self) -> None:
        if hasattr(self, "tracker"):
            self.read()
            self.tracker.close()
            self.folder.cleanup()


TestRecords = Records.TestCase
TestRecords.settings = settings(
    deadline=None, derandomize=True, max_examples=12, stateful_step_count=30
)
