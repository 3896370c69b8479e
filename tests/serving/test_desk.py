"""Places, seats and time-outs: who is refused when, and that nothing stays taken."""

import contextlib
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest
import torch

from segzoo.errors import ArgumentError, InputError
from segzoo.serving import Limits, computing, create_app

from .serving import Gated, Running, noise, png, running

PICTURE = png(noise(20, 30))


class Background:
    """A request whose answer is asked for later."""

    def __init__(self, server: Running, body: bytes) -> None:
        self._thread = threading.Thread(target=self._post, args=(server, body))
        self._thread.start()

    def _post(self, server: Running, body: bytes) -> None:
        self._answer = server.post(body, path="/v1/segment?format=mask")

    def answer(self):
        self._thread.join()
        return self._answer


def opened(server: Running, length: int = 10_000, sent: bytes = PICTURE[:100]) -> socket.socket:
    """A connection whose upload has begun."""
    host, _, port = server.host.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/segment HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: image/png\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + sent)
    return connection


def read_answer(connection: socket.socket):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())["error"]


def free(server: Running) -> None:
    server.wait_for("segzoo_places_taken", 0)
    assert server.metric("segzoo_seats_taken") == 0


def test_all_places_taken_is_told_at_once_and_passes():
    model = Gated()
    with running(model, seats=1, queue=1) as server:
        model.shut()
        waiting = [Background(server, PICTURE)]
        assert model.entered.acquire(timeout=20)
        waiting.append(Background(server, PICTURE))
        server.wait_for("segzoo_places_taken", 2)
        assert server.metric("segzoo_seats_taken") == 1
        answer = server.post(PICTURE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "all 2 places are taken. Try again" in answer.error
        ready = server.request("GET", "/ready")
        assert (ready.status, ready.error) == (503, "All places are taken.")
        assert server.request("GET", "/health").status == 200
        model.gate.set()
        masks = [item.answer().mask() for item in waiting]
        free(server)
        assert server.request("GET", "/ready").status == 200
        assert np.array_equal(server.post(PICTURE, path="/v1/segment?format=mask").mask(), masks[0])


class Failing(Gated):
    """As on a GPU that fails once pictures come."""

    fails = False

    def __call__(self, image):
        if self.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().__call__(image)


@pytest.mark.parametrize("lost", [True, False])
def test_a_server_whose_gpu_is_lost_says_so_where_it_is_watched(lost, monkeypatch):
    asked = []
    monkeypatch.setattr(computing, "is_lost", lambda device: asked.append(device) or lost)
    model = Failing()
    with running(model) as server:
        assert server.request("GET", "/health").status == 200
        model.fails = True
        assert server.post(PICTURE).status == 500
        assert asked == [torch.device("cpu")]
        for path in ("/health", "/ready"):
            answer = server.request("GET", path)
            assert answer.status == (503 if lost else 200), path
            assert not lost or "start the server again" in answer.error


def test_a_late_answer_is_504_and_its_seat_is_taken_until_the_model_is_done():
    model = Gated()
    with running(model, seats=1, queue=3, timeout=0.8) as server:
        model.shut()
        answers = [Background(server, PICTURE) for _ in range(3)]
        for item in answers:  # one computes, and two have waited for a seat
            answer = item.answer()
            assert (answer.status, "within 0.8 seconds" in answer.error) == (504, True)
        server.wait_for("segzoo_places_taken", 1)
        assert server.metric("segzoo_seats_taken") == 1
        model.gate.set()
        free(server)
        assert model.batches == [1]
        assert server.post(PICTURE).status == 200


def test_nobody_computes_for_clients_that_have_gone():
    model = Gated()
    with running(model, seats=1, queue=3) as server:
        model.shut()
        connections = []
        for taken in (1, 2, 3):
            connections.append(opened(server, len(PICTURE), PICTURE))
            server.wait_for("segzoo_places_taken", taken)
        assert model.entered.acquire(timeout=20)
        for connection in connections:
            connection.close()
        server.wait_for("segzoo_places_taken", 1)  # the one whose thread cannot be stopped
        model.gate.set()
        free(server)
        assert model.batches == [1]
        assert server.metric('segzoo_answers_total{status="499"}') == 3


def test_uploads_that_are_slow_or_end_in_the_middle_give_their_places_back():
    with running(Gated(), seats=1, queue=2, upload_timeout=1.2) as server:
        slow, killed, silent = opened(server), opened(server), opened(server, sent=b"")
        server.wait_for("segzoo_places_taken", 3)
        assert server.post(PICTURE).status == 503
        assert server.metric("segzoo_seats_taken") == 0, "an upload takes no seat"
        # Closed without a goodbye.
        killed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        killed.close()
        server.wait_for("segzoo_places_taken", 2)
        with contextlib.suppress(OSError):
            for _ in range(5):  # a little now and then does not help
                slow.sendall(PICTURE[100:110])
                time.sleep(0.05)
        for connection in (slow, silent):
            status, sentence = read_answer(connection)
            assert (status, "not here after 1.2 seconds" in sentence) == (408, True)
            assert connection.recv(1) == b"", "the connection is closed"
            connection.close()
        free(server)
        assert server.post(PICTURE).status == 200


def test_an_endless_body_is_not_listened_to_for_ever():
    with running(Gated(), max_bytes=1000, upload_timeout=20) as server:
        connection = opened(server, length=10**9)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(bytes(100_000))
        connection.close()
        free(server)
        assert server.metric('segzoo_answers_total{status="413"}') == 1


def test_a_client_that_asks_first_sends_nothing_in_vain():
    with running(Gated(), max_bytes=1000) as server:
        host, _, port = server.host.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(
                f"POST /v1/segment HTTP/1.1\r\nHost: {server.host}\r\n"
                "Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            status, sentence = read_answer(connection)
            assert (status, "larger than 1,000 bytes" in sentence) == (413, True)


def test_pictures_of_equal_size_are_computed_together():
    model = Gated()
    bodies = [png(noise(20, 30, seed=seed)) for seed in range(5)]
    other = png(noise(30, 20, seed=9))
    with running(model, seats=8, batch=3) as server:
        alone = [server.mask(body) for body in (*bodies, other)]
        assert len({mask.tobytes() for mask in alone}) == 6
        model.shut()
        first = Background(server, PICTURE)
        server.wait_for("segzoo_seats_taken", 1)
        waiting = []
        for count, body in enumerate((*bodies, other), 2):
            waiting.append(Background(server, body))
            server.wait_for("segzoo_seats_taken", count)
        server.wait_for('segzoo_stage_seconds_count{stage="decode"}', 6 + 7)
        model.gate.set()
        masks = [item.answer().mask() for item in waiting]
        first.answer().mask()
        assert all(map(np.array_equal, masks, alone))
        assert model.batches == [1, 3, 2, 1]
        assert server.metric("segzoo_batch_pictures_sum") == 6 + 7


class Picky(Gated):
    """One that cannot take white pictures."""

    def __call__(self, image):
        logits = super().__call__(image)
        white = image.amin((1, 2, 3)) == 1
        if white.all():
            raise InputError("The picture is white.")
        if white.any():
            raise RuntimeError("one of the pictures is white")
        return logits


def test_a_picture_that_fails_does_not_fail_those_beside_it():
    model = Picky()
    with running(model, seats=4, batch=4) as server:
        wanted = server.mask(PICTURE)
        model.shut()
        first = Background(server, PICTURE)
        server.wait_for("segzoo_seats_taken", 1)
        bad = Background(server, png(np.full((20, 30), 255, np.uint8)))
        good = Background(server, PICTURE)
        server.wait_for('segzoo_stage_seconds_count{stage="decode"}', 4)
        model.gate.set()
        assert np.array_equal(first.answer().mask(), wanted)
        assert np.array_equal(good.answer().mask(), wanted)
        answer = bad.answer()
        assert (answer.status, answer.error) == (422, "The picture is white.")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"seats": 0}, "seats must be between 1 and 1024, got 0"),
        ({"queue": -1}, "queue must be between 0"),
        ({"max_bytes": "20M"}, "max_bytes must be an integer, got '20M'"),
        ({"timeout": float("inf")}, "timeout must be between"),
        ({"batch": True}, "batch must be an integer, got True"),
        ({"batch": 3}, "batch=3 needs as many seats"),
    ],
    ids=str,
)
def test_limits_that_cannot_work(limits, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Limits(**limits)


def test_models_that_cannot_be_served():
    with pytest.raises(InputError, match="Linear cannot be predicted with: it has no classes"):
        create_app(torch.nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=r"limits must be segzoo\.serving\.Limits, got 3"):
        create_app(Gated(), limits=3)
    with pytest.raises(ArgumentError, match="2 bands were chosen, and the model takes 1"):
        create_app(Gated(), bands=(1, 2))

    class Pairs(Gated):
        size = (2, 64, 64)

    with pytest.raises(ArgumentError, match="exported for 2 images at once"):
        create_app(Pairs())

    class Broken(Gated):
        def __call__(self, image):
            return image[:, :, 1:]

    with pytest.raises(InputError, match="The model gave logits of the shape"):
        create_app(Broken())

    class Nameless:
        classes, in_channels, threshold = 2, 1, 0.0
        normalization = Gated.normalization

        def __call__(self, image):
            return torch.cat([image, image], dim=1)

    with pytest.raises(InputError, match="Nameless has no class_names"):
        create_app(Nameless())
