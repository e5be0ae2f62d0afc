"""What several tests of reports begin with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its control, in the folder `run`."""
    from report_runs import make_pair  # needs pyarrow, which other tests here do without

    return make_pair(tmp_path_factory.mktemp("report") / "run")
