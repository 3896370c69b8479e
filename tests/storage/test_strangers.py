"""Repositories of strangers, pushes that fail, and names that are none: bounded, whole, told."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, HubError, StorageError, WeightsError
from segzoo.storage import hub_folder, pretrained, safetensors_file, transfer
from tests.model_folders import CONFIG, WEIGHTS, logits, names, read_header, small, write_header

REPO = "user/name"


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.fixture
def other(tmp_path) -> Path:
    """A model with other classes than the honest one, saved."""
    model = small(3, class_names=("sky", "sea", "land"))
    return model.save_pretrained(tmp_path / "other")


# Bounded


def test_a_large_config_is_not_downloaded(hub, honest):
    hub.add(REPO, {**files_of(honest), CONFIG: b" " * (2**20 + 1)})
    with pytest.raises(HubError, match=r"config\.json.* has 1,048,577 bytes; at most 1,048,576"):
        segzoo.from_pretrained(REPO)
    assert not hub.asked("GET", "resolve")


def test_weights_of_more_than_the_model_needs_are_not_downloaded(hub, honest, monkeypatch):
    monkeypatch.setattr(pretrained, "_SLACK", -safetensors_file.MAX_HEADER_BYTES)
    hub.add(REPO, {**files_of(honest), WEIGHTS: bytes(4 * 2**20)})
    for load in (segzoo.from_pretrained, lambda name: transfer.pull(name, "nowhere")):
        with pytest.raises(HubError, match=r"model\.safetensors.* has 4,194,304 bytes; at most"):
            load(REPO)
    assert not hub.asked("GET", "safetensors")
    assert not Path("nowhere").exists()


def test_a_foreign_config_is_refused_before_the_weights_are_downloaded(hub, honest):
    hub.add(REPO, {**files_of(honest), CONFIG: b'{"_model_class": "Unet"}'})
    with pytest.raises(StorageError, match=r"convert\.from_smp"):
        segzoo.from_pretrained(REPO)
    assert not hub.asked("GET", "safetensors")


def test_a_large_card_is_neither_downloaded_nor_replaced(hub, honest, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_folder, "LARGEST_CARD", 100)
    card = b"# A long card" + b"!" * 100
    hub.add(REPO, {**files_of(honest), "README.md": card})
    transfer.pull(REPO, tmp_path / "a")
    assert names(tmp_path / "a") == [CONFIG, WEIGHTS]
    small().push_to_hub(REPO, card=None)
    assert hub.files(REPO)["README.md"] == card
    assert not hub.asked("GET", "README")


def test_what_grew_after_it_was_looked_at_is_not_used(hub, honest, monkeypatch):
    import huggingface_hub

    hub.add(REPO, files_of(honest))
    download = huggingface_hub.hf_hub_download

    def grown(repo_id: str, name: str, **options: object) -> object:
        found = download(repo_id, name, **options)
        if options["dry_run"] and name == CONFIG:
            hub.add(REPO, {CONFIG: b" " * (2**20 + 1)})
        return found

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", grown)
    with pytest.raises(HubError, match="Nothing of it was used"):
        segzoo.from_pretrained(REPO)


# Whole


@pytest.mark.parametrize("header", ["with a config", "without one", "with another one"])
def test_a_pull_that_is_killed_in_between_leaves_one_model(
    hub, honest, other, tmp_path, monkeypatch, header
):
    files = files_of(other)
    if header != "with a config":
        changed, data = read_header(other / WEIGHTS)
        del changed["__metadata__"]["config"]
        write_header(other / WEIGHTS, changed, data)
        files = files_of(other)
    if header == "with another one":  # edited on the Hub: the id is the same
        files[CONFIG] = files[CONFIG].replace(b"sky", b"fog")
    hub.add(REPO, files)
    first = "fog" if header == "with another one" else "sky"
    target = tmp_path / "model"
    hub.add("user/honest", files_of(honest))
    transfer.pull("user/honest", target)

    def killed(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(hub_folder, "write_text", killed)
        with pytest.raises(StorageError, match="The new model is there and whole"):
            transfer.pull(REPO, target)
    assert segzoo.from_pretrained(target).class_names == (first, "sea", "land")
    transfer.pull(REPO, target)
    assert segzoo.from_pretrained(target).class_names == (first, "sea", "land")
    assert torch.equal(logits(segzoo.from_pretrained(target)), logits(segzoo.from_pretrained(REPO)))


def test_links_and_pipes_are_not_pushed(hub, honest, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("private")
    folder = tmp_path / "model"
    transfer_from = segzoo.from_pretrained(honest)
    transfer_from.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)
    (folder / "example.png").symlink_to(secret)
    os.mkfifo(folder / "example.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "recipe.json").write_text("private")
    (folder / "training").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="a link or no ordinary file, and was not uploaded"):
        transfer.push(folder, REPO)
    assert sorted(hub.files(REPO)) == [".gitattributes", CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", [REPO, "name"])
@pytest.mark.parametrize("step", ["preupload", "lfs-upload", "/commit/", "README"])
def test_a_push_that_fails_leaves_no_repository(hub, monkeypatch, name, step):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.refuse = {(method, step): 403 for method in ("POST", "PUT", "HEAD")}
    for revision in (None, "side"):
        with pytest.raises(HubError, match="Could not push"):
            small().push_to_hub(name, revision=revision)
        assert hub.repos == {}
    hub.refuse = {}
    small().push_to_hub(name)
    assert sorted(hub.files(REPO))[1:] == ["README.md", CONFIG, WEIGHTS]


def test_a_push_that_fails_leaves_no_branch_and_nothing_of_others(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    small().push_to_hub(REPO)
    before = dict(hub.repos[REPO].refs)
    hub.refuse = {("POST", "/commit/"): 403}
    with pytest.raises(HubError):
        small(3).push_to_hub(REPO, revision="side")
    assert hub.repos[REPO].refs == before
    hub.refuse = {}
    small(3).push_to_hub(REPO, revision="side")
    both = dict(hub.repos[REPO].refs)
    hub.refuse = {("POST", "/commit/"): 403}
    with pytest.raises(HubError):
        small(4).push_to_hub(REPO, revision="side")
    assert hub.repos[REPO].refs == both


@pytest.mark.parametrize("name", ["a/b/c", "../x", "user/..", "", "user/na me", "x" * 300])
def test_names_that_no_repository_has(hub, name):
    with pytest.raises(HubError, match="no name that the Hub allows"):
        small().push_to_hub(name)
    assert hub.repos == {}
    assert not hub.requests


# Told


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "/b", "no\0name", "user/\u202ename"])
def test_names_that_no_folder_has(hub, name):
    with pytest.raises(StorageError, match="no folder") as caught:
        segzoo.from_pretrained(name)
    assert len(str(caught.value)) < 500  # some clients ask for the second, so that it is told twice
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [3, None, ["user", "name"], b"folder"])
def test_what_is_no_name(value):
    with pytest.raises(ArgumentError, match="Expected a folder, or user/name"):
        segzoo.from_pretrained(value)


def test_a_folder_that_may_not_be_entered(honest, monkeypatch):
    def closed(self: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(StorageError, match=r"cannot be looked at: .*Permission denied"):
        segzoo.from_pretrained(honest)
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    with pytest.raises(StorageError, match="Permission denied"):
        segzoo.from_pretrained(honest)


def test_weights_without_values_are_not_saved(tmp_path):
    with torch.device("meta"):
        model = small()
    with pytest.raises(StorageError, match="is on the meta device and has no values"):
        model.save_pretrained(tmp_path / "meta")
    model = small()
    weight = model.head.conv.weight.detach()
    model.head.conv.weight = torch.nn.Parameter(weight.to_sparse(), requires_grad=False)
    with pytest.raises(StorageError, match=r"head\.conv\.weight is a tensor of another kind"):
        model.save_pretrained(tmp_path / "sparse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to move it elsewhere
        quantized = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    model.head.conv.weight = torch.nn.Parameter(quantized, requires_grad=False)
    with pytest.raises(StorageError, match=r"qint8, torch\.strided"):
        model.save_pretrained(tmp_path / "quantized")
    assert names(tmp_path) == []


# Memory maps


def test_a_copy_does_not_need_its_file(honest, tmp_path):
    folder = small().save_pretrained(tmp_path)
    model = segzoo.from_pretrained(folder, mmap=False)
    expected = logits(segzoo.from_pretrained(honest.parent / folder, mmap=True))
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    assert torch.equal(logits(model), expected)
    with pytest.raises(WeightsError):
        segzoo.from_pretrained(folder, mmap=False)
