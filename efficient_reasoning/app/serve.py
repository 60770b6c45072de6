"""Serving the page to this machine, and nothing but the page.

gradio brings routes that read files, fetch addresses and take uploads. The page needs none of them, so what it needs
is named, and everything else is refused before gradio sees it; so is a request that came under another host's name
(DNS rebinding). The browser is told to talk to nobody else.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from efficient_reasoning.errors import BadInput

HOST = "127.0.0.1"
_NEEDED = re.compile(
    r"/(?:config|theme\.css|manifest\.json|favicon\.ico|(?:assets|static)/.+"
    r"|gradio_api/(?:startup-events|cancel|reset|queue/(?:join|data)|heartbeat/\w+))?"
)
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'"
)


class OnlyThePage:
    """ASGI middleware: 404 for what the page does not need, 400 under another name than this host's.

    Args:
        app: the page.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").partition(":")[0]
        if host not in (HOST, "localhost"):
            await PlainTextResponse("This page answers to 127.0.0.1 only.", 400)(scope, receive, send)
            return
        if not _NEEDED.fullmatch(scope["path"]) or ".." in scope["path"]:
            await PlainTextResponse("There is no such thing on this page.", 404)(scope, receive, send)
            return

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def serve(runs: Sequence[str | Path], models: Sequence[str] = (), port: int = 7860) -> None:
    """Show runs of `evaluate` at http://127.0.0.1:PORT until Ctrl-C.

    Args:
        runs: finished run folders.
        models: up to two, folders, Hub ids or "overthinker", to ask questions.
        port: on which to listen.

    Raises:
        BadInput: a folder that is no finished run, a model that does not load, more than two models, a port that is
            in use, or gradio is not installed.
    """
    page = start(runs, models, port)
    try:
        print(f"http://{HOST}:{port} (Ctrl-C ends it)", file=sys.stderr)
        threading.Event().wait()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        page.close(verbose=False)


def start(runs: Sequence[str | Path], models: Sequence[str] = (), port: int = 7860):
    """`serve` without the waiting: the launched `gradio.Blocks`, to be closed by whoever called."""
    from efficient_reasoning.app.runs import open_runs
    from efficient_reasoning.inference import load_reasoner

    if len(models) > 2:
        raise BadInput(f"--model names {len(models)} models; the page shows two side by side, so give one or two.")
    try:
        from starlette.middleware import Middleware

        from efficient_reasoning.app.page import build_page, style
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "starlette"):
            raise
        raise BadInput("The page needs gradio; install it with `pip install 'efficient-reasoning[app]'`.") from None
    _check_port(port)  # before minutes go into loading a model
    opened = open_runs(runs)
    page = build_page(opened, [load_reasoner(model) for model in models])
    page.launch(
        server_name=HOST,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        show_error=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        allowed_paths=[],
        blocked_paths=["/"],
        app_kwargs={"middleware": [Middleware(OnlyThePage)]},
        **style(),
    )
    return page


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            raise BadInput(f"Port {port} is in use or none to be had; name another one with --port.") from None
