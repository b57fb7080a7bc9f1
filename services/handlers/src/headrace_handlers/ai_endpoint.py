"""Chat completions from an OpenAI-compatible endpoint, which are streamed to the job's output."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from pydantic import SecretStr

from headrace_handlers.coalesced_output import CoalescedOutput
from headrace_handlers.http_client import parse_retry_after, server_time, tls_context
from headrace_worker import Context, Fail, Retry

# Maximum length of a response, which could otherwise be endless.
MAX_CHARACTERS = 100_000
# Maximum size of a response with its protocol overhead, about ten times the maximum text.
_MAX_RESPONSE_BYTES = 64 * 2**20
# Maximum length of the names in a result.
_MAX_NAME = 200

_RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A complete response. A value is None if the endpoint did not report it."""

    text: str
    model: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


async def complete(
    ctx: Context,
    *,
    base_url: str,
    api_key: SecretStr | None,
    model: str,
    timeout: float,  # noqa: ASYNC109 - between two pieces, not for the whole call
    system: str,
    user: str,
    max_tokens: int | None,
    temperature: float | None,
) -> Completion:
    """Call the model, and emit its response as it arrives.

    Args:
        ctx: the context of the job; a cancellation ends the stream.
        base_url: the URL of the endpoint, including the version (`https://api.example.org/v1`).
        api_key: the bearer token.
        model: the name of the model.
        timeout: the maximum wait for a connection and for each piece of the response, in seconds.
        system: the instruction; empty for none.
        user: the text or question.
        max_tokens: the maximum length of the response; None for the model's default.
        temperature: the temperature; None for the model's default.

    Raises:
        Retry: the endpoint is unreachable or busy, or its response is incomplete.
        Fail: the endpoint rejected the request.
        Stopped: the job was cancelled.
    """
    messages: list[ChatCompletionMessageParam] = []
    if system:
        messages.append(ChatCompletionSystemMessageParam(role="system", content=system))
    messages.append(ChatCompletionUserMessageParam(role="user", content=user))
    context = await asyncio.to_thread(tls_context)
    try:
        async with (
            httpx2.AsyncClient(verify=context, event_hooks={"response": [_limit_size]}) as http,
            openai.AsyncOpenAI(
                base_url=base_url,
                # The client requires a key; endpoints without keys ignore it.
                api_key=api_key.get_secret_value() if api_key else "none",
                timeout=timeout,
                # The platform retries; retries in the client would multiply the requests.
                max_retries=0,
                http_client=http,
                # Do not accept compressed responses, which could decompress to any size.
                default_headers={"Accept-Encoding": "identity"},
            ) as client,
            await client.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                max_tokens=openai.omit if max_tokens is None else max_tokens,
                temperature=openai.omit if temperature is None else temperature,
            ) as stream,
        ):
            return await _collect(stream, ctx, model)
    except openai.APIStatusError as error:
        raise _exception_for(error) from error
    except openai.APIConnectionError as error:
        reason = "timed out" if isinstance(error, openai.APITimeoutError) else "is unreachable"
        raise Retry(f"the endpoint {reason}: {error.__cause__ or error}") from error
    except openai.APIError as error:
        raise Retry(f"the endpoint ended its response with an error: {error.message}") from error
    except (httpx2.RequestError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Retry(f"the endpoint's response is malformed: {error}") from error


async def _limit_size(response: httpx2.Response) -> None:
    response.stream = _LimitedBody(response.stream)


class _LimitedBody(httpx2.AsyncByteStream):
    """A response body with a size limit. A larger body fails the job."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > _MAX_RESPONSE_BYTES:
                raise Fail(
                    f"the endpoint's response exceeds the limit of {_MAX_RESPONSE_BYTES:,} bytes",
                    type="TooLong",
                )
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _collect(
    stream: openai.AsyncStream[ChatCompletionChunk], ctx: Context, model: str
) -> Completion:
    parts: list[str] = []
    length = 0
    finish_reason: str | None = None
    usage: object = None
    # Join a surrogate pair that is split across two chunks. Replace a lone surrogate, because UTF-8
    # cannot represent it.
    decoder = codecs.getincrementaldecoder("utf-16-le")("replace")
    async with CoalescedOutput(ctx.emit) as output:
        async for chunk in stream:
            ctx.raise_if_cancelled()
            model = _valid_name(getattr(chunk, "model", None)) or model
            usage = getattr(chunk, "usage", None) or usage
            content, reason = _text_and_finish_reason(chunk)
            finish_reason = reason or finish_reason
            if text := decoder.decode(content.encode("utf-16-le", "surrogatepass")):
                parts.append(text)
                length += len(text)
                output.write(text)
            if length > MAX_CHARACTERS:
                raise Fail(
                    f"the response exceeds {MAX_CHARACTERS:,} characters; set max_tokens",
                    type="TooLong",
                )
        if text := decoder.decode(b"", final=True):
            parts.append(text)
            output.write(text)
    if finish_reason is None:
        raise Retry("the endpoint's response is incomplete")
    return Completion(
        text="".join(parts),
        model=model,
        finish_reason=finish_reason,
        prompt_tokens=_valid_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_valid_count(getattr(usage, "completion_tokens", None)),
    )


def _text_and_finish_reason(chunk: object) -> tuple[str, str | None]:
    """Return the text of a chunk, and its finish reason, if any.

    The openai package does not validate its types, so a chunk can contain any values.
    """
    choices = getattr(chunk, "choices", None)
    if not isinstance(choices, list) or not choices:
        return "", None
    content = getattr(getattr(choices[0], "delta", None), "content", None)
    return content if isinstance(content, str) else "", _valid_name(
        getattr(choices[0], "finish_reason", None)
    )


def _valid_name(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value[:_MAX_NAME].encode(errors="replace").decode() or None


def _valid_count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _exception_for(error: openai.APIStatusError) -> Retry | Fail:
    status = error.status_code
    message = f"the endpoint returned {status}: {error.message}"
    if status in _RETRYABLE_STATUSES or status >= 500:
        headers = error.response.headers
        wait = parse_retry_after(headers.get("retry-after"), server_time(headers))
        return Retry(message, after=wait)
    return Fail(message, type="EndpointRefused")
