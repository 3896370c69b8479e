"""The page in a real browser: its masks are those of ``predict``, and it asks nobody."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from segzoo.data.drawing import overlay, write_mask
from segzoo.data.pictures import read_for_bands, read_mask, read_picture
from segzoo.pages.site import assets, page_json

from .browser import ISOLATED, change_json, serving
from .conftest import NAMES
from .pictures import encoded, noise, png, turned

TIMES = "\N{MULTIPLICATION SIGN}"


def test_the_mask_in_the_page_is_that_of_predict(tab, site, model, tmp_path):
    files = {
        "colour.png": png(noise(123, 171, 3), exif=turned()),
        "clear.png": png(noise(97, 65, 4)),
        "grey & <i>.png": png(noise(55, 131, 1)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    page = tab(site).ready()
    page.give(*(tmp_path / name for name in files))
    assert page.texts("#messages li") == []
    for name, button in zip(files, page.page.locator("#pictures button").all(), strict=True):
        button.click()
        page.page.wait_for_function("(name) => caption.textContent.startsWith(name)", arg=name)
        picture = read_picture(tmp_path / name)
        mask = model.predict(read_for_bands(tmp_path / name, 3))
        saved = read_mask(page.download("#save-mask", tmp_path / "mask.png"))
        assert saved.shape == mask.shape
        assert int((saved != mask).sum()) == 0
        with Image.open(tmp_path / "mask.png") as image:
            assert image.mode == "P"
        shares = mask.flatten().bincount(minlength=3) / mask.numel()
        rows = dict(row.split("\n") for row in page.texts("#legend li"))
        assert rows == {
            NAMES[index]: f"{100 * float(share):.1f} %" for index, share in enumerate(shares)
        }
        drawn = page.download("#save-overlay", tmp_path / "overlay.png")
        if picture.shape[0] != 4:  # under transparency the overlay of a browser is another
            gap = read_picture(drawn)[:3].int() - torch.from_numpy(
                overlay(picture, mask).astype(np.int32)
            ).permute(2, 0, 1)
            assert int(gap.abs().max()) <= 1


def test_it_says_what_it_is_and_works_without_a_mouse(tab, site):
    page = tab(site).ready()
    assert page.page.title() == "<b>Ground</b>"
    assert page.texts("h1") == ["<b>Ground</b>"]
    assert "do not leave this device" in page.texts("#privacy")[0]
    assert "WebAssembly, 1 thread" in page.texts("#made")[0]
    page.page.get_by_role("button", name="try me.png").press("Enter")
    page.page.wait_for_selector("#result:not([hidden])")
    assert (
        "ground, the first class (0), is not tinted until you tick it" in page.texts("#explain")[0]
    )
    assert "try me.png: " in page.page.locator("[role=status]").inner_text()
    tint = page.page.locator("#tint")
    pixels = "(canvas) => canvas.toDataURL()"
    opacity = "(canvas) => getComputedStyle(canvas).opacity"
    assert tint.evaluate(opacity) == "0.4"
    before, look = tint.evaluate(pixels), page.page.locator("#layers").screenshot()
    slider = page.page.get_by_label("Opacity of the mask")
    slider.press("ArrowRight")
    assert (tint.evaluate(opacity), page.texts("output")) == ("0.41", ["41 %"])
    slider.press("Home")
    assert (tint.evaluate(opacity), page.texts("output")) == ("0", ["0 %"])
    assert page.page.locator("#layers").screenshot() != look
    page.page.get_by_role("checkbox", name="ground").press("Space")
    assert tint.evaluate(pixels) != before
    page.page.get_by_role("button", name="Remove all").press("Enter")
    assert page.page.locator("#result").is_hidden()
    assert page.page.evaluate("document.activeElement.id") == "choose"


def bomb(width: int, height: int) -> bytes:
    """A whole PNG of so many pixels, all black, in few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    packer = zlib.compressobj(9)
    row = bytes(width // 8 + 1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BAD = {
    "notes.txt": (b"not a picture", "is text, not a picture"),
    "empty.png": (b"", "is empty"),
    "cut.png": (png(noise(40, 40, 3))[:-40], "was cut off"),
    "cut.jpg": (encoded(noise(90, 90, 3), "JPEG")[:-400], "was cut off"),
    "cut.webp": (encoded(noise(90, 90, 3), "WEBP")[:-9], "was cut off"),
    "cut.gif": (encoded(noise(90, 90, 1), "GIF")[:-9], "was cut off"),
    "cut.bmp": (encoded(noise(90, 90, 3), "BMP")[:-9], "was cut off"),
    "cut.avif": (encoded(noise(90, 90, 3), "AVIF")[:-9], "was cut off"),
    "start.jpg": (encoded(noise(90, 90, 3), "JPEG")[:30], "was cut off"),
    "loop.avif": (encoded(noise(9, 9, 3), "AVIF") + bytes(3) + b"\1free" + bytes(8), "a box without a length"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="5"/></svg>', "an SVG drawing"),
    "scan.tif": (encoded(noise(9, 9, 3), "TIFF"), "a TIFF file, which browsers do not show"),
    "paper.pdf": (b"%PDF-1.7\n\xff", "a PDF document"),
    "noise.bin": (bytes(range(256)), "no picture of a kind that browsers show"),
    "bomb.png": (bomb(30000, 30000), f"30000 {TIMES} 30000 pixels, 900 megapixels"),
    "nothing.png": (b"\x89PNG\r\n\x1a\n" + png(noise(9, 9, 3))[8:16] + bytes(8) + png(noise(9, 9, 3))[24:], "has no pixels"),
    "damaged.png": (png(noise(40, 40, 3)).replace(b"IDAT", b"iDAT"), "cannot be decoded"),
}  # fmt: skip


#: The next picture is decoded when it is let go.
HOLD = """() => {
  const decode = createImageBitmap;
  window.createImageBitmap = (...given) => new Promise((resolve) => {
    window.createImageBitmap = decode;
    window.letGo = async () => {
      resolve(await decode(...given));
      await new Promise((done) => setTimeout(done, 50));
    };
  });
}"""


def test_each_bad_file_has_its_message_and_the_good_one_its_mask(tab, site):
    page = tab(site).ready()
    files = {name: content for name, (content, _) in BAD.items()}
    for name in ("first.png", "good.png"):
        files[name] = png(noise(33, 47, 3))
    assert len(files["bomb.png"]) < 1_000_000
    page.give(
        *({"name": n, "mimeType": "image/png", "buffer": c} for n, c in files.items()),
    )
    messages = page.texts("#messages li")
    assert len(messages) == len(BAD)
    for (name, (_, reason)), message in zip(BAD.items(), messages, strict=True):
        assert message.startswith(name)
        assert reason in message
    first, second = page.page.locator("#pictures button").all()
    assert f"good.png, 47 {TIMES} 33" in page.texts("#caption")[0]
    # The picture that was chosen last is shown, however long others take, and none that is gone.
    page.page.evaluate(HOLD)
    first.click()
    second.click()
    page.page.wait_for_function("caption.textContent.startsWith('good.png')")
    page.page.evaluate("letGo()")
    assert page.texts("#caption")[0].startswith("good.png")
    page.page.evaluate(HOLD)
    first.click()
    page.page.locator("#clear").click()
    page.page.evaluate("letGo()")
    assert page.page.locator("#result").is_hidden()


#: Files of every kind, and how far a pixel may be from Pillow's: kinds that lose something have
#: several decoders.
KINDS = {
    "palette.gif": (encoded(noise(61, 83, 3), "GIF"), 0),
    "inverse.bmp": (encoded(noise(61, 83, 3), "BMP"), 0),
    "clear.webp": (encoded(noise(61, 83, 4), "WEBP", lossless=True, exact=True), 0),
    "gamma.png": (png(noise(61, 83, 3), pnginfo=PngImagePlugin.PngInfo()), 0),
    "turned.jpg": (encoded(noise(61, 83, 3), "JPEG", quality=95, exif=turned()), 3),
    "lossy.webp": (encoded(noise(61, 83, 3), "WEBP"), 3),
    "new.avif": (encoded(noise(61, 83, 3), "AVIF"), 3),
}


def test_the_pixels_of_every_kind_are_those_that_predict_reads(tab, assets_only, tmp_path):
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    files = {**KINDS, "gamma.png": (png(noise(61, 83, 3), pnginfo=gamma), 0)}
    page = tab(assets_only)
    for name, (content, allowed) in files.items():
        (tmp_path / name).write_bytes(content)
        expected = read_picture(tmp_path / name)[:3].int()
        width, height, text = page.module(
            "picture.js",
            "await (async () => {"
            "  const bytes = Uint8Array.from(atob(a[1]), (c) => c.charCodeAt(0));"
            "  const file = new File([bytes], a[0]);"
            "  const picture = await m.openPicture(file, { engine: 'browser' });"
            "  const pixels = m.readPixels(picture.bitmap, picture);"
            "  const text = Array.from(pixels, (v) => String.fromCharCode(v)).join('');"
            "  return [picture.width, picture.height, btoa(text)]; })()",
            [name, base64.b64encode(content).decode()],
        )
        pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
        found = torch.from_numpy(pixels[..., :3].astype(np.int32)).permute(2, 0, 1)
        assert found.shape == expected.shape, name
        assert int((found - expected).abs().max()) <= allowed, name


@pytest.mark.parametrize("classes", [2, 4, 16, 40, 256, 300])
def test_masks_are_read_and_written_whatever_their_bits(tab, assets_only, tmp_path, classes):
    mask = torch.arange(37 * 53).reshape(37, 53) % classes
    content = write_mask(tmp_path / "mask.png", mask, classes=classes).read_bytes()
    width, height, labels, written = tab(assets_only).module(
        "png.js",
        "await (async () => {"
        "  const bytes = Uint8Array.from(atob(a[0]), (c) => c.charCodeAt(0));"
        "  const mask = await m.readMask(bytes.buffer);"
        "  const colors = Array.from({ length: a[1] }, (_, index) => [index & 255, 1, 2]);"
        "  const blob = await m.writeMask(mask, colors);"
        "  const file = Array.from(new Uint8Array(await blob.arrayBuffer()));"
        "  return [mask.width, mask.height, Array.from(mask.labels), file]; })()",
        [base64.b64encode(content).decode(), classes],
    )
    assert torch.equal(torch.tensor(labels).reshape(height, width), mask)
    (tmp_path / "again.png").write_bytes(bytes(written))
    assert torch.equal(read_mask(tmp_path / "again.png"), mask)


def test_large_pictures_are_scaled_with_a_word_on_a_phone_in_the_dark(tab, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "site")
    change_json(tmp_path / "site", max_pixels=4096)
    with serving(tmp_path / "site", ISOLATED) as site:
        page = tab(
            site,
            viewport={"width": 360, "height": 740},
            device_scale_factor=2,
            color_scheme="dark",
            has_touch=True,
        ).ready()
        page.give({"name": "wide.png", "mimeType": "image/png", "buffer": png(noise(100, 200, 3))})
        assert f"The model saw it at 90 {TIMES} 45: scaled" in page.texts("#caption")[0]
        saved = page.download("#save-mask", tmp_path / "mask.png")
        assert read_mask(saved).shape == (100, 200)
        threads = page.page.evaluate("Math.min(navigator.hardwareConcurrency, 8)")
        assert f"WebAssembly, {threads} thread" in page.texts("#made")[0]
        sizes = page.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1]
        dark = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(20, 24, 29)"
        page.page.get_by_role("button", name="Use the camera").click()
        page.page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
        page.page.get_by_role("button", name="Take the picture").click()
        page.page.wait_for_function("() => caption.textContent.startsWith('camera-1.png')")
        assert page.page.evaluate("document.querySelector('video').srcObject") is None


@pytest.mark.speaks
def test_a_browser_that_computes_something_else_is_told_off(tab, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "site")
    check = json.loads((folder / "page.json").read_text())["check"]
    change_json(tmp_path / "site", check={**check, "logits": check["logits"][::-1]})
    with serving(tmp_path / "site") as site:
        page = tab(site).ready()
        assert "differ from the model's" in page.texts("#messages li")[0]
        (tmp_path / "site" / "page.json").write_text("{")
        page.page.reload()
        page.page.wait_for_selector("#messages li")
        assert "This page is not complete" in page.texts("#messages li")[0]
        change = json.loads((folder / "page.json").read_text())
        (tmp_path / "site" / "page.json").write_text(json.dumps(change))
        (tmp_path / "site" / change["model"]["src"]).unlink()
        page = tab(site).ready()  # a new one: the other may have kept the file
        assert "the server answered 404" in page.texts("#messages li")[0]


#: A browser that says it has a graphics card, and has none.
NO_CARD = """
const nothing = { requestAdapter: async () => ({ requestDevice() { throw new Error("no card"); } }) };
Object.defineProperty(navigator, "gpu", { value: nothing });
"""


@pytest.mark.speaks
def test_a_graphics_card_that_fails_is_not_used(tab, folder, model, tmp_path):
    shutil.copytree(folder, tmp_path / "site")
    worker = tmp_path / "site" / "worker.js"
    worker.write_text(worker.read_text() + NO_CARD)
    with serving(tmp_path / "site") as site:
        page = tab(site).ready()
        assert any("WebGPU is not used: " in text for text in page.said)
        assert any(address.endswith("asyncify.wasm") for address in page.asked)
        assert "WebAssembly, 1 thread" in page.texts("#made")[0]
        pixels = noise(45, 33, 3)
        page.give({"name": "a.png", "mimeType": "image/png", "buffer": png(pixels)})
        saved = read_mask(page.download("#save-mask", tmp_path / "mask.png"))
        assert torch.equal(saved, model.predict(torch.from_numpy(pixels).permute(2, 0, 1)))


@pytest.mark.speaks
def test_the_same_page_with_the_model_on_a_server(tab, model, tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    for name, content in assets().items():
        (place / name).write_bytes(content)
    facts = page_json(model, engine="server", max_pixels=10_000, max_bytes=100_000)
    (place / "page.json").write_text(json.dumps(facts))

    def segment(body: bytes) -> tuple[int, str, bytes]:
        (tmp_path / "upload").write_bytes(body)
        picture = read_picture(tmp_path / "upload")
        if picture.shape[-1] == 13:
            return 503, "application/json", b'{"error": "All seats are taken: try again."}'
        if picture.shape[-1] == 14:
            return 502, "text/html", b"<h1>Bad gateway</h1>"
        mask = model.predict(read_for_bands(tmp_path / "upload", 3))
        return 200, "image/png", write_mask(tmp_path / "m.png", mask, classes=3).read_bytes()

    with serving(place) as site:
        site.answers["/v1/segment"] = segment
        page = tab(site).ready()
        assert "sent to the server" in page.texts("#privacy")[0]
        pictures = [noise(77, 51, 3), noise(9, 13, 3), noise(9, 14, 3)]
        files = [
            {"name": f"{n}.png", "mimeType": "image/png", "buffer": png(pixels)}
            for n, pixels in enumerate(pictures)
        ]
        page.give(*files)
        assert page.texts("#messages li") == [
            "1.png: All seats are taken: try again.",
            "2.png: The server answered with status 502. Try again in a while.",
        ]
        saved = read_mask(page.download("#save-mask", tmp_path / "mask.png"))
        expected = model.predict(torch.from_numpy(pictures[0]).permute(2, 0, 1))
        assert torch.equal(saved, expected)
        assert not any("runtime/" in address for address in page.asked)
