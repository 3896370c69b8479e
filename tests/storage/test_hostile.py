"""Folders from strangers: each is refused with one of segzoo's errors, or is harmless."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import segzoo
from segzoo.errors import ConfigError, WeightsError
from segzoo.storage import safetensors_file, transfer
from tests.model_folders import CONFIG, WEIGHTS, read_header, write_header

from .in_processes import peak


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "model"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the config in both places, so that neither saves the other."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    header, data = read_header(folder / WEIGHTS)
    header["__metadata__"]["config"] = json.dumps(config)
    write_header(folder / WEIGHTS, header, data)


def change_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, data = read_header(folder / WEIGHTS)
    change(header)
    write_header(folder / WEIGHTS, header, data)


def set_argument(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(
        folder, lambda config: config["arguments"].update({name: value})
    )


def set_key(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, lambda config: config.update({name: value}))


def config_text(text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / CONFIG).write_bytes(data)


CONFIGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (config_text(""), "not valid JSON"),
    "no JSON": (config_text("import os"), "not valid JSON"),
    "no UTF-8": (config_text(b"\xff\xfe{"), "cannot be read"),
    "a list": (config_text("[]"), "must be an object"),
    "a number": (config_text("3"), "must be an object"),
    "too large": (config_text(" " * 2**21), "larger than"),
    "deeply nested": (config_text('{"a":' * 50000 + "1" + "}" * 50000), "nests too deep"),
    "a key twice": (config_text('{"library_name": "segzoo", "library_name": "x"}'), "twice"),
    "NaN": (config_text('{"library_name": NaN}'), "not a number"),
    "infinity": (config_text('{"library_name": -Infinity}'), "not a number"),
    "a number without end": (config_text('{"library_name": 1e999}'), "too large a number"),
    "a very long number": (config_text('{"format_version": ' + "9" * 5000 + "}"), "not valid JSON"),
    "another library": (config_text('{"_model_class": "Unet"}'), "convert.from_smp"),
    "a newer format": (set_key("format_version", 2), "Update segzoo"),
    "a format that is true": (set_key("format_version", True), "format version True"),
    "an unknown key": (set_key("auto_map", {"AutoModel": "x.Y"}), "no argument 'auto_map'"),
    "an unknown architecture": (set_key("architecture", "os.system"), "architecture must be one"),
    "an architecture by path": (set_key("architecture", "segzoo.models.Unet"), "must be one of"),
    "an architecture of a wrong type": (set_key("architecture", ["unet"]), "must be one of"),
    "arguments of a wrong type": (set_key("arguments", []), "arguments must be an object"),
    "an unknown argument": (set_argument("__class__", "x"), "no argument '__class__'"),
    "the pretrained argument": (set_argument("pretrained", True), "no argument 'pretrained'"),
    "10^9 classes": (set_argument("classes", 10**9), "classes must be between"),
    "no classes": (set_argument("classes", 0), "classes must be between"),
    "classes as text": (set_argument("classes", "2"), "classes must be an integer"),
    "classes as a float": (set_argument("classes", 2.0), "classes must be an integer"),
    "classes as true": (set_argument("classes", True), "classes must be an integer"),
    "10^400 classes": (set_argument("classes", 10**400), "classes must be between"),
    "10^9 bands": (set_argument("in_channels", 10**9), "in_channels must be between"),
    "a billion decoder channels": (set_argument("decoder_channels", [10**9] * 5), "between"),
    "a million decoder blocks": (set_argument("decoder_channels", [1] * 100000), "at most"),
    "an image of 10^9 pixels a side": (set_argument("image_size", [10**9] * 2), "between"),
    "a dropout that is not finite": (set_argument("dropout", 1e308 * 10), "not a number"),
    "an unknown encoder": (set_argument("encoder", "resnet43"), "Did you mean"),
    "an encoder of the Hub": (set_argument("encoder", "hf-hub:user/evil"), "no encoder"),
    "an encoder in a folder": (set_argument("encoder", "local-dir:/etc"), "no encoder"),
    "an encoder by path": (set_argument("encoder", "../../evil"), "no encoder"),
    "an encoder with the tag of a hub": (set_argument("encoder", "resnet34.hf-hub:x/y"), "tag"),
    "an encoder of a wrong type": (set_argument("encoder", {"a": 1}), "encoder must be a string"),
    "an encoder of control characters": (set_argument("encoder", "a\nb"), "printable"),
    "names in halves of characters": (set_argument("class_names", ["\ud800", "b"]), "printable"),
    "names that do not fit": (set_argument("class_names", ["a"]), "1 names for classes=2"),
    "a normalization with more": (
        set_argument("normalization", {"mean": [0], "std": [1], "x": 1}),
        "exactly mean and std",
    ),
    "a std of zero": (
        set_argument("normalization", {"mean": [0] * 3, "std": [0] * 3}),
        "std must be positive",
    ),
    "another encoder": (set_argument("encoder", "resnet34"), "another model"),
    **{
        f"the option {name}": (set_argument("encoder_options", {name: value}), "cannot hold|must")
        for name, value in {
            "checkpoint_path": "/etc/passwd",
            "pretrained_cfg": {"file": "/etc/passwd"},
            "pretrained_cfg_overlay": {"hf_hub_id": "user/evil"},
            "cache_dir": "/tmp/elsewhere",
            "feature_cls": "os.system",
            "block": "os.system",
            "depth": 10**5,
            "layers": [10**5] * 4,
            "embed_dim": 10**6,
            "drop_path_rate": 7,
            "img_size": 10**9,
            "window_size": [7, 7, 7],
            "out_indices": [0.5],
            "output_stride": 9,
            "patch_size": 1,
            "reg_tokens": 10**6,
            "num_reg_tokens": -1,
            "dynamic_img_size": "yes",
        }.items()
    },
}


def flip(position: int, bit: int = 1) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / WEIGHTS).read_bytes())
        data[position] ^= bit
        (folder / WEIGHTS).write_bytes(bytes(data))

    return change


def weights(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / WEIGHTS).write_bytes(data)


def cut(count: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - count)


def sparse(size: int) -> Callable[[Path], None]:
    """A file that claims a lot and takes no space on the disk."""

    def change(folder: Path) -> None:
        def claim(header: dict[str, Any]) -> None:
            for entry in header.values():
                if entry.get("shape") == [2]:
                    entry["shape"] = [size // 4]

        change_header(folder, claim)
        os.truncate(folder / WEIGHTS, size)

    return change


def retype(dtype: str) -> Callable[[Path], None]:
    return lambda folder: change_header(
        folder, lambda header: header["head.conv.bias"].update(dtype=dtype)
    )


def reshape(shape: Any) -> Callable[[Path], None]:
    return lambda folder: change_header(
        folder, lambda header: header["head.conv.bias"].update(shape=shape)
    )


def link(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(target)

    return change


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def twice(folder: Path) -> None:
    header, data = read_header(folder / WEIGHTS)
    text = json.dumps(header)
    write_header(folder / WEIGHTS, ("{" + text[1:-1] + "," + text[1:]).encode(), data)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: (folder / WEIGHTS).unlink(), "no model.safetensors"),
    "empty": (weights(b""), "damaged"),
    "a pickle": (weights(pickle.dumps({"a": 1})), "damaged"),
    "a zip, as torch.save writes": (weights(b"PK\x03\x04" + bytes(100)), "damaged"),
    "one byte less": (cut(1), "damaged or incomplete"),
    "half": (cut(500_000), "damaged or incomplete"),
    "a header of 2^63 bytes": (weights(struct.pack("<Q", 2**63) + b"{}"), "damaged"),
    "a header of 2^40 bytes, sparse": (
        lambda folder: (
            weights(struct.pack("<Q", 2**40) + b"{}")(folder),
            os.truncate(folder / WEIGHTS, 2**41),
        ),
        "damaged",
    ),
    "a header that is no JSON": (weights(struct.pack("<Q", 4) + b"abcd"), "no valid safetensors"),
    "a bit of the header": (flip(20), "valid|another model|damaged"),
    "a bit of the data": (flip(-3), "checksum"),
    "a bit in the middle": (flip(-500_000, 128), "checksum"),
    "names twice": (twice, "twice"),
    "a size of 2^62": (reshape([0, 2**62]), "another model"),
    "a negative size": (reshape([-2]), "lists of integers"),
    "a size as text": (reshape("2"), "lists of integers"),
    "a size that is true": (reshape([True]), "lists of integers"),
    "10^18 bytes, sparse": (sparse(2**42), "another model"),
    "integers": (retype("I32"), "stored as I32"),
    "8-bit floats": (retype("F8_E4M3"), "stored as F8_E4M3"),
    "another float, same shape": (retype("F16"), "damaged"),
    "a dtype of our own": (retype("object"), "stored as object"),
    "one tensor less": (
        lambda folder: change_header(folder, lambda header: header.pop("head.conv.bias")),
        "1 tensors are missing",
    ),
    "one tensor more": (
        lambda folder: change_header(
            folder, lambda header: header.update(more=header["head.conv.bias"])
        ),
        "1 are unknown",
    ),
    "tensors that overlap": (
        lambda folder: change_header(
            folder,
            lambda header: header["head.conv.bias"].update(data_offsets=[0, 8]),
        ),
        "damaged",
    ),
    "metadata that is no text": (
        lambda folder: change_header(folder, lambda header: header.update(__metadata__={"a": 1})),
        "metadata must be text",
    ),
    "metadata that is a list": (
        lambda folder: change_header(folder, lambda header: header.update(__metadata__=[1])),
        "no valid safetensors",
    ),
    "a device": (link("/dev/zero"), "no ordinary file"),
    "a link out of the folder": (link("/etc/passwd"), "damaged"),
    "a link to nothing": (link("nowhere"), "no model.safetensors"),
    "a pipe": (pipe, "no ordinary file"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_hostile_config(case, folder):
    change, message = CONFIGS[case]
    change(folder)
    with pytest.raises((ConfigError, WeightsError), match=message) as caught:
        segzoo.from_pretrained(folder)
    assert len(str(caught.value)) < 60_000
    if not case.startswith(("an unknown encoder", "another encoder")):
        assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("case", FILES)
def test_hostile_weights(case, folder):
    change, message = FILES[case]
    change(folder)
    for mmap in (True, False):
        with pytest.raises(WeightsError, match=message) as caught:
            segzoo.from_pretrained(folder, mmap=mmap)
        assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    model = segzoo.Unet("test_resnet", decoder_channels=(16, 8, 8, 8, 8))
    with torch.no_grad():
        model.head.conv.weight[0, 1, 2, 0] = value
    model.save_pretrained(tmp_path, check_finite=False)
    with pytest.raises(WeightsError, match=r"NaN or infinity in head\.conv\.weight"):
        segzoo.from_pretrained(tmp_path)
    loaded = segzoo.from_pretrained(tmp_path, check_finite=False)
    assert not loaded.head.conv.weight.isfinite().all()


def test_tables_that_are_not_saved_have_a_limit(tmp_path):
    """This encoder's weights do not grow with the image, but its masks do: to 25 GB."""
    model = segzoo.Unet("swinv2_cr_tiny_224", image_size=(224, 224), decoder_channels=(8,) * 5)
    model.save_pretrained(tmp_path)
    set_argument("image_size", [4096, 4096])(tmp_path)
    with pytest.raises(WeightsError, match="tables on top of its weights"):
        segzoo.from_pretrained(tmp_path)


def test_names_that_a_repository_chooses_are_never_written(hub, honest, tmp_path):
    files = {name: (honest / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    card = b"![](../../evil.png) example.png ../example.png"
    hub.add("user/name", {**files, "README.md": card, "../evil": b"x", "code.py": b"x"})
    transfer.pull("user/name", tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == [
        "README.md", "b", CONFIG, WEIGHTS,
    ]  # fmt: skip
    assert not hub.asked("GET", "evil|code")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_folder_takes_more_memory_than_the_honest_one(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "honest")
    cases = {**CONFIGS, **FILES}
    for number, (change, _) in enumerate(cases.values()):
        folder = Path(shutil.copytree(honest, tmp_path / f"case {number}"))
        change(folder)
    # The largest config and header that are read at all, made of what takes most when parsed.
    folder = Path(shutil.copytree(honest, tmp_path / "large"))
    config_text('{"a": [' + "{}," * 340_000 + "{}]}")(folder)
    entry = '"%d":{"dtype":"F32","shape":[],"data_offsets":[0,0]},'
    text = "{" + "".join(entry % i for i in range(65_000)) + '"__metadata__":{}}'
    assert len(text) < safetensors_file.MAX_HEADER_BYTES
    write_header(folder / WEIGHTS, text.encode(), b"")
    folders = [folder for folder in tmp_path.iterdir() if folder.name != "honest"]
    assert len(folders) == len(cases) + 1
    # Most of it are the imports, so a fixed allowance is stricter than a factor.
    limit = peak(tmp_path / "honest") + 64 * 1024
    if peak(*folders) > limit:  # is it one of them, and which
        peaks = {folder.name: peak(folder) for folder in folders}
        assert not {name: kib for name, kib in peaks.items() if kib > limit}, limit
