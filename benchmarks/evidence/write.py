"""All files that are made of the raw results."""

from __future__ import annotations

from pathlib import Path

from tsloss_fast._files import whole_file
from tsloss_fast.compare.figure import draw
from tsloss_fast.compare.summary import summarize

from .page import page
from .results import read
from .tables import readme_table

_BEGIN, _END = "<!-- evidence -->", "<!-- /evidence -->"


def write(folder: Path, output: Path, readme: Path | None) -> list[Path]:
    """Write everything; the paths written."""
    experiments = read(folder)
    written = []
    for each in experiments:
        tables = folder / f"{each.name}.md"
        with whole_file(tables) as temporary:
            temporary.write_text(summarize(each.lines), encoding="utf-8")
        written += [tables, *draw(each.lines, folder / f"{each.name}.png")]
    with whole_file(output) as temporary:
        temporary.write_text(page(experiments), encoding="utf-8")
    written.append(output)
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        if text.count(_BEGIN) != 1 or text.count(_END) != 1:
            raise ValueError(f"{readme} must hold {_BEGIN} and {_END} once each")
        head, rest = text.split(_BEGIN)
        _, tail = rest.split(_END)
        with whole_file(readme) as temporary:
            temporary.write_text(
                f"{head}{_BEGIN}\n{readme_table(experiments)}\n{_END}{tail}", encoding="utf-8"
            )
        written.append(readme)
    return written
