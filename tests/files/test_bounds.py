"""Files that want memory, time or more: refused before they get it, each for its own reason."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segzoo.convert import from_smp
from segzoo.errors import ConversionError, SegzooError, StorageError
from segzoo.files import pickled, weight_tree
from segzoo.files.checkpoint import open_checkpoint
from segzoo.files.pickled import NotReadError, read_pickle

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)


def rebuilt(offset: bytes = b"K\x00", shape: bytes = b"K\x04", stride: bytes = b"K\x01") -> bytes:
    """The pickle of a state dict of one tensor over a storage of four values."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset
    tensor += b"(" + shape + b"t(" + stride + b"t\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


def archive(path: Path, pickle_bytes: bytes, values: bytes = bytes(16), **options: Any) -> Path:
    """What torch.save writes, with a pickle of our own."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickle_bytes)
        file.writestr("archive/byteorder", sys.byteorder)
        file.writestr("archive/data/0", values)
        file.writestr("archive/version", "3\n")
    return path


def test_the_archive_of_these_tests_is_honest(tmp_path):
    path = archive(tmp_path / "a.pth", rebuilt(), struct.pack("4f", 1, 2, 3, 4))
    assert open_checkpoint(path).read()["w"].tolist() == [1, 2, 3, 4]
    assert torch.load(path)["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("pickle_bytes", "message"),
    [
        (rebuilt(shape=b"K\x05"), "reaches beyond its values"),
        (rebuilt(offset=b"K\x01"), "reaches beyond its values"),
        (rebuilt(offset=b"J\xff\xff\xff\xff"), "no place that can be"),
        (rebuilt(shape=b"J\xff\xff\xff\xff"), "no list of lengths"),
        (rebuilt(shape=b"\x8a\x09" + bytes(8) + b"\x01"), "no list of lengths"),
        (rebuilt(shape=b"J\x00\x00\x00\x40J\x00\x00\x00\x40"), "more values than there can be"),
        (rebuilt(shape=b"J\x00\x00\x00\x01", stride=b"K\x00"), "use the same values over and over"),
        (rebuilt(stride=b"K\x01K\x01"), "no place that can be"),
        (rebuilt(shape=b"K\x01" * 65, stride=b"K\x01" * 65), "no list of lengths"),
        (
            rebuilt().replace(b"FloatStorage", b"BoxStorage"),
            "but objects of torch",
        ),
        (rebuilt().replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"), "lacks the values '1'"),
        (rebuilt().replace(b"K\x04tQ", b"K\x05tQ"), "less values than its shape needs"),
        (rebuilt()[:-9], "its pickle is damaged"),
        (b"\x80\x02" + b"}" * 2_000 + b".", "more than 1000 containers"),
        (b"\x80\x02" + b"N" * 200_000 + b".", "more than 100000 steps"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "more than 32 MiB"),
        (b"\x80\x02L" + b"9" * 5000 + b"\n.", "its pickle is damaged"),
        (b"\x80\x02}(" + b")" + b"\x85" * 900 + b"K\x01u.", "nested tuples as keys"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02]q\x00" + b"N" * 99 + b"1.", "damaged"),
        (b"\x80\x02c" + b"a" * 1024 + b"\nb\n.", "names a class by 1025 characters"),
        (b"\x80\x02}(" + b"(NNtq\x000" + b"h\x00N" * 600 + b"u.", "more than 100000 steps"),
        (b"\x80\x02}(\x8a\x09" + bytes(8) + b"\x01Nu.", "number of more than 60 bits"),
        (b"\x80\x02}((\x8a\x09" + bytes(8) + b"\x01tNu.", "number of more than 60 bits"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_pickles(pickle_bytes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MAX_CONTAINERS", 1000)
    monkeypatch.setattr(pickled, "MAX_STEPS", 100_000)
    with pytest.raises(SegzooError, match=message):
        open_checkpoint(archive(tmp_path / "a.pth", pickle_bytes))


#: A list of a list of ... lists, each twice: its text would have 2**60 characters.
DOUBLED = b"]q\x00" + b"0(h\x00h\x00lq\x00" * 60


@pytest.mark.parametrize(
    "pickle_bytes",
    [
        rebuilt().replace(b"X\x01\x00\x00\x000", DOUBLED),
        b"ctorch._utils\n_rebuild_tensor_v3\n(" + STORAGE + b"K\x00)))N" + DOUBLED + b"tR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor\n"
        + DOUBLED
        + b")tR.",
    ],
    ids=["a storage", "a type", "a class"],
)
def test_what_is_no_name_is_not_made_a_text(pickle_bytes, tmp_path):
    with pytest.raises(SegzooError):
        open_checkpoint(archive(tmp_path / "a.pth", pickle_bytes))


def test_a_list_that_is_copied_over_and_over(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_STEPS", 100_000)
    many = b"(" + b"N" * 1000 + b"l" + b"q\x01"
    copies = b"cbuiltins\nset\n(h\x01tR" * 500
    with pytest.raises(NotReadError, match="steps"):
        read_pickle(io.BytesIO(b"\x80\x02" + many + copies + b"."))


@pytest.mark.parametrize(
    "call", ["os.system", "builtins.eval", "subprocess.Popen", "runpy.run_path"]
)
def test_what_acts_is_named_and_not_called(call):
    module, _, name = call.rpartition(".")
    text = f"c{module}\n{name}\n(V__import__('sys').exit(3)\ntR.".encode()
    with pytest.raises(NotReadError, match=rf"it would call {re.escape(call)} wherever"):
        read_pickle(io.BytesIO(text))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_the_same_value(protocol):
    value = {
        "numbers": [1, -1, 2**40, 2**900, 0.5, True, None, 1 << 7],
        "texts": ["a", "ü" * 300, b"bytes", b"x" * 300, bytearray(b"b") if protocol == 5 else 0],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": [{1, 2}, frozenset((3,))] if protocol else 0,
        "nested": {"a": {"b": []}},
    }
    value["again"] = value["nested"]
    found = read_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert found == value
    assert found["again"] is found["nested"]


def test_archives(tmp_path):
    deflated = archive(
        tmp_path / "a.pth", rebuilt(), bytes(2**20), compression=zipfile.ZIP_DEFLATED
    )
    assert deflated.stat().st_size < 2**13
    with pytest.raises(StorageError, match=r"compressed or encrypted, as torch.save never"):
        open_checkpoint(deflated)
    whole = bytearray(archive(tmp_path / "b.pth", rebuilt()).read_bytes())
    end = whole.rindex(b"PK\x05\x06")
    struct.pack_into("<L", whole, end + 12, 2**30)  # the directory's size
    (tmp_path / "b.pth").write_bytes(whole)
    with pytest.raises(StorageError, match="its directory takes more than 16 MiB"):
        open_checkpoint(tmp_path / "b.pth")


def safetensors(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, "overlap, or leave gaps"),
        ({"a": entry([2], 8, 16)}, "overlap, or leave gaps"),
        ({"a": entry([3], 0, 8)}, "not the bytes that its shape needs"),
        ({"a": entry([2], 0, 8), "b": entry([2], 8, 16)}, r"it has \d+ bytes, its tensors need"),
        ({"a": entry([2], 0, 8, "F4")}, "'F4' is no type that is known here"),
        ({"a": entry([-2], 0, 8)}, "no list of lengths"),
        ({"a": entry([2**60, 2**60, 0], 0, 0)}, "no list of lengths"),
        ({"a": {"dtype": "F32"}}, "exactly dtype, shape and data_offsets"),
        ({"a": {**entry([2], 0, 8), "data_offsets": [0]}}, "must be begin and end"),
    ],
)
def test_headers(header, message, tmp_path):
    with pytest.raises(StorageError, match=message):
        open_checkpoint(safetensors(tmp_path / "a.safetensors", header, bytes(8)))


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module." * 300_000 + "w", "a name of .* characters"),
        (f"decoder.blocks.{'9' * 5000}.conv1.0.weight", "a name of .* characters"),
        (f"decoder.blocks.{'9' * 300}.conv1.0.weight", "no Unet of segmentation"),
        ("model." * 80 + "decoder.blocks.7.conv1.0.weight", "no Unet of segmentation"),
    ],
    ids=["prefixes", "digits", "fewer digits", "fewer prefixes"],
)
def test_names(name, message, tmp_path):
    torch.save({name: torch.ones(1)}, tmp_path / "a.pth")
    for source in ({name: torch.ones(1)}, tmp_path / "a.pth"):
        with pytest.raises(ConversionError, match=message):
            from_smp(source, {"_model_class": "Unet"})


def test_containers(monkeypatch):
    deep: Any = torch.ones(1)
    for _ in range(65):
        deep = {"a": deep}
    with pytest.raises(ConversionError, match=r"more than a checkpoint can: .* 64 levels"):
        open_checkpoint(deep)
    wide: Any = [torch.ones(1)]
    monkeypatch.setattr(weight_tree, "_MAX_VISITS", 9_999)
    for _ in range(4):
        wide = [wide] * 10
    with pytest.raises(ConversionError, match=r"more than a checkpoint can"):
        open_checkpoint({"a": wide})
    monkeypatch.setattr(weight_tree, "_MAX_ITEMS", 9_999)
    long = [0] * 1000
    with pytest.raises(ConversionError, match=r"more than a checkpoint can"):
        open_checkpoint({"a": torch.ones(1), "b": [long] * 10})
    with pytest.raises(ConversionError, match="holds 65 models"):
        open_checkpoint({f"{i}.w": torch.ones(1) for i in range(65)}, typical=("w",))


# Memory

CHILD = """
import resource, sys
from segzoo.convert import from_smp
from segzoo.errors import SegzooError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        from_smp(path, {"encoder_name": "resnet18"})
    except SegzooError as error:
        print("refused", error)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_does_not_fit_costs_no_memory(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    honest = smp.Unet("resnet18", encoder_weights=None).state_dict()
    save_file(honest, tmp_path / "honest.safetensors")
    # Layers of gigabytes, of which the file has no byte.
    wide = {
        "decoder.blocks.0.conv1.0.weight": torch.empty(8192, 0, 3, 3),
        "decoder.blocks.1.conv1.0.weight": torch.empty(65536, 0, 3, 3),
        "segmentation_head.0.weight": torch.empty(8192, 0, 3, 3),
        "encoder.conv1.weight": torch.empty(64, 3, 7, 0),
    }
    save_file(wide, tmp_path / "wide.safetensors")
    torch.save(wide, tmp_path / "wide.pth")
    names = ("wide.safetensors", "wide.pth", "honest.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [*["refused", "peak"] * 2, "peak"]
    attacks, after = int(lines[3].split()[1]), int(lines[4].split()[1])
    assert attacks <= 1.2 * after
    assert after * 1024 < 4 * sum(item.nbytes for item in honest.values())


def test_limits_are_far_above_what_is_honest():
    # Five thousand layers with the two averages of an optimiser.
    assert pickled.MAX_CONTAINERS > 5000 * 3 * 8
    assert pickled.MAX_STEPS > 5000 * 3 * 60
