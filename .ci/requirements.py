"""Prints what pyproject.toml requires, all extras included, one requirement a line."""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"].values()
print("\n".join([*project["dependencies"], *(line for extra in extras for line in extra)]))
