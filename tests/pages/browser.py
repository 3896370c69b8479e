"""Chromium, and sites on loopback for it to look at."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

#: What a browser is called where it is installed.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
#: A camera that shows a test picture, and the page may use it.
_OPTIONS = (
    *("--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
#: Isolated from other sites: with these headers a browser gives a page threads.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def need(there: bool, what: str) -> None:
    """Skip a test for which something is missing; fail where it must not be."""
    if not there and os.environ.get("SEGZOO_BROWSER_TESTS") == "required":
        pytest.fail(f"the browser's tests are required, and {what} is missing")
    if not there:
        pytest.skip(f"needs {what}")


@contextmanager
def chromium() -> Iterator[Any]:
    need(CHROMIUM is not None, "chromium")
    need(importlib.util.find_spec("playwright") is not None, "playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_OPTIONS))
        yield browser
        browser.close()


class Site(ThreadingHTTPServer):
    """A folder on loopback; ``answers`` go before its files: (path, body) -> status, kind, body."""

    daemon_threads = True
    request_queue_size = (
        64  # a page asks for many files at once; what finds no place waits for seconds
    )

    def __init__(self, folder: Path, headers: dict[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.headers = headers or {}
        self.answers: dict[str, Callable[[bytes], tuple[int, str, bytes]]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: pages that are closed are part of the tests."""


class _Handler(SimpleHTTPRequestHandler):
    server: Site

    def log_message(self, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        answer = self.server.answers.get(urlsplit(self.path).path)
        if answer is None:
            super().do_GET()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, kind, content = answer(body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()


@contextmanager
def serving(folder: Path, headers: dict[str, str] | None = None) -> Iterator[Site]:
    site = Site(folder, headers)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()


class Tab:
    """A page, what it asked for and what its console said."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(120_000)  # of a machine that does much else
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        # What the page makes itself is no request.
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def ready(self) -> Tab:
        self.page.wait_for_selector("body[data-ready=true], #messages li")
        return self

    def give(self, *files: str | Path | dict[str, Any]) -> None:
        """Choose files, and wait until each has a mask or a message."""
        before = self.page.locator("#pictures li").count()
        self.page.set_input_files("#files", list(files))
        self.page.wait_for_function(
            "([before, count]) => {"
            "  const list = document.querySelectorAll('#pictures button:not(.working)').length;"
            "  return list - before + document.querySelectorAll('#messages li').length >= count; }",
            arg=[before, len(files)],
        )

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.click(button)
        download.value.save_as(path)
        return path

    def module(self, name: str, call: str, argument: Any) -> Any:
        """The value of an expression of a module ``m`` of the page and an argument ``a``."""
        return self.page.evaluate(
            f"async (a) => {{ const m = await import('./{name}'); return ({call}); }}", argument
        )

    def close(self) -> None:
        self.context.close()


def change_json(folder: Path, **changes: Any) -> None:
    path = folder / "page.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
