"""Input that nobody should send: answers, YAML and JSON lines, each a seeded mutation of something that works.

1. A mutation keeps most of what it damages. What is wrong from its first byte on is refused at the door and tries
   nothing behind it.
2. Everything follows from the generator that is given, so a case is told by its seed and number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

SIZES = (1, 10, 100, 1_000, 30_000)
MEGABYTE = 1_000_000

# Characters and short texts that parsers, encoders and terminals trip over.
ODD = (
    *("\0", "\x07", "\x1b[2J", "\r", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffe", "\ud800", "\udfff", "\U0010ffff"),
    *("\u0301" * 50, "İ", "ß", "ﷺ", "½", "٣", "²", "−", "∞", "🙂", "\t", "\\", "$", "%s", "{}", "{0.__class__}"),
    *("nan", "-inf", "1e999", "-0", "0x10", "1_000", "1/0", "0/0", "9" * 5000, "true", "None", "null", "__import__"),
    *("<think>", "</think>", "<answer>", "</answer>", "```", "```python\n", "####", "||", "\\boxed{", "}", "{", '"'),
)
# What is repeated until a parser runs out of stack, memory or patience.
REPEATED = (
    *("(", "[", "{", '{"a":', "((1)+", "\\frac{1}{", "\\sqrt{", "\\boxed{", "\\left(", "x^{", "-", "!", "1/", "1,"),
    *(
        "<answer>",
        "</answer>",
        "```python\n",
        "```",
        "1,111",
        "1 ",
        "9",
        "\\",
        "$",
        "\n",
        " ",
        "\0",
        "not ",
        "lambda:",
    ),
    *("\\begin{pmatrix}", "\\int_0^1", "1+", "2^", "a", "\\text{", "\\boxed  ", '"', "\\{", ".1", "/"),
)
# Mathematics that does not end.
_SLOW_MATHEMATICS = (
    *("9^(9^9)", "9^{9^{9^9}}", "(9^{9999})!", "10000000!", "\\frac{1}{9^{9^{9}}}", "2^{2^{2^{2^{2^2}}}}"),
    *("(x+y+z+w)^{400}", "\\int_0^1 \\sin(x^{x^{x}}) dx", "x^{1000000}-1", "\\sqrt[9^{9^9}]{2}", "9**9**9**9"),
    *("\\sum_{n=1}^{10^{12}} \\frac{1}{n!}", "\\binom{10^9}{10^8}", "\\log_{9^{9^9}}(9^{9^{9^9}})", "[0]*10**11"),
)
_CODE = (
    "import os\nwhile True: os.fork()",
    "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'\\xff\\xfe' * 99)\n    except OSError: pass",
    "import os\nos.closerange(0, 256)",
    "import os\nfor fd in range(256):\n    try: os.ftruncate(fd, 0)\n    except OSError: pass",
    "import os\nos.abort()",
    "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')",
    "import os\nos.mkdir('d')\nopen('d/f', 'w').close()\nos.chmod('d', 0)",
    "import os\nos.symlink('/', 'root')",
    "import os, signal\nos.kill(0, signal.SIGKILL)",
    "import os\nos.rmdir(os.getcwd())",
    "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "import socket\nsocket.socket().bind(('', 0))",
    "import ctypes\nctypes.string_at(0)",
    "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "import sys\nsys.stdin.read(); input()",
    "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (9, 9))",
    "import threading\nthreading.Thread(target=print).start()",
    "import subprocess\nsubprocess.run('true', shell=True)",
    "import atexit\natexit.register(lambda: 1 / 0)\nraise KeyboardInterrupt",
    "raise GeneratorExit",
    "raise BaseException('\\ud800')",
    "class F:\n    def __eq__(self, other): return True\ndouble = lambda x: F()",
    "double = lambda x: (_ for _ in ()).throw(SystemExit)",
    "hog = [0] * 10**10",
    "hog = 'x'\nwhile True: hog += hog",
    "data = open('/dev/zero', 'rb').read(10**10)",
    "print('x' * 10**8)",
    "import builtins\nfor name in list(vars(builtins)): delattr(builtins, name)",
    "import sys\nsys.modules.clear()",
    "exec('(' * 10**6)",
    "eval('[' * 150 + ']' * 150)",
    "# -*- coding: utf-7 -*-\nx = 1",
    "open('big', 'w').write('x' * 10**8)",
    "import pathlib\npathlib.Path('/etc/passwd').write_text('')",
)
_SLOW_CODE = (
    "while True: pass",
    "import time\ntime.sleep(1000)",
    "9**9**9**9",
    "'a' * 10**6 in 'a' * 10**6 + 'b'\nimport re\nre.match('(a+)+b', 'a' * 40)",
    "import os\nfor fd in range(3, 256):\n  try:\n    while True: os.write(fd, b'x' * 65536)\n  except OSError: pass",
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
    "while True:\n    try: print(1)\n    except BaseException: pass",
    "import os\nn = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').close()",
)


def answer(rng: random.Random, right: str) -> str:
    """A damaged or hostile text of an answer; one in fifty costs its verifier the whole time limit."""
    kind = rng.random()
    if kind < 0.02:
        bomb = rng.choice(_SLOW_MATHEMATICS + _SLOW_CODE)
        return f"\\boxed{{{bomb}}}" if bomb in _SLOW_MATHEMATICS else _block(bomb)
    if kind < 0.03:
        return _many(rng, MEGABYTE)
    if kind < 0.2:
        return _block(rng.choice(_CODE))
    if kind < 0.4:
        return rng.choice(("{}", "\\boxed{{{}}}", "<answer>{}</answer>", "[{}]")).replace("{}", _many(rng))
    return damaged(rng, right)


def _block(code: str) -> str:
    return f"```python\n{code}\ndouble = lambda x: x * 2\n```"


def _many(rng: random.Random, characters: int | None = None) -> str:
    unit = rng.choice(REPEATED)
    count = rng.choice(SIZES) if characters is None else characters // len(unit)
    closed = {"(": ")", "[": "]", "{": "}"}.get(unit[-1], "") * count if rng.random() < 0.5 else ""
    return (unit * count + "1" + closed)[: characters or None]


def damaged(rng: random.Random, text: str) -> str:
    """The text with one to four places cut, doubled, exchanged, or spoilt by odd characters."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(text))
        stop = min(len(text), start + rng.choice((0, 1, 3, 10)))
        piece = text[start:stop]
        odd = chr(rng.choice((rng.randrange(32), rng.randrange(0x3000), rng.randrange(0x110000))))
        new = rng.choice(("", piece * 3, piece.swapcase()[::-1], rng.choice(ODD), odd, _many(rng)))
        text = text[:start] + new + text[stop:]
    return text


# ---- YAML ----

# Values as they stand behind a key.
_YAML_VALUES = (
    *(
        "",
        "null",
        "~",
        "true",
        "no",
        "0",
        "-1",
        "1.5",
        ".nan",
        "-.inf",
        "1e-4",
        "1e999",
        "0x_",
        "0b",
        "0b2",
        "1:99:99",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "1" + "0" * 400,
        "2024-01-01",
        "2024-99-99",
        "2024-01-01 99:99:99",
        "01:02",
        "0o8",
        "=",
        "<<",
    ),
    *(
        "''",
        '"\\ud800"',
        '"\\0"',
        "'" + "a" * 5000 + "'",
        "[]",
        "{}",
        "[1, [2, {a: 3}]]",
        "{1: 2}",
        "{? [a] : b}",
        "[,]",
    ),
    *(
        "!!binary x",
        "!!binary ''",
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!bool x",
        "!!timestamp x",
        "!!null x",
        "!!set {a}",
    ),
    *(
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!pairs [1]",
        "!!map x",
        "!!seq {}",
        "!!str [a]",
        "!x y",
        "!!python/name:os.system x",
    ),
    *(
        "&a [*a]",
        "&a {b: *a}",
        "*nowhere",
        "&",
        "*",
        "|",
        ">",
        "? x",
        "- x",
        "%",
        "@",
        "`",
        "'",
        '"',
        "a: b",
        "x #",
        "\t1",
    ),
    *("auto", "none", "steps", "zero2", "configs/deepspeed/zero3.json", "/nowhere/x", "a" * 300, "\0", "\ud800", "é"),
    *(
        "'{}'",
        "'[1]'",
        "'{a'",
        "'{\"a\": 1}'",
        "full_shard",
        "cosine",
        "overthinker",
        "'*'",
        "'?'",
        "'a?b=c'",
        "hub:",
        "file:",
    ),
)


def yaml_file(rng: random.Random, text: str, keys: Sequence[str]) -> bytes:
    """A config with one to three faults.

    Args:
        text: of a config that works.
        keys: that the program knows, of which any may turn up.
    """
    kind = rng.random()
    if kind < 0.04:
        return rng.choice((b"", b"\n", b"\xff\xfe", b"\0", rng.randbytes(200), text.encode("utf-16"), b"---\n---\n"))
    if kind < 0.1:
        return rng.choice((_laughter, _deep, _nested))(rng, text).encode(errors="surrogatepass")
    for _ in range(rng.randint(1, 3)):
        text = rng.choice((_exchange_value, _exchange_value, _add_key, _spoil_key, _shuffle_lines, damaged_line))(
            rng, text, keys
        )
    return text.encode(errors="surrogatepass")


def _lines_with_keys(lines: list[str]) -> list[int]:
    return [index for index, line in enumerate(lines) if ":" in line and not line.startswith("#")]


def _exchange_value(rng: random.Random, text: str, keys: Sequence[str]) -> str:
    lines = text.split("\n")
    if places := _lines_with_keys(lines):
        place = rng.choice(places)
        lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(_YAML_VALUES)}"
    return "\n".join(lines)


def _add_key(rng: random.Random, text: str, keys: Sequence[str]) -> str:
    return f"{text}\n{rng.choice(keys)}: {rng.choice(_YAML_VALUES)}\n"


def _spoil_key(rng: random.Random, text: str, keys: Sequence[str]) -> str:
    lines = text.split("\n")
    if places := _lines_with_keys(lines):
        place = rng.choice(places)
        key, _, value = lines[place].partition(":")
        new = rng.choice(
            (damaged(rng, key), key.upper(), f"  {key}", f"\t{key}", f"- {key}", f"? {key}", "1", "[a]", "{}")
        )
        lines[place] = f"{new}:{value}"
    return "\n".join(lines)


def _shuffle_lines(rng: random.Random, text: str, keys: Sequence[str]) -> str:
    lines = text.split("\n")
    one, two = (rng.randrange(len(lines)) for _ in range(2))
    lines[one] = rng.choice(
        (lines[two], "", f"  {lines[one]}", f"{lines[one]}\n{lines[two]}", lines[one].replace(" ", ""))
    )
    return "\n".join(lines)


def damaged_line(rng: random.Random, text: str, keys: Sequence[str]) -> str:
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    lines[place] = damaged(rng, lines[place])
    return "\n".join(lines)


def _laughter(rng: random.Random, text: str) -> str:
    """Anchors that stand for anchors: a few lines that mean billions of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, rng.choice((3, 9, 30)))]
    keyed = [text.split("\n")[place] for place in _lines_with_keys(text.split("\n"))]
    return "\n".join([*lines, *keyed, f"{rng.choice(keyed).partition(':')[0]}2: *a2"])


def _deep(rng: random.Random, text: str) -> str:
    unit = rng.choice(("[", "{a: ", "- ", "? "))
    return f"{text}\nnote: {unit * rng.choice((50, 500, 5_000, 50_000))}1"


def _nested(rng: random.Random, text: str) -> str:
    return f"{rng.choice(('all', 'env', '<<', 'model'))}:\n" + "\n".join(f"  {line}" for line in text.split("\n"))


# ---- JSON ----

_JSON_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "x",
        "1",
        "\0",
        "\ud800",
        "a\ud83d",
        "🙂",
        "nan",
        "None",
        "9" * 500,
        "x" * 10_000,
        "<think>",
        "</think>",
    ),
    *([], [[]], [None], [1, "a", None], ["a"], [1.5], [-1], [2**40], [True], ["\ud800"], [{}], [{"role": "user"}]),
    *({}, {"a": None}, {"": 1}, {"role": "user", "content": "x"}, {"a": {"b": [1]}}, {"\ud800": 1}),
    [{"role": "user", "content": "x"}],
    [{"role": "user", "content": None}, {"role": "assistant", "content": "y"}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    [{"role": "user", "content": [1]}],
    [{"role": "user", "content": [{"text": 5}]}],
    [{"role": 5, "content": "x"}],
    [{"from": "human", "value": "x"}, {"from": "gpt", "value": 3}],
    [{"role": "assistant", "content": "x", "tool_calls": [1]}],
)
_JSON_LINES = (
    *(b"", b"{", b"}", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff\xfe", b"\0", b"\xef\xbb\xbf{}", b'{"a": NaN}'),
    *(b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b'{"a": 1}{"b": 2}', b"{'a': 1}", b'{"a": 1,}', b"//"),
    *(b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"a":1,"a":[]}'),
    *(b'{"a":' * n + b"1" + b"}" * n for n in (100, 500, 2_000, 100_000)),
    *(b"[" * n + b"]" * n for n in (500, 100_000)),
)


def json_lines(rng: random.Random, rows: Sequence[dict]) -> bytes:
    """A file of rows with one to three faults, of values for the most part."""
    rows = [dict(row) for row in rows]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        if row:
            _spoil_row(rng, row)
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass") for row in rows]
    place = rng.randrange(len(lines))
    kind = rng.random()
    if kind < 0.1:
        lines[place] = rng.choice(_JSON_LINES)
    elif kind < 0.2:
        lines[place] = damaged(rng, json.dumps(rows[place])).encode(errors="surrogatepass")
    elif kind < 0.23:
        return rng.choice((b"", b"\n\n", b"\0" * 100, rng.randbytes(300), b"\n".join(lines)[: rng.randrange(200)]))
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + b"\n"


def _spoil_row(rng: random.Random, row: dict) -> None:
    name = rng.choice(list(row))
    change = rng.randrange(8)
    if change == 0:
        del row[name]
    elif change == 1:
        row[damaged(rng, name)] = row.pop(name)
    elif change == 2:
        row[rng.choice(("metadata", "task", "question", "messages", "answer", "x"))] = rng.choice(_JSON_VALUES)
    elif change == 3 and isinstance(row[name], str):
        row[name] = damaged(rng, row[name])
    elif change == 4 and isinstance(row[name], (list, dict)) and row[name]:
        row[name] = _spoilt_inside(rng, row[name])
    else:
        row[name] = rng.choice(_JSON_VALUES)


def _spoilt_inside(rng: random.Random, value: list | dict) -> list | dict:
    value = value.copy()
    place = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    inner = value[place]
    deeper = isinstance(inner, (list, dict)) and inner and rng.random() < 0.7
    value[place] = _spoilt_inside(rng, inner) if deeper else rng.choice(_JSON_VALUES)
    return value
