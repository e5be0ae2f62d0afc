"""Writes DEPENDENCIES.md: each package of the environment, its licence, and what wants it."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

HEAD = """# Dependencies

What `make venv` installs, written by `make lock`. An installed tsloss_fast needs torch and NumPy
alone; the extras `tuning`, `analysis`, `study` and `bench` bring what is marked with them, the
rest is for development. Nothing of any of them is copied into this repository or its wheels, so
their licences bind who installs them. Of the extras, GUDHI is MIT with some modules under GPL;
giotto-ph and quitefastmst, which `tsloss bench` measures if they are there, are AGPL;
nvidia-cuda-nvdisasm, which reads compiled kernels in the tests, is proprietary and free of charge;
all others are permissive.

| package | version | licence, as it says itself | wanted by |
|---|---|---|---|
"""


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def licence(metadata: importlib.metadata.PackageMetadata) -> str:
    said = metadata.get("License-Expression")
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    free = (metadata.get("License") or "").strip().split("\n")[0]
    return (said or "; ".join(classified) or free[:60] or "not said").replace("|", "/")


def wanted() -> dict[str, set[str]]:
    """By package: the parts of pyproject.toml that name it, and the packages that require it."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {}
    parts = {"**every installation**": project["project"]["dependencies"]}
    parts |= {f"`{k}`": v for k, v in project["project"]["optional-dependencies"].items()}
    parts["build"] = project["build-system"]["requires"]
    for part, requirements in parts.items():
        for requirement in requirements:
            found.setdefault(name_of(requirement), set()).add(part)
    for package in importlib.metadata.distributions():
        for requirement in package.requires or []:
            if "extra ==" not in requirement and name_of(package.name) != "tsloss-fast":
                found.setdefault(name_of(requirement), set()).add(name_of(package.name))
    return found


pins = re.findall(r"^([\w.-]+)==([^;\s]+)", Path("constraints.txt").read_text("utf-8"), re.M)
why = wanted()
lines = []
for name, version in pins:
    try:
        said = licence(importlib.metadata.metadata(name))
    except importlib.metadata.PackageNotFoundError:
        said = "not installed here"
    wants = sorted(
        why.get(name_of(name), {"tests"}), key=lambda text: (not text.startswith("*"), text)
    )
    more = f" and {len(wants) - 5} more" if len(wants) > 5 else ""
    lines.append(f"| {name} | {version} | {said} | {', '.join(wants[:5])}{more} |")
Path("DEPENDENCIES.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
