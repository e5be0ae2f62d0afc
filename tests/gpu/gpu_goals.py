"""The goals of the GPU, in the words of the table."""

from __future__ import annotations

GOALS = {
    "(1, 20, 2048), graph replay": "≤ 2.5 ×",
    "(1, 100, 4096) forward + backward, graph replay": "≤ 25.0 µs",
    "(1, 100, 4096) forward + backward, eager": "≤ 80.0 µs",
    "(1, 100, 4096) forward + backward, graph replay | GUDHI": "≤ 0.002 ×",
    "(1024, 20, 2048) float32": "≤ 1.3 ×",
    "(1024, 20, 2048) bfloat16": "≤ 0.65 ×",
    "(2048, 100, 128)": "≤ 1 ×",
    "(1, 4096, 768)": "≤ 0.4 ×",
    "(1, 49152, 576)": "≤ 2 ×",
    "host synchronisations": "≤ 0 waits",
}
