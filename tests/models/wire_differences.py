"""What the wrappers send otherwise than the providers' own packages, and why.

By case name, or by ``"provider kind"`` for all cases of a kind that have no entry of their own:
``{"extra | missing | changed <path>": reason}``. A difference that is not here fails
``wire_driver.replay_case``, and so does one that is here and no longer found.
"""

from __future__ import annotations

# -- OpenAI --

_USAGE = "only then does the server report what the answer took"

OPENAI = {
    "openai chat_stream": {"extra /stream_options": _USAGE},
    "openai-chat-stream-usage": {},
    "openai-error-stream-mid": {"extra /stream_options": _USAGE},
}

# -- DashScope --

_PIECES = "pieces are asked for; false, the server's default, has to be said to get the text so far"

DASHSCOPE = {
    "dashscope-chat-stream-cumulative": {"extra /parameters/incremental_output": _PIECES},
}

# -- Gemini --

_ROLE = "a text to embed is said by nobody"
_ENUMS = "asks for enums as numbers, which we do not read"

GEMINI = {
    "gemini-embedding-one": {"missing /requests/0/content/role": _ROLE},
    "gemini-embedding-batch": {
        "missing /requests/0/content/role": _ROLE,
        "missing /requests/1/content/role": _ROLE,
    },
    "gemini-legacy-chat": {"missing @query/$alt": _ENUMS},
    "gemini-legacy-embed": {"missing @query/$alt": _ENUMS},
    "gemini-legacy-stream": {"missing @query/$alt": _ENUMS, "extra @query/alt": "events are cheaper to read"},
}

DIFFERENCES: dict[str, dict[str, str]] = {**OPENAI, **DASHSCOPE, **GEMINI}
