"""What is no path is refused at every door, before anything is read or written."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError
from segzoo.storage.transfer import pull, push

PICTURE = torch.zeros(3, 32, 32, dtype=torch.uint8)
DATA = [(PICTURE, torch.zeros(32, 32).long())] * 2


@pytest.fixture(scope="module")
def model():
    return segzoo.Unet("test_resnet", classes=2, depth=1).eval()


#: By the function that takes the path.
DOORS = {
    "from_pretrained": lambda model, path: segzoo.from_pretrained(path),
    "save_pretrained": lambda model, path: model.save_pretrained(path),
    "push": lambda model, path: push(path, "user/name"),
    "pull": lambda model, path: pull("user/name", path),
    "open_data": lambda model, path: segzoo.open_data(path),
    "its masks": lambda model, path: segzoo.open_data("images", 5 if path is None else path),
    "train": lambda model, path: segzoo.train(model, (DATA, DATA), out=path),
    "evaluate": lambda model, path: segzoo.evaluate(model, path),
    "export": lambda model, path: segzoo.export(model, path),
    "open_exported": lambda model, path: segzoo.open_exported(path),
    "write_page": lambda model, path: segzoo.write_page(model, path),
    "predict_tiled": lambda model, path: segzoo.predict_tiled(model, PICTURE, path or 0),
}


@pytest.mark.parametrize("value", [None, 5, ""], ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_no_path(door, value, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError):
        DOORS[door](model, value)
    assert not list(tmp_path.iterdir())


def test_an_empty_name_is_told_what_it_would_stand_for(model):
    with pytest.raises(ArgumentError, match=r"'\.' is the folder that you are in"):
        model.save_pretrained("")


@pytest.mark.parametrize("value", [None, 5])
def test_no_name_of_a_repository(value, model):
    with pytest.raises(ArgumentError, match="repo_id must be a string"):
        model.push_to_hub(value)
    with pytest.raises(ArgumentError, match="name must be a string"):
        segzoo.encoder_info(value)
