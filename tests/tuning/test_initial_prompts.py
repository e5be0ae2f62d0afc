"""A soft prompt begins where it was told to, and is all that trains."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
import transformers
from accelerate import cpu_offload, disk_offload
from peft_models import DIM, trainable
from torch import nn

from tsloss_fast import TSLoss
from tsloss_fast.tuning import (
    add_soft_prompt,
    initial_prompt,
    prompt_clouds,
)


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


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_prompt_for_an_offloaded_model_is_that_of_the_model_in_memory(
    where, tiny_model, tiny_tokenizer, tmp_path
):
    expected = initial_prompt(tiny_model, tiny_tokenizer, 8)
    ids = torch.arange(5, 9)[None]
    logits = add_soft_prompt(make_tiny_model(), expected)(input_ids=ids).logits
    if where == "memory":
        cpu_offload(tiny_model, execution_device="cpu")
    else:
        disk_offload(tiny_model, str(tmp_path), execution_device="cpu")
    found = initial_prompt(tiny_model, tiny_tokenizer, 8)
    assert torch.equal(found, expected)
    prompted = add_soft_prompt(tiny_model, found)
    assert torch.equal(prompt_clouds(prompted)[0], expected)
    torch.testing.assert_close(prompted(input_ids=ids).logits, logits)


def test_a_model_without_values_is_refused(tiny_tokenizer):
    with torch.device("meta"):
        empty = nn.Embedding(128, DIM)
    with pytest.raises(ValueError, match="on the device 'meta' and have no values; load"):
        initial_prompt(Holder(empty), tiny_tokenizer, 4)


class Holder(nn.Module):
    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def get_input_embeddings(self):
        return self.embeddings


@pytest.mark.parametrize("kind", ["Mamba", "Rwkv"])
def test_a_state_space_model_takes_a_soft_prompt(kind):
    sizes = {"vocab_size": 50, "hidden_size": DIM, "num_hidden_layers": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = add_soft_prompt(
        getattr(transformers, f"{kind}ForCausalLM")(config), torch.randn(4, DIM)
    )
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()
    (prompt,) = trainable(model).values()
    assert prompt.grad.norm() > 0


def test_a_second_soft_prompt_is_refused(tiny_model):
    model = add_soft_prompt(tiny_model, torch.randn(4, DIM))
    with pytest.raises(ValueError, match="already has the adapters"):
        add_soft_prompt(model, torch.randn(4, DIM))
