"""A picture that is posted gets the mask of ``predict``, in every form and to every client."""

import base64
import io
import json

import numpy as np
import pytest
import tifffile
import torch
from huggingface_hub import InferenceClient
from PIL import Image

import segzoo
from segzoo.prediction import pixel_model

from ..helpers import ready, tiny_unet
from ..prediction.tiles import geotiff
from .serving import Gated, expected, noise, png, running

PICTURE = png(noise(37, 53, 3))


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(noise(37, 53, 3), format="JPEG", exif=exif)


def deep():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, noise(37, 53, 3, dtype=np.uint16), photometric="rgb")
    return buffer.getvalue()


def located(tmp_path):
    geotiff(tmp_path / "x.tif", noise(3, 41, 30))
    return (tmp_path / "x.tif").read_bytes()


#: What a picture may be: the bytes of its file, and the type that a client gives it.
PICTURES = {
    "odd sizes": (PICTURE, "image/png"),
    "one pixel": (png(noise(1, 1, 3)), "image/png"),
    "turned by EXIF": (turned(), "image/jpeg"),
    "16 bits": (deep(), "image/tiff"),
    "grey of 16 bits": (png(noise(20, 30, dtype=np.uint16)), "image/png"),
    "grey and opacity": (png(noise(20, 30, 2)), "image/png"),
    "colour and opacity": (png(noise(20, 30, 4)), "application/octet-stream"),
    "a palette": (png(Image.fromarray(noise(20, 30, 3)).quantize(9)), "image/png"),
    "another type than its own": (turned(), "image/png"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_mask_is_that_of_predict(server, tiny, name):
    content, kind = PICTURES[name]
    wanted = expected(tiny, content)
    found = server.mask(content, kind)
    assert found.shape == wanted.shape
    assert np.array_equal(found, wanted)


def test_a_georeferenced_picture(server, tiny, tmp_path):
    content = located(tmp_path)
    assert np.array_equal(server.mask(content, "image/tiff"), expected(tiny, content))


def test_a_form(server, tiny):
    parts = (
        b'--cut\r\nContent-Disposition: form-data; name="filename"\r\n\r\nhello\r\n'
        b'--cut\r\nContent-Disposition: form-data; name="a; filename=b"\r\n\r\nhello\r\n'
        b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + PICTURE + b"\r\n--cut--\r\n"
    )
    found = server.mask(parts, "multipart/form-data; boundary=cut")
    assert np.array_equal(found, expected(tiny, PICTURE))


def segments(answer):
    assert answer.status == 200, answer.body
    return [
        {**item, "mask": np.array(Image.open(io.BytesIO(base64.b64decode(item["mask"]))))}
        for item in json.loads(answer.body)
    ]


def test_segments_part_the_picture_and_have_mean_probabilities(server, tiny):
    mask = expected(tiny, PICTURE)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(PICTURE)))).permute(2, 0, 1)
    probabilities = segzoo.predict_probabilities(tiny, pixels).numpy()
    found = segments(server.post(PICTURE))
    classes = [tiny.class_names.index(item["label"]) for item in found]
    assert classes == sorted(set(mask.ravel().tolist()))
    assert len(classes) > 1
    for index, item in zip(classes, found, strict=True):
        assert item["mask"].dtype == np.uint8
        assert np.array_equal(item["mask"], np.where(mask == index, 255, 0))
        score = probabilities[index][mask == index].mean(dtype=np.float64)
        assert item["score"] == pytest.approx(score, abs=1e-6)


def test_one_logit_tells_two_classes_apart():
    torch.manual_seed(1)
    model = ready(tiny_unet(classes=1, class_names=("car",)))
    with running(model) as server:
        found = segments(server.post(PICTURE))
        mask = server.mask(PICTURE)
    assert np.array_equal(mask, expected(model, PICTURE))
    assert [item["label"] for item in found] == ["background", "car"]
    assert np.array_equal(found[1]["mask"] == 255, mask == 1)
    assert all(0.5 <= item["score"] <= 1 for item in found)


class Rows(Gated):
    """A model of 300 classes: that of a pixel is the number of its row."""

    classes, class_names = 300, None

    def __call__(self, image):
        rows = torch.arange(image.shape[2]).repeat_interleave(image.shape[3])
        return torch.nn.functional.one_hot(rows.reshape(1, *image.shape[2:]), 300).movedim(-1, 1)


class Endless(Gated):
    """A model whose second logit is infinite where a pixel is bright."""

    def __call__(self, image):
        return torch.cat([-image, torch.where(image > 0.5, torch.inf, image)], dim=1)


def test_a_segment_without_a_score_is_not_left_out_without_a_word():
    with running(Endless()) as server:
        answer = server.post(png(noise(9, 7)))
        assert (answer.status, answer.error[:23]) == (422, "The model's logits are ")
        assert [item["label"] for item in segments(server.post(png(noise(9, 7) // 2)))] == ["dark"]
        assert server.mask(png(noise(9, 7))).any()


def test_more_than_256_classes_take_16_bits():
    with running(Rows()) as server:
        found = server.mask(png(noise(290, 7)))
        assert np.array_equal(found, np.arange(290)[:, None].repeat(7, axis=1))
        labels = [item["label"] for item in segments(server.post(png(noise(3, 7))))]
        assert labels == ["class 0", "class 1", "class 2"]


def test_the_hubs_client(server, tiny, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(PICTURE)
    mask = expected(tiny, PICTURE)
    wanted = segments(server.post(PICTURE))
    for address in (f"{server.address}/v1/segment", server.address):
        client = InferenceClient(address)
        for given in (path, str(path), PICTURE):
            found = client.image_segmentation(given)
            assert [item.label for item in found] == [item["label"] for item in wanted]
            for item in found:
                place = tiny.class_names.index(item.label)
                assert np.array_equal(np.array(item.mask) == 255, mask == place)
    least = sorted(item["score"] for item in wanted)[1]
    found = client.image_segmentation(path, threshold=least, subtask="semantic")
    assert [item.score for item in found] == [
        item["score"] for item in wanted if item["score"] >= least
    ]
    assert len(found) == len(wanted) - 1


def test_a_server_reads_the_bands_that_it_was_told(tmp_path):
    values = noise(7, 20, 30, dtype=np.uint16).astype(np.int16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="separate")
    model = Gated()
    app = segzoo.serving.create_app(model, bands=(5,), value_range=(-100.0, 500.0))
    with running(model, app=app) as server:
        found = server.mask((tmp_path / "x.tif").read_bytes(), "image/tiff")
    assert np.array_equal(found, values[4] > 200)


def test_a_file_of_one_size_takes_that_size():
    class Fixed(Gated):
        size = (1, 20, 30)

    with running(Fixed()) as server:
        assert server.mask(png(noise(20, 30))).shape == (20, 30)
        answer = server.post(png(noise(30, 20)))
        assert (answer.status, answer.error) == (
            422,
            "The picture has 20x30 pixels, and this server's model takes 30x20 only.",
        )


def test_the_page_is_there_and_knows_the_model(server, tiny):
    page = server.request("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = [b"style.css", b"app.js", b"icon.svg"]
    assert all(name in page.body for name in names)
    for name in names:
        assert server.request("GET", f"/{name.decode()}").status == 200
    facts = json.loads(server.request("GET", "/page.json").body)
    assert (facts["engine"], facts["segment"]) == ("server", "v1/segment")
    assert [item["name"] for item in facts["classes"]] == list(tiny.class_names)
    assert (facts["max_bytes"], facts["max_pixels"]) == (200_000, 1_000_000)


def test_a_model_that_no_page_can_show_has_its_addresses_all_the_same():
    model = ready(tiny_unet(in_channels=4))
    with running(model) as server:
        page = server.request("GET", "/")
        assert (page.status, "4 bands" in page.error) == (404, True)
        content = png(noise(9, 8, 4))
        assert np.array_equal(server.mask(content), expected(model, content))


def test_the_description_has_examples_that_are_true(server):
    found = json.loads(server.request("GET", "/openapi.json").body)
    assert set(found["paths"]) == {"/v1/segment", "/health", "/ready", "/metrics"}
    post = found["paths"]["/v1/segment"]["post"]
    body = post["requestBody"]["content"]
    assert {"image/png", "multipart/form-data", "application/json"} <= set(body)
    example = json.dumps(body["application/json"]["example"])
    assert server.post(example, "application/json").status == 200
    assert set(post["responses"]) == {"200", "400", "408", "413", "415", "422", "503", "504"}
    (item,) = post["responses"]["200"]["content"]["application/json"]["example"]
    assert Image.open(io.BytesIO(base64.b64decode(item["mask"]))).size == (2, 1)


def test_machines_ask_for_health_readiness_and_counters(server):
    assert server.request("GET", "/health").body == b'{"status":"ok"}'
    assert server.request("GET", "/ready").body == b'{"status":"ready"}'
    before = server.metric("segzoo_pixels_total")
    server.mask(PICTURE)
    assert server.metric("segzoo_pixels_total") == before + 37 * 53
    assert server.metric("segzoo_places") == 18
    assert server.metric("process_resident_memory_bytes") > 0


def test_weights_are_looked_at_when_it_starts_and_logits_for_every_picture(monkeypatch):
    model = ready(tiny_unet())
    with running(model) as server:
        monkeypatch.setattr(pixel_model, "first_infinite", None)  # it would fail if it were called
        assert server.post(png(noise(37, 53, 3))).status == 200
        with torch.no_grad():
            model.head.conv.bias.fill_(torch.nan)
        answer = server.post(png(noise(37, 53, 3)))
        assert answer.status == 422
        assert answer.error.startswith("The model's logits are NaN for a picture of finite pixels")
