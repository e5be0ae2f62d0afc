"""Answer logits: computing less gives the same numbers, and a model that cannot is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning import add_soft_prompt, initial_prompt
from tsloss_fast.tuning.answers import (
    Choices,
    EncodedItem,
    answer_logits,
    can_share_prompt,
    encode_items,
    evaluate,
)
from tsloss_fast.tuning.tasks import Item


@pytest.fixture
def prompted(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return add_soft_prompt(tiny_model, initial_prompt(tiny_model, tiny_tokenizer, 6)).eval()


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])[0]


@pytest.mark.parametrize("share_prompt", [False, True])
def test_loss_and_gradient_are_those_of_pefts_own_forward(
    prompted: Any, items: list[EncodedItem], share_prompt: bool
) -> None:
    """Against labels and full logits, one item at a time: without padding, nothing is shared."""
    nats, count = torch.zeros(()), 0
    for item in items:
        ids = torch.tensor([item.question + item.answer])
        labels = ids.clone()
        labels[0, : len(item.question)] = -100
        nats = nats + prompted(input_ids=ids, labels=labels).loss * len(item.answer)
        count += len(item.answer)
    ours = answer_logits(prompted, items, share_prompt=share_prompt)
    torch.testing.assert_close(ours.cross_entropy(), nats / count)
    torch.testing.assert_close(
        gradient(prompted, ours.cross_entropy()),
        gradient(prompted, nats / count),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("share_prompt", [False, True])
def test_an_item_has_the_same_logits_alone_and_in_a_batch(
    prompted: Any, items: list[EncodedItem], share_prompt: bool
) -> None:
    together = answer_logits(prompted, items, share_prompt=share_prompt)
    assert together.targets.tolist() == [token for item in items for token in item.answer]
    rows = together.logits.split([len(item.answer) for item in items])
    for item, row in zip(items, rows, strict=True):
        alone = answer_logits(prompted, [item], share_prompt=share_prompt).logits
        torch.testing.assert_close(row, alone)


def test_the_shared_prompt_is_computed_for_one_row(prompted: Any, items: list[EncodedItem]) -> None:
    rows: list[tuple[int, ...]] = []
    head = prompted.get_base_model().lm_head
    layer = prompted.get_base_model().model.layers[0].mlp
    head.register_forward_pre_hook(lambda module, args: rows.append(tuple(args[0].shape[:2])))
    layer.register_forward_pre_hook(lambda module, args: rows.append(tuple(args[0].shape[:2])))
    answer_logits(prompted, items, share_prompt=True)
    longest = max(len(item.inputs) for item in items)
    # The prompt; the questions; logits of the three positions of the longest answer.
    assert rows == [(1, 6), (4, longest), (4, 3)]


def test_a_model_whose_cache_works_may_share_its_prompt(
    prompted: Any, items: list[EncodedItem]
) -> None:
    assert can_share_prompt(prompted, items)


@pytest.mark.parametrize("fault", ["detached", "positions ignored", "no cache"])
def test_a_model_that_cannot_share_its_prompt_is_found_out(
    prompted: Any, items: list[EncodedItem], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    base = prompted.get_base_model()
    forward = base.forward

    def faulty(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is not None and fault == "no cache":
            raise TypeError("unexpected keyword argument 'past_key_values'")
        if cache is not None and fault == "positions ignored":
            kwargs["position_ids"] = None
        if cache is not None and fault == "detached":
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return forward(*args, **kwargs)

    monkeypatch.setattr(base, "forward", faulty)
    assert not can_share_prompt(prompted, items)


def test_answers_are_the_tokens_that_follow_the_question(tiny_tokenizer: Any) -> None:
    (item,) = encode_items([Item("True and False is", " no film")], tiny_tokenizer)
    assert tiny_tokenizer.decode(item.question) == "True and False is"
    assert tiny_tokenizer.decode(item.answer) == "no film"
    assert tiny_tokenizer.decode(item.inputs) == "True and False is no"


def test_special_tokens_stay_before_the_question_and_never_end_it(tiny_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    (item,) = encode_items([Item("True is", " yes")], tiny_tokenizer)
    assert tiny_tokenizer.decode(item.question) == "<s> True is"
    assert tiny_tokenizer.decode(item.answer) == "yes"


def test_a_token_that_spans_question_and_answer_is_cut_at_the_boundary(
    tiny_tokenizer: Any,
) -> None:
    # "w" + "5" would be read as the one word "w5".
    (item,) = encode_items([Item("x w", "5")], tiny_tokenizer)
    assert item.answer == tuple(tiny_tokenizer("5")["input_ids"])
    assert item.question == tuple(tiny_tokenizer("x w")["input_ids"])


def test_a_text_without_tokens_is_an_error(tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"the answer of 'True is' -> ' ' has no tokens"):
        encode_items([Item("True is", " ")], tiny_tokenizer)


def test_accuracy_is_that_of_greedy_decoding(
    prompted: Any, tiny_tokenizer: Any, items: list[EncodedItem]
) -> None:
    """Some answers are what the model says anyway, some differ from it in one token."""
    mixed, right = [], 0
    for index, item in enumerate(items * 2):
        ids = torch.tensor([item.question])
        mask = torch.ones_like(ids)
        out = prompted.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
        said = out[0, -3:].tolist()
        if index % 2:
            said[index % 3] = (said[index % 3] + 1) % 128
        else:
            right += 1
        mixed.append(EncodedItem(item.question, tuple(said)))
    choices = Choices(item.answer for item in mixed)
    for share_prompt in (False, True):
        found = evaluate(prompted, mixed, choices, share_prompt=share_prompt, batch_size=3)
        assert found["accuracy"] == right / len(mixed) == 0.5


def test_restricted_accuracy_chooses_among_the_first_tokens_of_the_answers(
    prompted: Any, items: list[EncodedItem]
) -> None:
    logits = [answer_logits(prompted, [item]).logits[0] for item in items]
    choices = [5, 9, 60, 100]
    best = [choices[int(row[choices].argmax())] for row in logits]
    made = [
        EncodedItem(item.question, (token if index < 3 else choices[best[3] == choices[0]],))
        for index, (item, token) in enumerate(zip(items, best, strict=True))
    ]
    found = evaluate(prompted, made, Choices((choice,) for choice in choices))
    assert found["restricted_accuracy"] == 0.75
    # The same answers are rarely the best of the whole vocabulary.
    whole = [int(row.argmax()) == item.answer[0] for row, item in zip(logits, made, strict=True)]
    assert found["accuracy"] == sum(whole) / 4 < found["restricted_accuracy"]


def say(*answers: tuple[int, ...]) -> tuple[list[EncodedItem], torch.Tensor]:
    """Items with the answers, and logits behind which greedy decoding gives each of them."""
    tokens = torch.tensor([token for answer in answers for token in answer])
    logits = torch.linspace(0, 1, 10).repeat(len(tokens), 1)
    logits[torch.arange(len(tokens)), tokens] = 2.0
    return [EncodedItem((1,), answer) for answer in answers], logits


TREE = [(5, 3), (5, 4, 1), (5, 4, 2), (6, 7)]


def test_an_answer_is_chosen_where_the_answers_part_and_nowhere_else() -> None:
    items, logits = say(*TREE)
    choices = Choices([*TREE, *TREE])
    assert choices.chosen(logits, items).tolist() == [True] * 4
    # The second answer has the rows 2 to 4 and parts from the first at 3, from the third at 4.
    for row, token, expected in [
        (3, 3, [True, False, True, True]),  # the second answer loses where it leaves the first
        (3, 9, [True] * 4),  # a token that none of the answers has at this place
        (4, 2, [True, False, True, True]),
        (0, 6, [False, True, True, True]),
        (9, 8, [True] * 4),  # behind (6,) only 7 can follow
    ]:
        changed = logits.clone()
        changed[row, token] = 3.0
        assert choices.chosen(changed, items).tolist() == expected, (row, token)


def test_distinct_first_tokens_alone_decide_a_restricted_accuracy() -> None:
    answers = [(3, 1), (4, 1, 1), (7,)]
    items, logits = say(*answers)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, *logits.shape, generator=generator)
    firsts = [3, 4, 7]
    best = torch.tensor(firsts)[noise[:, [0, 2, 5]][..., firsts].argmax(-1)]
    assert torch.equal(Choices(answers).chosen(noise, items), best == torch.tensor(firsts))


def test_a_longer_answer_has_to_go_on_where_a_shorter_one_ends() -> None:
    items, logits = say((5,), (5, 6))
    choices = Choices([(5,), (5, 6)])
    assert choices.chosen(logits, items).tolist() == [True, True]
    logits[2, 9] = 3.0  # the model would say something else than 6
    assert choices.chosen(logits, items).tolist() == [True, False]


def test_restricted_accuracy_tells_answers_that_begin_alike_apart(
    prompted: Any, items: list[EncodedItem]
) -> None:
    alike = [EncodedItem(item.question, (7, last)) for item in items for last in (10, 20, 30, 40)]
    found = evaluate(prompted, alike, Choices(item.answer for item in alike))
    # One of the four answers of each question is chosen.
    assert found["restricted_accuracy"] == 0.25


def test_cross_entropy_of_a_split_does_not_depend_on_the_batches(
    prompted: Any, items: list[EncodedItem]
) -> None:
    whole = answer_logits(prompted, items).cross_entropy().item()
    for batch_size in (1, 3, 4):
        found = evaluate(prompted, items, Choices([(5,)]), batch_size=batch_size)
        assert found["ce"] == pytest.approx(whole, rel=1e-5)
