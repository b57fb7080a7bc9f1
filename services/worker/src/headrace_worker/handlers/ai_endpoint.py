"""Chat completions of an endpoint that speaks OpenAI's protocol, streamed into a job's output."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import httpx2
import openai
from openai.types import CompletionUsage
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from pydantic import SecretStr

from headrace_worker.context import Context
from headrace_worker.handlers.coalesced_output import CoalescedOutput
from headrace_worker.handlers.retry_after import parse_retry_after, server_time
from headrace_worker.handlers.tls import tls_context
from headrace_worker.outcome import Fail, Retry

# An answer that would not fit in a result (256 KiB by default) is given up.
MAX_CHARACTERS = 100_000

_TRY_AGAIN = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer. What the endpoint did not say of it is None."""

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
    timeout: float,  # noqa: ASYNC109 - between two pieces, not of the whole
    system: str,
    user: str,
    max_tokens: int | None,
    temperature: float | None,
) -> Completion:
    """Asks the model, and emits its answer while it arrives.

    Args:
        ctx: the job's context; a cancellation ends the stream.
        base_url: of the endpoint, with its version (`https://api.example.org/v1`).
        api_key: sent as a bearer token.
        model: its name at the endpoint.
        timeout: seconds to wait for a connection, and for each piece of the answer.
        system: the instruction; empty for none.
        user: the text or the question.
        max_tokens: the longest answer; None leaves it to the model.
        temperature: None leaves it to the model.

    Raises:
        Retry: the endpoint is gone, busy or broke off.
        Fail: it refuses the request.
        Stopped: the job was cancelled.
    """
    messages: list[ChatCompletionMessageParam] = []
    if system:
        messages.append(ChatCompletionSystemMessageParam(role="system", content=system))
    messages.append(ChatCompletionUserMessageParam(role="user", content=user))
    context = await asyncio.to_thread(tls_context)
    try:
        async with (
            httpx2.AsyncClient(verify=context) as http,
            openai.AsyncOpenAI(
                base_url=base_url,
                # The client insists on a key, and endpoints without keys ignore it.
                api_key=api_key.get_secret_value() if api_key else "none",
                timeout=timeout,
                # The platform retries; two layers of retries would multiply.
                max_retries=0,
                http_client=http,
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
        raise _outcome(error) from error
    except openai.APIConnectionError as error:
        reason = "answered too late" if isinstance(error, openai.APITimeoutError) else "is gone"
        raise Retry(f"the endpoint {reason}: {error.__cause__ or error}") from error
    except openai.APIError as error:
        raise Retry(f"the endpoint broke off its answer: {error.message}") from error
    except (httpx2.TransportError, json.JSONDecodeError) as error:
        raise Retry(f"the endpoint's answer is broken: {error}") from error


async def _collect(
    stream: openai.AsyncStream[ChatCompletionChunk], ctx: Context, model: str
) -> Completion:
    parts: list[str] = []
    length = 0
    finish_reason: str | None = None
    usage: CompletionUsage | None = None
    async with CoalescedOutput(ctx.emit) as output:
        async for chunk in stream:
            ctx.raise_if_cancelled()
            model = chunk.model or model
            usage = chunk.usage or usage
            for choice in chunk.choices[:1]:
                finish_reason = choice.finish_reason or finish_reason
                if text := choice.delta.content:
                    parts.append(text)
                    length += len(text)
                    output.write(text)
            if length > MAX_CHARACTERS:
                raise Fail(
                    f"the answer passed {MAX_CHARACTERS} characters; max_tokens limits it",
                    type="TooLong",
                )
    if finish_reason is None:
        raise Retry("the endpoint ended its answer in the middle")
    return Completion(
        text="".join(parts),
        model=model,
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
    )


def _outcome(error: openai.APIStatusError) -> Retry | Fail:
    status = error.status_code
    message = f"the endpoint answered {status}: {error.message}"
    if status in _TRY_AGAIN or status >= 500:
        headers = error.response.headers
        wait = parse_retry_after(headers.get("retry-after"), server_time(headers))
        return Retry(message, after=wait)
    return Fail(message, type="EndpointRefused")
