"""A small trained model as a page for the browser, which the first page shows at work.

It learns from the upper two thirds of the demo's photograph while the site is built, in
seconds. The page is kept in ``docs/generated`` until something it is made of changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image

import segzoo
from segzoo.demo.run import BATCH, Shown, epochs_of, recipe
from segzoo.demo.scene import Scene, coins_scene
from segzoo.errors import SegzooError
from segzoo.pages.runtime import find_runtime
from segzoo.pages.site import assets

#: A small encoder and a narrow decoder: 0.7 million parameters, which any phone loads at once.
ENCODER, WIDTHS = "test_resnet", (64, 48, 32, 24, 16)
STEPS = 48


def write_live(folder: Path) -> str:
    """Write the page into ``folder/live``, unless it is there as it would be written.

    Returns:
        An empty text; or why there is none, in a line. The site does without.
    """
    page, stamp = folder / "live", folder.with_suffix(".json")
    key = {"made of": _digest()}
    if page.is_dir() and stamp.is_file() and json.loads(stamp.read_text()) == key:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    try:
        runtime = find_runtime()  # before anything is trained for it
        scene = coins_scene()
        with tempfile.TemporaryDirectory(prefix="segzoo-live-") as place:
            example = Path(place) / "never-seen.png"
            upper, lower = _parts(scene)
            Image.fromarray(lower.photo.permute(1, 2, 0).contiguous().numpy()).save(
                example
            )
            model = _trained(upper, Path(place) / "model")
            segzoo.write_page(
                model, page, title="Coins", examples=[example], runtime=runtime
            )
    except SegzooError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return str(error)
    stamp.write_text(json.dumps(key))
    return ""


def _parts(scene: Scene) -> tuple[Scene, Scene]:
    """The upper two thirds and the lower one, which is as wide as a window."""
    split = 2 * scene.truth.shape[0] // 3
    return tuple(
        Scene(scene.photo[:, rows], scene.truth[rows], scene.class_names)
        for rows in (slice(None, split), slice(split, None))
    )


def _trained(scene: Scene, folder: Path) -> segzoo.SegmentationModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = segzoo.Unet(
            ENCODER,
            classes=scene.classes,
            class_names=scene.class_names,
            decoder_channels=WIDTHS,
        )
    shown = (Shown(scene, STEPS // epochs_of(STEPS) * BATCH), Shown(scene, 1))
    plan = recipe(scene, steps=STEPS, seed=0)
    return segzoo.train(
        model, shown, out=folder, recipe=plan, device="cpu"
    ).model.eval()


def _digest() -> str:
    """What changes when the page would."""
    found = hashlib.sha256(f"{segzoo.__version__} {torch.__version__}".encode())
    for content in (
        Path(__file__).read_bytes(),
        *(content for _, content in sorted(assets().items())),
    ):
        found.update(content)
    return found.hexdigest()
