"""Text services: summaries of any length by any model that writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from .. import _context
from .._tasks import run_all
from ..errors import ConfigError, ContextTooLong, MissingExtraError
from ..message import Msg
from ..tokens import count_tokens, get_openai_max_length
from ._marks import marked
from .response import ServiceResponse

__all__ = ["summarization"]

SYSTEM_PROMPT = (
    "You are a helpful agent to summarize the text. "
    "You need to keep all the key information of the text in the summary."
)
TOKEN_LIMIT_PROMPT = " Write at most {} tokens."
CUT_MARK = " [...]"
"""Ends a summary that was longer than allowed."""

PIECES_AT_ONCE = 4
"""Of one text whose summaries are asked for at the same time."""
MAX_PIECES = 256
"""Of one text: each is a request to a model."""
MIN_PIECE_TOKENS = 64
USUAL_CONTEXT_TOKENS = 32_000
"""Taken where a model does not say; one that holds less is found out by its refusal."""
CONTEXT_SHARE = 0.6
"""Of the context that is used: most models' tokens are estimated, and figures and names take more."""
ANSWER_SHARE = 0.25
"""Of what there is room for that is left to the answer, and that a piece's summary may have."""


@marked(granted=["model", "system_prompt", "token_limit_prompt", "context_tokens"])
async def summarization(
    model: Any,
    text: str,
    system_prompt: str = SYSTEM_PROMPT,
    max_return_token: int = -1,
    token_limit_prompt: str = TOKEN_LIMIT_PROMPT,
    *,
    context_tokens: int | None = None,
) -> ServiceResponse:
    """Summarize a text.

    A text that does not fit the model's context is summarized in pieces, several at once,
    and then the summaries of the pieces. A limit is told to the model, sent as its own
    limit where it has one, and holds in any case: a longer summary is cut at the end of a
    sentence, or else of a word, and ends with ``[...]`` if there is room for it. Cancelling
    ends all requests.

    Args:
        model: a wrapper that writes (chat or generation), or the name of one.
        text: the text to summarize.
        system_prompt: what the model is told to do.
        max_return_token: the most tokens of the summary, as ``count_tokens`` counts them; -1 for no limit.
        token_limit_prompt: added to the ``system_prompt`` if there is a limit, whose place is ``{}``.
        context_tokens: tokens that prompt and answer may have together; by default what is
            known about the model, or ``USUAL_CONTEXT_TOKENS``.

    Returns:
        The summary, or an ERROR that says why there is none: the model failed, said nothing,
        or the text has more than ``MAX_PIECES`` pieces.

    Raises:
        ConfigError: there is no such model, or a limit is not valid.
    """
    from ..models.config import find_model

    wrapper = find_model(model, _context.find_runtime())
    for name, limit in (("max_return_token", max_return_token), ("context_tokens", context_tokens)):
        if limit is not None and (type(limit) is not int or limit == 0 or limit < -1):
            raise ConfigError(f"{name} is a whole number from 1, not {limit!r}.")
    summarizer = _Summarizer(wrapper, system_prompt, token_limit_prompt, context_tokens)
    try:
        return ServiceResponse.success(await summarizer.summarize(text, max_return_token))
    except MissingExtraError:
        raise
    except Exception as error:  # wrappers of users' own raise what they like, and a service returns it
        return ServiceResponse.error(error)


class _Summarizer:
    def __init__(
        self, model: Any, system_prompt: str, token_limit_prompt: str, context_tokens: int | None
    ) -> None:
        self._model = model
        self._system_prompt = system_prompt
        self._token_limit_prompt = token_limit_prompt
        self._context_tokens = int((context_tokens or _context_of(model)) * CONTEXT_SHARE)
        self._turns = asyncio.Semaphore(PIECES_AT_ONCE)

    async def summarize(self, text: str, max_tokens: int) -> str:
        if not isinstance(text, str) or not text.strip():
            raise ValueError("There is no text to summarize.")
        piece_tokens = self._room(max_tokens)
        while True:
            # Counting takes long for long texts.
            pieces = await asyncio.to_thread(_split, text, piece_tokens, self._count)
            try:
                if len(pieces) == 1:
                    return await self._summary(pieces[0], max_tokens)
                piece_max = max(int(piece_tokens * ANSWER_SHARE), MIN_PIECE_TOKENS // 4)
                text = "\n\n".join(await run_all(self._summary(piece, piece_max) for piece in pieces))
            except ContextTooLong:
                piece_tokens = min(piece_tokens, max(map(self._count, pieces))) // 2
                if piece_tokens < MIN_PIECE_TOKENS:
                    raise

    def _room(self, max_tokens: int) -> int:
        """Return how many tokens of text go into one request."""
        answer = self._context_tokens * ANSWER_SHARE
        if max_tokens > 0:
            answer = min(answer, max_tokens)
        room = int(self._context_tokens - answer - self._count(self._instructions(max_tokens)))
        if room < MIN_PIECE_TOKENS:
            raise ValueError(
                f"Of {self._context_tokens} tokens of context that are used, {room} are left for the text: "
                f"shorten system_prompt, or take a model with more."
            )
        return room

    async def _summary(self, text: str, max_tokens: int) -> str:
        messages = self._messages(text, max_tokens)
        limits = _limiting_args(self._model, max_tokens) if max_tokens > 0 else {}
        async with self._turns:
            response = await self._model(messages, **limits)
            if limits and not response.text:  # all of it went into thoughts
                response = await self._model(messages)
        summary = (response.text or "").strip()
        if not summary:
            raise ValueError(
                f"{self._model.model_name} gave no summary: {response.refusal or 'no text came'}."
            )
        if max_tokens < 0:
            return summary
        return await asyncio.to_thread(_cut, summary, max_tokens, self._count)

    def _messages(self, text: str, max_tokens: int) -> Any:
        asked = [Msg("system", self._instructions(max_tokens), "system"), Msg("user", text, "user")]
        takes_messages = getattr(self._model, "takes_messages", True)
        # One that completes a text is given the beginning of its answer.
        return self._model.format(*asked) if takes_messages else self._model.format(*asked, me="assistant")

    def _instructions(self, max_tokens: int) -> str:
        if max_tokens < 0:
            return self._system_prompt
        return self._system_prompt + self._token_limit_prompt.replace("{}", str(max_tokens))

    def _count(self, text: str) -> int:
        return count_tokens(text, self._model.model_name)


def _kind(model: Any) -> str:
    """Return the ``model_type`` of this package's own that a wrapper is, or is derived from."""
    for ancestor in type(model).__mro__:
        kind = ancestor.__dict__.get("model_type")
        if kind in _CONTEXTS or kind in _LIMIT_NAMES:
            return str(kind)
    return ""


def _context_of(model: Any) -> int:
    """Return how many tokens of prompt and answer a model takes."""
    find = _CONTEXTS.get(_kind(model))
    tokens = find(model) if find is not None else None
    return tokens if isinstance(tokens, int) and tokens > 0 else USUAL_CONTEXT_TOKENS


def _context_of_openai(model: Any) -> int | None:
    try:
        return get_openai_max_length(model.model_name)
    except KeyError:  # an own server's model
        return None


def _context_of_ollama(model: Any) -> int | None:
    """Return ``num_ctx``; ollama drops what is beyond it, without a word."""
    given = {**model.model_options, **model.generate_args}.get("num_ctx")
    return given if isinstance(given, int) else OLLAMA_CONTEXT_TOKENS


OLLAMA_CONTEXT_TOKENS = 4096  # docs.ollama.com/context-length, where it does not say otherwise

_CONTEXTS: dict[str, Callable[[Any], int | None]] = {
    "local": lambda model: model.ctx,
    "ollama_chat": _context_of_ollama,
    "ollama_generate": _context_of_ollama,
    "openai_chat": _context_of_openai,
    "post_api": lambda model: model.max_length,
    "post_api_chat": lambda model: model.max_length,
}

_LIMIT_NAMES = {
    "dashscope_chat": "max_tokens",
    "gemini_chat": "max_tokens",
    "local": "max_tokens",
    "ollama_chat": "max_tokens",
    "ollama_generate": "max_tokens",
    "openai_chat": "max_tokens",
}
"""The argument of a call that limits an answer; who knows what other services understand."""


def _limiting_args(model: Any, max_tokens: int) -> dict[str, int]:
    name = _LIMIT_NAMES.get(_kind(model))
    if name is None:
        return {}
    if _kind(model) == "openai_chat":
        body: dict[str, Any] = {}
        model.limit_output(body, max_tokens)
        if name not in body or "max_completion_tokens" in model.generate_args:
            return {}  # one that thinks first: its thoughts would be counted, too
    return {name: max_tokens}


# -- where a text is taken apart --

_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"[.!?][\"')\]]*\s|[\u3002\uff01\uff1f]|\n"), re.compile(r"\s"))
"""Ends of paragraphs, of sentences and of words, in the order in which they are looked for."""


def _split(text: str, max_tokens: int, count: Callable[[str], int]) -> list[str]:
    """Return the text in pieces of at most so many tokens, ended where something ends.

    Raises:
        ValueError: there are too many.
    """
    pieces: list[str] = []
    start = 0
    while start < len(text):
        if len(pieces) == MAX_PIECES:
            raise ValueError(
                f"The text is too long to summarize: more than {MAX_PIECES} pieces of {max_tokens:,} tokens. "
                f"Summarize parts of it, or take a model with more context."
            )
        ahead = text[start : start + max_tokens * MOST_CHARACTERS_PER_TOKEN]
        end = start + _fitting(ahead, max_tokens, count, within=len(ahead) // 64 + 1)
        if end < len(text):
            end = start + _end_within(text[start:end], _BREAKS)
        pieces.append(text[start:end])
        start = end
    return [piece for piece in pieces if piece.strip()]


def _cut(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Return the text, or its beginning of at most so many tokens, with a mark."""
    if count(text) <= max_tokens:
        return text
    mark = CUT_MARK if count(CUT_MARK) < max_tokens else ""
    fits = _fitting(text, max_tokens, lambda beginning: count(beginning + mark))
    beginning = text[:fits]
    return beginning[: _end_within(beginning, _BREAKS[1:])].rstrip() + mark


MOST_CHARACTERS_PER_TOKEN = 8
"""In plain texts; where there are more, pieces are smaller than they could be."""


def _fitting(text: str, max_tokens: int, count: Callable[[str], int], within: int = 1) -> int:
    """Return how many characters from its beginning have at most so many tokens; at least one.

    ``within`` so many characters: each step of the search counts the tokens of half the text.
    """
    if count(text) <= max_tokens:
        return len(text)
    fits, too_many = 1, len(text)
    while too_many - fits > within:
        middle = (fits + too_many) // 2
        if count(text[:middle]) <= max_tokens:
            fits = middle
        else:
            too_many = middle
    return fits


def _end_within(text: str, breaks: tuple[re.Pattern[str], ...]) -> int:
    """Return where the last paragraph, sentence or word ends in the second half, or the end."""
    for each in breaks:
        ends = [found.end() for found in each.finditer(text, len(text) // 2)]
        if ends:
            return ends[-1]
    return len(text)
