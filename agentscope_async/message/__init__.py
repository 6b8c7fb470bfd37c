"""Messages: what agents say to each other, and the JSON form in which they travel.

A :class:`Msg` is frozen and so are the lists and objects inside it: what one agent
holds, nobody else can change. Everything that could not be sent to another node
(NaN, lone surrogates, cycles, foreign objects) is refused when the message is
built, next to the mistake, and not later on some wire.
"""

from ._json import deserialize, serialize
from .msg import Msg, Tht
from .parts import (
    AudioPart,
    ContentPart,
    FilePart,
    ImagePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    VideoPart,
)
from .speech import Speech
from .usage import Usage

__all__ = [
    "AudioPart",
    "ContentPart",
    "FilePart",
    "ImagePart",
    "Msg",
    "Speech",
    "TextPart",
    "ThinkingPart",
    "Tht",
    "ToolCallPart",
    "ToolResultPart",
    "Usage",
    "VideoPart",
    "deserialize",
    "serialize",
]
