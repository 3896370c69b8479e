"""ONNX Runtime Web: where it comes from, and that nothing else passes for it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segzoo.environment import folders
from segzoo.errors import ArgumentError, StorageError
from segzoo.files import leftovers
from segzoo.pages import runtime


@pytest.fixture
def tarball(tmp_path, small_runtime, monkeypatch):
    """The package as npm packs it, with more in it than a site needs."""
    path = tmp_path / "onnxruntime-web-1.30.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for file in small_runtime.iterdir():
            archive.add(file, f"package/dist/{file.name}")
        more = tarfile.TarInfo("package/README.md")
        archive.addfile(more, io.BytesIO(b""))
    monkeypatch.setattr(runtime, "_TARBALL", hashlib.sha512(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def npm(monkeypatch):
    """A registry on loopback: what it answers, and what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            status, content = self.server.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) + self.server.missing))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer, server.missing = [], (404, b""), 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/npm")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def homeless(monkeypatch):
    """As a user is whom only a container knows."""

    def unknown(_):
        raise KeyError("no such user")

    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "npm_config_registry", "npm_config_userconfig"):
        monkeypatch.delenv(name, raising=False)


def test_who_has_no_home_is_told_what_to_set(homeless, small_runtime):
    with pytest.raises(StorageError, match=r"HOME is not set.*Set XDG_CACHE_HOME"):
        runtime.find_runtime()
    assert runtime.find_runtime(small_runtime) == small_runtime  # which keeps nothing
    assert runtime.registry().startswith("https://")
    assert folders.look_at(Path("~/.cache"), "weights").path == "~/.cache"


def test_it_is_fetched_once_from_the_registry_that_npm_uses(npm, tarball, cache):
    npm.answer = (200, tarball.read_bytes())
    assert not runtime.is_cached()
    folder = runtime.find_runtime()
    assert folder == cache
    assert runtime.find_runtime() == folder
    assert npm.asked == ["/npm/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(runtime._SHA256)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_cache_that_was_damaged_is_filled_again(npm, tarball, cache):
    npm.answer = (200, tarball.read_bytes())
    (runtime.find_runtime() / "ort.wasm.min.mjs").write_text("other")
    assert not runtime.is_cached()
    assert runtime.find_runtime() == cache
    assert runtime.is_cached()


@pytest.mark.parametrize(
    ("answer", "missing", "reason"),
    [
        ((404, b""), 0, "Not Found"),
        ((200, b"other"), 0, "is not onnxruntime-web 1.30.0"),
        ((200, b"cut"), 5, "is not onnxruntime-web|IncompleteRead"),
        ((200, bytes(200)), 0, "too large"),
    ],
)
def test_what_a_registry_may_answer(npm, cache, answer, missing, reason, monkeypatch):
    monkeypatch.setattr(runtime, "_LARGEST", 100)
    npm.answer, npm.missing = answer, missing
    with pytest.raises(StorageError, match=reason) as caught:
        runtime.find_runtime()
    assert "npm pack onnxruntime-web@1.30.0" in str(caught.value)
    assert not cache.exists()


def test_without_a_network_it_says_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"could not be fetched.*--runtime FILE"):
        runtime.find_runtime()


def test_a_file_or_a_folder_needs_no_network(tarball, small_runtime, cache, tmp_path):
    assert runtime.find_runtime(tarball) == cache
    assert runtime.find_runtime(tarball) == cache
    assert runtime.find_runtime(small_runtime) == small_runtime
    installed = tmp_path / "project" / "node_modules" / "onnxruntime-web" / "dist"
    installed.mkdir(parents=True)
    for file in small_runtime.iterdir():
        (installed / file.name).write_bytes(file.read_bytes())
    assert runtime.find_runtime(tmp_path / "project") == installed
    (installed / "ort.webgpu.min.mjs").write_text("// of another version")
    with pytest.raises(StorageError, match="another version"):
        runtime.find_runtime(tmp_path / "project")


def test_files_and_folders_that_are_none(tarball, cache, tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="is not onnxruntime-web"):
        runtime.find_runtime(tmp_path / "other.tgz")
    with pytest.raises(StorageError, match="does not have ONNX Runtime Web in it"):
        runtime.find_runtime(tmp_path / "empty")
    with pytest.raises(ArgumentError, match="There is no file or folder"):
        runtime.find_runtime(tmp_path / "missing")


def test_what_a_killed_fetch_left_is_removed_by_the_next(tarball, cache):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    name = leftovers.temporary_name(cache.name)
    left = cache.with_name(name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
    other = cache.with_name(name)  # of a process that is at it
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "ort.wasm.min.mjs").write_text("half")
    assert runtime.find_runtime(tarball) == cache
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("address", ["http://[x", "http://", "https:/one/slash", "npm.org"])
def test_a_registry_that_is_no_address(address, cache, monkeypatch):
    monkeypatch.setenv("npm_config_registry", address)
    with pytest.raises(ArgumentError, match=r"no web address\. Set it right"):
        runtime.find_runtime()
    assert not cache.exists()


def test_a_registry_of_a_name_that_no_host_can_have(cache, monkeypatch):
    monkeypatch.setenv("npm_config_registry", f"http://{'a' * 70}.org")
    with pytest.raises(StorageError, match="could not be fetched"):
        runtime.find_runtime()


def test_the_registry_is_npms(tmp_path, monkeypatch):
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "npmrc"
    monkeypatch.setenv("npm_config_userconfig", str(config))
    assert runtime.registry() == "https://registry.npmjs.org/"
    config.write_text(
        "; mine\nregistry = https://npm.example.org/all\n@me:registry=https://x.org\n"
    )
    assert runtime.registry() == "https://npm.example.org/all/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc/passwd")
    with pytest.raises(ArgumentError, match="no web address"):
        runtime.registry()
