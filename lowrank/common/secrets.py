"""Secrets of the environment: found, and kept out of what is recorded and shown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(^|_)(api)?(key|token|secret|password|passwd|credentials?)(_|$)", re.IGNORECASE
)
_SECRET_FLAG = re.compile(r"(--?[\w.-]*(?:key|token|secret|passw)[\w.-]*)(=|$)", re.IGNORECASE)
_SECRET_TEXT = (
    # credentials in an address
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE), rf"\1{_HIDDEN}@"),
    # W&B's keys, old and new; a submodule's commit looks the same and is not one
    (re.compile(r"(?<!Subproject commit )\b[0-9a-f]{40}\b"), _HIDDEN),
    (re.compile(r"\b(?:local-|wandb_v\d+_)[A-Za-z0-9_-]{20,}"), _HIDDEN),
)


def redact(text: str) -> str:
    """Replaces what is or looks like a secret.

    Args:
        text: A command line or a diff.

    Returns:
        The text without the values of environment variables whose names speak of keys, tokens or
        passwords, without credentials in addresses, and without what has the form of a W&B key.

    Example:
        >>> redact("git clone https://ann:pw@example.org/x")
        'git clone https://***@example.org/x'
    """
    for value in _secrets().values():
        text = text.replace(value, _HIDDEN)
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def variable_of(text: str) -> str:
    """Returns the environment variable whose secret a text holds.

    Args:
        text: Such as a value of the configuration.

    Returns:
        The variable's name; empty if the text holds none.
    """
    return next((name for name, value in _secrets().items() if value in text), "")


def without_secrets(argv: Sequence[str]) -> list[str]:
    """Hides the values of flags named like a secret.

    Returns:
        The words, with ``***`` for the value of ``--api_key=…`` and of ``--api_key …``.
    """
    words: list[str] = []
    hide_next = False
    for word in argv:
        match = _SECRET_FLAG.match(word)
        if hide_next and not word.startswith("-"):
            word = _HIDDEN
        elif match and match[2]:
            word = f"{match[1]}={_HIDDEN}"
        hide_next = bool(match and not match[2])
        words.append(word)
    return words


def _secrets() -> dict[str, str]:
    """Returns the variables whose names speak of keys, tokens or passwords."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= 8 and _SECRET_NAME.search(name)
    }
