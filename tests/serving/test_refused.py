"""What is refused gets a status and a sentence, before any work is done for it; nothing stays."""

import base64
import io
import json
import re
import struct
import tempfile
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from .serving import expected, noise, png

PICTURE = png(noise(37, 53, 3))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def chunk(name, data):
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def bomb(side):
    """A PNG of very many black pixels in few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(2_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(shape):
    file = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}
    tifffile.imwrite(file, np.zeros(shape, np.uint8), **options)
    return file.getvalue()


def animation():
    frames = [Image.fromarray(noise(9, 9, seed=seed)) for seed in range(3)]
    return png(frames[0], format="GIF", save_all=True, append_images=frames[1:])


def hubs(picture=PICTURE, **parameters):
    inputs = base64.b64encode(picture).decode() if isinstance(picture, bytes) else picture
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def form(*files, end=b"--cut--\r\n"):
    head = b'--cut\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + end


FORM = "multipart/form-data; boundary=cut"
JSON = "application/json"
#: Name -> body, its type, status and a part of the sentence.
BAD = {
    "text": (b"hello, I am no picture", "image/png", 415, "cannot be read as a picture"),
    "empty": (b"", "image/png", 415, "The body is empty"),
    "svg": (SVG, "image/svg+xml", 415, "none of PNG, JPEG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/png", 415, "none of PNG, JPEG"),
    "cut": (PICTURE[:3000], "image/png", 415, "cannot be read as a picture: image file is trunc"),
    "cut header": (PICTURE[:20], "image/png", 415, "cannot be read as a picture"),
    "animation": (animation(), "image/gif", 415, "The file holds 3 pictures"),
    "bomb": (
        bomb(30_000),
        "image/png",
        413,
        "30000x30000 pixels, more than the limit of 1,000,000",
    ),
    "by windows": (tiff((1100, 1000, 5)), "image/tiff", 413, "1000x1100 pixels"),
    "many bands": (
        *(tiff((300, 300, 500)), "image/tiff", 413),
        "500 bands of uint8 values, 45,000,000 bytes once they are decoded",
    ),
    "bands": (tiff((9, 9, 7)), "image/tiff", 422, "has 7 bands, and this server's model takes 3"),
    "real": (
        *(png(Image.fromarray(np.ones((9, 9), np.float32)), format="TIFF"), "image/tiff", 415),
        "nothing tells which are black and white",
    ),
    "bytes": (bytes(200_001), "image/png", 413, "larger than 200,000 bytes"),
    "bytes in a form": (form(bytes(200_001)), FORM, 413, "larger than 200,000 bytes"),
    "bytes in JSON": (hubs(bytes(200_001)), JSON, 413, "larger than 200,000 bytes"),
    "curl's type": (PICTURE, "application/x-www-form-urlencoded", 415, "-H 'Content-Type: image/"),
    "type": (PICTURE, "text/html; charset=utf-8", 415, "The body is 'text/html'."),
    "no boundary": (form(PICTURE), "multipart/form-data", 415, "has no boundary"),
    "other boundary": (form(PICTURE), "multipart/form-data; boundary=x", 400, "and is not"),
    "cut form": (form(PICTURE, end=b"")[:-9], FORM, 400, "is a form (multipart/form-data), and is"),
    "no file": (form(), FORM, 422, "The form has 0 files"),
    "two files": (form(PICTURE, PICTURE), FORM, 422, "The form has 2 files"),
    "many parts": (form(*[b""] * 17), FORM, 422, "The form has more than 16 parts"),
    "no JSON": (b"{", JSON, 400, "says that it is JSON, and is not"),
    "deep JSON": (b"[" * 100_000, JSON, 400, "says that it is JSON, and is not"),
    "list": (b"[]", JSON, 422, 'must be {"inputs"'),
    "no base64": (hubs("???"), JSON, 422, "in base64"),
    "parameter": (hubs(treshold=1), JSON, 422, "'treshold'. Did you mean threshold?"),
    "threshold": (hubs(threshold=2), JSON, 422, "threshold must be between 0 and 1, got 2"),
    "NaN": (hubs(threshold=float("nan")), JSON, 422, "threshold must be between 0 and 1, got nan"),
    "task": (hubs(subtask="panoptic"), JSON, 422, "semantic segmentation, not 'panoptic'"),
    "mask": (hubs(mask_threshold=0.5), JSON, 422, "mask_threshold has no meaning"),
    "parameters": (b'{"inputs": "", "parameters": 3}', JSON, 422, "parameters must be an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies(server, name):
    body, kind, status, sentence = BAD[name]
    answer = server.post(body, kind)
    assert answer.status == status, answer.body
    assert sentence in answer.error
    assert answer.error.endswith((".", "?"))
    assert not re.search("0x[0-9a-f]{6}", answer.error), "an address of the process"
    assert (server.metric("segzoo_places_taken"), server.metric("segzoo_seats_taken")) == (0, 0)


def test_a_packed_body(server):
    answer = server.post(zlib.compress(PICTURE), **{"Content-Encoding": "deflate"})
    assert (answer.status, "is packed ('deflate')" in answer.error) == (415, True)


def test_bytes_without_a_length(server, tiny):
    parts = [PICTURE[i : i + 1000] for i in range(0, len(PICTURE), 1000)]
    answer = server.post(iter(parts), path="/v1/segment?format=mask")
    assert np.array_equal(answer.mask(), expected(tiny, PICTURE))
    answer = server.post(iter([bytes(10_000)] * 21))
    assert (answer.status, "larger than 200,000 bytes" in answer.error) == (413, True)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/segment?fromat=mask", "There is no parameter 'fromat'. Did you mean format?"),
        ("/v1/segment?format=maks", "format must be json or mask; got 'maks'. Did you mean mask?"),
    ],
)
def test_other_addresses_are_told_with_the_nearest(server, path, sentence):
    answer = server.post(PICTURE, path=path)
    assert (answer.status, answer.error) == (422, sentence)


def test_other_methods_and_places(server):
    assert server.request("GET", "/v1/segment").status == 405
    assert "POST pictures to v1/segment" in server.request("GET", "/v1/segment").error
    assert server.request("GET", "/../../etc/passwd").status == 404
    assert server.request("GET", "/docs").status == 404  # it would load scripts from elsewhere


def test_nothing_is_written_to_a_disk(server, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file")

    for made in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, made, refuse)
    large = png(noise(250, 250, 3))
    assert len(large) > 180_000
    for body, kind in ((large, "image/png"), (form(large), FORM), (hubs(large), JSON)):
        assert server.post(body, kind).status == 200


def test_a_fault_of_the_server_is_told_without_its_details(tiny, monkeypatch, caplog):
    from segzoo.serving import computing

    from .serving import running

    with running(tiny) as own:
        monkeypatch.setattr(computing.Computing, "_compute", lambda *_: 1 / 0)
        answer = own.post(PICTURE)
        assert (answer.status, "division" in answer.error) == (500, False)
        assert "ZeroDivisionError" in caplog.text

        def broken(*_):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(computing.Computing, "_compute", broken)
        assert own.post(PICTURE).status == 500  # a smaller picture would not help
        assert "illegal memory access" in caplog.text

        def forget(*_):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(computing.Computing, "_compute", forget)
        answer = own.post(PICTURE)
        assert (answer.status, "not enough memory for a picture of 53x37" in answer.error) == (
            413,
            True,
        )
