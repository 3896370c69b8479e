"""Our PNG files hold what they were given, for every reader; overlays are what the formula says."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.data import png
from segzoo.data.drawing import class_colors, overlay
from segzoo.data.png import encode_png

RNG = np.random.default_rng(0)


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # every checksum is looked at
        return image.mode, np.array(image)


@pytest.mark.parametrize(
    ("shape", "kind", "mode"),
    [
        ((1, 1), np.uint8, "L"),
        ((37, 53), np.uint8, "L"),
        ((1, 53), np.uint16, "I;16"),
        ((37, 1), np.uint16, "I;16"),
        ((37, 53, 3), np.uint8, "RGB"),
        ((1, 1, 3), np.uint8, "RGB"),
    ],
)
@pytest.mark.parametrize("stripe", [1, 200, 1 << 18])
def test_pixels_come_back_as_they_were(monkeypatch, shape, kind, mode, stripe):
    monkeypatch.setattr(png, "_STRIPE", stripe)  # rows one by one, by a few, all at once
    pixels = RNG.integers(0, np.iinfo(kind).max + 1, shape).astype(kind)
    found, values = decoded(encode_png(pixels))
    assert found == mode
    assert np.array_equal(values, pixels)
    # As views, too: of a larger picture, and turned.
    for view in (pixels[::-1, ::-1], pixels.swapaxes(0, 1)):
        assert np.array_equal(decoded(encode_png(view))[1], view)


@pytest.mark.parametrize(
    ("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)]
)
@pytest.mark.parametrize("width", [1, 7, 8, 13])
def test_a_palette_is_kept_with_its_numbers(count, bits, width):
    pixels = RNG.integers(0, count, (11, width)).astype(np.uint8)
    colors = class_colors(count)
    content = encode_png(pixels, palette=colors.tobytes())
    assert content[24] == bits
    mode, values = decoded(content)
    assert mode == "P"
    assert np.array_equal(values, pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(np.array(image.convert("RGB")), colors[pixels])


@pytest.mark.parametrize("classes", [2, 3, 12, 40])
def test_masks_are_about_as_small_as_those_of_a_general_encoder(classes):
    rows, columns = np.mgrid[:240, :320]
    mask = ((rows - 120) ** 2 + (columns - 90) ** 2 < 70**2) + 2 * (columns > 200 + rows // 7)
    pixels = (mask % classes + (classes - 3) * (rows > 200 + columns // 9)) % classes
    general = Image.fromarray(pixels.astype(np.uint8))
    general.putpalette(class_colors(classes).tobytes())
    buffer = io.BytesIO()
    general.save(buffer, "PNG")
    ours = encode_png(pixels.astype(np.uint8), palette=class_colors(classes).tobytes())
    assert len(ours) <= 1.3 * len(buffer.getvalue())


@pytest.mark.parametrize("bands", [1, 3])
def test_overlays_are_about_as_small_as_those_of_a_general_encoder(bands):
    rough = Image.fromarray(RNG.integers(0, 256, (9, 12, bands)).astype(np.uint8).squeeze())
    smooth = np.array(rough.resize((320, 240)).convert("RGB")).astype(int)
    pixels = (smooth + RNG.integers(-2, 3, (240, 320, bands))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    assert len(encode_png(pixels)) <= 1.1 * len(buffer.getvalue())


@pytest.mark.parametrize("classes", [1, 2, 11, 130, 256, 300])
@pytest.mark.parametrize("opacity", [0.0, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_overlays_are_what_the_formula_says(classes, opacity, kind):
    """Written out once more, in float32, whichever way the pixels are found."""
    size = (3, 18, 25)
    values = RNG.random(size, dtype=np.float32)
    if kind == "uint8":
        values = (values * 256).astype(np.uint8)
        shown = values.astype(np.float32)
    elif kind == "uint16":
        values = (values * 4096).astype(np.uint16)
        shown = values.astype(np.float32) * (255 / float(values.max()))
    else:
        shown = values * 255
    labels = RNG.integers(0, classes, (6, 9)).repeat(3, 0).repeat(3, 1)[:, : size[2]]
    labels[-1, -1] = classes - 1
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([other != labels for other in around], axis=0)
    weight = np.where(border, 1, np.float32(opacity)) * (labels > 0)
    tint = class_colors(classes)[labels].transpose(2, 0, 1)
    expected = (shown + weight.astype(np.float32) * (tint - shown)).round()
    found = overlay(torch.from_numpy(values), torch.from_numpy(labels), opacity=opacity)
    assert np.array_equal(found.transpose(2, 0, 1), expected)
