"""What people save, and what happens: the table in docs/migrating.md, row by row."""

from __future__ import annotations

import gzip
import io
import logging
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from segzoo.errors import ConversionError, SegzooError, StorageError
from segzoo.files.checkpoint import open_checkpoint

from .saved_models import (
    MODEL,
    OTHER,
    STATE,
    TYPICAL,
    averaged,
    below,
    extras,
    optimiser,
    save_legacy,
)

DOCS = Path(__file__).parents[2] / "docs" / "migrating.md"


def without_counters() -> dict[str, Tensor]:
    return {name: item for name, item in STATE.items() if "num_batches" not in name}


#: What is saved -> what torch.save is given.
OPENS: dict[str, Callable[[], Any]] = {
    "`model.state_dict()`": lambda: STATE,
    "`model`, as a whole": lambda: MODEL,
    "of `DataParallel`, `DistributedDataParallel` (`module.`)": lambda: below("module."),
    "of `torch.compile` (`_orig_mod.`)": lambda: below("_orig_mod."),
    "of a module that holds the model, by any name (`net.`, `student.backbone.unet.`)": lambda: (
        below("student.backbone.unet.")
    ),
    "Lightning's checkpoint": lambda: {
        "epoch": 3,
        "state_dict": {**below("model."), "criterion.weight": torch.ones(2)},
        "hyper_parameters": extras(),
        "optimizer_states": [optimiser()],
    },
    "a dict of a training loop (`model`, `net`, `weights` ..., with the optimiser)": lambda: {
        "net": STATE,
        "optimizer": optimiser(),
        "epoch": 3,
    },
    "of `AveragedModel` (`n_averaged`)": averaged,
    "one state dict under two names": lambda: {"model": STATE, "state_dict": STATE},
    "with `argparse.Namespace`, paths, NumPy's values, enums, classes of one's own": lambda: {
        "state_dict": STATE,
        **extras(),
    },
    "from a torch before 0.4.1, without `num_batches_tracked`": without_counters,
    "loss weights, `mean` and `std` beside `model.`": lambda: {
        **below("model."),
        "mean": torch.zeros(3),
        "std": torch.ones(3),
    },
}


def assert_state(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype, name


def saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("what", OPENS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_it_opens(what, legacy, tmp_path):
    path = (save_legacy if legacy else saved)(OPENS[what](), tmp_path / "a.pth")
    found = open_checkpoint(path, typical=TYPICAL).read()
    if "num_batches" in what:
        assert found.pop("encoder.1.num_batches_tracked") == 0
        assert_state(found, without_counters())
    else:
        assert_state(found)


#: The names in messages, by what is saved.
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "`model` and `model_ema`, or any two sets": (
        lambda path: saved({"model": STATE, "model_ema": OTHER}, path),
        r"2 sets of weights: 'model', 'model_ema'. Say which by weights='model_ema', .* --weights",
    ),
    "TorchScript": (
        lambda path: zipped(path, **{"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b")."}),
        "is a TorchScript file",
    ),
    "objects without tensors": (
        lambda path: saved({"args": extras()["settings"]}, path),
        r"holds no tensors, but objects of .*\.Settings",
    ),
    "quantised or sparse tensors": (
        lambda path: saved({**STATE, "encoder.2": torch.eye(2).to_sparse()}, path),
        r"'encoder.2' is no plain tensor, but what torch._utils._rebuild_sparse_tensor makes",
    ),
    "a pickle that calls `os.system` or the like": (
        lambda path: path.write_bytes(acting(path)),
        r"it would call \w+\.system wherever it is loaded. Nothing was run",
    ),
    "a pickle that torch did not write": (
        lambda path: path.write_bytes(b"\x80\x04}."),
        "is a pickle that torch.save did not write",
    ),
    "ONNX": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch"), "looks like an ONNX file"),
    "HDF5 (Keras)": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n\x00"), "is an HDF5 file"),
    "gzip, bzip2, xz, 7z ...": (
        lambda path: path.write_bytes(gzip.compress(b"a" * 99)),
        "is compressed by gzip. Unpack it",
    ),
    "a tar archive": (lambda path: tarred(path), "is a tar archive. Unpack it"),
    "another zip archive": (
        lambda path: zipped(path, **{"weights/readme.txt": b"x"}),
        r"is a zip archive, but none that torch.save wrote \(it holds 'weights/readme.txt'\)",
    ),
    "a pointer of Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is the pointer of Git LFS, not the weights.*git lfs pull",
    ),
    "a web page": (
        lambda path: path.write_text("\n<!DOCTYPE html><html><title>Sign in</title>"),
        "is a web page",
    ),
    "an empty file": (lambda path: path.write_bytes(b""), "is empty. Download or save it again"),
    "a file that is cut off": (
        lambda path: path.write_bytes(saved(STATE, path).read_bytes()[:-99]),
        "ends too early",
    ),
    "values that are NaN or infinite": (
        lambda path: saved({**STATE, "head.bias": torch.tensor([1, torch.inf])}, path),
        "not finite: NaN or infinity in 'head.bias'",
    ),
}


def acting(path: Path) -> bytes:
    """A checkpoint with an object that would run a command."""

    class Command:
        def __reduce__(self) -> Any:
            import os

            return os.system, (f"touch {path}.ran",)

    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "hook": Command()}, buffer)
    return buffer.getvalue()


def zipped(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_for_the_true_reason(what, tmp_path):
    path = tmp_path / "a.pth"
    write, message = REFUSED[what]
    write(path)
    with pytest.raises(SegzooError, match=message) as caught:
        open_checkpoint(path, typical=TYPICAL).read()
    text = str(caught.value)
    assert "a.pth" in text
    assert "weights_only" not in text
    assert text.isprintable()
    assert [item.name for item in tmp_path.iterdir()] == ["a.pth"]


def test_the_table_in_the_documentation_has_these_rows():
    text = (
        DOCS.read_text(encoding="utf-8").partition("## What people save")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (.+?) \| (?!---)", text, re.MULTILINE)
    assert [row for row in rows if row != "Saved"] == [*OPENS, *FORMATS, *REFUSED]


#: What a file is -> its name, and how it is written: the name says nothing.
FORMATS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "safetensors, whatever its name (`.pth`, `.SAFETENSORS`)": (
        "a.pth",
        lambda path: save_file(STATE, path),
    ),
    "`torch.save`, whatever its name (`.safetensors`, `.tar`), of any protocol": (
        "a.safetensors",
        lambda path: saved({"model": STATE}, path, pickle_protocol=4),
    ),
}


@pytest.mark.parametrize("what", FORMATS)
def test_a_name_says_nothing_of_a_file(what, tmp_path):
    name, write = FORMATS[what]
    write(tmp_path / name)
    assert_state(open_checkpoint(tmp_path / name, typical=TYPICAL).read())


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "model_best.pth.tar", "weights"])
def test_two_other_names(name, tmp_path):
    write = save_file if "SAFE" in name else saved
    path = tmp_path / name
    torch.save(STATE, path) if write is saved else save_file(STATE, path)
    assert_state(open_checkpoint(path, typical=TYPICAL).read())


# Several sets of weights


SETS = {
    "state_dict": {**below("model."), **below("ema_model.module.", OTHER)},
    "swa": {"teacher": {**OTHER}, "averages": [averaged()]},
    "again": OTHER,
}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("model", STATE),
        ("ema_model", OTHER),
        ("state_dict.model", STATE),
        ("teacher", OTHER),
        ("averages", STATE),
    ],
)
def test_a_set_is_chosen_by_a_part_of_its_path(weights, expected, tmp_path):
    path = saved(SETS, tmp_path / "a.pth")
    assert_state(open_checkpoint(path, typical=TYPICAL, weights=weights).read(), expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, r"holds 3 sets of weights: 'state_dict.model', 'state_dict.ema_model.module', "),
        ("swa", r"several sets of weights 'swa'. .*'swa.teacher'"),
        ("teachr", r"no set of weights 'teachr'.* It has: 'state_dict.model'"),
        (3, "weights must be a string"),
    ],
)
def test_a_set_that_is_none(weights, message, tmp_path):
    with pytest.raises(SegzooError, match=message):
        open_checkpoint(saved(SETS, tmp_path / "a.pth"), typical=TYPICAL, weights=weights)


def test_the_model_goes_before_what_it_holds():
    assert_state(
        {
            name: item
            for name, item in open_checkpoint({**STATE, **below("ema.", OTHER)}, typical=TYPICAL)
            .read()
            .items()
            if not name.startswith("ema.")
        }
    )
    found = open_checkpoint({**STATE, **below("ema.", OTHER)}, typical=TYPICAL, weights="ema")
    assert_state(found.read(), OTHER)


def test_what_lies_beside_is_named(caplog):
    state = {**below("net."), "loss.\x1b[31mw": torch.ones(1), "std": torch.ones(3), "epoch": 3}
    with caplog.at_level(logging.WARNING):
        assert_state(open_checkpoint(state, typical=TYPICAL).read())
    assert r"left out what lies beside the model: 'loss.\x1b[31mw', 'std', 'epoch'." in caplog.text


# What is in memory


def test_a_state_dict_is_copied():
    found = open_checkpoint(STATE, typical=TYPICAL).read()
    before = STATE["head.bias"].clone()
    found["head.bias"].zero_()
    assert torch.equal(STATE["head.bias"], before)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a": torch.ones(2, device="meta")}, "'a' is on the meta device"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is a sparse or quantised tensor"),
        ({"a": torch.ones(1).expand(2**31, 2**31)}, "more values than there can be"),
        ({"a": torch.ones(1).expand(2**30)}, "'a' uses the same values over and over"),
        ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "two tensors of the name 'a.b'"),
        ({"a" * 513: torch.ones(1)}, "a name of 514 characters"),
        ({}, "holds no tensors, but nothing"),
        (3, "a state dict or a module; got int"),
    ],
)
def test_what_is_no_state_dict(source, message):
    with pytest.raises(ConversionError, match=message):
        open_checkpoint(source)


def test_tensors_in_every_layout_and_type(tmp_path):
    base = torch.arange(24.0)
    tensors = {
        "view": base[3:9],
        "transposed": base.reshape(4, 6).T,
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.ones(2).half(),
        "bfloat16": torch.ones(3).bfloat16(),
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(5).byte(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "uint16": torch.arange(3).to(torch.uint16),
    }
    for legacy in (False, True):
        some = {n: t for n, t in tensors.items() if not legacy or n not in ("float8", "uint16")}
        path = (save_legacy if legacy else saved)(some, tmp_path / "a.pth")
        assert torch.load(path).keys() == some.keys()
        found = open_checkpoint(path).read()
        assert found.keys() == some.keys()
        for name, value in some.items():
            assert found[name].dtype == value.dtype
            assert found[name].is_contiguous()
            assert torch.equal(found[name].to(torch.complex64), value.to(torch.complex64)), name


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = saved(STATE, tmp_path / "a.pth")
    opened = open_checkpoint(path)
    saved({**STATE, "more": torch.ones(9)}, path)
    with pytest.raises(StorageError, match="changed while it was read"):
        opened.read()
    path = saved(STATE, tmp_path / "a.pth")
    content = bytearray(path.read_bytes())
    place = content.index(STATE["head.weight"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged: the checksum"):
        open_checkpoint(path).read()


def test_a_batch_of_pictures_beside_the_model(tmp_path):
    # Not of many values, but the steps between them have a product above every number of values.
    path = saved({"state_dict": STATE, "sample": torch.zeros(2, 3, 4, 128, 128)}, tmp_path / "a")
    assert_state(open_checkpoint(path, typical=TYPICAL).read())


def test_an_old_format_in_a_newer_protocol(tmp_path):
    options: dict[str, Any] = {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}
    path = saved(STATE, tmp_path / "a", **options)
    assert_state(open_checkpoint(path, typical=TYPICAL).read())


def test_values_of_an_unknown_kind_in_an_old_format(tmp_path):
    options: dict[str, Any] = {"_use_new_zipfile_serialization": False}
    path = saved(STATE, tmp_path / "a", **options)
    path.write_bytes(path.read_bytes().replace(b"FloatStorage", b"QInt8Storage"))
    with pytest.raises(StorageError, match="of a kind that is not read here, such as quantised"):
        open_checkpoint(path)
