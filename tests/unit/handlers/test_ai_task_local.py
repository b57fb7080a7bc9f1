"""AI tasks without an endpoint: only sentiment works, based on the local lexicon."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from headrace_handlers.ai_lexicon import MAX_CHARACTERS
from headrace_handlers.ai_task import Task, ai_task, chosen_label
from headrace_worker import Fail, Retry
from support.recording import async_context


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The staff was kind and the food was wonderful!", "positive"),
        ("The room was dirty, and nobody helped us. Horrible.", "negative"),
        ("The train leaves at nine.", "neutral"),
        ("This was not good at all.", "negative"),
    ],
)
async def test_sentiment_of_a_text_is_returned(text: str, label: str) -> None:
    done = await ai_task(Task(task="sentiment", text=text), async_context())
    assert (done.provider, done.label, done.output) == ("vader", label, label)
    assert done.model.startswith("vaderSentiment ")
    assert done.score is not None
    assert -1 <= done.score <= 1
    assert done.note is not None
    assert "lexicon" in done.note
    assert "finish_reason" not in json.loads(msgspec.json.encode(done))


async def test_classification_by_sentiment_uses_the_lexicon() -> None:
    task = Task(task="classification", text="I love it", labels=["neutral", "negative", "positive"])
    assert (await ai_task(task, async_context())).label == "positive"


@pytest.mark.parametrize(
    "task",
    [
        Task(task="summary", text="A long story."),
        Task(task="prompt", prompt="Write a haiku."),
        Task(task="classification", text="I love it", labels=["positive", "negative"]),
    ],
)
async def test_task_without_endpoint_fails_with_the_settings(task: Task) -> None:
    with pytest.raises(Fail, match=r"HEADRACE_AI_BASE_URL.*HEADRACE_AI_MODEL") as failure:
        await ai_task(task, async_context())
    assert failure.value.type == "NotConfigured"


async def test_text_beyond_the_lexicon_limit_fails() -> None:
    task = Task(task="sentiment", text="good " * MAX_CHARACTERS)
    with pytest.raises(Fail, match="text is 25,000 characters"):
        await ai_task(task, async_context())


async def test_endpoint_without_a_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_AI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(Fail, match="HEADRACE_AI_MODEL"):
        await ai_task(Task(task="summary", text="A long story."), async_context())


@pytest.mark.parametrize(
    "payload",
    [
        {"task": "translation", "text": "x"},
        {"task": "prompt", "text": "x"},
        {"task": "summary"},
        {"task": "sentiment", "text": ""},
        {"task": "classification", "text": "x"},
        {"task": "classification", "text": "x", "labels": ["a", "a"]},
        {"task": "summary", "text": "x", "temperature": 3},
        {"task": "summary", "text": "x", "max_tokens": 0},
    ],
)
def test_incomplete_task_is_rejected(payload: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(payload), type=Task)


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("refund", "refund"),
        (" **Refund**.\n", "refund"),
        ("The label is: Order status", "order status"),
        ("c++", "C++"),
    ],
)
def test_label_is_found_in_a_response(response: str, label: str) -> None:
    assert chosen_label(response, ["refund", "order status", "C++"]) == label


@pytest.mark.parametrize("response", ["", "none of them", "refund or order status", "refunded"])
def test_response_without_a_single_label_is_retried(response: str) -> None:
    with pytest.raises(Retry):
        chosen_label(response, ["refund", "order status"])
