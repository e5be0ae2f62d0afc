"""TSLoss takes the arguments that its form uses, refuses the others, and shows those that count."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest
import torch
from clouds import crowded
from drawn_clouds import EXAMPLES
from hypothesis import assume, given
from hypothesis import strategies as st

from tsloss_fast import TSLoss

FORMS = ("exact", "surrogate", "total", "nearest")
# Where each argument, given as here, has a meaning.
BELONGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "redundancy": (0.5, ("exact", "surrogate")),
    "compactness": (0.5, ("exact",)),
    "loops": (0.5, ("exact",)),
    "rho": (0.5, ("exact",)),
    "alpha": (10.0, ("surrogate",)),
    "include_self": (True, ("surrogate",)),
    "detach_thresholds": (True, ("surrogate",)),
    "p": (1.0, ("total",)),
    "eta": (0.7, ("total",)),
}
STRANGE = [(f, name) for name, (_, forms) in BELONGS.items() for f in FORMS if f not in forms]
# Arguments that do not go together, and the words of the message (regular expressions).
TOGETHER: list[tuple[dict[str, Any], list[str]]] = [
    ({"form": "total", "p": 2.0, "eta": 1.0}, [r"\bp\b", "eta", "total"]),
    ({"form": "total", "p": 1.0, "eta": 0.0}, [r"\bp\b", "eta", "total"]),
    ({"reference": 2.0}, ["reference", "compactness"]),
    ({"reference": 2.0, "compactness": 0.0}, ["reference", "compactness"]),
    ({"form": "surrogate", "reference": 2.0}, ["reference", "surrogate|compactness"]),
    ({"form": "nearest", "reference": 2.0}, ["reference", "nearest|compactness"]),
    ({"connectivity": 0.0, "redundancy": 0.0}, ["connectivity|weight", "0"]),
    ({"form": "surrogate", "connectivity": 0.0, "redundancy": 0.0}, ["connectivity|weight", "0"]),
    ({"form": "total", "connectivity": 0.0}, ["connectivity|weight", "0"]),
    ({"form": "nearest", "connectivity": 0.0}, ["connectivity|weight", "0"]),
    ({"form": "nearest", "connectivity": 0.0, "redundancy": 0.0}, ["connectivity|weight", "0"]),
    ({"form": "near"}, ["near", *FORMS]),
]


@pytest.mark.parametrize(("form", "name"), STRANGE)
def test_an_argument_of_another_form_is_refused_by_name(form: str, name: str) -> None:
    """Also where the value given is the default of the form that it belongs to."""
    with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
        TSLoss(form=form, **{name: BELONGS[name][0]})
    assert form in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "words"), TOGETHER)
def test_arguments_that_contradict_each_other_are_refused(
    arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        TSLoss(**arguments)
    missing = [word for word in words if not re.search(word, str(caught.value))]
    assert not missing, f"{missing} missing in: {caught.value}"


@pytest.mark.parametrize(
    "arguments",
    [
        *({"form": f, name: v} for name, (v, forms) in BELONGS.items() for f in forms),
        *({"form": form, "redundancy": 0.0} for form in FORMS),
        *({"form": form, "redundancy": 0} for form in FORMS),
        *({"form": form, "include_self": False} for form in FORMS),
        *({"form": form, "detach_thresholds": False} for form in FORMS),
        {"compactness": 1.0, "reference": 2.0},
        {"connectivity": 0.0, "redundancy": 0.0, "compactness": 1.0},
        {"form": "surrogate", "connectivity": 0.0},
    ],
)
def test_an_argument_of_the_form_is_taken_and_zero_redundancy_everywhere(
    arguments: dict[str, Any],
) -> None:
    loss = TSLoss(**arguments)
    assert loss.form == arguments["form"] if "form" in arguments else loss.form == "exact"
    if "loops" not in arguments:
        assert loss(torch.from_numpy(crowded(8, 3))) > 0


@EXAMPLES
@given(
    st.sampled_from(FORMS),
    st.sets(st.sampled_from([*BELONGS, "connectivity"]), max_size=3),
    st.data(),
)
def test_arguments_are_taken_exactly_if_each_has_a_meaning(
    form: str, names: set[str], data: st.DataObject
) -> None:
    chosen = {}
    for name in names:
        value = BELONGS.get(name, (1.0, ()))[0]
        zero = name in ("connectivity", "redundancy") and data.draw(st.booleans())
        chosen[name] = type(value)(0) if zero else value
    # Not decided here: a parameter of a term whose weight is 0.
    without_redundancy = form in ("exact", "surrogate") and chosen.get("redundancy") == 0
    assume(not (without_redundancy and {"rho", "detach_thresholds"} & names))
    assume(not (chosen.get("connectivity") == 0 and "include_self" in names))
    strange = [name for name, value in chosen.items() if value and name in BELONGS]
    strange = [name for name in strange if form not in BELONGS[name][1]]
    default = {"connectivity": 1.0, "redundancy": float(form in BELONGS["redundancy"][1])}
    weights = {**default, **chosen}
    nothing = not any(
        weights.get(name) for name in ("connectivity", "redundancy", "compactness", "loops")
    )
    if strange or nothing or {"p", "eta"} <= names:
        with pytest.raises(ValueError, match=form if strange else "weight|connectivity|eta"):
            TSLoss(form=form, **chosen)
    else:
        TSLoss(form=form, **chosen)


DEFAULTS: dict[str, dict[str, Any]] = {
    "exact": {"connectivity": 1.0, "redundancy": 1.0, "rho": 0.5},
    "surrogate": {"connectivity": 1.0, "redundancy": 1.0, "alpha": 10.0},
    "total": {"connectivity": 1.0, "p": 1.0},
    "nearest": {"connectivity": 1.0},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_given_is_the_default_of_the_form(form: str) -> None:
    x = torch.from_numpy(crowded(12, 3))
    default, spelled = TSLoss(form=form), TSLoss(form=form, **DEFAULTS[form])
    assert torch.equal(default(x), spelled(x))
    assert repr(default) == repr(spelled)
    assert torch.equal(TSLoss()(x), TSLoss(form="exact")(x))


# Each pair has arguments, and the entries that repr shows beside form, metric and connectivity.
SHOWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"redundancy": 2.5}, {"redundancy": 2.5, "rho": 0.5}),
    ({"rho": 0.25}, {"redundancy": 1, "rho": 0.25}),
    ({"redundancy": 0.0}, {}),
    (
        {"compactness": 0.5, "reference": 2.0},
        {"redundancy": 1, "compactness": 0.5, "rho": 0.5, "reference": 2},
    ),
    ({"redundancy": 0.0, "loops": 3.0, "metric": "manhattan"}, {"loops": 3}),
    ({"form": "surrogate", "alpha": 2.0}, {"redundancy": 1, "alpha": 2}),
    ({"form": "surrogate", "alpha": 2.0, "redundancy": 0.0}, {"alpha": 2}),
    (
        {"form": "surrogate", "alpha": 2.0, "include_self": True, "detach_thresholds": True},
        {"redundancy": 1, "alpha": 2, "include_self": True, "detach_thresholds": True},
    ),
    ({"form": "total", "p": 2.0}, {"p": 2}),
    ({"form": "total", "eta": 1.5, "metric": "cosine"}, {"eta": 1.5}),
    ({"form": "nearest", "metric": "sqeuclidean"}, {}),
    ({"form": "nearest", "redundancy": 0.0}, {}),
]


@pytest.mark.parametrize(("arguments", "shown"), SHOWN)
def test_the_module_shows_what_counts_for_its_form_and_nothing_else(
    arguments: dict[str, Any], shown: dict[str, Any]
) -> None:
    text = repr(TSLoss(connectivity=1.5, **arguments))
    assert text.startswith("TSLoss(")
    found = re.findall(r"(\w+)=('[^']*'|[^,)\s]+)", text)
    assert len(found) == len(dict(found))
    basis = {"form": "exact", "metric": "euclidean", "connectivity": 1.5}
    own = {name: arguments[name] for name in ("form", "metric") if name in arguments}
    assert {name: ast.literal_eval(value) for name, value in found} == {**basis, **own, **shown}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("rho", {}),
        ("reference", {"compactness": 1.0}),
        ("alpha", {"form": "surrogate"}),
        ("p", {"form": "total"}),
    ],
)
def test_false_is_a_zero_and_refused_where_numbers_are_above_zero(
    name: str, more: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a finite number above 0, got False"):
        TSLoss(**more, **{name: False})


def test_a_switch_takes_any_truth_value() -> None:
    for off in (False, 0, np.False_):
        assert repr(TSLoss(include_self=off, detach_thresholds=off)) == repr(TSLoss())
    assert "include_self=True" in repr(TSLoss("surrogate", include_self=np.True_))
