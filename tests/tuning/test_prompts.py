"""The cloud of a prompt is the prompt that the model sees."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
from accelerate import cpu_offload
from peft_models import CONFIGS, DIM, SHAPES, N, gradient, make_peft, prompt_in_use, trainable

from tsloss_fast.tuning import (
    prompt_clouds,
)


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
        type("OwnDataParallel", (nn.DataParallel,), {})(model),
        AveragedModel(model),
    ):
        assert torch.equal(prompt_clouds(wrapped), expected)


def test_an_offloaded_prompt_is_read_through_its_hooks():
    model = make_peft("prompt")
    expected = prompt_clouds(model)
    cpu_offload(model, execution_device="cpu")
    assert next(iter(trainable(model).values())).is_meta
    assert torch.equal(prompt_clouds(model), expected)


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
