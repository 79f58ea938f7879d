"""How a language model is reached. Address and key come from the environment and are never printed or written."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from ckptdbg.errors import ConfigError

Message = dict[str, str]
"""``role`` (``system``, ``user`` or ``assistant``) and ``content``."""
Chat = Callable[[Sequence[Message]], str]
"""Sends messages and returns the text of the answer. Raises ConfigError."""
_SECONDS = 300.0
_MOST_BYTES = 4 * 2**20
_LOCAL = ("127.0.0.1", "localhost", "::1")


def openai(model: str | None = None) -> Chat:
    """Any endpoint that speaks as OpenAI's chat completions do: ``OPENAI_BASE_URL``, ``OPENAI_API_KEY`` (may be absent
    for an endpoint on this machine), ``OPENAI_MODEL`` where no model is named."""
    base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1").rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "")
    model = model or os.environ.get("OPENAI_MODEL", "")
    host = urllib.parse.urlsplit(base)
    if host.scheme not in ("http", "https") or not host.hostname:
        raise ConfigError("OPENAI_BASE_URL is no address", expected="https://host/v1")
    if host.scheme == "http" and host.hostname not in _LOCAL:
        raise ConfigError("OPENAI_BASE_URL would send names and key in the clear", expected="https://")
    if not key and host.hostname not in _LOCAL:
        raise ConfigError("no key for the language model", hint="set OPENAI_API_KEY in the environment")
    if not model:
        raise ConfigError("no language model named", hint="add --llm-model NAME, or set OPENAI_MODEL")

    def chat(messages: Sequence[Message]) -> str:
        body = json.dumps({"model": model, "messages": list(messages), "temperature": 0}).encode()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        return _text_of(_posted(f"{base}/chat/completions", body, headers, key))

    return chat


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _posted(url: str, body: bytes, headers: dict[str, str], key: str) -> Any:
    """The answer as JSON; ``ConfigError`` without the key where there is none."""
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as cause:
        with cause:
            said = cause.read(300).decode("utf-8", "replace")
        found = _without(f"HTTP {cause.code}: {said}", key)
    except (OSError, ValueError) as cause:
        found = _without(str(cause), key)
    raise ConfigError("the language model did not answer", found=found, hint="check address, model and key")


def _without(text: str, key: str) -> str:
    return text.replace(key, "[key]") if key else text


def _text_of(answer: Any) -> str:
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("the language model answered nothing", expected="choices[0].message.content")
    return text


def google(model: str | None = None) -> Chat:
    """Google's models through ``google-genai``: ``GEMINI_API_KEY`` or ``GOOGLE_API_KEY``, and ``GEMINI_MODEL`` where no
    model is named."""
    try:
        from google import genai  # type: ignore[import-not-found]
    except ImportError as cause:
        raise ConfigError("google-genai is not installed", hint="pip install google-genai") from cause
    key = os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY", "")
    model = model or os.environ.get("GEMINI_MODEL", "")
    if not key or not model:
        missing = "GEMINI_API_KEY" if not key else "GEMINI_MODEL, or add --llm-model NAME"
        raise ConfigError("the language model cannot be reached", hint=f"set {missing} in the environment")

    def chat(messages: Sequence[Message]) -> str:
        client = genai.Client(api_key=key)
        text = "\n\n".join(f"{m['role']}:\n{m['content']}" for m in messages)
        try:
            answer = client.models.generate_content(model=model, contents=text).text
        except Exception as cause:  # the library has errors of its own, which are not known without it
            found = _without(f"{type(cause).__name__}: {cause}", key)
            raise ConfigError("the language model did not answer", found=found) from None
        if not answer:
            raise ConfigError("the language model answered nothing")
        return answer

    return chat


CLIENTS: dict[str, Callable[[str | None], Chat]] = {"openai": openai, "google": google}
