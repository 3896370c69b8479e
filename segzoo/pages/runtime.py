"""ONNX Runtime Web for a site: fetched once, checked, and kept for the next one.

It is many times the size of this package, and only who writes a site needs it, so it is no part of
the wheel. One version is known here by its checksums: a site never runs another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from ..errors import ArgumentError, StorageError
from ..files import leftovers
from ..files.atomic import make_folder, open_ordinary
from ..files.local import is_file, is_folder, path_of

VERSION = "1.30.0"
#: Of the package that npm's registry has.
_TARBALL = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
#: For each way to compute: the library, what loads the machine code, and the machine code itself,
#: with their checksums.
FILES = {
    "wasm": {
        "main": "ort.wasm.min.mjs",
        "loader": "ort-wasm-simd-threaded.mjs",
        "wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "main": "ort.webgpu.min.mjs",
        "loader": "ort-wasm-simd-threaded.asyncify.mjs",
        "wasm": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}
_SHA256 = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": (
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}
_REGISTRY = "https://registry.npmjs.org/"
#: Bytes above which a download is none of this package.
_LARGEST = 64 * 2**20
_TIMEOUT = 60
_BY_HAND = (
    f"Where there is a network: npm pack onnxruntime-web@{VERSION}. Then pass the file that it "
    "writes: runtime=FILE, --runtime FILE."
)
_LICENSE = """\
The files in this folder are of ONNX Runtime Web, https://onnxruntime.ai, under the MIT License.

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def find_runtime(source: str | os.PathLike[str] | None = None) -> Path:
    """A folder with the files of :data:`FILES`, each of which is what it should be.

    Args:
        source: None for the cache, which is filled from npm's registry where it is empty. Else the
            file that ``npm pack`` writes, or a folder in which npm installed or a person unpacked
            it.

    Raises:
        ArgumentError: There is no such file or folder.
        StorageError: It is another version or damaged, or it cannot be fetched or kept.
    """
    if source is None:
        cache = cache_folder()
        if not _is_whole(cache):
            _fetch(cache)
        return cache
    path = path_of("runtime", source)
    if is_folder(path):
        return _installed(path)
    if not is_file(path):
        raise ArgumentError(f"There is no file or folder {path} with ONNX Runtime Web. {_BY_HAND}")
    cache = cache_folder()
    if not _is_whole(cache):
        _unpack(path, cache, str(path))
    else:
        _check_tarball(path, str(path))
    return cache


def is_cached() -> bool:
    """Whether :func:`find_runtime` needs no network."""
    return _is_whole(cache_folder())


def cache_folder() -> Path:
    """Where it is kept: below ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        StorageError: Neither is known.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if not root:
        home = _home()
        if home is None:
            raise StorageError(
                "There is no folder to keep ONNX Runtime Web in: HOME is not set, and the system "
                "knows no home folder of this user. Set XDG_CACHE_HOME to a folder for caches."
            )
        root = os.fspath(home / ".cache")
    return Path(root) / "segzoo" / f"onnxruntime-web-{VERSION}"


def _home() -> Path | None:
    """The user's home folder; None where there is none, as of a user that only a container has."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def copy_runtime(folder: Path, target: Path) -> None:
    """Copy the files of :func:`find_runtime` into a folder that is made, with their licence.

    Raises:
        StorageError: A file changed since it was checked.
    """
    target.mkdir()
    for name, known in _SHA256.items():
        copy = target / site_name(name)
        shutil.copyfile(folder / name, copy)
        if digest(copy, "sha256") != known:
            raise StorageError(f"{folder / name} changed while it was copied. Try again.")
    (target / "LICENSE.txt").write_text(_LICENSE, encoding="utf-8")


def site_name(name: str) -> str:
    """What a file is called on a site: not every web server knows that ``.mjs`` is a script."""
    return name.removesuffix(".mjs") + ".js" if name.endswith(".mjs") else name


def registry() -> str:
    """The address of npm's registry, as npm is told: by its variable, or the user's ``.npmrc``.

    Raises:
        ArgumentError: What is set is no address of the web.
    """
    variables = {name.lower(): value for name, value in os.environ.items()}
    address = variables.get("npm_config_registry")
    if not address:
        home, named = _home(), variables.get("npm_config_userconfig")
        config = Path(named) if named else home and home / ".npmrc"
        address = (_registry_in(config) if config else None) or _REGISTRY
    try:
        found = urlsplit(address)
        is_web = found.scheme in ("http", "https") and bool(found.hostname)
    except ValueError:  # half a bracket
        is_web = False
    if not is_web:
        raise ArgumentError(
            f"npm's registry is set to {address!r}, which is no web address. Set it right, by npm "
            "config set registry or the variable npm_config_registry."
        )
    return address.rstrip("/") + "/"


def _registry_in(config: Path) -> str | None:
    try:
        lines = config.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "registry":
            return value.strip().strip("\"'")
    return None


def _fetch(cache: Path) -> None:
    """Download the package, check it, and keep what a site needs of it."""
    address = f"{registry()}onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    with tempfile.TemporaryDirectory(prefix="segzoo-runtime-") as folder:
        tarball = Path(folder) / "package.tgz"
        try:
            _download(address, tarball)
        except (OSError, HTTPException, ValueError) as error:  # the last of a host or a length
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            reason = getattr(error, "reason", None) or error
            raise StorageError(
                f"ONNX Runtime Web, which computes in the page, could not be fetched from "
                f"{address}: {reason}. {_BY_HAND}"
            ) from error
        _unpack(tarball, cache, address)


def _download(address: str, path: Path) -> None:
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as response, path.open("wb") as file:
        expected = response.headers.get("Content-Length")
        bar = tqdm(
            total=int(expected) if expected else None,
            desc=f"onnxruntime-web {VERSION}",
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            while chunk := response.read(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > _LARGEST:
                    raise OSError("the answer is too large")


def _check_tarball(path: Path, origin: str) -> None:
    try:
        found = digest(path, "sha512")
    except OSError as error:
        raise StorageError(f"{origin} cannot be read: {error}.") from error
    if found != _TARBALL:
        raise StorageError(
            f"{origin} is not onnxruntime-web {VERSION}: its checksum begins with {found[:16]}, "
            f"not {_TARBALL[:16]}. {_BY_HAND}"
        )


def _unpack(tarball: Path, cache: Path, origin: str) -> None:
    """Keep the files of a package in the cache: all of them or none."""
    _check_tarball(tarball, origin)
    make_folder(cache.parent)
    leftovers.sweep(cache.parent)
    temporary = cache.with_name(leftovers.temporary_name(cache.name))
    try:
        temporary.mkdir()
        with tarfile.open(tarball) as archive:
            for name in _SHA256:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None  # its checksum says what is in it
                with member, (temporary / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        if cache.exists() and not _is_whole(cache):
            shutil.rmtree(cache)
        if not cache.exists():  # else another process was quicker
            temporary.rename(cache)
    except OSError as error:
        if not _is_whole(cache):
            raise StorageError(
                f"ONNX Runtime Web could not be kept in {cache}: {error}. Free some space, or set "
                "XDG_CACHE_HOME to another folder."
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _installed(folder: Path) -> Path:
    """The files in a folder that a person named, where npm or tar put them."""
    inside = ("", "dist", "package/dist", "onnxruntime-web/dist")
    places = [folder / place for place in (*inside, "node_modules/onnxruntime-web/dist")]
    there = next((place for place in places if (place / FILES["wasm"]["main"]).is_file()), None)
    if there is None:
        raise StorageError(f"{folder} does not have ONNX Runtime Web in it. {_BY_HAND}")
    if not _is_whole(there):
        raise StorageError(
            f"{there} has another version of ONNX Runtime Web than {VERSION}, or not all of it. "
            f"{_BY_HAND}"
        )
    return there


def _is_whole(folder: Path) -> bool:
    try:
        return all(digest(folder / name, "sha256") == known for name, known in _SHA256.items())
    except OSError:
        return False


def digest(path: Path, kind: str) -> str:
    """The checksum of a file, by the name of its kind in hashlib."""
    found = hashlib.new(kind)
    with open_ordinary(path) as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


if __name__ == "__main__":
    print(find_runtime())
