"""Have a model say what is in a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError
from .._marks import marked
from ..response import ServiceResponse
from .load import MAX_BYTES, is_valid_url, load_web

__all__ = ["DEFAULT_WEB_SYS_PROMPT", "digest_webpage"]

DEFAULT_WEB_SYS_PROMPT = (
    "You're a web page analyser. You job is to extract important"
    "and useful information from html or webpage description.\n"
)
"""AgentScope v0.0.2's, to the letter."""

DEFAULT_TAGS = ("h", "p", "li", "div", "a")


@marked(
    untrusted="web_text_or_url",
    granted=("model", "html_selected_tags", "digest_prompt", "timeout", "allow_private", "max_bytes"),
)
async def digest_webpage(
    web_text_or_url: str,
    model: Any = None,
    html_selected_tags: Sequence[str] = DEFAULT_TAGS,
    digest_prompt: str = DEFAULT_WEB_SYS_PROMPT,
    *,
    timeout: float = 5,
    allow_private: bool = False,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Read a web page, or the text of one, and return a summary of what is important in it.

    Loads it as :func:`load_web` does and gives its text to :func:`summarization`. What the model
    makes of a stranger's page is a stranger's still.

    Args:
        web_text_or_url (str): The address of a page, beginning with http:// or https://, or the text of one.
        model (ModelWrapperBase): writes the summary.
        html_selected_tags (Sequence[str]): of HTML, the text of these elements is given to the model.
        digest_prompt (str): the system prompt.
        timeout (float): seconds for having the page.
        allow_private (bool): see :func:`load_web`.
        max_bytes (int): see :func:`load_web`.

    Returns:
        ServiceResponse: the content is what the model wrote.

    Raises:
        ConfigError: there is no model.
        MissingExtraError: see :func:`load_web`.
    """
    from ..text import summarization

    if model is None:
        raise ConfigError("digest_webpage needs model=, the wrapper that writes the summary.")
    if not is_valid_url(web_text_or_url):
        return await summarization(model, web_text_or_url, system_prompt=digest_prompt)
    page = await load_web(
        web_text_or_url,
        keep_raw=False,
        html_selected_tags=tuple(html_selected_tags) or DEFAULT_TAGS,
        timeout=timeout,
        allow_private=allow_private,
        max_bytes=max_bytes,
    )
    if not page.is_success:
        return page
    text = _text_in(page.content)
    if not text:
        reason = page.content.get("cut", "there is none")
        return ServiceResponse.error(f"No text to digest at {web_text_or_url!r}: {reason}.")
    return await summarization(model, text, system_prompt=digest_prompt)


def _text_in(content: dict[str, Any]) -> str:
    if "json" in content:
        return json.dumps(content["json"], ensure_ascii=False)
    keys = ("html_to_text", "pdf_to_text", "text")
    return next((content[key] for key in keys if content.get(key)), "")
