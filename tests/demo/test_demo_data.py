"""The demo's reviews: enough of them, balanced, distinct, and not to be told apart by a few words."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from dspy_nb.core.data.examples import split
from dspy_nb.core.data.identity import example_id
from dspy_nb.demo import reviews

# The words that a reader would think of first, not those that fit this data best.
POSITIVE_WORDS = """
good great excellent wonderful lovely beautiful love loves loved enjoy enjoyed enjoys best better fantastic amazing
perfect perfectly friendly happy delicious tasty comfortable recommend impressed fun funny nice brilliant pleasant
superb outstanding charming gorgeous clean helpful easy fast favourite glad fresh kind
"""
NEGATIVE_WORDS = """
bad worst worse awful terrible horrible poor poorly boring dull disappointing disappointed rude dirty slow cold
broken broke useless waste hate hated ugly cheap late overpriced annoying never not no nobody noisy uncomfortable
weak stale bland dreadful filthy regret wrong crashes failed sick
"""


@pytest.fixture(scope="module")
def data():
    return reviews()


def words(example):
    return set(re.findall(r"[\w']+", example.review.lower()))


def test_there_are_enough_reviews_and_as_many_good_as_bad_ones(data):
    assert len(data) >= 240
    counts = Counter(example.sentiment for example in data)
    assert counts == {"positive": len(data) / 2, "negative": len(data) / 2}
    assert all(example.inputs().keys() == ["review"] for example in data)
    assert all(example.keys() == ["review", "sentiment"] for example in data)


def test_reviews_are_short_sentences(data):
    for example in data:
        assert 5 <= len(example.review.split()) <= 30, example.review
        assert re.match(r"[A-Z].*[.!]$", example.review), example.review


def test_no_two_reviews_are_nearly_the_same(data):
    assert len({example_id(example) for example in data}) == len(data)
    for one, other in itertools.combinations(map(words, data), 2):
        assert len(one & other) <= 0.5 * len(one | other), (one, other)


def test_no_single_word_tells_good_from_bad(data):
    with_word = {True: Counter(), False: Counter()}
    for example in data:
        with_word[example.sentiment == "positive"].update(words(example))
    for word in with_word[True] | with_word[False]:
        difference = abs(with_word[True][word] - with_word[False][word])
        assert 0.5 + difference / len(data) <= 0.6, word


def test_counting_good_and_bad_words_does_not_tell_good_from_bad(data):
    positive, negative = set(POSITIVE_WORDS.split()), set(NEGATIVE_WORDS.split())
    points = 0.0
    for example in data:
        balance = len(words(example) & positive) - len(words(example) & negative)
        points += 0.5 if balance == 0 else (balance > 0) == (example.sentiment == "positive")
    assert 0.6 <= points / len(data) <= 0.8, "hard for a word list, though words do help"


def test_the_first_reviews_and_every_part_hold_both_labels(data):
    assert {example.sentiment for example in data[:8]} == {"positive", "negative"}
    for part in split(data, (0.4, 0.3, 0.3), stratify="sentiment"):
        assert Counter(example.sentiment for example in part)["positive"] == len(part) / 2
