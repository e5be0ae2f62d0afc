"""The page of evidence, and every table and figure of the experiments, from their raw results."""

from .write import write

__all__ = ["write"]
