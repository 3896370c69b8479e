"""Pushing and pulling with the real client, against a Hub on loopback."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, ConfigError, HubError, StorageError, WeightsError
from segzoo.files import hub as files_hub
from segzoo.storage import transfer

from ..hub_server import HubServer

REPO = "user/name"


@pytest.fixture(scope="module")
def model() -> segzoo.Unet:
    torch.manual_seed(0)
    return segzoo.Unet(
        "test_resnet", classes=2, class_names=("road", "rest"), decoder_channels=(16, 8, 8, 8, 8)
    ).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, 65, 49)


def same(a: torch.nn.Module, b: torch.nn.Module, image: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(a(image), b(image))


def test_a_pull_after_a_push_gives_the_same_logits(hub, model, image):
    address = model.push_to_hub(REPO, commit_message="first")
    assert address == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].refs['main']}"
    assert hub.repos[REPO].messages[-1] == "first"
    assert sorted(hub.files(REPO)) == [
        ".gitattributes", "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    loaded = segzoo.from_pretrained(REPO)
    assert loaded.config == model.config
    assert not loaded.training
    assert same(loaded, model, image)


def test_a_second_pull_and_an_offline_one_come_from_the_cache(hub, model, image):
    model.push_to_hub(REPO)
    segzoo.from_pretrained(REPO)
    hub.requests.clear()
    segzoo.from_pretrained(REPO)
    assert [request.method for request in hub.requests] == ["HEAD"]
    hub.requests.clear()
    assert same(segzoo.from_pretrained(REPO, local_files_only=True), model, image)
    assert hub.requests == []


def test_nothing_but_the_two_files_is_fetched(hub, model):
    model.push_to_hub(REPO)
    hub.requests.clear()
    segzoo.from_pretrained(REPO)
    commit = hub.repos[REPO].refs["main"]
    assert {request.path for request in hub.requests} == {
        f"/{REPO}/resolve/main/config.json",
        f"/{REPO}/resolve/{commit}/model.safetensors",
    }


def test_config_and_weights_come_from_one_commit(hub, model, monkeypatch):
    model.push_to_hub(REPO)
    fetch = files_hub.fetch

    def commit_in_between(repo_id, name, access, *, largest):
        if name == "model.safetensors":
            hub.add(REPO, {"model.safetensors": b"of another commit"})
        return fetch(repo_id, name, access, largest=largest)

    monkeypatch.setattr(files_hub, "fetch", commit_in_between)
    assert segzoo.from_pretrained(REPO).config == model.config


def test_branches_tags_and_commits(hub, model):
    model.push_to_hub(REPO)
    first = hub.repos[REPO].refs["main"]
    other = segzoo.Unet("test_resnet", classes=5, decoder_channels=(16, 8, 8, 8, 8))
    other.push_to_hub(REPO, revision="wide")
    hub.repos[REPO].refs["v1"] = first
    assert segzoo.from_pretrained(REPO, revision="wide").classes == 5
    assert segzoo.from_pretrained(REPO, revision="v1").classes == 2
    assert segzoo.from_pretrained(REPO, revision=first).classes == 2
    assert segzoo.from_pretrained(REPO).classes == 2
    with pytest.raises(HubError, match="no such revision"):
        segzoo.from_pretrained(REPO, revision="v2")


def test_a_pull_request_leaves_the_branch_alone(hub, model):
    model.push_to_hub(REPO)
    before = hub.files(REPO)
    other = segzoo.Unet("test_resnet", classes=5, decoder_channels=(16, 8, 8, 8, 8))
    assert other.push_to_hub(REPO, create_pr=True) == f"{hub.url}/{REPO}/discussions/1"
    assert hub.files(REPO) == before
    assert segzoo.from_pretrained(REPO, revision="refs/pr/1").classes == 5


def test_every_request_carries_the_token(hub, model, tmp_path):
    hub.tokens = {"secret"}
    model.push_to_hub(REPO, private=True, token="secret")
    assert hub.repos[REPO].private
    segzoo.from_pretrained(REPO, token="secret", cache_dir=tmp_path / "mine")
    transfer.pull(REPO, tmp_path / "pulled", token="secret", cache_dir=tmp_path / "mine")
    transfer.push(tmp_path / "pulled", REPO, token="secret")
    ours = [request for request in hub.requests if not request.path.startswith("/lfs-upload")]
    assert len(ours) > 10
    for request in ours:
        assert request.headers.get("authorization") == "Bearer secret", request
        if "/resolve/" in request.path:
            assert "segzoo/" in request.headers["user-agent"], request


def test_without_the_token_a_private_repository_is_not_found(hub, model, tmp_path):
    hub.tokens = {"secret"}
    with pytest.raises(HubError, match="token"):
        model.push_to_hub(REPO)
    model.push_to_hub(REPO, private=True, token="secret")
    with pytest.raises(HubError, match="private: check the name, or pass token="):
        segzoo.from_pretrained(REPO)


def test_the_cache_is_where_it_was_asked_to_be(hub, model, tmp_path):
    model.push_to_hub(REPO)
    segzoo.from_pretrained(REPO, cache_dir=tmp_path / "mine")
    names = {path.name for path in (tmp_path / "mine").rglob("*")}
    assert {"config.json", "model.safetensors"} <= names
    assert not (tmp_path / "cache").exists()
    with pytest.raises(HubError, match="the cache does not have all of it"):
        segzoo.from_pretrained(REPO, local_files_only=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("user/nothing", HubError, "no such repository"),
        ("no-such-folder", StorageError, "no folder"),
        ("a/b/c", StorageError, "no repository id"),
        ("../etc/passwd", StorageError, "no repository id"),
        ("user/..", StorageError, "no repository id"),
        ("https://huggingface.co/user/name", StorageError, "no repository id"),
    ],
)
def test_names_that_lead_nowhere(hub, name, error, message):
    with pytest.raises(error, match=message):
        segzoo.from_pretrained(name)


def test_a_repository_of_something_else(hub):
    hub.add("user/empty", {"README.md": b"hello"})
    with pytest.raises(HubError, match=r"has no config\.json"):
        segzoo.from_pretrained("user/empty")
    hub.add("user/other", {"config.json": b'{"_model_class": "Unet"}', "model.safetensors": b"x"})
    with pytest.raises((ConfigError, WeightsError)):
        segzoo.from_pretrained("user/other")


def test_a_pickle_is_never_asked_for(hub, model):
    model.push_to_hub(REPO)
    config = hub.files(REPO)["config.json"]
    hub.add("user/pickle", {"config.json": config, "pytorch_model.bin": b"\x80\x04N."})
    with pytest.raises(HubError, match=r"model\.safetensors"):
        segzoo.from_pretrained("user/pickle")
    assert not hub.asked("GET", "bin")
    assert not hub.asked("HEAD", "bin")


# Interrupted work


def test_a_push_that_is_cut_changes_nothing_and_can_be_made_again(hub, model, image, monkeypatch):
    model.push_to_hub(REPO)
    before = hub.repos[REPO].refs["main"]
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    other = segzoo.Unet("test_resnet", classes=5, decoder_channels=(16, 8, 8, 8, 8)).eval()
    for fault in (("PUT", "lfs-upload"), ("POST", "preupload"), ("POST", "/commit/")):
        hub.cut = {fault: 1000}
        with pytest.raises(HubError, match="call this again"):
            other.push_to_hub(REPO)
        assert hub.repos[REPO].refs["main"] == before
        assert same(segzoo.from_pretrained(REPO), model, image)
    hub.cut = {}
    other.push_to_hub(REPO)
    assert same(segzoo.from_pretrained(REPO), other, image)


def test_a_push_survives_a_hiccup(hub, model, image, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cut = {("PUT", "lfs-upload"): 1}
    model.push_to_hub(REPO)
    assert same(segzoo.from_pretrained(REPO), model, image)


def test_a_pull_that_is_cut_can_be_made_again(hub, model, image, monkeypatch):
    model.push_to_hub(REPO)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cut = {("GET", "safetensors"): 1000}
    with pytest.raises(HubError, match="call this again"):
        segzoo.from_pretrained(REPO)
    hub.cut = {}
    assert same(segzoo.from_pretrained(REPO), model, image)


def test_a_large_download_goes_on_where_it_was_cut(hub, monkeypatch):
    big = segzoo.Unet("resnet18", decoder_channels=(256, 16, 8, 8, 8)).eval()
    big.push_to_hub(REPO)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cut = {("GET", "safetensors"): 1}
    loaded = segzoo.from_pretrained(REPO)
    assert torch.equal(loaded.head.conv.weight, big.head.conv.weight)
    ranges = [request.headers.get("range") for request in hub.asked("GET", "safetensors")]
    assert len(ranges) == 2
    assert int(ranges[1].removeprefix("bytes=").partition("-")[0]) >= 10 * 2**20


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500])
def test_a_hub_that_refuses(hub, model, status, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.refuse = {("POST", "/commit/"): status}
    with pytest.raises(HubError, match=r"refused|status"):
        model.push_to_hub(REPO)
    assert hub.repos == {}


def test_two_pulls_at_once(hub, model, image, tmp_path):
    model.push_to_hub(REPO)
    loaded: list[segzoo.SegmentationModel] = []
    threads = [
        threading.Thread(target=lambda: loaded.append(segzoo.from_pretrained(REPO)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    assert all(same(item, model, image) for item in loaded)


# Cards


def readme(hub: HubServer) -> str:
    return hub.files(REPO)["README.md"].decode()


def test_a_card_that_a_person_wrote_is_kept(hub, model):
    model.push_to_hub(REPO)
    assert f'segzoo.from_pretrained("{REPO}")' in readme(hub)
    hub.add(REPO, {"README.md": b"# By hand"})
    model.push_to_hub(REPO)
    assert readme(hub) == "# By hand"
    with pytest.warns(UserWarning, match="by hand and is kept"):
        model.push_to_hub(REPO, card=segzoo.ModelCard(license="mit"))
    assert readme(hub) == "# By hand"


def test_a_card_that_segzoo_wrote_is_replaced_only_by_a_new_one(hub, model):
    model.push_to_hub(REPO, card=segzoo.ModelCard(license="mit"))
    model.push_to_hub(REPO)
    assert "license: mit" in readme(hub)
    model.push_to_hub(REPO, card=segzoo.ModelCard(license="apache-2.0"))
    assert "license: apache-2.0" in readme(hub)


# Folders


def test_a_folder_goes_up_and_comes_down(hub, model, image, tmp_path):
    picture = tmp_path / "some picture.PNG"
    picture.write_bytes(b"\x89PNG not really")
    model.save_pretrained(tmp_path / "a", card=segzoo.ModelCard(license="mit", picture=picture))
    (tmp_path / "a" / "notes.txt").write_text("private")
    transfer.push(tmp_path / "a", REPO, revision="new", commit_message="from a folder")
    assert "notes.txt" not in hub.files(REPO, "new")
    transfer.pull(REPO, tmp_path / "b", revision="new")
    for name in ("config.json", "model.safetensors", "README.md", "example.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert same(segzoo.from_pretrained(tmp_path / "b"), model, image)


def test_a_card_in_a_folder_written_by_hand(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    hub.add(REPO, {"README.md": b"# On the Hub"})
    transfer.push(tmp_path / "a", REPO)
    assert readme(hub) == "# On the Hub"
    (tmp_path / "a" / "README.md").write_text("# In the folder")
    transfer.push(tmp_path / "a", REPO)
    assert readme(hub) == "# In the folder"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "README.md").write_text("# Mine")
    transfer.pull(REPO, tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == "# Mine"


def test_a_folder_that_is_no_model_is_not_pushed(hub, model, tmp_path):
    with pytest.raises(StorageError, match="no folder"):
        transfer.push(tmp_path / "missing", REPO)
    with pytest.raises(ConfigError, match="saved by segzoo"):
        transfer.push(tmp_path, REPO)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged or incomplete"):
        transfer.push(tmp_path, REPO)
    assert hub.repos == {}


def test_a_pull_of_a_damaged_model_leaves_the_folder_alone(hub, model, image, tmp_path):
    model.push_to_hub(REPO)
    transfer.pull(REPO, tmp_path)
    data = bytearray(hub.files(REPO)["model.safetensors"])
    data[-100] ^= 1
    hub.add(REPO, {"model.safetensors": bytes(data)})
    with pytest.raises(WeightsError, match="checksum"):
        transfer.pull(REPO, tmp_path)
    assert same(segzoo.from_pretrained(tmp_path), model, image)
    with pytest.raises(StorageError, match="no repository id"):
        transfer.pull(str(tmp_path), tmp_path / "b")


def test_a_folder_shadows_a_repository_and_says_so(hub, model, tmp_path, monkeypatch):
    model.push_to_hub(REPO)
    monkeypatch.chdir(tmp_path)
    Path(REPO).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no config\.json in user/name"):
        segzoo.from_pretrained(REPO)
    with pytest.raises(StorageError, match="a folder has no revision"):
        segzoo.from_pretrained(REPO, revision="main")
    assert not hub.asked("GET", "resolve.*safetensors")


def test_the_config_on_the_hub_is_the_documented_one(hub, model):
    model.push_to_hub(REPO)
    config = json.loads(hub.files(REPO)["config.json"])
    assert config["library_name"] == "segzoo"
    assert config["arguments"]["encoder"].startswith("test_resnet.")
    assert config["arguments"]["class_names"] == ["road", "rest"]


def test_a_card_that_is_kept_keeps_its_picture(hub, model, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"ours")
    model.save_pretrained(tmp_path / "a", card=segzoo.ModelCard(picture=picture))
    hub.add(REPO, {"README.md": b"# By hand ![](example.png)", "example.png": b"theirs"})
    transfer.push(tmp_path / "a", REPO)
    assert hub.files(REPO)["example.png"] == b"theirs"
    (tmp_path / "a" / "README.md").write_text("# Mine ![](example.png)")
    transfer.pull(REPO, tmp_path / "a")
    assert (tmp_path / "a" / "example.png").read_bytes() == b"ours"


@pytest.mark.parametrize("left", [None, b"{}"], ids=["no config", "another config"])
def test_a_save_that_was_killed_is_pushed_whole(hub, model, image, tmp_path, left):
    config = model.save_pretrained(tmp_path) / "config.json"
    text = config.read_text()
    if left is None:
        config.unlink()
    else:
        config.write_text(text.replace('"save_id": "', '"save_id": "0').replace("road", "old"))
    transfer.push(tmp_path, REPO)
    assert config.read_text() == hub.files(REPO)["config.json"].decode() == text
    assert same(segzoo.from_pretrained(REPO), model, image)


def test_what_fails_here_is_not_called_the_network(hub, model, tmp_path):
    model.push_to_hub(REPO)
    (tmp_path / "file").touch()
    with pytest.raises(HubError, match="a file or folder here could not be read or written"):
        segzoo.from_pretrained(REPO, cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(ArgumentError, match="revision must be a string"):
        segzoo.from_pretrained(REPO, revision=5)
    with pytest.raises(StorageError, match="a file has no revision 'v1'"):
        segzoo.from_pretrained(model.save_pretrained(tmp_path) / "model.safetensors", revision="v1")


def test_a_folder_that_no_system_has(model):
    with pytest.raises(StorageError, match=r"null (byte|character)"):
        model.save_pretrained("a\0b")
