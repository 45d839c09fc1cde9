"""One call of a program with hostile input, and what must hold of its answer."""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections.abc import Callable, Sequence

import hypothesis
from hypothesis import strategies as st

CODES = (0, 1, 2)
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # what a terminal would obey, by Unicode's categories
EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e<script>alert(1)</script>=1+1\n$\\frac{$"


def same(examples: int) -> hypothesis.settings:
    """Returns the profile of all generated input here: so many examples, the same ones always."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


# The system gives no process a word with a null byte, nor one with half a surrogate pair; bytes
# that are no UTF-8 arrive as U+DC80 to U+DCFF.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(
    "\udc80\udcff"
)
texts = st.text(characters, max_size=40)


def answer(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str, str]:
    """Calls a program's `main` in this process; whatever it raises is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def check(code: int, out: str, err: str) -> None:
    """Asserts what must hold of any answer to any input."""
    assert code in CODES, err
    assert "Traceback" not in err
    for text in (out, err):
        obeyed = {c for c in text if c != "\n" and unicodedata.category(c) in OBEYED}
        assert not obeyed, (obeyed, text)
    if code:
        assert err.strip(), "a refusal without a word"
