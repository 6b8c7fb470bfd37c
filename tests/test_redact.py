"""No secret in what is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from agentscope_async import Msg, Usage, _redact
from agentscope_async._redact import REDACTED, redact, redact_text, remember_secret

SECRET = "T0p-5ecret-value"


@pytest.fixture(autouse=True)
def forget_secrets(monkeypatch):
    monkeypatch.setattr(_redact, "_known", ())


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "PROXY-AUTHORIZATION",
        "api-key",
        "api_key",
        "apiKey",
        "x-goog-api-key",
        "X-Api-Key",
        "apikey",
        "OPENAI_API_KEY",
        "token",
        "access_token",
        "accessToken",
        "refresh-token",
        "secret",
        "client_secret",
        "password",
        "db_password",
        "cookie",
        "Set-Cookie",
        "aws_secret_access_key",
        "x-amz-security-token",
        "private_key",
        "Ocp-Apim-Subscription-Key",
    ],
)
def test_what_a_name_says_is_secret_is_hidden(name):
    assert redact({"headers": {name: SECRET, "x": 1}}) == {"headers": {name: REDACTED, "x": 1}}
    assert redact([{name: [SECRET, {"a": SECRET}]}]) == [{name: REDACTED}]


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_tokens": 5, "prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 12, "token_count": 3},
        {"usage": {"completion_tokens_details": {"reasoning_tokens": 0}}, "tokens": ["a", "b"]},
        {"logprobs": {"content": [{"token": "Hello", "logprob": -0.1, "bytes": [72]}]}},
        {"eos_token": "</s>", "next_page_token": "p2", "author": "Ann", "monkey": "x", "keys": ["a"]},
        {"password": None, "api_key": "", "token": 5, "secret": False},
        {"role": "user", "content": "The secret of a good token is a password nobody can guess."},
    ],
)
def test_what_only_sounds_secret_stays(harmless):
    assert redact(harmless) == harmless


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Authorization: Bearer {SECRET}\r\nHost: a", ["Bearer", "Host: a"]),
        (f"{{'authorization': 'Bearer {SECRET}', 'b': 1}}", ["'b': 1"]),
        (f'{{"x-api-key": "{SECRET}"}}', ["x-api-key"]),
        (rf'"{{\"api_key\": \"{SECRET}\"}}"', ["api_key"]),
        (f"OPENAI_API_KEY={SECRET} python run.py", ["python run.py"]),
        (f"authorization: Basic {SECRET}", ["Basic"]),
        (f"bearer {SECRET}", ["bearer"]),
        (f"https://ann:{SECRET}@host/path?x=1", ["https://", "@host/path?x=1"]),
        (f"redis://:{SECRET}@host:1/0", ["@host:1/0"]),
        (f"https://host/v1?key={SECRET}&alt=sse", ["https://host/v1?key=", "&alt=sse"]),
        (f"see https://host/?a=1&api_key={SECRET}", ["a=1"]),
        (f"https://host/?access_token={SECRET}#x", ["#x"]),
        (f"https://host/?token={SECRET}", ["token="]),
        (f"https://host/?sig={SECRET}&se=2030", ["&se=2030"]),
        (f"https://host/?X-Amz-Signature={SECRET}", ["https://host/"]),
        (f"my key is sk-{SECRET}!", ["my key is", "!"]),
        (f"Incorrect API key provided: sk-proj-{SECRET}. You can", ["Incorrect", "You can"]),
        (f"AIzaSyA{SECRET}", []),
        (f"(gsk_abcd{SECRET})", ["(", ")"]),
        (f"hf_abcd{SECRET}", []),
        (f"xoxb-{SECRET}", []),
        (f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}", []),
    ],
)
def test_what_looks_like_a_key_is_hidden_inside_any_text(text, kept):
    for shown in (redact_text(text), str(redact({"a": [text]})), str(redact({text: 1}))):
        assert SECRET not in shown
        assert REDACTED in shown
    assert [part for part in kept if part not in redact_text(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "task-based-learning and disk-encryption",
        "a risk-averse-investment-strategy",
        "the bearer came",
        "https://host/path?monkey=1&x=keyboard",
        "mail ann@host.org",
        "x://y",
        "max_tokens=1000000",
        "1 + 1 = 2",
        "<redacted>",
        "Bearer <redacted>",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert redact_text(text) == text


def test_a_key_this_process_was_given_is_hidden_in_any_form():
    key = 'odd key/with "quotes" & more'
    remember_secret(key)
    remember_secret(key + "-longer")
    remember_secret("short")
    remember_secret(None)
    text = (
        f"as it is {key}, longer {key}-longer, in a URL odd%20key%2Fwith%20%22quotes%22%20%26%20more, short"
    )
    shown = redact_text(text)
    assert shown == f"as it is {REDACTED}, longer {REDACTED}, in a URL {REDACTED}, short"
    assert redact({key: [key]}) == {REDACTED: [REDACTED]}


def test_long_base64_is_replaced_by_its_length():
    image = "iVBORw0KGgo" * 200
    assert redact_text(f"see data:image/png;base64,{image} there") == (
        f"see data:image/png;base64,<{len(image)} characters> there"
    )
    assert redact({"b64_json": image}) == {"b64_json": f"<base64, {len(image)} characters>"}
    short = "data:image/png;base64," + "iVBORw0KGgo" * 20
    assert redact_text(short) == short
    prose = "word " * 1_000
    assert redact_text(prose) == prose
    assert redact_text("x" * 5_000) == "x" * 5_000


@dataclass
class Account:
    name: str
    api_key: str
    tags: list[str] = field(default_factory=list)


def test_everything_becomes_plain_data():
    class Odd:
        def __str__(self):
            return f"Odd(api_key='{SECRET}')"

    cycle: list[object] = []
    cycle.append(cycle)
    plain = redact(
        [
            Account("ann", SECRET, ["x"]),
            Usage(1, 2),
            b"123",
            {1: {2}},
            (1.5, True),
            Odd(),
            2**70,
        ]
    )
    assert plain == [
        {"name": "ann", "api_key": REDACTED, "tags": ["x"]},
        {"input_tokens": 1, "output_tokens": 2, "estimated": False},
        "<3 bytes>",
        {"1": [2]},
        [1.5, True],
        f"Odd(api_key='{REDACTED}')",
        str(2**70),
    ]
    assert "nested too deep" in str(redact(cycle))
    assert redact(Msg("ann", f"sk-{SECRET}", "user"))["content"] == REDACTED


def test_what_is_given_is_not_changed():
    given_value = {"a": [{"api_key": SECRET}]}
    redact(given_value)
    assert given_value == {"a": [{"api_key": SECRET}]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**6) | st.text("abc xyz.,\n", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_data_without_secrets_is_copied_as_it_is(value):
    assert redact(value) == value


@given(st.text(max_size=200))
def test_hiding_twice_changes_nothing_more(text):
    assert redact_text(redact_text(text)) == redact_text(text)
