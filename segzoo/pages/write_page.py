"""A model as a static site: it runs in the browser of whoever opens it, and asks nobody else."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from .. import checks
from ..architectures.base import SegmentationModel
from ..data.raster import open_raster
from ..errors import ArgumentError, StorageError
from ..files.atomic import check_folder, copy_file, make_folder, replacing, write_text
from ..files.local import listed, path_of
from ..inference.export.export import export
from ..inference.export.exported import ExportedModel, open_exported
from ..inference.export.formats import FORMATS
from ..packages import load_package
from . import runtime as web_runtime
from .site import BROWSER_PIXELS, PAGE_JSON, assets, page_json

_RUNTIME, _EXAMPLES = "runtime", "examples"
#: The name of a model on a site, with the beginning of its checksum.
MODEL_FILE = re.compile(r"model-[0-9a-f]{12}\.onnx")
#: A folder for what is not finished, and the age in seconds after which nobody works on it.
_TEMPORARY, _STALE = ".segzoo-page-", 24 * 3600
#: Endings of pictures that every browser shows.
_SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif")
#: Side of the image that the page asks its browser about first, and how many logits it compares.
_CHECK_SIDE, _CHECK_PLACES = 64, 64
#: Pixels that the page may be told to give a model at once.
_MOST_PIXELS = 1 << 26


def write_page(
    model: SegmentationModel | ExportedModel,
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    examples: Iterable[str | os.PathLike[str]] = (),
    runtime: str | os.PathLike[str] | None = None,
    max_pixels: int = BROWSER_PIXELS,
) -> Path:
    """Write a static site on which anyone can try a model on pictures of their own.

    The model is exported to ONNX and computes in the visitor's browser, by ONNX Runtime Web: on the
    graphics card where the browser has WebGPU, else on the processor. Pictures do not leave the
    visitor's device, and the page asks no other place for anything. Any host of static files
    serves it, and so does ``python -m http.server``.

    ONNX Runtime Web is fetched from npm's registry once, checked, and kept in the user's cache.

    Args:
        model: Of 1 or 3 bands; or a file of :func:`segzoo.open_exported` that ends in ``.onnx``.
        folder: Made where it is missing. A page that is there is replaced; other files stay, but a
            folder that has only others is refused.
        title: Stands above the page, as text; None for the names of architecture and encoder.
        examples: Pictures that a visitor can try. They are published as they are, with what a
            camera wrote into them.
        runtime: Where there is no network: the file of ``npm pack onnxruntime-web``, or the folder
            it was installed in.
        max_pixels: A larger picture is scaled down for the model, and the page says so.

    Returns:
        The page, ``index.html``.

    Raises:
        ArgumentError: The model takes other bands, an example cannot be shown, or the folder is
            somebody else's.
        MissingPackageError: The packages that write ONNX are missing: ``pip install
            "segzoo[page]"``.
        ExportError: The model cannot be exported.
        InputError: An example is no picture.
        StorageError: The runtime cannot be had, or the folder cannot be written.
    """
    if not isinstance(model, (SegmentationModel, ExportedModel)):
        raise ArgumentError(f"write_page takes a segzoo model, got {type(model).__name__}.")
    pictures = _pictures(examples)
    facts = page_json(
        model,
        engine="browser",
        title=_name(model) if title is None else title,
        about=_about(model, named=title is not None),
        max_pixels=checks.integer("max_pixels", max_pixels, minimum=1024, maximum=_MOST_PIXELS),
        examples=[f"{_EXAMPLES}/{quote(name)}" for name in pictures],
    )
    target = path_of("folder", folder)
    with _file_errors(target):
        _check_folder(target)
    for package in (*FORMATS["onnx"].needs, FORMATS["onnx"].runtime):
        load_package(package, extra="page")  # before anything is fetched
    source = web_runtime.find_runtime(runtime)
    # All that can fail is done in a folder of its own; then the parts move to their places.
    with _writing(target), tempfile.TemporaryDirectory(dir=target, prefix=_TEMPORARY) as new:
        made = Path(new)
        exported = _exported(model, made / "model.onnx")
        web_runtime.copy_runtime(source, made / _RUNTIME)
        facts |= _files_of(made, exported)
        _complete(made, facts, pictures)
        before = _earlier(target)
        _move_in(target, made)
        _sweep(target, before, facts["model"]["src"], pictures)
    return target / "index.html"


def _name(model: SegmentationModel | ExportedModel) -> str:
    if isinstance(model, ExportedModel):
        return model.path.stem
    return f"{type(model).__name__} on {model.config.encoder}"


def _about(model: SegmentationModel | ExportedModel, *, named: bool) -> str:
    count = max(model.classes, 2)
    kind = f"{_name(model)}, " if named and isinstance(model, SegmentationModel) else ""
    return f"{kind}{count} classes: each pixel of a picture gets one of them."


def _pictures(examples: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """Examples by the names that they have on the site."""
    if isinstance(examples, (str, bytes, os.PathLike)):
        raise ArgumentError(f"examples must be several paths, got {checks.shown(examples)}.")
    found: dict[str, Path] = {}
    for path in map(Path, examples):
        with open_raster(path):
            pass  # it is a picture
        if path.suffix.lower() not in _SHOWN:
            raise ArgumentError(f"{path} is of a kind that browsers do not show. Save it as PNG.")
        if path.name != path.name.encode(errors="ignore").decode():
            raise ArgumentError(
                f"The example {checks.printable(str(path))} has a name that no address on the web "
                "can have: a part of it is no character. Rename the file."
            )
        if path.name in found:
            raise ArgumentError(f"Two examples have the name {path.name}; rename one of them.")
        found[path.name] = path
    return found


def _check_folder(folder: Path) -> None:
    """Raise for one with something in it that is no page of ours, or that cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is no folder. Choose another one for the page.")
    check_folder(folder)
    if not folder.exists():
        return
    others = [path.name for path in listed(folder) if not path.name.startswith(".")]
    if others and not is_page(folder):
        raise ArgumentError(
            f"{folder} has other files in it ({sorted(others)[0]}) and no page of segzoo. Choose "
            "an empty folder, or a new one."
        )


def is_page(folder: Path) -> bool:
    """Whether :func:`write_page` wrote into a folder before."""
    return bool(_earlier(folder).get("segzoo")) and (folder / "index.html").is_file()


def _earlier(folder: Path) -> dict[str, Any]:
    """What a page that is there was told."""
    try:
        found = json.loads((folder / PAGE_JSON).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _exported(model: SegmentationModel | ExportedModel, path: Path) -> ExportedModel:
    """The model's file at ``path``, opened."""
    if isinstance(model, SegmentationModel):
        fixed = model.encoder.size_rule.fixed
        return open_exported(export(model, path, dynamic=fixed is None, size=fixed))
    if model.path.suffix.lower() != path.suffix or (model.size and model.size[0] != 1):
        raise ArgumentError(
            f"A page needs an ONNX file for one image at a time, got {model.path}. Export it as "
            ".onnx, with a batch of 1 or of any size."
        )
    shutil.copyfile(model.path, path)
    return open_exported(path)


def _files_of(made: Path, exported: ExportedModel) -> dict[str, Any]:
    """What the page is told of its files, and a question with its answer."""
    digest = web_runtime.digest(exported.path, "sha256")[:12]
    return {
        # A new name for each model: nothing that a browser kept can be mistaken for it.
        "model": {"src": f"model-{digest}.onnx", "bytes": exported.path.stat().st_size},
        "runtime": {
            kind: {
                part: {
                    "src": f"{_RUNTIME}/{name}",
                    "bytes": (made / _RUNTIME / name).stat().st_size,
                }
                for part, name in ((part, web_runtime.site_name(n)) for part, n in names.items())
            }
            for kind, names in web_runtime.FILES.items()
        },
        "size": exported.size[1:] if exported.size else None,
        "smallest_side": exported.size_rule.minimum,
        "check": check_values(exported),
    }


def check_values(exported: ExportedModel) -> dict[str, Any]:
    """An image that looks like chance, by its shape, and some logits of the answer to it.

    The page asks its browser the same before it shows anything: drivers of graphics cards have
    faults.
    """
    side = max(_CHECK_SIDE, exported.size_rule.minimum)
    height, width = exported.size[1:] if exported.size else (side, side)
    shape = (1, exported.in_channels, height, width)
    logits = exported(question(shape)).flatten()
    step = max(1, logits.numel() // _CHECK_PLACES)
    places = list(range(0, logits.numel(), step))[:_CHECK_PLACES]
    return {"shape": shape, "places": places, "logits": logits[places].tolist()}


def question(shape: tuple[int, ...]) -> Tensor:
    """Numbers from -1 to 1, the same in every language: the upper 24 bits of a product.

    >>> question((1, 1, 1, 3)).flatten().tolist()
    [0.23606789112091064, -0.5278640985488892, 0.708203911781311]
    """
    count = torch.Size(shape).numel()
    product = torch.arange(1, count + 1, dtype=torch.int64) * 0x9E3779B1 % 2**32
    return ((product >> 8).double() / 2**23 - 1).float().reshape(shape)


def _complete(made: Path, facts: dict[str, Any], pictures: dict[str, Path]) -> None:
    """Put what is left into the folder of the parts: then it is the whole site."""
    os.replace(made / "model.onnx", made / facts["model"]["src"])
    if pictures:
        (made / _EXAMPLES).mkdir()
    for name, path in pictures.items():
        copy_file(path, made / _EXAMPLES / name)
    for name, content in assets().items():
        with replacing(made / name) as temporary:
            temporary.write_bytes(content)
    write_text(made / PAGE_JSON, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")


def _move_in(target: Path, made: Path) -> None:
    """Move the parts to their places; ``page.json`` comes last and makes them one.

    A first page of which a part cannot be moved is gone again: a folder with half a page is
    somebody else's for the next call.
    """
    first = not is_page(target)
    moved: list[Path] = []
    parts = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    try:
        for part in sorted(parts, key=lambda part: part == Path(PAGE_JSON)):
            make_folder((target / part).parent)
            os.replace(made / part, target / part)
            moved.append(part)
    except BaseException:
        if first:
            for part in moved:
                (target / part).unlink(missing_ok=True)
            for name in (_RUNTIME, _EXAMPLES):
                with suppress(OSError):  # it was not made, or has something of somebody else's
                    (target / name).rmdir()
        raise


def _sweep(target: Path, before: dict[str, Any], model: str, pictures: dict[str, Path]) -> None:
    """Remove what an earlier page had and this one has not."""
    for path in target.glob("model-*.onnx"):
        if path.name != model and MODEL_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    listed = before.get("examples")
    known = {quote(path.name): path for path in (target / _EXAMPLES).glob("*")}
    for address in listed if isinstance(listed, list) else ():
        old = known.get(str(address).rpartition("/")[2])
        if old is not None and old.name not in pictures and old.is_file():
            old.unlink()


@contextmanager
def _file_errors(target: Path) -> Iterator[None]:
    """The system's errors in our words."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"The page could not be written to {target}: {error}.") from error


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Make the folder; where the page fails it is gone again, unless it was there before."""
    fresh = not target.exists()
    make_folder(target)
    try:
        with _file_errors(target):
            for path in target.glob(f"{_TEMPORARY}*"):
                if time.time() - path.stat().st_mtime > _STALE:  # of a run that was killed
                    shutil.rmtree(path, ignore_errors=True)
            yield
    finally:
        if fresh and not any(target.iterdir()):
            target.rmdir()
