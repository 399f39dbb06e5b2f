"""`facepcl.demo.run`: a local page that compares the faces of photos."""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

from facepcl.embedding.encoder import MODEL
from facepcl.errors import MissingPath, OptionError, require
from facepcl.utils.signals import Stopped, until_interrupted

HOST, PORT, MAX_MB = "127.0.0.1", 7860, 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(
    model: str = MODEL,
    *,
    host: str = HOST,
    port: int = PORT,
    detector: str | Path | None = None,
    crops: bool = False,
    folder: str | Path | None = None,
    max_mb: int = MAX_MB,
    progress: bool = False,
) -> None:
    """Serve a local page that compares faces, until Ctrl-C or SIGTERM; then raise KeyboardInterrupt.

    Args:
        model: Weights with branches.
        host: Address to serve at.
        port: Port to serve at.
        detector: YuNet's ONNX file; None downloads it once from the Hub.
        crops: Uploads are face crops, and no detector is needed.
        folder: Where nearest faces are looked for; a visitor may name another only if `host` is local.
        max_mb: The largest file that is accepted.
        progress: Print the address.

    Raises:
        MissingExtra: gradio is not installed.
        OptionError: The port is in use, or an argument is wrong.
        MissingPath: There is no such folder.
        WeightsError: There are no weights.
    """
    if not 1 <= max_mb <= 1000:
        raise OptionError(f"max_mb must be between 1 and 1000 megabytes, not {max_mb}")
    if folder is not None and not os.path.isdir(folder):
        raise MissingPath(f"{folder}: there is no such folder")
    _check_address(host, port)
    with until_interrupted() as received, _environment():
        gr = require("gradio", "demo")
        from facepcl.demo.compare import Comparer
        from facepcl.demo.html import CSS
        from facepcl.demo.page import build_page

        with closing(Comparer(model, detector=detector, crops=crops)) as comparer:
            page = build_page(comparer, str(folder) if folder else None, host in LOOPBACK)
            fonts = ["ui-sans-serif", "system-ui", "sans-serif"]  # the visitor's own: no other host is asked
            theme = gr.themes.Default(primary_hue="teal", font=fonts, font_mono=["ui-monospace", "monospace"])
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                max_file_size=f"{max_mb}mb",
                theme=theme,
                css=CSS,
                footer_links=[],
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
            )
            if progress:
                print(f"the page is at {url} (press Ctrl-C to stop)", flush=True)
            try:
                while not (signal := received()):
                    time.sleep(0.2)
            finally:
                comparer.close()  # first: the page waits for what it computes
                # uvicorn would wait for open pages, and report each that it cuts off
                page.server.config.timeout_graceful_shutdown = 1
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
                page.close(verbose=False)
        raise Stopped("the page is closed; nothing was kept", signal)


def _check_address(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise OptionError(f"port must be between 1 and 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise OptionError(f"host {host!r} is not an address of this machine, such as {HOST}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise OptionError(
                f"cannot listen on {host}:{port} ({reason.lower()}); choose another --port"
            ) from None


@contextmanager
def _environment() -> Iterator[None]:
    """gradio without telemetry, with a temporary folder for uploads, and without a proxy between this machine
    and itself."""
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), *LOOPBACK]))
    with tempfile.TemporaryDirectory(prefix="facepcl-demo-", ignore_cleanup_errors=True) as uploads:
        gradio = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads}
        with patch.dict(os.environ, gradio, NO_PROXY=no_proxy, no_proxy=no_proxy):
            yield
