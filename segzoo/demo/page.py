"""The model that the demo trained as a page for the browser, where what that needs is there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from PIL import Image

from ..architectures.base import from_pretrained
from ..errors import MissingPackageError, SegzooError
from ..files.local import as_typed
from ..pages.write_page import write_page
from .run import DemoResult
from .scene import Scene

_TITLE = "What segzoo's demo learned"


def write_demo_page(result: DemoResult, scene: Scene, folder: Path) -> Path | str:
    """Write the page, with the part of the photograph that was not trained on to try it with.

    Returns:
        The page; or one line that says why there is none and how to get it. The demo has done its
        work without.
    """
    try:
        model = from_pretrained(result.model_folder)
        with tempfile.TemporaryDirectory(prefix="segzoo-demo-") as place:
            photo = scene.right().photo
            examples = []
            if photo.dtype == torch.uint8:  # a browser shows no 16 bits
                examples.append(Path(place) / "never-seen.png")
                Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy()).save(examples[0])
            return write_page(model, folder, title=_TITLE, examples=examples)
    except MissingPackageError:
        command = f"segzoo page {as_typed(result.model_folder)} -o {as_typed(folder)}"
        return f'pip install "segzoo[page]", then: {command}'
    except SegzooError as error:
        return f"not written: {error}"
