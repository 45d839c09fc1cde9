"""Tables to one HTML file: the page's program and plotly.js are in it, and nothing is fetched.

Records are untrusted. Their strings reach the page as JSON in a block that the browser does not
run; the program only ever shows them as text. Beyond that, the page's content security policy lets
run no other script than those written here, and lets nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

SCRIPTS = (
    "base.js", "panel.js", "many.js", "facets.js", "settings.js", "matrices.js", "table.js",
    "run.js", "live.js", "main.js",
)  # fmt: skip
"""The page's program, in the order in which its parts build on each other."""

# A script block ends at "</script", and before "<!--" its end may be missed: neither can occur in
# the data. JavaScript once took the last two for ends of lines.
_ESCAPED = "<>&\u2028\u2029"


def page(data: dict[str, Any], title: str) -> str:
    """Returns the report's HTML.

    Args:
        data: The tables, of JSON's types.
        title: Of the document, as plain text.

    Returns:
        The whole document.

    Raises:
        ValueError: If a number is not finite: JSON has none of these.
    """
    folder = files("lowrank.views.report") / "page"
    scripts = [get_plotlyjs(), *(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)]
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src "
    policy += " ".join(map(_source, scripts))
    template = Template((folder / "page.html").read_text("utf-8"))
    return template.substitute(
        policy=policy,
        title=html.escape(title),
        style=(folder / "page.css").read_text("utf-8"),
        data=embedded(data),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def embedded(data: Any) -> str:
    r"""Returns JSON that is safe within a script block.

    Args:
        data: Of JSON's types.

    Returns:
        The text; a browser's ``JSON.parse`` gives the data back.

    Raises:
        ValueError: If a number is not finite.

    Example:
        >>> print(embedded("</script>"))
        "\u003c/script\u003e"
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in _ESCAPED:
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")  # no lone surrogates


def _source(script: str) -> str:
    """Returns how a content security policy names an inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
