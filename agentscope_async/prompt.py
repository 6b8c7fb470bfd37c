"""PromptEngine: AgentScope v0.0.2's way to put a prompt together, kept for programs that use it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _context
from .errors import AgentScopeWarning, ConfigError, ContextTooLong
from .message import Msg
from .models.config import find_model
from .tokens import count_tokens

if TYPE_CHECKING:
    from .models.base import ModelWrapperBase

__all__ = ["PromptEngine", "PromptType", "ShrinkPolicy"]

Prompt: TypeAlias = "str | list[dict[str, Any]]"

SUMMARIZER_PROMPT = "You write summaries of conversations: who said what, facts, numbers and decisions first."
SUMMARY_REQUEST = "Summarize this in at most {limit} tokens:\n\n{text}"
SUMMARY_TITLE = "Summary of what was said before: "


class PromptType(IntEnum):
    """What a model takes: one text, or a list of messages."""

    STRING = 0
    LIST = 1


class ShrinkPolicy(IntEnum):
    """What becomes of the oldest messages when a prompt is too long."""

    TRUNCATE = 0
    SUMMARIZE = 1


class PromptEngine:
    """Joins instructions, memory and hints into one prompt; deprecated, as in v0.0.2.

    ::

        engine = PromptEngine(model, max_length=4000)
        prompt = await engine.join("You are {name}.", agent.memory.get_memory(), format_map={"name": "Ann"})
        response = await model(prompt)
    """

    def __init__(
        self,
        model: ModelWrapperBase | str,
        shrink_policy: ShrinkPolicy = ShrinkPolicy.TRUNCATE,
        max_length: int | None = None,
        prompt_type: PromptType | None = None,
        max_summary_length: int = 200,
        summarize_model: ModelWrapperBase | str | None = None,
    ) -> None:
        """Prepare prompts for ``model``.

        Args:
            model: a wrapper, or a name of one.
            shrink_policy: drop the oldest messages of a prompt that is too long, or summarize them.
            max_length: tokens a prompt may have, as ``count_tokens`` counts them; None: any number.
            prompt_type: by default what the model takes.
            max_summary_length: tokens a summary may have.
            summarize_model: what writes summaries; by default ``model``.

        Raises:
            ConfigError: an option is not valid.
        """
        warnings.warn(
            "PromptEngine is deprecated; give messages to `model.format(...)` instead.",
            AgentScopeWarning,
            stacklevel=2,
        )
        self.model = find_model(model, _context.find_runtime())
        self.summarize_model = (
            self.model if summarize_model is None else find_model(summarize_model, _context.find_runtime())
        )
        if prompt_type is None:
            takes_messages = getattr(self.model, "takes_messages", True)
            prompt_type = PromptType.LIST if takes_messages else PromptType.STRING
        self.prompt_type = _one_of(PromptType, prompt_type)
        self.shrink_policy = _one_of(ShrinkPolicy, shrink_policy)
        if max_summary_length < 1 or (max_length is not None and max_length < 1):
            raise ConfigError("max_length and max_summary_length are 1 or more tokens.")
        if (
            self.shrink_policy is ShrinkPolicy.SUMMARIZE
            and max_length is not None
            and max_length <= max_summary_length
        ):
            raise ConfigError(
                f"A summary of {max_summary_length} tokens leaves no room in a prompt of {max_length}; "
                f"lower max_summary_length."
            )
        self.max_length = max_length
        self.max_summary_length = max_summary_length

    async def join(self, *args: Any, format_map: Mapping[str, Any] | None = None) -> Prompt:
        """Return one prompt of all ``args``, in order; None is left out, lists are flattened.

        A text among ``args`` is an instruction of the program's own: ``{key}`` in it is
        replaced by ``format_map[key]``, all other braces stay, and it is never dropped.
        What is inside messages and lists was said by somebody and is not touched.

        For a model that takes a text, messages become lines ``name: content``; else texts
        become messages of the role ``assistant`` (as in v0.0.2), messages dicts with
        ``role``, ``content`` and, if they have one, ``name``.

        A prompt of more than ``max_length`` tokens loses its oldest messages, but never
        instructions, messages of the role ``system`` and the newest one. With SUMMARIZE
        a summary takes their place, for which a model is asked; that is all this waits for.

        Raises:
            ContextTooLong: what must stay has more than ``max_length`` tokens.
            ModelError: there was no summary to be had.
        """
        items = [self._item(value, is_own) for value, is_own in _flatten(args, format_map or {})]
        if self.max_length is not None and _total(items) > self.max_length:
            items = await self._shrink(items, self.max_length)
        if self.prompt_type is PromptType.STRING:
            return "\n".join(item.content for item in items)
        return [item.content for item in items]

    def _item(self, value: Any, is_own: bool) -> _Item:
        if self.prompt_type is PromptType.LIST:
            content: Any = _as_message(value)
            tokens = count_tokens(content, self.model.model_name)
        else:
            content = _as_line(value)
            tokens = count_tokens(content + "\n", self.model.model_name)
        is_kept = is_own or (isinstance(value, (Msg, Mapping)) and value.get("role") == "system")
        return _Item(content, tokens, is_kept)

    async def _shrink(self, items: list[_Item], max_length: int) -> list[_Item]:
        if self.shrink_policy is ShrinkPolicy.TRUNCATE:
            dropped = set(self._oldest(items, _total(items) - max_length))
            return [item for item in items if item not in dropped]
        title = self._item({"role": "user", "content": SUMMARY_TITLE}, False)
        room = max_length - self.max_summary_length - title.tokens
        oldest = self._oldest(items, _total(items) - room)
        summary = SUMMARY_TITLE + await self._summarize(oldest, max_length)
        dropped, at = set(oldest), items.index(oldest[0])
        items.insert(at, self._item({"role": "user", "content": summary}, False))
        return [item for item in items if item not in dropped]

    def _oldest(self, items: list[_Item], too_many: int) -> list[_Item]:
        """Return the items to drop for a prompt to have ``too_many`` tokens less."""
        dropped = []
        for item in [item for item in items if not item.is_kept][:-1]:
            if too_many <= 0:
                break
            dropped.append(item)
            too_many -= item.tokens
        if too_many > 0:
            raise ContextTooLong(
                f"The prompt has {too_many} tokens too many even without its older messages: "
                f"raise max_length ({self.max_length}) or shorten the instructions or the last message.",
                provider=self.model.model_type,
                model=self.model.model_name,
            )
        return dropped

    async def _summarize(self, items: list[_Item], max_length: int) -> str:
        """Return a summary of ``items``; of more than ``max_length`` tokens in several requests."""
        summary = ""
        for lines in _portions(items, max_length):
            text = "\n".join([SUMMARY_TITLE + summary, *lines] if summary else lines)
            request = SUMMARY_REQUEST.format(limit=self.max_summary_length, text=text)
            response = await self.summarize_model(
                self.summarize_model.format(
                    Msg("system", SUMMARIZER_PROMPT, "system"), Msg("user", request, "user")
                )
            )
            summary = self._cut(response.text or "")
        return summary

    def _cut(self, text: str) -> str:
        """Return the beginning of ``text`` that has at most ``max_summary_length`` tokens."""
        fits, too_long = 0, len(text) + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if count_tokens(text[:middle], self.model.model_name) <= self.max_summary_length:
                fits = middle
            else:
                too_long = middle
        return text[:fits]


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A line or a message of a prompt; ``is_kept``: must not be dropped."""

    content: Any
    tokens: int
    is_kept: bool


def _total(items: Iterable[_Item]) -> int:
    return sum(item.tokens for item in items)


def _portions(items: list[_Item], max_tokens: int) -> Iterator[list[str]]:
    """Yield the items as lines, ``max_tokens`` at a time."""
    lines: list[str] = []
    tokens = 0
    for item in items:
        if lines and tokens + item.tokens > max_tokens:
            yield lines
            lines, tokens = [], 0
        lines.append(_as_line(item.content))
        tokens += item.tokens
    if lines:
        yield lines


def _flatten(args: Iterable[Any], format_map: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """Yield what is in ``args`` and whether it is a text of the caller's own."""
    for arg in args:
        if isinstance(arg, str):
            yield _fill_in(arg, format_map), True
        elif arg is not None:
            yield from ((value, False) for value in _inner(arg))


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _inner(item)
    else:
        yield value


def _fill_in(template: str, format_map: Mapping[str, Any]) -> str:
    if not format_map:
        return template
    return re.sub(
        r"\{([^{}]*)\}",
        lambda found: str(format_map[found[1]]) if found[1] in format_map else found[0],
        template,
    )


def _as_line(value: Any) -> str:
    if not isinstance(value, (Msg, Mapping)):
        return str(value)
    content = value.text if isinstance(value, Msg) else value.get("content")
    if content is None:
        return str(value)
    speaker = value.get("name") or value.get("role")
    return f"{speaker}: {content}" if speaker else str(content)


def _as_message(value: Any) -> dict[str, Any]:
    if not isinstance(value, (Msg, Mapping)):
        return {"role": "assistant", "content": str(value)}
    message = {"name": value["name"]} if value.get("name") else {}
    message["role"] = value.get("role") or "assistant"
    content = value.text if isinstance(value, Msg) else value.get("content")
    return {**message, "content": str(value if content is None else content)}


def _one_of(kind: Any, given: Any) -> Any:
    try:
        return kind(given)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name}" for each in kind)
        raise ConfigError(f"{given!r} is not a {kind.__name__}; use one of {known}.") from None
