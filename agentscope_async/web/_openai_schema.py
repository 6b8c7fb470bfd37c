"""What OpenAI's clients send and get.

Source: platform.openai.com/docs/api-reference/chat, the objects ChatCompletion,
ChatCompletionChunk, Model and the errors. Strict types: OpenAI takes no ``"1"`` for 1 either.
"""

# Without `from __future__ import annotations`: FastAPI and pydantic read these at run time.

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Ask", "Completion", "ErrorAnswer", "ModelCard", "ModelCards", "Said"]


class _Given(BaseModel):
    """Sent by a client; unknown parts are ignored, as answers sent back have fields of their own."""

    model_config = ConfigDict(strict=True)


class _GivenWhole(_Given):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Text(_Given):
    type: Literal["text"]
    text: str


class _ImageUrl(_Given):
    url: Annotated[str, Field(pattern=r"^(https?://|data:image/)")]


class _Image(_Given):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _SoundData(_Given):
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
    format: Literal["wav", "mp3"]


class _Sound(_Given):
    type: Literal["input_audio"]
    input_audio: _SoundData


class _RefusalPart(_Given):
    type: Literal["refusal"]
    refusal: str


class _CalledFunction(_Given):
    name: str
    arguments: str


class _Call(_Given):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: _CalledFunction


_Texts = str | Annotated[list[_Text], Field(min_length=1)]
_UserPart = Annotated[_Text | _Image | _Sound, Field(discriminator="type")]
_OwnPart = Annotated[_Text | _RefusalPart, Field(discriminator="type")]
_Name = Annotated[str, Field(pattern=r"^[^\s<|\\/>]{1,64}$")]


class _System(_Given):
    role: Literal["system", "developer"]
    content: _Texts
    name: _Name | None = None


class _User(_Given):
    role: Literal["user"]
    content: str | Annotated[list[_UserPart], Field(min_length=1)]
    name: _Name | None = None


class _Assistant(_Given):
    role: Literal["assistant"]
    content: str | list[_OwnPart] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    name: _Name | None = None


class _ToolResult(_Given):
    role: Literal["tool"]
    content: _Texts
    tool_call_id: Annotated[str, Field(min_length=1)]


Said = Annotated[_System | _User | _Assistant | _ToolResult, Field(discriminator="role")]
"""One message of the conversation so far."""


class _Function(_Given):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_GivenWhole):
    type: Literal["function"]
    function: _Function


class _NamedFunction(_Given):
    name: str


class _ToolChoice(_GivenWhole):
    type: Literal["function"]
    function: _NamedFunction


class _PlainFormat(_GivenWhole):
    type: Literal["text", "json_object"]


class _JsonSchema(_Given):
    model_config = ConfigDict(strict=True, serialize_by_alias=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class _SchemaFormat(_GivenWhole):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(_Given):
    include_usage: bool | None = None


_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Limit = Annotated[int, Field(ge=1, le=2**31 - 1)]
_StopText = Annotated[str, Field(min_length=1)]


class Ask(_GivenWhole):
    """A conversation, and how it is to go on."""

    model: str
    messages: Annotated[list[Said], Field(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    stop: _StopText | Annotated[list[_StopText], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[_PlainFormat | _SchemaFormat, Field(discriminator="type")] | None = None
    logprobs: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not to be had here; null says the same as leaving them out.
    audio: None = None
    functions: None = None
    function_call: None = None
    prediction: None = None
    top_logprobs: None = None
    verbosity: None = None
    web_search_options: None = None


class _Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """What went wrong."""

    error: _Fault


class _Answer(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    index: Literal[0]
    message: _Answer
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class _UsageCount(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _UsageCount


class ModelCard(BaseModel):
    """Something that can be talked to."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelCards(BaseModel):
    """All of these."""

    object: Literal["list"]
    data: list[ModelCard]
