"""The page in a real browser, with this server behind it."""

import io

import numpy as np
from PIL import Image

from segzoo.data.pictures import read_mask

from ..pages.browser import Tab, chromium
from .serving import expected, noise, png


def animation():
    frames = [Image.fromarray(noise(9, 9, seed=seed)) for seed in range(3)]
    return png(frames[0], format="GIF", save_all=True, append_images=frames[1:])


def test_the_page_shows_the_servers_mask_and_its_reasons(server, tiny, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = png(noise(37, 53, 3), format="JPEG", exif=exif)
    with chromium() as browser:
        page = Tab(browser, server.address)
        page.ready().give(
            {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo},
            {"name": "moving.gif", "mimeType": "image/gif", "buffer": animation()},
        )
        assert page.texts("#messages li") == [
            "moving.gif: The file holds 3 pictures. Save the one you mean as a file of its own."
        ]
        mask = read_mask(page.download("#save-mask", tmp_path / "mask.png"))
        assert np.array_equal(mask.numpy(), expected(tiny, photo))
        _scales_what_is_too_large(page, server, tiny, tmp_path)
        own = (server.address, f"blob:{server.address}")
        assert all(address.startswith(own) for address in page.asked)
        assert all("415" in line for line in page.said)  # the refusal, as a browser tells it
        page.close()


def _scales_what_is_too_large(page, server, tiny, tmp_path):
    """The server takes 200 kB and 1 megapixel: of more it gets all of the picture, smaller."""
    rough = Image.fromarray(noise(6, 8, 3))
    large = png(rough.resize((1301, 907), Image.Resampling.NEAREST))
    noisy = png(noise(301, 401, 3))
    assert len(large) < 200_000 < len(noisy)
    sent = []
    page.page.on("request", lambda request: sent.append(request.post_data_buffer))
    for name, content, limit in (("large.png", large, 1_000_000), ("noisy.png", noisy, 1 << 40)):
        sent.clear()
        page.give({"name": name, "mimeType": "image/png", "buffer": content})
        page.page.wait_for_function("(name) => caption.textContent.startsWith(name)", arg=name)
        assert page.texts("#messages li") == []
        (body,) = filter(None, sent)
        assert len(body) <= 200_000
        with Image.open(io.BytesIO(body)) as image:
            width, height = image.size
        with Image.open(io.BytesIO(content)) as image:
            full = image.size
        assert width * height <= limit
        assert abs(width / height - full[0] / full[1]) < 0.01
        assert width * height > 0.3 * min(limit, full[0] * full[1])
        assert (
            f"The server saw it at {width} \N{MULTIPLICATION SIGN} {height}: "
            in (page.texts("#caption")[0])
        )
        saved = read_mask(page.download("#save-mask", tmp_path / "mask.png")).numpy()
        assert saved.shape == full[::-1]
        rows = ((np.arange(full[1]) + 0.5) * height / full[1]).astype(int)
        columns = ((np.arange(full[0]) + 0.5) * width / full[0]).astype(int)
        assert np.array_equal(saved, expected(tiny, body)[rows[:, None], columns])
