"""What all tests share: a Hub on loopback, and a folder with an honest model."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import hub_server

# The Hub's client reads its environment when it is imported, so this comes before any test module.
_HUB = hub_server.start()
os.environ.update(_HUB.environment)
_HUB_HOME = tempfile.mkdtemp(prefix="segzoo-hub-")
os.environ["HF_HOME"] = _HUB_HOME
os.environ.pop("HF_TOKEN", None)


# Looking through all that was imported for garbage takes half a second, so it is done seldom, and
# what the tests import is left out.
gc.set_threshold(700, 10, 100)


def pytest_collection_finish() -> None:
    """What was imported stays until the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Remove the Hub's home; not at the interpreter's exit, which forked children may reach too."""
    shutil.rmtree(_HUB_HOME, ignore_errors=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    """An empty Hub on loopback, and an empty cache for the client."""
    import huggingface_hub.constants

    _HUB.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield _HUB
    _HUB.reset()


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, for tests that damage copies of it."""
    import torch

    import segzoo

    folder = tmp_path_factory.mktemp("honest")
    torch.manual_seed(0)
    model = segzoo.Unet("test_resnet", classes=2, decoder_channels=(16, 8, 8, 8, 8))
    return model.save_pretrained(folder)
