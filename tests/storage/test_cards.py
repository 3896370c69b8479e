"""Model cards: what they say, and what the Hub reads of them."""

from __future__ import annotations

import pytest
import yaml

import segzoo
from segzoo.errors import ArgumentError
from segzoo.storage.card import is_unedited, render
from tests.model_folders import small

CARD = segzoo.ModelCard(
    license="cc-by-4.0",
    datasets=("user/streets",),
    tags=("driving",),
    description="For *streets*.",
    metrics=(
        segzoo.Metric(type="mean_iou", value=0.71, dataset="user/streets", split="test"),
        segzoo.Metric(type="accuracy", value=0.9, dataset="user/streets", name="Pixel accuracy"),
    ),
)


def test_the_card_holds_what_was_given_and_nothing_else(tmp_path):
    small(class_names=("road: [x]", "<b>rest</b>")).save_pretrained(tmp_path / "a", card=CARD)
    text = (tmp_path / "a" / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    data = yaml.safe_load(metadata)
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "segzoo"
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["datasets"] == ["user/streets"]
    assert "base_model" not in data
    assert {"segzoo", "unet", "driving"} <= set(data["tags"])
    [model] = data["model-index"]
    values = [metric["value"] for result in model["results"] for metric in result["metrics"]]
    assert values == [0.71, 0.9]
    assert "For *streets*." in body
    assert r"- 0: road: \[x\]" in body
    assert "<b>" not in body
    assert is_unedited(text)
    small().save_pretrained(tmp_path / "b")
    plain = (tmp_path / "b" / "README.md").read_text()
    assert "license" not in plain
    assert "model-index" not in plain


def test_the_card_is_what_the_hub_reads():
    from huggingface_hub import ModelCard

    model = small()
    model.base_model = "timm/test_resnet.r160_in1k"
    text = render(
        CARD,
        model.config,
        architecture="unet",
        title="A: title",
        base_model=model.base_model,
        repo_id="user/name",
    )
    card = ModelCard(text)
    assert card.data.base_model == "timm/test_resnet.r160_in1k"
    assert [result.metric_value for result in card.data.eval_results] == [0.71, 0.9]


def test_the_base_model_survives(tmp_path):
    model = small()
    assert model.base_model is None
    model.base_model = "timm/test_resnet.r160_in1k"
    model.save_pretrained(tmp_path)
    assert "base_model: timm/test_resnet.r160_in1k" in (tmp_path / "README.md").read_text()
    assert segzoo.from_pretrained(tmp_path).base_model == "timm/test_resnet.r160_in1k"


def test_cards_in_a_folder(tmp_path):
    card = tmp_path / "README.md"
    small().save_pretrained(tmp_path, card=CARD)
    first = card.read_text()
    small().save_pretrained(tmp_path)
    assert card.read_text() == first
    small().save_pretrained(tmp_path, card=segzoo.ModelCard(license="mit"))
    assert "license: mit" in card.read_text()
    card.write_text(first.replace("For *streets*", "For roads"))
    with pytest.warns(UserWarning, match="by hand and is kept"):
        small().save_pretrained(tmp_path, card=CARD)
    assert "For roads" in card.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"license": 3}, "license must be a string"),
        ({"license": ""}, "1 to 256 characters"),
        ({"metrics": (0.5,)}, "must be a segzoo.Metric"),
        ({"picture": "x.gif"}, r"must be a \.png"),
        ({"picture": "missing.png"}, "must be a file"),
        ({"picture": 5}, "must be the path of a file"),
        ({"description": None}, "must be text"),
        ({"description": "a\udc80"}, "half of a character"),
    ],
)
def test_what_a_card_cannot_say(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.ModelCard(**arguments)
    with pytest.raises(ArgumentError, match="value must be"):
        segzoo.Metric(type="iou", value=float("nan"), dataset="d")


def test_a_card_with_line_ends_of_windows_is_segzoos(tmp_path):
    small().save_pretrained(tmp_path, card=segzoo.ModelCard(description="For\r\nroads"))
    assert is_unedited((tmp_path / "README.md").read_text())


def test_a_card_that_is_kept_keeps_its_picture(tmp_path):
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    folder = tmp_path / "model"
    small().save_pretrained(folder, card=segzoo.ModelCard(picture=old))
    (folder / "README.md").write_text("# By hand ![](example.png)")
    with pytest.warns(UserWarning, match="by hand and is kept"):
        small().save_pretrained(folder, card=segzoo.ModelCard(picture=new))
    assert (folder / "example.png").read_bytes() == b"old"
