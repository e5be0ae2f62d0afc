"""Pins the threads before pytest imports torch and the baselines. OMP_NUM_THREADS is respected."""

from __future__ import annotations

import os

from .environment import pinned

for _name, _value in pinned(int(os.environ.get("OMP_NUM_THREADS", "1"))).items():
    os.environ.setdefault(_name, _value)
