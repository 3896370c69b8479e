"""Reference models: their table, and the way to the Hub and back."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzoo
from benchmarks.zoo.publish import publish
from benchmarks.zoo.table import Table, read_table

from ..hub_server import HubServer

TABLE = Path(__file__).parents[2] / "benchmarks" / "zoo" / "camvid.json"


def small(folder: Path, **changes: object) -> Path:
    """A table of one small model."""
    recipe = {"epochs": 1, "size": [32, 32], "batch_size": 2}
    value = json.loads(TABLE.read_text()) | {"recipe": recipe, **changes}
    value["models"] = [{"name": "small", "architecture": "unet", "encoder": "test_resnet"}]
    path = folder / "table.json"
    path.write_text(json.dumps(value))
    return path


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and masks of twelve values, in two splits."""
    folder = tmp_path_factory.mktemp("streets")
    values = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for number in range(3):
            image = values.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            mask = (np.arange(32 * 40).reshape(32, 40) % 12).astype(np.uint8)
            Image.fromarray(image).save(folder / split / "images" / f"{split}{number}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{split}{number}.png")
    return folder


def test_the_table_of_the_project_is_read() -> None:
    table = read_table(TABLE)
    assert isinstance(table, Table)
    assert len(table.models) == 3
    for model in table.models:
        assert model.recipe.size == (90, 120)
        segzoo.encoder_info(model.encoder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"licence": "mit"}, "no field 'licence'. Did you mean license"),
        ({"recipe": {"epoch": 1}}, "no field 'epoch'. Did you mean epochs"),
        ({"dataset": {"name": "x"}}, "missing"),
    ],
)
def test_a_table_is_read_strictly(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(segzoo.errors.ArgumentError, match=said.replace(".", r"\.")):
        read_table(small(tmp_path, **changes))


def test_weights_are_published_under_a_licence_that_they_have(tmp_path: Path) -> None:
    row = {
        "name": "small",
        "architecture": "unet",
        "encoder": "convnextv2_atto",
        "options": {"pretrained": True},
    }
    value = json.loads(TABLE.read_text()) | {"license": "apache-2.0"}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(value | {"models": [row]}))
    theirs = segzoo.encoder_info("convnextv2_atto").license
    with pytest.raises(segzoo.errors.ArgumentError, match=f"under {theirs}, and would be"):
        read_table(path)
    path.write_text(json.dumps(value | {"models": [row | {"license": theirs}]}))
    assert read_table(path).models[0].license == theirs


def test_a_reference_model_goes_to_the_hub_and_back(
    tmp_path: Path, streets: Path, hub: HubServer
) -> None:
    table = read_table(small(tmp_path))
    data = segzoo.open_data(streets, classes=list(table.dataset.classes), ignore_index=11)
    given = Namespace(
        work=tmp_path / "work",
        device="cpu",
        workers=0,
        seeds=2,
        account="reference",
        private=False,
        dry_run=False,
    )
    row = publish(table, table.models[0], data, given)
    assert row["miou_pulled"] == row["miou_pushed"] == row["miou_least"]
    card = hub.files("reference/small")["README.md"].decode()
    for said in ("license: other", "(seed 1)", "CamVid", table.dataset.terms):
        assert said in card
    # Pictures of the data are their owners'; what is drawn of numbers goes along.
    pictures = {name for name in hub.files("reference/small") if name.endswith((".png", ".jpg"))}
    assert pictures == {"training/curves.png", "training/confusion.png"}
    assert publish(table, table.models[0], data, given) == row  # goes on with what is there
