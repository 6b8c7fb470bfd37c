"""How many tokens model calls took."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import MessageError

__all__ = ["Usage", "checked_usage", "usage_from"]


class Usage(NamedTuple):
    """Tokens one or several model calls took.

    ``estimated`` is True where a server sent no figures and ours are a guess.
    ``Usage() + a + b`` adds up; an estimate anywhere makes the sum an estimate.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]  # sums, does not concatenate
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated or other.estimated,
        )


def usage_from(wire: dict[str, Any]) -> Usage:
    """Rebuild what ``_asdict`` made of one.

    Raises:
        MessageError: it has other fields.
    """
    try:
        return Usage(**wire)
    except TypeError as error:
        raise MessageError("usage", str(error)[:200]) from error


def checked_usage(usage: Any) -> Usage:
    """Return ``usage``, which a caller gave.

    Raises:
        MessageError: it is no Usage, or holds what is no count.
    """
    if not isinstance(usage, Usage):
        raise MessageError("usage", f"must be a Usage, not {type(usage).__name__}")
    for tokens in (usage.input_tokens, usage.output_tokens):
        if type(tokens) is not int or not 0 <= tokens < 2**63:
            raise MessageError("usage", f"token counts are whole numbers from 0, not {tokens!r:.80}")
    if type(usage.estimated) is not bool:
        raise MessageError("usage", "'estimated' is true or false")
    return usage
