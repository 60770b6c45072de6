"""Asking an OpenAI-compatible server: JSON in, JSON out, and patience with a server that is busy.

1. A busy (429), broken (5xx) or unreachable server is asked again with growing pauses. Whatever would fail again, such
   as a wrong key or model, stops at once.
2. OPENAI_API_KEY goes only to the server that OPENAI_BASE_URL names: a file of problems must not choose who receives a
   key. It is not sent on when that server redirects.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence

from efficient_reasoning.errors import BadInput

RETRY_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)


class Refusal(BadInput):
    """The server answered, and would answer the same again.

    Attributes:
        is_about_body: it has nothing against us, the model or the key, but against what it was sent.
    """

    is_about_body = False


def ask(
    base_url: str, path: str, body: Mapping | None = None, *, name: str, remedy: str, timeout_seconds: float
) -> dict:
    """Post a body, or get without one, and return the reply.

    Args:
        base_url: up to and with "/v1".
        path: behind it, such as "/completions".
        body: becomes JSON.
        name: who is asked, for messages.
        remedy: what to do when no answer comes.
        timeout_seconds: of one try.

    Raises:
        BadInput: the server refuses (`Refusal`), stays unreachable, or does not speak JSON.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    url = base_url.rstrip("/") + path
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"})
    key = os.environ.get("OPENAI_API_KEY")
    if key and base_url == os.environ.get("OPENAI_BASE_URL"):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    for pause_seconds in (*RETRY_PAUSES_SECONDS, None):
        try:
            with urlopen(request, timeout=timeout_seconds) as response:
                reply = json.load(response)
                return reply if isinstance(reply, dict) else {}
        except HTTPError as error:
            said = error.read(200).decode(errors="replace")
            trouble = f"HTTP {error.code}: {said.replace(key, '***') if key else said}"  # some servers say it back
            if error.code != 429 and error.code < 500:
                refusal = Refusal(f"{name} at {url} refused ({trouble}); check address, model and key.")
                refusal.is_about_body = error.code in (400, 413, 422)
                raise refusal from None
        except (OSError, HTTPException) as error:
            trouble = str(error) or type(error).__name__
        except ValueError:
            raise other_protocol(url) from None
        if pause_seconds is not None:
            time.sleep(pause_seconds)
    raise BadInput(f"{name} at {url} does not answer ({trouble}); {remedy}.")


def side_by_side(function: Callable, items: Sequence, concurrency: int) -> list:
    """The function's values, several at a time; the first failure calls off what has not begun."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=concurrency)
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def other_protocol(url: str) -> BadInput:
    """What to raise of a reply that lacks what the protocol promises."""
    return BadInput(f"{url} does not reply like an OpenAI-compatible server; check OPENAI_BASE_URL.")
