"""A page as a static Space, pushed by the real client to a Hub on loopback."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import yaml

from segzoo.cli import main
from segzoo.errors import ArgumentError, HubError
from segzoo.pages.site import assets
from segzoo.pages.space import push_space
from segzoo.storage.card import is_unedited

from ..new_space import SPACE_FILES

SPACE = "user/coins"
STORED = f"spaces/{SPACE}"
#: As the Hub may word it one day.
OTHER_WELCOME = b"<h1>Welcome to your static Space!</h1><p>Edit it as you like.</p>"


@pytest.fixture(autouse=True)
def no_folder_is_left(tmp_path, monkeypatch):
    """Sites are made in a folder of their own, which is gone afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert [path for path in folder.iterdir() if "segzoo" in path.name] == []


def front_matter(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---")[1])


def test_a_space_has_the_page_and_says_how_it_is_served(hub, exported, small_runtime):
    address = push_space(
        exported, SPACE, title="Coins: all", runtime=small_runtime, source="user/model"
    )
    assert address == f"{hub.url}/spaces/{SPACE}"
    files = hub.files(STORED)
    assert set(assets()) <= set(files)
    assert files["index.html"] == assets()["index.html"]
    assert [name for name in files if name.endswith(".onnx")]
    assert hub.repos[STORED].messages == ["initial commit", "Upload a page with segzoo"]
    facts = front_matter(files["README.md"])
    assert (facts["title"], facts["sdk"], facts["app_file"]) == (
        *("Coins: all", "static", "index.html"),
    )
    assert facts["models"] == ["user/model"]
    assert facts["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert is_unedited(files["README.md"].decode())


def test_the_next_page_takes_the_place_of_the_first(hub, exported, small_runtime):
    push_space(exported, SPACE, runtime=small_runtime)
    old = {"model-0123456789ab.onnx", "gone.js", "runtime/old.wasm", "examples/old.png"}
    mine = {"notes.txt", "about/mine.js", "lib/x/y.css", "model-mine.onnx", "my/examples/a.png"}
    hub.add(STORED, dict.fromkeys(old | mine, b"there"))
    push_space(exported, SPACE, title="Second", runtime=small_runtime)
    files = hub.files(STORED)
    assert old & set(files) == set()
    assert mine <= set(files)
    assert front_matter(files["README.md"])["title"] == "Second"


def test_a_page_of_somebody_else_stays(hub, exported, small_runtime):
    card = b"---\nsdk: static\n---\nMy own page, with a few words that say what it is.\n"
    files = {"README.md": card, "index.html": b"mine", "app.js": b"mine"}
    hub.add(STORED, files)
    with pytest.raises(HubError, match=r"a page that segzoo did not make.*Nothing was published"):
        push_space(exported, SPACE, runtime=small_runtime)
    assert hub.files(STORED) == files


def test_a_page_of_somebody_else_under_the_card_of_the_hub_stays(hub, exported, small_runtime):
    hub.add(STORED, SPACE_FILES)
    welcome = SPACE_FILES["index.html"]
    for page in (b"mine", welcome.replace(b"</body>", b"And mine.</body>"), welcome + b" " * 20000):
        files = {**SPACE_FILES, "index.html": page}
        hub.add(STORED, files)
        with pytest.raises(HubError, match=r"a page that segzoo did not make.*Nothing was pub"):
            push_space(exported, SPACE, runtime=small_runtime)
        assert hub.files(STORED) == files


def test_files_of_somebody_else_s_page_without_an_index_stay(hub, exported, small_runtime):
    card = b"---\nsdk: static\napp_file: main.html\n---\n"
    name = min(name for name in assets() if name.endswith(".js"))
    files = {"README.md": card, "main.html": b"mine", "style.css": b"mine", name: b"mine"}
    hub.add(STORED, files)
    with pytest.raises(HubError, match=rf"did not make \({name} without page.json"):
        push_space(exported, SPACE, runtime=small_runtime)
    assert hub.files(STORED) == files


@pytest.mark.parametrize("others", [{"mine.js": b"mine"}, {"index.html": OTHER_WELCOME}], ids=str)
def test_the_page_that_the_hub_welcomes_with_is_replaced(hub, exported, small_runtime, others):
    if "mine.js" in others:
        hub.add(STORED, SPACE_FILES)
    hub.add(STORED, {**SPACE_FILES, **others})
    push_space(exported, SPACE, runtime=small_runtime)
    files = hub.files(STORED)
    assert files["index.html"] == assets()["index.html"]
    assert files.get("mine.js") == others.get("mine.js")
    assert files.get("style.css") == assets().get("style.css")
    assert is_unedited(files["README.md"].decode())


def test_a_card_that_a_person_wrote_is_kept(hub, exported, small_runtime):
    push_space(exported, SPACE, runtime=small_runtime)
    own = hub.files(STORED)["README.md"] + b"\nMine.\n"
    hub.add(STORED, {"README.md": own})
    push_space(exported, SPACE, title="Second", runtime=small_runtime)
    assert hub.files(STORED)["README.md"] == own
    assert b'"Second"' in hub.files(STORED)["page.json"]


def test_a_space_that_runs_something_else_stays(hub, exported, small_runtime):
    files = {"README.md": b"---\nsdk: gradio\n---\nAn app.\n", "app.py": b"run()"}
    hub.add(STORED, files)
    with pytest.raises(HubError, match="runs 'gradio', not a static page"):
        push_space(exported, SPACE, runtime=small_runtime)
    assert hub.files(STORED) == files


@pytest.mark.parametrize("name", ["coins", "a/b/c", "user/", "https://x/y"])
def test_names_that_are_none(hub, exported, small_runtime, name):
    with pytest.raises(ArgumentError, match="name like user/name"):
        push_space(exported, name, runtime=small_runtime)
    assert hub.requests == []


def test_what_cannot_become_a_page_reaches_no_hub(hub, exported, small_runtime):
    with pytest.raises(ArgumentError, match="max_pixels"):
        push_space(exported, SPACE, runtime=small_runtime, max_pixels=0)
    assert hub.requests == []


def test_a_first_upload_that_fails_leaves_no_space(hub, exported, small_runtime):
    hub.refuse[("POST", r"/commit/")] = 409
    with pytest.raises(HubError, match="status 409"):
        push_space(exported, SPACE, runtime=small_runtime)
    assert hub.repos == {}


def test_an_upload_that_was_cut_publishes_nothing_and_goes_on(hub, exported, small_runtime):
    push_space(exported, SPACE, title="First", runtime=small_runtime)
    before = hub.files(STORED)
    hub.refuse[("POST", r"/commit/")] = 409
    with pytest.raises(HubError, match="status 409"):
        push_space(exported, SPACE, title="Second", runtime=small_runtime)
    assert hub.files(STORED) == before
    hub.refuse.clear()
    push_space(exported, SPACE, title="Second", runtime=small_runtime)
    assert front_matter(hub.files(STORED)["README.md"])["title"] == "Second"


def test_without_the_right_to_write(hub, exported, small_runtime):
    hub.tokens = {"right"}
    with pytest.raises(HubError, match="the token is missing, wrong"):
        push_space(exported, SPACE, runtime=small_runtime, token="wrong")
    assert hub.repos == {}


def test_the_command(hub, exported, small_runtime, capsys):
    arguments = ["space", str(exported.path), SPACE, "--runtime", str(small_runtime)]
    assert main([*arguments, "--private", "--message", "mine"]) == 0
    assert re.fullmatch(rf"{hub.url}/spaces/{SPACE}\n", capsys.readouterr().out)
    assert hub.repos[STORED].private
    assert hub.repos[STORED].messages[-1] == "mine"
    assert main([*arguments[:2], "nowhere"]) == 2
    assert "name like user/name" in capsys.readouterr().err
    assert Path(exported.path).is_file()
