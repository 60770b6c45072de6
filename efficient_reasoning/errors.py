"""How programs end when something is wrong: with one sentence and an exit code, without a traceback.

1. `BadInput` means "what you gave me cannot be used". Its message names the file, line or key and the remedy.
2. A full disk is nobody's mistake, and whatever was being written, the same command goes on once there is room. Where
   nothing may be written, or a file stands for a folder, the place is named.
3. Everything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


_MOST_CHARACTERS = 2_000  # of a message: enough for every list of names, and no megabyte of somebody's answer


class BadInput(ValueError):
    """A user's input that cannot be used: one sentence, naming the place and the remedy.

    What it quotes may be anything: its middle is left out where it is long, and what is no printable character (a line
    break, an escape sequence that would act on the terminal, half of a surrogate pair) is spelt out.
    """

    def __init__(self, sentence: object):
        text = str(sentence)
        if len(text) > _MOST_CHARACTERS:
            half = _MOST_CHARACTERS // 2
            text = f"{text[:half]} [...] {text[-half:]}"
        printable = (one if one.isprintable() else repr(one)[1:-1] for one in text)
        super().__init__("".join(printable))


def near(name: str, known: Iterable[str]) -> str:
    """`near("lcpo_exat", names)` -> ", did you mean lcpo_exact?"; without a near name, the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f", did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(known)}." if known else "."


def is_full_disk(error: BaseException | None) -> bool:
    """Whether a write failed for want of room; native libraries say so in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left", "File too large", "failed writing file")):
            return True
        error = error.__cause__ or error.__context__
    return False


def run(main: Callable[[], object]) -> None:
    """Run a program's `main`: bad input and a full disk become a sentence and exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted; run the same command to resume.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
            print(f"error: {error.filename}: {error.strerror}; name another place.", file=sys.stderr)
            sys.exit(2)
        if not is_full_disk(error):
            raise
        print(f"error: the disk is full ({error}); make room and run the same command again.", file=sys.stderr)
        sys.exit(2)
