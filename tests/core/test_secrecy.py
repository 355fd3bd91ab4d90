"""What of a language model is written, what is only hashed, and what error texts lose."""

from __future__ import annotations

import base64
from typing import Any

import dspy
import pytest

from dspy_nb.core.secrecy import is_secret, other_options, sampling_options, scrubbed, without_secrets
from dspy_nb.core.text import error_text

SECRET = [
    "api_key", "apiKey", "OPENAI_API_KEY", "X-Api-Key", "azure_ad_token", "token", "clientSecret", "password",
    "aws_access_key_id", "aws_session_token", "Authorization", "auth", "headers", "base_url", "vertex_credentials",
]  # fmt: skip
HARMLESS = [
    "max_tokens",
    "prompt_tokens",
    "primary_key",
    "key",
    "eos_token",
    "seed",
    "author",
    "num_keys",
    "passed",
]


@pytest.mark.parametrize("name", SECRET)
def test_these_names_are_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_these_names_are_not(name: str) -> None:
    assert not is_secret(name)


def test_only_sampling_options_are_written_and_the_rest_is_one_hash() -> None:
    options = {"temperature": 0.5, "stop": ["a"], "api_base": "http://u:p@host/v1?sig=s&v=1", "password": "p"}
    assert sampling_options(options) == {"stop": "['a']", "temperature": "0.5"}
    same = {"api_base": "http://other:pw@host/v1?sig=t&v=1", "password": "q", "temperature": 1}
    assert other_options(options) == other_options(same)
    assert other_options(options) != other_options({**options, "api_base": "http://host/v2"})
    assert other_options({"temperature": {"api_key": "x"}}) is not None
    assert other_options({"temperature": 0.5, "api_key": "x"}) is None


def test_what_stands_under_a_secret_name_and_the_user_of_a_url_are_left_out() -> None:
    data = {"a": [{"api_key": "s", "token": None}], "url": "see https://u:p@host/x?q=1", "max_tokens": 3}
    cleaned = {
        "a": [{"api_key": "(not stored)", "token": None}],
        "url": "see https://host/x?q=1",
        "max_tokens": 3,
    }
    assert without_secrets(data) == cleaned
    assert without_secrets(cleaned) == cleaned


class Echo(dspy.BaseLM):
    """Says what it was made with, as a provider does that refuses a key."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"401 {self.kwargs} {kwargs} at openai/m")


def failure(lm: Any, **kwargs: Any) -> BaseException:
    try:
        lm("hi", **kwargs)
    except RuntimeError as error:
        try:
            raise ValueError(f"the program failed: {error}") from None
        except ValueError as outer:
            return outer
    raise AssertionError


MADE_WITH = {
    "api_key": "sk-1234567", "organization": "org-secret", "extra_body": {"deep": [{"x": "inner-secret"}]},
    "headers": {"Authorization": "Bearer tok-secret", "Accept": "application/json"},
    "vertex_credentials": '{"private_key": "-----BEGIN\\nMIISECRET\\n-----END"}',
    "api_base": "http://me:pass-word@host:1/v1?sig=sig-secret", "pin": 12345678,
}  # fmt: skip


def test_an_error_loses_the_values_of_the_language_model_that_it_passed_through() -> None:
    lm = Echo("openai/m", custom_llm_provider="openai", api_version="2024-05-01", **MADE_WITH)
    text = error_text(failure(lm, config={"api_key": "call-secret"}))
    for value in (
        "sk-1234567",
        "org-secret",
        "inner-secret",
        "tok-secret",
        "MIISECRET",
        "pass-word",
        "sig-secret",
    ):
        assert value not in text
    assert "12345678" not in text
    assert "call-secret" not in text
    for kept in ("openai/m", "2024-05-01", "application/json", "host:1/v1"):
        assert kept in text


def test_the_configured_language_model_and_the_environment_are_known_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "from-the-environment")
    with dspy.context(lm=Echo("openai/m", api_key="configured-key", api_base="http://me:pass-word@host/v1")):
        basic = base64.b64encode(b"me:pass-word").decode()
        text = scrubbed(f"a configured-key b from-the-environment c Basic {basic} d http://x:y@z/?sig=s&v=1")
    assert text == "a (hidden) b (hidden) c Basic (hidden) d http://z/?sig=(hidden)&v=1"
