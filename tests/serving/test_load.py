"""Honest clients get right answers whatever others do meanwhile, and nothing piles up."""

import asyncio
import threading
from collections import Counter

import torch

from segzoo.serving.computing import Computing

from .clients import BAD, TOO_LARGE, Picture, visit_all
from .serving import expected, noise, png, running


def test_good_answers_among_bad_requests(tiny):
    pictures = []
    for seed, (height, width) in enumerate([(120, 160), (97, 201), (33, 47), (160, 120)]):
        kind = "JPEG" if seed % 2 else "PNG"
        content = png(noise(height, width, 3, seed=seed), format=kind)
        pictures.append(Picture(content, f"image/{kind.lower()}", expected(tiny, content)))
    with running(tiny, max_bytes=TOO_LARGE // 2, upload_timeout=1.0, batch=2) as server:

        def load(seed):
            visits = visit_all(server.host, pictures, requests=60, clients=8, bad=True, seed=seed)
            assert [visit for visit in visits if not visit.right] == []
            server.wait_for("segzoo_places_taken", 0)
            assert server.metric("segzoo_seats_taken") == 0
            return Counter(visit.name for visit in visits), server.metric(
                "process_resident_memory_bytes"
            )

        seen, before = load(0)
        more, after = load(1)
    assert set(seen + more) == {"good", *BAD}
    assert after <= 1.1 * before


def test_the_model_does_not_wait_for_the_event_loop(tiny):
    """Between two pictures nothing stands still, whatever the loop is busy with."""
    second = threading.Event()
    passes = []

    def observe(count):
        passes.append(count)
        if len(passes) == 2:
            second.set()

    async def both():
        computing = Computing(tiny, 1, observe)
        pixels = torch.zeros(3, 32, 48, dtype=torch.uint8)
        found = [asyncio.ensure_future(computing.segment(pixels, scored=False)) for _ in range(2)]
        await asyncio.sleep(0)  # now they wait for their turns
        assert second.wait(30)  # and the loop is not there to hand anything on
        return await asyncio.gather(*found)

    one, two = asyncio.run(both())
    assert (one.mask == two.mask).all()
    assert one.mask.shape == (32, 48)
    assert passes == [1, 1]
