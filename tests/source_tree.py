"""Where the source tree is; a test that needs it is skipped where only the tests were copied."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
