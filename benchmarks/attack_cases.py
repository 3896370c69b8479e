"""What strangers send, by kind: each case is made in a folder, and each kind has an honest one."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import hub_server
from tests.fuzzing import CORPUS
from tests.storage.test_hostile import CONFIGS, FILES

from .kill_actions import marked

#: The honest case of a kind, against which memory is measured.
HONEST = "honest"


@dataclass(frozen=True)
class Case:
    """A case.

    Args:
        kind: What comes from a stranger.
        name: What is wrong with it; :data:`HONEST` for nothing.
        action: What is done with it, a name in ``benchmarks.attacks``.
        target: A path or a repository.
    """

    kind: str
    name: str
    action: str
    target: str


def cases(root: Path, hub: hub_server.HubServer) -> Iterator[Case]:
    """All of them; files are made in ``root``."""
    model = marked(2).save_pretrained(root / "model")
    yield from folders(root, model)
    yield from cards(root, model)
    yield from repositories(model, hub)
    yield from pictures(root / "pictures")
    yield from masks(root / "masks")
    yield from checkpoints(root / "checkpoints")


def folders(root: Path, model: Path) -> Iterator[Case]:
    """Configs and weights of models."""
    for kind in ("config", "weights"):
        yield Case(kind, HONEST, "load", str(model))
    hostile = {"config": CONFIGS, "weights": FILES}
    for kind, made in hostile.items():
        for number, (name, (change, _)) in enumerate(made.items()):
            folder = Path(shutil.copytree(model, root / f"{kind}{number}"))
            change(folder)
            yield Case(kind, name, "load", str(folder))
    for kind, file in (("config", "config.json"), ("weights", "header")):
        for path in sorted((CORPUS / ("config" if kind == "config" else "header")).iterdir()):
            folder = Path(shutil.copytree(model, root / f"{kind}-{path.stem}"))
            data = path.read_bytes()
            weights = struct.pack("<Q", len(data)) + data + bytes(64)
            (folder / ("model.safetensors" if file == "header" else file)).write_bytes(
                weights if file == "header" else data
            )
            yield Case(kind, path.stem, "load", str(folder))
    folder = Path(shutil.copytree(model, root / "sized"))
    config = json.loads((folder / "config.json").read_text())
    config["arguments"].update(encoder="crossvit_base_240.in1k", image_size=[16383, 9001])
    (folder / "config.json").write_text(json.dumps(config))
    yield Case("config", "an image of 16383x9001", "load", str(folder))


def cards(root: Path, model: Path) -> Iterator[Case]:
    """README.md in a folder that is saved to, or evaluated."""

    def devices(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "a pipe", lambda: os.mkfifo(path)
        yield "a link to a device", lambda: path.symlink_to("/dev/zero")
        yield "a folder", path.mkdir
        yield "400 MiB", lambda: (path.touch(), os.truncate(path, 400 * 2**20))

    yield Case("card", HONEST, "save", str(Path(shutil.copytree(model, root / "card"))))
    for number in range(4):
        folder = Path(shutil.copytree(model, root / f"card{number}"))
        (folder / "README.md").unlink()
        name, make = list(devices(folder / "README.md"))[number]
        make()
        yield Case("card", name, "save", str(folder))
    for path in sorted((CORPUS / "card").iterdir()):
        folder = Path(shutil.copytree(model, root / f"card-{path.stem}"))
        shutil.copyfile(path, folder / "README.md")
        yield Case("card", path.stem, "save", str(folder))


def repositories(model: Path, hub: hub_server.HubServer) -> Iterator[Case]:
    """Repositories on the Hub."""
    honest = {name: (model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    made: dict[str, dict[str, bytes]] = {
        HONEST: {},
        "a card of 400 MiB": {"README.md": bytes(400 * 2**20)},
        "a config of 200 MiB": {"config.json": b" " * (200 * 2**20)},
        "weights of 400 MiB": {"model.safetensors": bytes(400 * 2**20)},
        "a picture of 200 MiB": {"README.md": b"example.png", "example.png": bytes(200 * 2**20)},
        "names that lead out": {"README.md": b"../../evil.png", "../../evil.png": b"x"},
        "a config of another library": {"config.json": b'{"_model_class": "Unet"}'},
        "a pickle": {"model.safetensors": pickle.dumps({"a": 1}), "pytorch_model.bin": b"\x80"},
    }
    for number, (name, files) in enumerate(made.items()):
        hub.add(f"user/repo{number}", {**honest, **files})
        yield Case("repository", name, "pull", f"user/repo{number}")


def pictures(folder: Path) -> Iterator[Case]:
    """Files that are to be segmented."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    honest = chance.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(honest).save(folder / "honest.png")
    yield Case("picture", HONEST, "picture", str(folder / "honest.png"))
    for path in sorted((CORPUS / "picture").iterdir()):
        yield Case("picture", path.stem, "picture", str(path))
    for name, write in (
        ("of 300,000 pages", _pages),
        ("of 2,000,000 frames", _frames),
        ("of left out tiles", _left_out),
        ("of one large strip", _strip),
        ("of many pixels", _many_pixels),
        ("a pipe", os.mkfifo),
        ("a device", lambda path: path.symlink_to("/dev/zero")),
        ("a link in a circle", lambda path: path.symlink_to(path)),
        ("a zip", lambda path: path.write_bytes(_zip({"a": bytes(2**20)}))),
        ("empty", lambda path: path.touch()),
    ):
        path = folder / name.replace(" ", "-")
        write(path)
        yield Case("picture", name, "picture", str(path))


def masks(folder: Path) -> Iterator[Case]:
    """Files that are to be learned from."""
    folder.mkdir()
    labels = (np.indices((512, 512)).sum(axis=0) // 100 % 3).astype(np.uint8)
    Image.fromarray(labels).save(folder / "honest.png")
    yield Case("mask", HONEST, "mask", str(folder / "honest.png"))
    rgb = Image.fromarray(np.dstack([labels * 100] * 3))
    for name, options in {
        "a.jpg": {},
        "jpeg.png": {"format": "JPEG"},
        "a.webp": {},
        "a.avif": {},
        "jpeg.tif": {"compression": "jpeg"},
        "a.jp2": {"irreversible": True},
    }.items():
        rgb.save(folder / name, **options)
        yield Case("mask", name, "mask", str(folder / name))
    tifffile.imwrite(folder / "signed.tif", labels.astype(np.int8) - 2)
    yield Case("mask", "negative", "mask", str(folder / "signed.tif"))
    tifffile.imwrite(folder / "fraction.tif", labels + np.float32(0.5))
    yield Case("mask", "fractions", "mask", str(folder / "fraction.tif"))
    (folder / "pipe.png").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.png")
    yield Case("mask", "a pipe", "mask", str(folder / "pipe.png"))


def checkpoints(folder: Path) -> Iterator[Case]:
    """Files of other libraries."""
    import segmentation_models_pytorch as smp

    folder.mkdir()
    model = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 16, 8, 8, 8))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    torch.save(state, folder / "honest.pth")
    yield Case("checkpoint", HONEST, "convert", str(folder / "honest.pth"))
    one = torch.zeros(1)
    bias = "segmentation_head.0.bias"
    for name, value in {
        "no rows of many": {"encoder.conv1.weight": (8192, 0, 3, 3), bias: (65536,)},
        "a name of 300,000 prefixes": {"module." * 300_000: (1,)},
        "a layer of 5,000 digits": {f"encoder.layer{'9' * 5000}.0.conv1.weight": (1,)},
        "decoder blocks without end": {f"decoder.blocks.{10**9}.conv1.0.weight": (1,)},
    }.items():
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        save_file({key: torch.zeros(shape) for key, shape in value.items()}, path)
        yield Case("checkpoint", name, "convert", str(path))
    for name, made in {
        "pickled code": pickle.dumps(os.system),
        "a pickle of a pickle": pickle.dumps(pickle.dumps({"a": 1})),
        "a zip of anything": _zip({"a": b"x"}),
        "a page of HTML": b"<!doctype html><title>404</title>",
        "a pointer of git": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "empty": b"",
        "1 GiB in 1 MiB": _inflating(),
    }.items():
        path = folder / f"{name.replace(' ', '-')}.pth"
        path.write_bytes(made)
        yield Case("checkpoint", name, "convert", str(path))
    torch.save({**state, "encoder.conv1.weight": one.expand(2**20, 2**10)}, folder / "wide.pth")
    yield Case("checkpoint", "a repeated number", "convert", str(folder / "wide.pth"))


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def _inflating() -> bytes:
    """A file of torch.save whose one tensor was packed again, smaller."""
    buffer = io.BytesIO()
    torch.save({"encoder.conv1.weight": torch.zeros(2**28)}, buffer)
    with zipfile.ZipFile(buffer) as file:
        return _zip({item.filename: file.read(item) for item in file.infolist()})


def _pages(path: Path) -> None:
    page = struct.pack("<H", 2) + struct.pack("<HHIHxx", 256, 3, 1, 4)
    page += struct.pack("<HHIHxx", 257, 3, 1, 4)
    size = len(page) + 4
    pages = (page + struct.pack("<I", 8 + size * (i + 1)) for i in range(300_000))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(pages))


def _frames(path: Path) -> None:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    path.write_bytes(head + frame * 2_000_000 + b";")


def _left_out(path: Path) -> None:
    shape = (65_536, 65_536)
    tiles = ((np.zeros((4096, 4096), np.uint8) if i == 0 else None) for i in range(256))
    tifffile.imwrite(path, tiles, shape=shape, dtype=np.uint8, tile=(4096, 4096), compression=8)


def _strip(path: Path) -> None:
    values: Any = np.zeros((20_000, 20_000), np.uint8)
    tifffile.imwrite(path, values, compression="zlib", rowsperstrip=20_000)


def _many_pixels(path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(path, format="PNG")
