"""How programs end when something is wrong: with one sentence and an exit code, without a traceback.

1. `BadInput` means "what you gave me cannot be used". Its message names the file, line or key and the remedy.
2. A full disk is nobody's mistake, and whatever was being written, the same command goes on once there is room. Where
   nothing may be written, or a file stands for a folder, the place is named.
3. Memory that runs out, and another process of the same run that ends or hangs, get their sentence as well.
4. Ctrl-C ends the program where it stands, a second one without waiting for what the first would still close.
5. Everything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)

# The last two are all that torch.save says of a disk that takes no more.
_FULL = ("No space left", "File too large", "failed writing file", "iostream error", "unexpected pos")
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "remote process")


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
    return any(
        (isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)) or _says(each, _FULL)
        for each in _chain(error)
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed, on a GPU or not; torch says so in words."""
    return any(isinstance(each, MemoryError) or _says(each, _NO_MEMORY) for each in _chain(error))


def is_lost_process(error: BaseException | None) -> bool:
    """Whether another process of a distributed run ended, or did not answer in time."""
    return any(isinstance(each, RuntimeError) and _says(each, _LOST) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says(error: BaseException, words: Iterable[str]) -> bool:
    return any(part in str(error) for part in words)


def run(main: Callable[[], object]) -> None:
    """Run a program's `main`, and end it with a sentence and an exit code where something is wrong.

    2 is for bad input, a full disk and memory that runs out, 1 for a lost process, and 130 for Ctrl-C.
    """
    try:
        main()
    except BadInput as error:
        _end(str(error), 2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("Interrupted; run the same command to resume.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
            _end(f"{error.filename}: {error.strerror}; name another place.", 2)
        if is_full_disk(error):
            _end(f"the disk is full ({said}); make room and run the same command again.", 2)
        if is_out_of_memory(error):
            _end(f"out of memory ({said}); give it less at a time, or a smaller model.", 2)
        if is_lost_process(error):
            _end(
                f"another process of this run ended or did not answer ({said}), and says why where it can; run the "
                "same command to resume.",
                1,
            )
        raise


def _end(sentence: str, code: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)
