"""The one exception that means "what you gave me cannot be used".

Every program of the toolkit turns a `BadInput` into its message and exit code 2, without a traceback. The message is
one sentence that names the file, line or key and says what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """A user's input that cannot be used: one sentence, naming the place and the remedy."""


def near(name: str, known: Iterable[str]) -> str:
    """`near("lcpo_exat", names)` -> ", did you mean lcpo_exact?"; without a near name, the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f", did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(known)}." if known else "."
