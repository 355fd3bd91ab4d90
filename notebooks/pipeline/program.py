"""The program that the pipeline optimizes: is a short review positive or negative?"""

from typing import Literal

import dspy


class Sentiment(dspy.Signature):
    """Classify the sentiment of the review."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


def make_program() -> dspy.Module:
    return dspy.Predict(Sentiment)
