"""The cloud of a prompt is the prompt that the model sees, and it begins where it was told to."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model
from torch import nn

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft

from tsloss_fast import TSLoss
from tsloss_fast.tuning import (
    add_soft_prompt,
    initial_prompt,
    load_prompt_encoder,
    prompt_clouds,
    save_prompt_encoder,
)

N, TASKS, LAYERS, DIM, KEY_DIM = 5, 3, 2, 32, 16
COMMON = {"task_type": "CAUSAL_LM", "num_virtual_tokens": N}
CONTEXT = {"cpt_token_ids": [5, 6, 7, 8, 9], "cpt_mask": [1] * N}
CONFIGS = {
    "prompt": lambda: peft.PromptTuningConfig(**COMMON),
    "p_mlp": lambda: peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=16),
    "p_lstm": lambda: peft.PromptEncoderConfig(
        **COMMON, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "multitask": lambda: peft.MultitaskPromptTuningConfig(
        **COMMON, num_tasks=TASKS, prompt_tuning_init="RANDOM"
    ),
    "context": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", **CONTEXT, cpt_tokens_type_mask=[1, 2, 3, 4, 1]
    ),
    "prefix": lambda: peft.PrefixTuningConfig(**COMMON),
    "prefix_projected": lambda: peft.PrefixTuningConfig(
        **COMMON, prefix_projection=True, encoder_hidden_size=16
    ),
    "adaption": lambda: peft.AdaptionPromptConfig(
        task_type="CAUSAL_LM", adapter_len=N, adapter_layers=LAYERS
    ),
}
SHAPES = {
    "multitask": (TASKS, N, DIM),
    "prefix": (2 * LAYERS, N, KEY_DIM),
    "prefix_projected": (2 * LAYERS, N, KEY_DIM),
    "adaption": (LAYERS, N, DIM),
}
ENCODERS = ["p_mlp", "p_lstm", "context", "prefix_projected"]


def make_peft(method: str, seed: int = 0):
    """A peft model whose trainable parameters have moved away from their start."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(make_tiny_model(), CONFIGS[method]())
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def prompt_in_use(model, method: str) -> torch.Tensor:
    """The prompt as peft hands it to the base model, put into clouds by hand."""
    if method == "multitask":
        return model.get_prompt(TASKS, task_ids=torch.arange(TASKS))
    if method.startswith("prefix"):
        cache = model.get_prompt(1)
        parts = [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]
        # (heads, N, size of a head) -> (N, heads × size)
        return torch.stack([part.transpose(0, 1).flatten(1) for part in parts])
    if method == "adaption":
        layers = model.get_base_model().model.layers
        return torch.cat([layer.self_attn.adaption_prompt for layer in layers])
    return model.get_prompt(1)


def gradient(points: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor | None]:
    parameters = trainable(model)
    weights = torch.linspace(-1, 1, points.numel()).reshape(points.shape)
    grads = torch.autograd.grad((weights * points**2).sum(), parameters.values(), allow_unused=True)
    return dict(zip(parameters, grads, strict=True))


@pytest.mark.parametrize("method", CONFIGS)
def test_the_clouds_are_the_prompt_that_the_model_sees(method):
    model = make_peft(method)
    clouds = prompt_clouds(model)
    assert clouds.shape == SHAPES.get(method, (1, N, DIM))
    torch.testing.assert_close(clouds, prompt_in_use(model, method))
    assert clouds.std() > 1e-3, "the comparison above is between something and something"


@pytest.mark.parametrize("method", CONFIGS)
def test_the_gradient_is_that_of_the_prompt_in_use(method):
    model = make_peft(method)
    ours = gradient(prompt_clouds(model), model)
    peft_s = gradient(prompt_in_use(model, method), model)
    for name in ours:
        if peft_s[name] is None:
            assert ours[name] is None
        else:
            torch.testing.assert_close(ours[name], peft_s[name], msg=name)
    assert any(g is not None and g.abs().max() > 0 for g in ours.values())


def test_reading_the_clouds_of_a_context_prompt_does_not_project_its_parameters():
    model = make_peft("context")
    before = {name: p.clone() for name, p in trainable(model).items()}
    prompt_clouds(model)
    for name, parameter in trainable(model).items():
        assert torch.equal(parameter, before[name])
    model.get_prompt(1)  # peft's own reading does
    assert any(not torch.equal(p, before[name]) for name, p in trainable(model).items())


@pytest.mark.parametrize("method", CONFIGS)
def test_clouds_of_a_half_precision_prompt_are_computed_in_float32(method):
    model = make_peft(method)
    whole = prompt_clouds(model)
    half = prompt_clouds(model.to(torch.bfloat16))
    assert half.dtype == torch.float32
    # bfloat16 keeps 8 bits of each parameter; the encoders must lose no more than that.
    torch.testing.assert_close(half, whole, rtol=0.03, atol=0.03)


def test_an_encoder_runs_in_float32_under_autocast():
    model = make_peft("p_mlp")
    expected = prompt_clouds(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prompt_clouds(model), expected)


def test_a_double_prompt_stays_double():
    assert prompt_clouds(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_wrappers_are_looked_through(method):
    model = make_peft(method)
    expected = prompt_clouds(model)
    for wrapped in (
        nn.DataParallel(model),
        torch.compile(model),
        torch.compile(nn.DataParallel(model)),
    ):
        assert torch.equal(prompt_clouds(wrapped), expected)


def test_a_compiled_base_model_inside_a_peft_model_is_not_mistaken_for_a_wrapper():
    model = make_peft("prompt")
    expected = prompt_clouds(model)
    model.base_model = torch.compile(model.base_model)
    assert torch.equal(prompt_clouds(model), expected)


def test_plain_points_are_a_batch_of_clouds():
    points = torch.randn(4, 3)
    assert torch.equal(prompt_clouds(points), points[None])
    assert torch.equal(prompt_clouds(points.expand(2, 4, 3)), points.expand(2, 4, 3))
    embedding = nn.Embedding(4, 3)
    assert torch.equal(prompt_clouds(embedding), embedding.weight[None])
    parameter = nn.Parameter(points)
    prompt_clouds(parameter).sum().backward()
    assert torch.equal(parameter.grad, torch.ones(4, 3))


def test_an_adapter_can_be_named():
    model = make_peft("prompt")
    model.add_adapter("second", CONFIGS["prompt"]())
    first = model.prompt_encoder["default"].embedding.weight
    second = model.prompt_encoder["second"].embedding.weight
    assert torch.equal(prompt_clouds(model), first[None])
    assert torch.equal(prompt_clouds(model, "second"), second[None])
    model.set_adapter("second")
    assert torch.equal(prompt_clouds(model), second[None])
    with pytest.raises(ValueError, match=r"no adapter 'third'.*default.*second"):
        prompt_clouds(model, "third")


def test_an_encoder_decoder_measures_the_prompt_that_peft_uses():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, pad_token_id=0
    )
    config.decoder_start_token_id = 0
    arguments = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": N}
    model = peft.get_peft_model(
        T5ForConditionalGeneration(config), peft.PromptTuningConfig(**arguments)
    )
    clouds = prompt_clouds(model)
    assert clouds.shape == (1, N, 16)
    ids = torch.arange(3, 9)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    used = model.prompt_encoder["default"].embedding.weight.grad.abs().sum(1) > 0
    assert used[:N].all()
    assert not used[N:].any()


def test_a_model_without_virtual_tokens_is_refused_by_name():
    base = make_tiny_model()
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM carries no soft prompt.*add_soft_prompt"
    ):
        prompt_clouds(base)
    lora = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"LORA, which has no virtual tokens.*ts_clouds"):
        prompt_clouds(lora)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, "got list"),
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(3), ValueError, r"got \(3,\)"),
        (torch.zeros(1, 1, 3, 2), ValueError, r"got \(1, 1, 3, 2\)"),
    ],
)
def test_what_is_no_cloud_is_refused(points, error, message):
    with pytest.raises(error, match=message):
        prompt_clouds(points)


def test_a_prompt_that_zero_3_has_emptied_is_refused_by_name():
    sharded = nn.Parameter(torch.zeros(0))
    sharded.ds_id = 7
    with pytest.raises(ValueError, match="ZeRO-3"):
        prompt_clouds(sharded)


def test_a_vocabulary_prompt_is_distinct_rows_of_tokens_that_are_not_special(
    tiny_model, tiny_tokenizer
):
    rows = tiny_model.get_input_embeddings().weight
    ordinary = len(rows) - len(tiny_tokenizer.all_special_ids)
    prompt = initial_prompt(tiny_model, tiny_tokenizer, ordinary)
    assert prompt.dtype == torch.float32
    assert not prompt.requires_grad
    ids = torch.cdist(prompt, rows).argmin(1)
    assert torch.equal(rows[ids], prompt)
    assert sorted({*ids.tolist()} | {*tiny_tokenizer.all_special_ids}) == list(range(len(rows)))
    with pytest.raises(ValueError, match=f"{ordinary + 1} virtual tokens.*only {ordinary} tokens"):
        initial_prompt(tiny_model, tiny_tokenizer, ordinary + 1)


def test_rows_of_the_table_that_belong_to_no_token_are_never_drawn(tiny_model, tiny_tokenizer):
    tiny_model.resize_token_embeddings(4 * len(tiny_tokenizer), mean_resizing=False)
    tiny_model.get_input_embeddings().weight.data[len(tiny_tokenizer) :] = 77.0
    assert not (initial_prompt(tiny_model, tiny_tokenizer, 100) == 77.0).any()


def test_tokens_that_have_no_row_in_the_table_are_never_drawn(tiny_model, tiny_tokenizer):
    rows = tiny_model.get_input_embeddings().num_embeddings
    ordinary = rows - len(tiny_tokenizer.all_special_ids)
    tiny_tokenizer.add_tokens(["one", "two"])
    assert len(initial_prompt(tiny_model, tiny_tokenizer, ordinary)) == ordinary
    with pytest.raises(ValueError, match=f"only {ordinary} tokens"):
        initial_prompt(tiny_model, tiny_tokenizer, ordinary + 1)


@pytest.mark.parametrize("method", ["vocabulary", "normal"])
def test_a_prompt_depends_on_the_seed_and_on_nothing_else(method, tiny_model, tiny_tokenizer):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = initial_prompt(tiny_model, tiny_tokenizer, 8, method, seed=3, jitter=0.1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(
        initial_prompt(tiny_model, tiny_tokenizer, 8, method, seed=3, jitter=0.1), first
    )
    assert not torch.equal(
        initial_prompt(tiny_model, tiny_tokenizer, 8, method, seed=4, jitter=0.1), first
    )


def test_a_text_prompt_repeats_and_cuts_the_tokens_of_the_text(tiny_model, tiny_tokenizer):
    rows = tiny_model.get_input_embeddings().weight
    ids = tiny_tokenizer("not True and")["input_ids"]
    with pytest.warns(UserWarning, match="4 of 5 virtual tokens coincide"):
        prompt = initial_prompt(tiny_model, tiny_tokenizer, 5, "text", text="not True and")
    assert torch.equal(prompt, rows[[*ids, *ids[:2]]])
    cut = initial_prompt(tiny_model, tiny_tokenizer, 2, "text", text="not True and")
    assert torch.equal(cut, rows[ids[:2]])


def test_coincident_tokens_are_counted_and_a_jitter_separates_them(tiny_model, tiny_tokenizer):
    text = "x " * 40
    with pytest.warns(UserWarning, match=r"40 of 40 .*\(1 distinct\).*jitter=0\.01"):
        stuck = initial_prompt(tiny_model, tiny_tokenizer, 40, "text", text=text)
    assert TSLoss()(stuck) == 0
    free = initial_prompt(tiny_model, tiny_tokenizer, 40, "text", text=text, jitter=0.01)
    assert len(free.unique(dim=0)) == 40
    assert TSLoss()(free) > 0
    relative = (free - stuck).norm(dim=1) / stuck.norm(dim=1)
    assert relative.mean() == pytest.approx(0.01, rel=0.15)


def test_a_vocabulary_prompt_gives_no_warning(tiny_model, tiny_tokenizer, recwarn):
    initial_prompt(tiny_model, tiny_tokenizer, 20)
    assert not [w for w in recwarn if "coincide" in str(w.message)]


def test_a_normal_prompt_has_unit_variance(tiny_model, tiny_tokenizer):
    prompt = initial_prompt(tiny_model, tiny_tokenizer, 200, "normal")
    assert prompt.mean() == pytest.approx(0, abs=0.05)
    assert prompt.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_virtual_tokens": 0}, ValueError, "at least 1, got 0"),
        ({"num_virtual_tokens": 2.0}, TypeError, "integer, got 2.0"),
        ({"method": "random"}, ValueError, "vocabulary, text, normal"),
        ({"method": "text"}, ValueError, "needs the text"),
        ({"method": "text", "text": ""}, ValueError, "no tokens"),
        ({"text": "x"}, ValueError, "only used by"),
        ({"jitter": -0.1}, ValueError, "jitter"),
        ({"jitter": float("nan")}, ValueError, "jitter"),
    ],
)
def test_wrong_arguments_of_a_prompt_are_named(
    arguments, error, message, tiny_model, tiny_tokenizer
):
    with pytest.raises(error, match=message):
        initial_prompt(tiny_model, tiny_tokenizer, **{"num_virtual_tokens": 4, **arguments})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_soft_prompt_is_the_only_thing_that_trains_and_stays_in_float32(dtype, tiny_model):
    initial = torch.randn(6, DIM)
    state = torch.random.get_rng_state()
    model = add_soft_prompt(tiny_model.to(dtype), initial)
    assert torch.equal(torch.random.get_rng_state(), state)
    parameters = trainable(model)
    assert list(parameters) == ["prompt_encoder.default.embedding.weight"]
    weight = parameters["prompt_encoder.default.embedding.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, initial)
    assert torch.equal(prompt_clouds(model)[0], initial)
    with torch.no_grad():
        weight.zero_()
    assert initial.abs().max() > 0, "the initial prompt was copied"
    ids = torch.arange(4, 9)[None]
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.isfinite()


def test_a_soft_prompt_survives_peft_s_checkpoint(tiny_model, tmp_path):
    initial = torch.randn(6, DIM)
    add_soft_prompt(tiny_model, initial).save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_tiny_model(), tmp_path)
    assert torch.equal(prompt_clouds(loaded)[0], initial)


@pytest.mark.parametrize(
    ("initial", "error", "message"),
    [
        (torch.zeros(4, DIM + 1), ValueError, rf"\(N, {DIM}\).*got \(4, {DIM + 1}\)"),
        (torch.zeros(0, DIM), ValueError, "N >= 1"),
        (torch.zeros(4, DIM, dtype=torch.int64), TypeError, "int64"),
        ([1.0], TypeError, "list"),
        (torch.full((4, DIM), torch.inf), ValueError, "NaN or infinity"),
    ],
)
def test_a_wrong_initial_prompt_is_refused(initial, error, message, tiny_model):
    with pytest.raises(error, match=message):
        add_soft_prompt(tiny_model, initial)


def test_a_second_soft_prompt_is_refused(tiny_model):
    model = add_soft_prompt(tiny_model, torch.randn(4, DIM))
    with pytest.raises(ValueError, match="already has the adapters"):
        add_soft_prompt(model, torch.randn(4, DIM))


@pytest.mark.parametrize("method", ENCODERS)
def test_a_prompt_encoder_is_saved_beside_peft_s_checkpoint_and_comes_back(method, tmp_path):
    model = make_peft(method)
    model.save_pretrained(tmp_path)
    assert save_prompt_encoder(model, tmp_path) == tmp_path / "prompt_encoder.safetensors"
    other = make_peft(method, seed=1)
    assert not torch.equal(prompt_clouds(other), prompt_clouds(model))
    load_prompt_encoder(other, tmp_path)
    # CPT's change is projected when it is saved, which rounds; the rest is the same to the bit.
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if method == "context" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(prompt_clouds(other), prompt_clouds(model), **tolerance)
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(
            dict(other.named_parameters())[name], parameter, **tolerance, msg=name
        )


@pytest.mark.parametrize("method", ["prompt", "multitask", "prefix", "adaption"])
def test_no_encoder_is_saved_where_peft_s_checkpoint_is_whole(method, tmp_path):
    model = make_peft(method)
    assert save_prompt_encoder(model, tmp_path) is None
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path)
    other = make_peft(method, seed=1)
    other.load_adapter(tmp_path, "default", is_trainable=True)
    for name, parameter in trainable(model).items():
        assert torch.equal(dict(other.named_parameters())[name], parameter)


def test_a_damaged_or_foreign_encoder_is_refused_and_changes_nothing(tmp_path):
    model = make_peft("p_mlp")
    before = copy.deepcopy(model.prompt_encoder.state_dict())
    with pytest.raises(FileNotFoundError):
        load_prompt_encoder(model, tmp_path)
    save_prompt_encoder(make_peft("p_lstm"), tmp_path)
    with pytest.raises(ValueError, match=r"another prompt encoder.*lstm_head"):
        load_prompt_encoder(model, tmp_path)
    file = save_prompt_encoder(make_peft("p_mlp", seed=1), tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load_prompt_encoder(model, tmp_path)
    with pytest.raises(ValueError, match="no encoder to load"):
        load_prompt_encoder(make_peft("prompt"), tmp_path)
    for name, tensor in model.prompt_encoder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_write_that_fails_leaves_the_old_encoder_and_no_rubbish(tmp_path, monkeypatch):
    file = save_prompt_encoder(make_peft("p_mlp"), tmp_path)
    old = file.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_prompt_encoder(make_peft("p_mlp", seed=1), tmp_path)
    assert file.read_bytes() == old
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
