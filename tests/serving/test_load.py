"""Honest clients get right answers whatever others do meanwhile, and nothing piles up."""

from collections import Counter

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
