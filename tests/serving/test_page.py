"""The page in a real browser, with this server behind it."""

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
        own = (server.address, f"blob:{server.address}")
        assert all(address.startswith(own) for address in page.asked)
        assert all("415" in line for line in page.said)  # the refusal, as a browser tells it
        page.close()
