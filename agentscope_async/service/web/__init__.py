"""Pages of the web: had safely, and turned into text."""

from __future__ import annotations

from .digest import digest_webpage
from .load import is_valid_url, load_web
from .text import parse_html_to_text

__all__ = ["digest_webpage", "is_valid_url", "load_web", "parse_html_to_text"]
