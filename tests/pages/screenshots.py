"""The pictures of the page in the documentation: ``python -m tests.pages.screenshots SITE``.

SITE is a folder that ``segzoo demo`` or ``segzoo page`` wrote, with an example to try. Look at what comes out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from .browser import Tab, chromium, serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: File -> how it is looked at.
SHOTS = {
    "page.png": {"viewport": {"width": 1060, "height": 760}},
    "page-dark.png": {"viewport": {"width": 1060, "height": 760}, "color_scheme": "dark"},
    "page-phone.png": {"viewport": {"width": 375, "height": 760}, "device_scale_factor": 1.5},
}


def main(folder: Path) -> None:
    with serving(folder) as site, chromium() as browser:
        for name, options in SHOTS.items():
            tab = Tab(browser, site.url, **options).ready()
            tab.page.locator("#example-list button").first.click()
            tab.page.wait_for_selector("#result:not([hidden])")
            tab.page.mouse.move(0, 0)
            tab.page.evaluate("document.activeElement.blur()")
            tab.page.screenshot(path=IMAGES / name, full_page=True)
            tab.close()
            with Image.open(IMAGES / name) as image:
                small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(IMAGES / name, optimize=True)
            print(IMAGES / name, small.size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
