"""The tokens nearest to points are exactly the nearest, and their names can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsloss_fast.analysis.vocabulary import nearest as module
from tsloss_fast.analysis.vocabulary.files import (
    readable,
    text_of_byte_level,
    text_of_sentencepiece,
)
from tsloss_fast.analysis.vocabulary.nearest import Vocabulary


def names(count: int) -> list[str]:
    return [f"w{index}" for index in range(count)]


def exact_nearest(table, points, k, excluded=()):
    """Indices and squared distances of integer points, in Python's integers."""
    table, points = table.astype(object), points.astype(object)
    rows = [index for index in range(len(table)) if index not in excluded]
    found = []
    for point in points:
        squares = sorted((int(((table[row] - point) ** 2).sum()), row) for row in rows)
        found.append(squares[:k])
    return found


@st.composite
def integer_clouds(draw):
    """Few distinct coordinates, so that rows coincide and distances tie; at any offset."""
    dim = draw(st.integers(1, 4))
    sizes = draw(st.tuples(st.integers(1, 30), st.integers(0, 5)))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([1, 3, 1000]))
    offset = draw(st.sampled_from([0, 0, 2**20, -(2**22)]))
    table, points = (generator.integers(-spread, spread + 1, (n, dim)) + offset for n in sizes)
    return table, points


@settings(max_examples=200, deadline=None)
@given(
    integer_clouds(),
    st.integers(1, 40),
    st.sampled_from([1, 16, 2**22]),
    st.sampled_from([np.float32, np.float64]),
    st.sets(st.integers(0, 20)),
)
def test_nearest_is_exact_with_ties_by_index_for_any_block(clouds, k, block, dtype, excluded):
    table, points = clouds
    excluded = {row for row in excluded if row < len(table) - 1}
    tokens = [None if row in excluded else name for row, name in enumerate(names(len(table)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = Vocabulary(table.astype(dtype), tokens).nearest(points.astype(dtype), k)
    expected = exact_nearest(table, points, k, excluded)
    width = min(k, len(table) - len(excluded))
    assert found.indices.shape == found.distances.shape == (len(points), width)
    assert found.indices.dtype == torch.int64
    assert found.distances.dtype == torch.float64
    assert found.indices.tolist() == [[row for _, row in pairs] for pairs in expected]
    assert found.distances.tolist() == [[float(np.sqrt(s)) for s, _ in pairs] for pairs in expected]
    assert found.tokens == [[f"w{row}" for _, row in pairs] for pairs in expected]


def test_points_nearer_to_each_other_than_the_rounding_of_a_matrix_product_are_told_apart():
    """At an offset of 10^6 the terms of |p|² + |e|² - 2p·e are 10^15 times the distances² here."""
    generator = np.random.default_rng(0)
    table = 1e6 + 1e-3 * generator.normal(size=(500, 64))
    points = np.concatenate(
        [table[:20], 1e6 + 1e-3 * generator.normal(size=(20, 64)), [[0.0] * 64]]
    )
    found = Vocabulary(table, names(500)).nearest(points, 10)
    squares = np.square(points[:, None] - table).sum(-1)
    order = np.argsort(squares, axis=1, kind="stable")[:, :10]
    assert np.array_equal(found.indices, order)
    assert np.array_equal(found.distances, np.sqrt(np.take_along_axis(squares, order, 1)))
    assert found.indices[:20, 0].tolist() == list(range(20))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_table_of_half_types_is_searched_as_the_numbers_it_holds(dtype):
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    vocabulary = Vocabulary(table, names(50))
    found = vocabulary.nearest(table[::5].float(), 3)
    assert found.indices[:, 0].tolist() == list(range(0, 50, 5))
    assert found.distances[:, 0].eq(0).all()
    assert torch.equal(vocabulary.rows([3, 3, 1]), table[[3, 3, 1]].float())
    assert vocabulary.rows(torch.tensor([0])).dtype == torch.float32


def test_rows_beyond_the_tokens_and_rows_without_a_name_are_no_neighbours():
    table = torch.arange(6.0)[:, None]
    vocabulary = Vocabulary(table, ["a", None, "c", ""])
    assert len(vocabulary) == 6
    found = vocabulary.nearest(torch.tensor([[1.1], [5.0]]), 4)
    assert found.tokens == [["c", "a"], ["c", "a"]]
    # Whatever they hold: padding may be anything.
    table[5] = float("nan")
    table[3] = float("inf")
    found = Vocabulary(table, ["a", None, "c", ""]).nearest(torch.tensor([[1.1]]), 4)
    assert found.indices.tolist() == [[2, 0]]


def test_an_array_and_a_parameter_will_both_do_also_for_more_points_than_are_searched_at_once():
    table = torch.nn.Parameter(torch.randn(9, 3))
    vocabulary = Vocabulary(table, names(9))
    for points in (table.repeat(250, 1), table.detach().numpy()):
        found = vocabulary.nearest(points, 1)
        assert found.indices[:, 0].tolist() == list(range(9)) * (len(points) // 9)
        assert found.distances.requires_grad is False


@pytest.mark.parametrize(
    ("table", "tokens", "error", "message"),
    [
        (torch.zeros(3), ["a"], ValueError, r"\(V, D\)"),
        (torch.zeros(1, 2), ["a", "b"], ValueError, "2 tokens for 1 rows"),
        (torch.zeros(2, 2), [None, ""], ValueError, "no row"),
        (torch.tensor([[1e200]]).double() * 1e200, ["a"], ValueError, "embeddings holds NaN"),
        (torch.zeros(2, 2, dtype=int), ["a"], TypeError, "float"),
    ],
)
def test_what_is_no_vocabulary_is_told(table, tokens, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(table, tokens)


@pytest.mark.parametrize(
    ("points", "k", "message"),
    [
        (torch.zeros(2, 3), 8, "N, 2"),
        (torch.zeros(2), 8, "N, 2"),
        (torch.full((1, 2), float("nan")), 8, "points holds NaN"),
        (torch.zeros(1, 2), 0, "at least 1"),
    ],
)
def test_points_that_have_no_neighbours_are_told(points, k, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(torch.zeros(2, 2), ["a"]).nearest(points, k)


def test_names_show_spaces_and_escape_what_cannot_be_seen():
    assert readable(" film") == "␣film"
    assert readable("\n\t\x00\u200b\xa0") == r"\n\t\x00\u200b\xa0"
    assert readable("é日🙂") == "é日🙂"
    assert all(readable(chr(code)).isprintable() for code in range(0x300))


@pytest.mark.parametrize(
    ("text_of", "token", "text"),
    [
        (text_of_byte_level, "Ġfilm", " film"),
        (text_of_byte_level, "Ċ", "\n"),
        (text_of_byte_level, "Ã©", "é"),
        (text_of_byte_level, "æĹ", r"\xe6\x97"),
        (text_of_byte_level, "a b", "a b"),
        (text_of_sentencepiece, "▁film", " film"),
        (text_of_sentencepiece, "<0x0A>", "\n"),
        (text_of_sentencepiece, "<0xE6>", r"\xe6"),
        (text_of_sentencepiece, "<0x0A", "<0x0A"),
    ],
)
def test_tokens_are_the_bytes_and_spaces_that_they_stand_for(text_of, token, text):
    assert text_of(token) == text


def test_all_bytes_have_a_character_of_the_byte_level_alphabet():
    pre_tokenizers = pytest.importorskip("tokenizers").pre_tokenizers
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert len(alphabet) == 256
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("".join(map(chr, range(0x80))), "é日🙂\u00ad"):
        ((token, _),) = split.pre_tokenize_str(text)
        assert text_of_byte_level(token) == text
    assert all(len(text_of_byte_level(char).encode()) in (1, 4) for char in alphabet)
