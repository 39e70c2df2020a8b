"""The page: a field for a query, and the answers of all models under it; for this machine alone.

Gradio is imported where it is used, since it comes with an extra.
"""

import signal
import socket
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from potstill.errors import DataError, PotstillError
from potstill.playground.answers import Playground, Query
from potstill.playground.cards import as_cards, as_message, as_notes

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
CSS = Path(__file__).with_name("page.css")
Scope = MutableMapping[str, Any]
"""What an ASGI server tells of a request."""
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "models"}
"""Two queries together would each be timed beside the other."""


class Refusals:
    """Refuses files, which Gradio takes at an address of its own whatever stands on the page, and what other pages send
    here."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        told = refusal(scope)
        if told is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(told, status_code=403)(scope, receive, send)


def refusal(scope: Scope) -> str | None:
    """Why a request is not answered; None where it is."""
    if scope["type"] != "http":
        return None
    if "/upload" in scope["path"]:
        return "This page takes no files."
    headers = dict(scope["headers"])
    # Another page of this machine differs in its port alone.
    if b"origin" in headers and headers[b"origin"] != b"http://" + headers.get(b"host", b""):
        return "This page answers itself alone."
    return None


def page_of(playground: Playground) -> Any:
    """The page, not yet served."""
    import gradio as gr

    def ask(text: str | None, second: str | None, as_chat: bool) -> str:
        # A field that is empty, or that the page does not show, has no text at all.
        try:
            return as_cards(playground.ask(Query(text or "", second or "", as_chat)))
        except DataError as error:
            return as_message(str(error))

    def begin(request: gr.Request) -> tuple[str, str]:
        """A query that stands in the address is answered at once."""
        text = request.query_params.get("query", "")
        return text, ask(text, "", playground.chat) if text else ""

    with gr.Blocks(title=f"potstill: {playground.run}", analytics_enabled=False) as page:
        gr.HTML(as_notes([f"All models of {playground.run}, on the processor of this machine.", *playground.notes]))
        text = gr.Textbox(label="First text" if playground.pairs else "Query", lines=3, autofocus=True)
        second = gr.Textbox(label="Second text", lines=3, visible=playground.pairs)
        as_chat = gr.Checkbox(playground.chat, label="Through the chat template", visible=playground.chat)
        button = gr.Button("Ask", variant="primary")
        answers = gr.HTML(apply_default_css=False)
        button.click(ask, [text, second, as_chat], answers, api_name="ask", **ONE_AT_A_TIME)
        page.load(begin, None, [text, answers], api_visibility="private", **ONE_AT_A_TIME)
    return page


def serve(playground: Playground, port: int | None, *, browser: bool, told: Callable[[str], None]) -> None:
    """Serve the page until a signal arrives.

    Raises:
        PotstillError: the port is not free.
    """
    import gradio as gr

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    page = page_of(playground)
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=free_port(port),
        inbrowser=browser,
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
        css_paths=CSS,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        num_workers=0,
        app_kwargs=guards(),
    )
    told(address)
    ended.wait()
    page.close(verbose=False)


def guards() -> dict[str, Any]:
    """What stands before the page: another site that a browser shows could have its own name lead here."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[*NAMES]), Middleware(Refusals)]}


def free_port(wanted: int | None) -> int:
    """The port that was asked for, or any that is free.

    Raises:
        PotstillError: it is in use, or not for everyone.
    """
    with socket.socket() as found:
        # A page that has ended leaves its port in use for a minute, to all who do not say so.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, wanted or 0))
        except OSError as error:
            raise PotstillError(
                f"--port {wanted}: {error.strerror}. Give another, or none, and a free one is taken."
            ) from None
        return int(found.getsockname()[1])
