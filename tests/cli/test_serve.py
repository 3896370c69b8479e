"""``segzoo serve``: it says where it is, ends as it is told to, and refuses what cannot work."""

import asyncio
import contextlib
import http.client
import io
import json
import queue
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.cli import COMMANDS, main
from segzoo.serving import Limits, run, runtimes

from ..helpers import ready, tiny_unet
from ..picture_files import without
from ..serving.serving import expected, noise, png

PICTURE = png(noise(37, 53, 3))


@pytest.fixture
def saved(monkeypatch):
    """A name under which a small model can be loaded."""
    torch.manual_seed(0)
    model = ready(tiny_unet())
    monkeypatch.setattr(runtimes, "from_pretrained", lambda name, revision: model)
    return model


class Client(threading.Thread):
    """One that sends half a picture, then a signal, and the rest when nobody new is let in.

    It sends the signal whatever goes wrong, so that the test ends.
    """

    def __init__(self, number):
        super().__init__()
        self.places, self.number, self.answer = queue.Queue(), number, None

    def run(self):
        try:
            place = self.places.get(timeout=30)
            connection = socket.create_connection(place, timeout=30)
            head = "POST /?format=mask HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            head += f"Content-Length: {len(PICTURE)}\r\n\r\n"
            connection.sendall(head.encode() + PICTURE[:1000])
            while b"segzoo_places_taken 1" not in self.metrics(place):
                time.sleep(0.02)
        finally:
            signal.pthread_kill(threading.main_thread().ident, self.number)
        with connection:
            while self.lets_in(place):
                time.sleep(0.02)
            connection.sendall(PICTURE[1000:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            self.answer = answer.status, answer.read()

    def metrics(self, place):
        connection = http.client.HTTPConnection(*place, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read()

    def lets_in(self, place):
        try:
            socket.create_connection(place, timeout=5).close()
        except OSError:
            return False
        return True


@pytest.fixture
def interruptible():
    """Ctrl-C as at a terminal: what a shell starts in the background takes no notice of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_once_what_is_in_work_is_done(saved, monkeypatch, capsys, number, code):
    client, listen = Client(number), run.listen

    def told(listener):
        address = listen(listener)
        client.places.put(listener.getsockname())
        return address

    monkeypatch.setattr(run, "listen", told)
    before = signal.getsignal(signal.SIGTERM)
    client.start()
    assert main(["serve", "some/my-model", "--port", "0"]) == code
    client.join(30)
    status, body = client.answer
    assert status == 200
    assert np.array_equal(np.array(Image.open(io.BytesIO(body))), expected(saved, PICTURE))
    captured = capsys.readouterr()
    assert captured.out.startswith("some/my-model is at http://127.0.0.1:")
    assert captured.out.endswith(" (Ctrl-C stops it)\n")
    assert captured.err.strip() == ""
    assert signal.getsignal(signal.SIGTERM) is before


def refused(capsys, *arguments):
    assert main(["serve", "my-model", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_what_cannot_work_is_told_in_a_line(saved, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert refused(capsys, "--port", port) == (
            f"segzoo: 127.0.0.1 port {port} cannot be had: Address already in use. Choose another "
            "--host or --port; port 0 is any that is free.\n"
        )
    assert "192.0.2.7 port 8000 cannot be had" in refused(capsys, "--host", "192.0.2.7")
    assert "no-such-host.invalid port" in refused(capsys, "--host", "no-such-host.invalid")
    assert "got 'onx'. Did you mean onnx?" in refused(capsys, "--port", "0", "--runtime", "onx")
    assert "timeout must be between" in refused(capsys, "--port", "0", "--timeout", "-1")
    assert "'--seats'" in refused(capsys, "--seats", "0")
    assert "2 bands were chosen" in refused(capsys, "--port", "0", "--bands", "1,2")
    # Before a model is loaded, which may take its time.
    monkeypatch.setattr(runtimes, "from_pretrained", None)
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        with monkeypatch.context() as patch:
            without(patch, name)
            wanted = f'{name.replace("_", "-")} is needed for this and not installed: pip install "segzoo[serve]".'
            assert wanted in refused(capsys, "--port", "0")


def test_the_limits_are_those_of_the_application(saved, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "run", lambda app, listener, *, patience: seen.append((app, patience)))
    options = "--port 0 --host 0.0.0.0 --max-pixels 999 --max-bytes 5000 --timeout 7 --title Roads"
    assert main(["serve", "my-model", *options.split()]) == 0
    (app, patience), captured = seen[0], capsys.readouterr()
    assert patience == 7
    assert "everybody who can reach this machine can use the model" in captured.err
    assert "my-model is at http://0.0.0.0:" in captured.out
    page = next(route for route in app.routes if route.path == "/page.json")
    facts = json.loads(asyncio.run(page.endpoint()).body)
    assert (facts["title"], facts["max_pixels"], facts["max_bytes"]) == ("Roads", 999, 5000)


def test_the_defaults_are_those_of_the_library():
    command = next(command for command in COMMANDS if command.name == "serve")
    given = {option.name: option.default for option in command.params}
    assert {name: given[name] for name in vars(Limits())} == vars(Limits())
