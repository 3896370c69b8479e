"""What the tests of the server share: one that really listens, models to look into, pictures."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import torch
import uvicorn
from PIL import Image

from segzoo import Normalization
from segzoo.serving import Limits, create_app
from segzoo.serving.run import bound, listen


@dataclass
class Answered:
    """An answer: its status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sentence of a refusal, which has nothing else."""
        content = json.loads(self.body)
        assert list(content) == ["error"]
        return str(content["error"])

    def mask(self) -> np.ndarray:
        """The numbers of the classes in a PNG."""
        assert (self.status, self.headers["content-type"]) == (200, "image/png"), self.body[:300]
        return np.array(Image.open(io.BytesIO(self.body)))


@dataclass
class Running:
    """A server that listens on loopback."""

    address: str

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def request(self, method, path, body=None, headers=None) -> Answered:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, names, response.read())

    def post(self, body, kind="image/png", path="/v1/segment", **headers) -> Answered:
        return self.request("POST", path, body, {"Content-Type": kind, **headers})

    def mask(self, body, kind="image/png") -> np.ndarray:
        return self.post(body, kind, "/v1/segment?format=mask").mask()

    def metric(self, name: str) -> float:
        """A line of /metrics by its beginning."""
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has a value: it says when something has ended on the other side."""
        until = time.monotonic() + 20
        while self.metric(name) != value:
            assert time.monotonic() < until, (name, self.metric(name), value)
            time.sleep(0.01)


@contextlib.contextmanager
def running(model, *, app=None, **limits) -> Iterator[Running]:
    """A model's server, in a thread of its own."""
    app = app or create_app(model, limits=Limits(**limits))
    with bound("127.0.0.1", 0) as listener:
        address = listen(listener)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Running(address)
        finally:
            server.should_exit = True
            thread.join()


class Gated:
    """A model of two classes, bright and dark, that answers once its gate is open."""

    classes, in_channels, threshold = 2, 1, 0.0
    class_names = ("dark", "bright")
    normalization = Normalization((0.5,), (0.5,))

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.shut(False)

    def shut(self, shut: bool = True) -> None:
        """From now on pictures wait at the gate; what was counted before is forgotten."""
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        if shut:
            self.gate.clear()

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.batches.append(image.shape[0])
        self.entered.release()
        assert self.gate.wait(30)
        return torch.cat([-image, image], dim=1)


def png(values, **options) -> bytes:
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def noise(*shape, dtype=np.uint8, seed=0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def expected(model, content: bytes) -> np.ndarray:
    """What ``predict`` gives for a picture read from the disk."""
    import tempfile
    from pathlib import Path

    from segzoo.data.raster import open_raster
    from segzoo.folders.picture import read_for_model
    from segzoo.folders.task import Reading

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(content)
        with open_raster(path) as raster:
            _, pixels = read_for_model(raster, model.in_channels, Reading())
        return model.predict(pixels).numpy()
