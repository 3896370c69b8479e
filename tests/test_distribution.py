"""The source distribution and the wheel: what is in them, and that the wheel works by itself."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import segzoo

ROOT = Path(__file__).parents[1]
#: What a build leaves behind, and what is no part of the project: never copied into a build.
LEFTOVERS = shutil.ignore_patterns(
    *(".*", "build", "dist", "*.egg-info", "__pycache__", "_build", "generated")
)
#: Folders of the project that are not for those who install it.
NOT_SHIPPED = ("tests", "benchmarks", "docs")
VERSION = segzoo.__version__


def run(*command: object, folder: Path, **variables: str) -> str:
    """The output of a command that is run in a folder, with variables of its environment."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution of this checkout, and the wheel that is built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=LEFTOVERS, dirs_exist_ok=True)
    # Without isolation nothing is downloaded: setuptools is installed with the tests.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, folder=out)
    return out / f"segzoo-{VERSION}.tar.gz", out / f"segzoo-{VERSION}-py3-none-any.whl"


def package_files() -> set[str]:
    """Every module of the package, the mark that it has types, and the files of the page."""
    found = [*(ROOT / "segzoo").rglob("*.py"), *(ROOT / "segzoo" / "pages" / "assets").iterdir()]
    return {path.relative_to(ROOT).as_posix() for path in found} | {"segzoo/py.typed"}


def test_the_wheel_is_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(f"segzoo-{VERSION}.dist-info/METADATA"))
        commands = wheel.read(f"segzoo-{VERSION}.dist-info/entry_points.txt").decode()
    assert {name for name in names if not name.startswith("segzoo-")} == package_files()
    assert f"segzoo-{VERSION}.dist-info/licenses/LICENSE" in names
    assert commands.split() == ["[console_scripts]", "segzoo", "=", "segzoo.cli:main"]
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_payload().startswith("# segzoo")


def test_the_source_distribution_builds_the_wheel_and_has_no_more(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "setup.cfg"} <= names
    assert not {name for name in names if name.startswith(NOT_SHIPPED)}
    assert not {name for name in names if "/." in name or name.startswith(".")}


@pytest.fixture(scope="module")
def clean(distributions, tmp_path_factory) -> Path:
    """The scripts of an environment that has the wheel, and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", *options, distributions[1]),
        folder=folder,
        PYTHONPATH="",
    )
    site = run(
        *(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"), folder=folder
    )
    # The folders are searched, but their own .pth files are not run: an editable segzoo stays out.
    behind = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (Path(site.strip()) / "behind.pth").write_text("\n".join(behind) + "\n")
    return scripts


MODEL = """
import importlib.metadata, torch, segzoo
model = segzoo.Unet("test_resnet", classes=2, depth=2).eval()
model.save_pretrained("model")
image = torch.rand(1, 3, 33, 47)
with torch.inference_mode():
    assert torch.equal(segzoo.from_pretrained("model")(image), model(image))
print(segzoo.__file__)
print(importlib.metadata.version("segzoo"))
"""


def test_the_wheel_works_where_it_is_installed(clean, tmp_path):
    def installed(*command: object) -> list[str]:
        return run(*command, folder=tmp_path, PYTHONPATH="").split()

    where, version = installed(clean / "python", "-c", MODEL)
    assert Path(where).is_relative_to(clean.parent)
    assert version == VERSION
    by_module = installed(clean / "python", "-m", "segzoo", "--version")
    by_name = installed(clean / "segzoo", "--version")
    assert by_module[-1] == by_name[-1] == VERSION
