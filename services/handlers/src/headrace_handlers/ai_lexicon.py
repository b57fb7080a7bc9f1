"""The sentiment of English sentences, determined with a lexicon instead of a model.

VADER: C.J. Hutto, E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text", ICWSM 2014. The thresholds of the compound score are from the authors.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

SENTIMENTS: Final = ("positive", "negative", "neutral")

# VADER is designed for sentences, and its run time grows with the square of the text length. A text
# of this length takes about 0.1 s.
MAX_CHARACTERS: Final = 5_000

_THRESHOLD: Final = 0.05

_loading = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentiment:
    """A label from SENTIMENTS, and the compound score from -1 to 1."""

    label: str
    score: float
    model: str


def sentiment_of(text: str) -> Sentiment:
    """Return the sentiment of a text of at most MAX_CHARACTERS characters. This is CPU-bound."""
    with _loading:
        analyzer = _analyzer()
    score = float(analyzer.polarity_scores(text)["compound"])
    if score >= _THRESHOLD:
        label = "positive"
    elif score <= -_THRESHOLD:
        label = "negative"
    else:
        label = "neutral"
    return Sentiment(label=label, score=score, model=f"vaderSentiment {version('vaderSentiment')}")


@cache
def _analyzer() -> Any:
    # Imported here because only this task needs the lexicon of 7,500 words.
    from vaderSentiment.vaderSentiment import (  # noqa: PLC0415
        SentimentIntensityAnalyzer,
    )

    with warnings.catch_warnings():
        # VADER opens its lexicon with codecs.open, which Python 3.14 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return SentimentIntensityAnalyzer()
