"""Where something is in W&B: ENTITY/PROJECT/ID, or the address of its page."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

_NAME = re.compile(r"[^/\\#?%:\s]([^/\\#?%:\x00-\x1f\x7f]{0,126}[^/\\#?%:\s])?")
_PAGES = ("overview", "workspace", "table", "sweeps", "runs", "reports", "artifacts")


def parts_of(text: str, kind: Literal["project", "run", "sweep"]) -> tuple[str, ...] | None:
    """Reads a path of W&B, or the address of a page there.

    Names of projects may hold spaces. An address is that of the project, run or sweep, or of a
    page of it, on W&B's own server or another one.

    Args:
        text: As the user gave it.
        kind: What it is meant to be.

    Returns:
        Entity and project, and for a run or a sweep its id; of a path that has only the last of
        them, these; None if it is no such path.

    Example:
        >>> parts_of("me/my project/ab12", "run")
        ('me', 'my project', 'ab12')
        >>> parts_of("https://wandb.ai/me/my%20project/sweeps/ab12?nw=x", "sweep")
        ('me', 'my project', 'ab12')
    """
    whole = 2 if kind == "project" else 3
    if "://" in text:
        try:
            address = urlsplit(text)
        except ValueError:  # half of an IPv6 address
            return None
        names = [unquote(name) for name in address.path.split("/") if name]
        if address.scheme not in ("http", "https") or len(names) < 2:
            return None
        if kind == "project":
            names = names if names[2:3] in ([], *([page] for page in _PAGES)) else []
            names = names[:2] if len(names) < 4 else []
        else:
            names = [*names[:2], names[3]] if names[2:3] == [f"{kind}s"] and names[3:] else []
    else:
        names = text.split("/")
        if len(names) == 4 and kind != "project" and names[2] == f"{kind}s":
            del names[2]
        if kind == "project" and len(names) < whole:
            return None
    if not 0 < len(names) <= whole or not all(_NAME.fullmatch(name) for name in names):
        return None
    return tuple(names)
