"""Names of virtual tokens for a report: the nearest token of the vocabulary, made safe to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tsloss_fast._terminal import escape_invisible, shorten
from tsloss_fast.analysis.record.reader import TopologyRecord
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.vocabulary.files import load_vocabulary
from tsloss_fast.analysis.vocabulary.nearest import Vocabulary

__all__ = ["VocabularyNames", "find_names", "in_embedding_space", "named", "visible"]

LONGEST = 24
# Joins emoji; every other character that cannot be seen is written as its escape.
JOINER = "\u200d"


def visible(text: str, longest: int = LONGEST) -> str:
    """A token's text on one line, with nothing in it that hides, turns or moves what is beside it.

    Spaces at the ends are shown as ␣, characters that cannot be seen by their escapes, and the end
    of a long text as ….
    """
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" ")) if inner else len(text)
    right = len(text) - left - len(inner)
    text = "␣" * left + inner + "␣" * right
    return shorten(escape_invisible(text, keep=JOINER), longest) or "(empty)"


def named(index: int, names: Sequence[str]) -> str:
    """ "token 3 (‘foo’)"; the name is isolated, so that its direction stays within the quotes."""
    if index >= len(names):
        return f"token {index}"
    return f"token {index} (‘\u2068{names[index]}\u2069’)"


def in_embedding_space(record: TopologyRecord, cloud: int) -> bool:
    """Whether a cloud's points are vectors of the kind of the model's token embeddings.

    As many coordinates are no sign of it: keys and values of prefix tuning, or vectors of LoRA,
    may well have as many. The cloud's name decides: `prompt`, or `task …`, as `cloud_names` calls
    them; without names, the only cloud of a record.
    """
    if not record.metadata.get("clouds"):
        return record.clouds == [cloud]
    name = record.cloud_name(cloud)
    return name == "prompt" or name.startswith("task ")


class VocabularyNames:
    """The nearest tokens of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._features = int(vocabulary.rows([0]).shape[1])

    def nearest(
        self, points: np.ndarray
    ) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray] | None:
        """Return the names of the tokens (T) that are nearest to some of the points (N, D), their
        vectors (T, D), for each point the index of its token (N,), and its distance to it (N,);
        None for points of another number of coordinates."""
        if points.shape[1] != self._features:
            return None
        found = self._vocabulary.nearest(points, 1)
        rows, first, which = np.unique(
            found.indices[:, 0].numpy(), return_index=True, return_inverse=True
        )
        names = [visible(found.tokens[k][0]) for k in first]
        vectors = self._vocabulary.rows(rows).double().numpy()
        return names, vectors, which, found.distances[:, 0].numpy()


def find_names(
    runs: Sequence[Run],
    model: str | None = None,
    load: Callable[[str], Vocabulary] = load_vocabulary,
) -> tuple[list[VocabularyNames | None], list[str]]:
    """Where each run's names come from, None where they cannot be had, and sentences on why.

    Args:
        model: instead of the model that each run says it has.

    Raises:
        ValueError: the vocabulary of `model` cannot be read.
    """
    loaded: dict[str, VocabularyNames | None] = {}
    notes = []
    for name in dict.fromkeys(model or run.model for run in runs):
        if name is None:
            notes.append(
                "Some runs do not say which language model they tuned, so their tokens have numbers"
                " and no names; --model NAME says it."
            )
            continue
        try:
            loaded[name] = VocabularyNames(load(name))
        # The report is worth having without names, unless they were asked for.
        except Exception as error:
            reason = " ".join(str(error).split())
            if model is not None:
                raise ValueError(
                    f"the vocabulary of the model {model} cannot be read ({reason}): expected the "
                    "name or folder of a language model; without one, tokens have numbers"
                ) from error
            loaded[name] = None
            notes.append(
                f"The vocabulary of {visible(name, 80)} is not to be had on this machine, so "
                f"tokens have numbers and no names ({reason})."
            )
    return [loaded.get(name) if (name := model or run.model) else None for run in runs], notes
