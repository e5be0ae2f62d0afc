"""Designs: what a file may say, and which trials it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("yaml", reason=NEEDS)

from made_designs import made

from tsloss_fast.compare.design import Design, load_design, preset_names
from tsloss_fast.compare.trial import trial_key


def test_every_preset_is_a_design_and_survives_being_written_out() -> None:
    assert {"default", "ablation", "degenerate"} <= set(preset_names())
    for name in preset_names():
        design = load_design(name)
        assert design.name == name
        assert design.methods[0].name == "ce"
        assert len(design.seeds) >= 5
        assert Design.from_mapping(design.to_mapping()) == design


def test_the_default_and_the_ablation_hold_the_methods_they_promise() -> None:
    default = [method.name for method in load_design("default").methods]
    assert default == ["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"]
    assert len(load_design("default").tasks) == 2
    ablation = {method.name for method in load_design("ablation").methods}
    assert {"ce", "surrogate-h0", "surrogate-h1", "surrogate"} <= ablation
    assert {"connectivity", "redundancy", "tsloss", "tsloss-compact", "tsloss-loops"} <= ablation


def test_methods_of_a_seed_share_everything_but_what_is_compared() -> None:
    design = made()
    (group,) = design.groups()
    first, second = design.final_trials(group, {"ce": (0.01, 0.0), "tsloss": (0.02, 5.0)}, 0)
    differ = {name for name in first if first[name] != second[name]}
    assert differ == {"method", "settings", "lr", "weight"}


def test_a_trial_is_known_by_what_it_does_and_not_by_its_name() -> None:
    design = made(methods=["ce", "tsloss", {"name": "mine", "loss": "exact", "scale": 3.0}])
    (group,) = design.groups()
    chosen = {"ce": (0.01, 0.0), "tsloss": (0.02, 5.0), "mine": (0.02, 5.0)}
    final = design.final_trials(group, chosen, 0)
    ce, theirs, mine = map(trial_key, final)
    assert theirs == mine != ce
    searched = design.search_trials(group)[0]
    others: dict[str, Any] = {"stage": "other", "task": "navigate", "difficulty": 4, "seed": 9}
    others |= {"init_text": "y", "model": "m", "adapter": "prefix", "init": "text"}
    others |= {"lr_schedule": "linear"}
    # What is not looked at in this stage, and names.
    idle = {"final": {"validation_size"}, "search": {"test_size", "curve_size"}}
    for trial in (final[0], searched):
        for name, value in trial.items():
            if name == "settings":
                continue
            other = others.get(name, value + 1 if isinstance(value, (int, float)) else "tsloss")
            same = trial_key(trial | {name: other}) == trial_key(trial)
            assert same == (name in {"method", "start", *idle[trial["stage"]]}), name
    assert trial_key(final[1] | {"settings": final[1]["settings"] | {"redundancy": 2.0}}) != theirs
    # The same in another form: a default written out, an integer for a number, what ce ignores.
    assert trial_key(final[0] | {"difficulty": 3, "jitter": 0, "weight_decay": 0}) == ce
    assert trial_key(final[0] | {"settings": final[0]["settings"] | {"schedule": "decay"}}) == ce
    assert trial_key({k: v for k, v in final[0].items() if k != "lr_schedule"}) == ce


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks: expected at least one"),
        ({"tasks": "boolean"}, "tasks must be a list"),
        *(
            ({name: ["x", None]}, f"{name}: number 2 is empty")
            for name in ("tasks", "models", "adapters", "seeds", "primary", "starts", "methods")
        ),
        ({"search": {"seeds": [1, None]}}, "search: seeds: number 2 is empty"),
        ({"models": [True]}, r"models must be text, got True \(write it in quotes\)"),
        ({"models": [["a"]]}, r"models must be text, got \['a'\]"),
        ({"tasks": [{"task": None}]}, "a task's name must be text, got None"),
        ({"starts": [{"name": 5}]}, "a start's name must be text, got 5"),
        ({"starts": [{"name": "a\x1b"}]}, "a start's name must consist of visible characters"),
        (
            {"methods": [{"name": "\ud800", "loss": "l2"}]},
            "a method's name must consist of visible",
        ),
        (
            {"tasks": ["boolean", "boolean"]},
            "tasks: expected at least one, each once|tasks: number",
        ),
        ({"tasks": [{"task": "boolean", "length": 3}]}, "a task has no length"),
        ({"tasks": [{"task": "boolean", "steps": 0}]}, "task 'boolean': steps must be an integer"),
        (
            {"tasks": [{"task": "boolean", "curve_size": 999}]},
            "curve_size must be in 1 … test_size",
        ),
        ({"tasks": [{"task": "boolean", "accuracy_threshold": 1.5}]}, "accuracy_threshold in"),
        ({"methods": ["ce", "ce"]}, "each once"),
        ({"methods": ["adam"]}, "method must be one of ce, l2"),
        ({"methods": [{"name": "mine"}]}, "so it needs a loss"),
        ({"methods": [{"loss": "exact"}]}, "a method needs a name"),
        ({"methods": [{"name": "m", "loss": "exact", "when": 1}]}, "a method has no when"),
        ({"methods": [{"name": "m", "loss": "exact", "schedule": "soon"}]}, "schedule must be one"),
        ({"methods": [{"name": "m", "loss": "exact", "where": "logits"}]}, "where must be one of"),
        ({"methods": [{"name": "m", "loss": "exact", "connectivity": -1.0}]}, "connectivity"),
        ({"seeds": []}, "seeds: expected different integers"),
        ({"seeds": [0, 0]}, "seeds: expected different integers"),
        ({"seeds": [7, 1]}, "must differ, or what was chosen is tested on its own items"),
        ({"search": {"trials": 0}}, "search: trials must be an integer"),
        ({"search": {"lr": [0.1, 0.01]}}, "search: lr must be"),
        ({"search": {"weight": [0.1]}}, "search: weight must be"),
        ({"starts": [{"name": "x", "init": "text"}]}, "init_text belongs to init: text"),
        ({"starts": [{"name": "x", "init": "zeros"}]}, "init must be one of"),
        ({"adapters": ["lora"]}, "adapters must be of prompt, prefix"),
        ({"adapters": ["prefix"], "methods": ["ce", "tsloss-hidden"]}, "does not have"),
        ({"virtual_tokens": [0]}, "virtual_tokens must be an integer of at least 1"),
        ({"speed": 3}, "the design has no speed"),
        ({"name": "../x"}, "name must be letters"),
        ({"name": None}, "name must be letters"),
        ({"lr": "1e-2"}, "the design: lr must be a number, got '1e-2' .YAML takes"),
        ({"search": {"lr": ["1e-3", 0.1]}}, "search: lr must be a number"),
        ({"search": {"trials": 5, "weights": 2}}, "must be a multiple of weights"),
        (
            {"methods": [{"name": "m", "loss": "exact", "scale": "1e1"}]},
            "a method: scale must be a number",
        ),
        ({"methods": [5]}, "a method must be a mapping, got 5"),
        ({"primary": ["acc"]}, "primary must be some of"),
        ({"primary": []}, "primary must be some of"),
        ({"lr_schedule": "cosine"}, "lr_schedule must be one of constant, linear"),
        (
            {"tasks": ["boolean", {"task": "boolean", "batch_size": 4}]},
            "tasks: number 1 and number 2 have the same task, difficulty, train_size and steps",
        ),
        (
            {"methods": ["ce", "tsloss", {"name": "mine", "loss": "exact"}]},
            "methods: number 2 and number 3 have the same content",
        ),
        ({"starts": ["vocabulary", {"name": "again"}]}, "starts: number 1 and number 2"),
        ({"confidence": 1.0}, "confidence must be between"),
    ],
)
def test_a_bad_design_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_file_is_read_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntasks: [boolean]\nmethods: [ce, l2]\n", encoding="utf-8")
    assert load_design(str(path)).name == "mine"
    assert load_design(str(path), {"seeds": [5]}).seeds == (5,)
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: not YAML"):
        load_design(str(path))
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: expected a mapping, got list"):
        load_design(str(path))
    path.write_text("name: mine\ntasks: [boolean]\nmethods: [what]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: method must be one of"):
        load_design(str(path))
    for content, message in {
        b"name: caf\xe9": r"byte 10 \(0xe9\) is no UTF-8",
        "name: é".encode("utf-16"): r"byte 1 \(0xff\) is no UTF-8",
        b"lr: 0.1\nname: a\n\nlr: 0.3": r"the key 'lr' is given twice, .*line 1 and then in line 4",
        b"starts: [{name: a,\n name: b}]": r"the key 'name' is given twice",
        b"lr: 2001-99-99": r"not YAML \(month must be",
        b"models: " + b"[" * 2000: r"not YAML \(",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
            load_design(str(path))
    # A value taken from elsewhere may be replaced, and different mappings may share keys.
    merged = "a: &a {name: x}\nb: {<<: *a, name: y}\n"
    path.write_text(merged, encoding="utf-8")
    with pytest.raises(ValueError, match="the design has no a, b"):
        load_design(str(path))
    with pytest.raises(FileNotFoundError, match=r"neither a file nor one of ablation, default"):
        load_design("defualt")
