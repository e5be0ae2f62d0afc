"""Ranks of torch.distributed, each of them a script that runs in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(script: str, folder: Path, size: int = 2, **environment: str) -> None:
    """Runs `script folder` as each rank. What they say goes to files, so that none has to wait for
    a reader, and is in the error if one fails."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }
    logs = [folder / f"rank{rank}.log" for rank in range(size)]
    ranks = []
    for rank, path in enumerate(logs):
        with path.open("w") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, script, str(folder)],
                    env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [rank.wait(TIMEOUT_SECONDS) for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    said = "\n".join(path.read_text(errors="replace")[-3000:] for path in logs)
    assert codes == [0] * size, said
