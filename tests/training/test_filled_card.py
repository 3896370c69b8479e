"""The card that a training fills in: what it says, what the Hub reads of it, and what goes there."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

import segzoo
from segzoo.storage import hub_folder, model_folder
from segzoo.storage.transfer import pull, push
from segzoo.training.card import dataset_name, read_records, trained_size
from segzoo.training.evaluate import measure
from segzoo.training.results import write_filled_card
from tests.training.trained import NAMES, Data, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    trained(folder)
    return folder


def test_what_a_training_leaves(folder):
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "README.md", "config.json", "example.png", "model.safetensors", "training/confusion.png",
        "training/curves.png", "training/data.json", "training/metrics.json", "training/metrics.jsonl",
        "training/recipe.json", "training/samples/best.png", "training/samples/median.png",
        "training/samples/worst.png", "training/state.pt",
    ]  # fmt: skip


def test_the_card_says_what_was_found(folder):
    text = (folder / "README.md").read_text()
    scores = read_records(folder).scores
    body = text.split("---\n", 2)[2]
    assert f"| sky | {scores.iou[0]:.3f} | {scores.dice[0]:.3f} |" in body
    assert r"\<b\>road\</b\> \& $x$" in body
    assert "<b>" not in body
    assert "<script>" not in body
    assert f"mIoU {scores.miou:.3f}" in body
    assert "| seed | 0 |" in body
    assert "| size | 32 x 48 |" in body
    assert "| images | 9 train, 3 val |" in body
    assert "| best epoch | 3 of 3 |" in body
    # Not those that the card is written with.
    assert "| versions | segzoo 0.1.7, torch 2.7.1, timm 1.0.9, Python 3.9.2 |" in body
    assert "| focal |" not in body  # it was not used
    assert "](training/curves.png)" in body
    assert "](example.png)" in body
    assert "/home/ann" not in text  # where the data lie is nobody's business


def test_the_hub_reads_it(folder):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    scores = read_records(folder).scores
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["mean_iou"].metric_value == pytest.approx(scores.miou, abs=1e-5)
    assert found["accuracy"].metric_value == pytest.approx(scores.pixel_accuracy, abs=1e-5)
    assert {result.dataset_name for result in found.values()} == {"streets"}
    assert {result.dataset_split for result in found.values()} == {"validation"}
    assert (
        card.data.to_dict()["model-index"][0]["results"][0]["task"]["type"] == "image-segmentation"
    )
    yaml.safe_load(card.data.to_yaml())


def test_scores_on_other_data_stand_beside_those_of_the_training(folder, tmp_path):
    model = segzoo.from_pretrained(folder)
    model.save_pretrained(tmp_path, card=segzoo.ModelCard(license="mit"))
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "training").symlink_to(folder / "training")
    meter = segzoo.ScoreMeter(3, ignore_index=255)
    measure(model, Data(), meter)
    path = write_filled_card(
        tmp_path, model, meter.compute(NAMES), dataset="user/night", split="test"
    )
    from huggingface_hub import ModelCard

    card = ModelCard.load(path)
    assert card.data.license == "mit"
    values = [(r.dataset_name, r.dataset_split) for r in card.data.eval_results]
    assert {("user/night", "test"), ("streets", "validation")} == set(values)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_a_card_that_a_person_edited_is_kept(copy):
    model = segzoo.from_pretrained(copy)
    card = copy / "README.md"
    card.write_text(card.read_text().replace("## Training", "## How I trained it"))
    with pytest.warns(UserWarning, match="edited by hand and is kept"):
        write_filled_card(copy, model, read_records(copy).scores)
    assert "## How I trained it" in card.read_text()


def test_what_goes_to_the_hub_and_comes_back(folder, hub, tmp_path):
    push(folder, "user/trained")
    there = {name for files in hub.repos["user/trained"].commits.values() for name in files}
    assert there - {".gitattributes"} == {
        "README.md", "config.json", "model.safetensors", "example.png", *model_folder.RECORDS,
    }  # fmt: skip
    pulled = pull("user/trained", tmp_path / "pulled")
    assert read_records(pulled).scores == read_records(folder).scores
    for name in model_folder.RECORDS:
        assert (pulled / name).read_bytes() == (folder / name).read_bytes()


def test_a_record_that_leads_elsewhere_stays_here(copy, hub, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    record = copy / "training" / "recipe.json"
    record.unlink()
    record.symlink_to(secret)
    with pytest.warns(UserWarning, match=r"recipe\.json is a link or no ordinary file"):
        push(copy, "user/trained")
    there = {name for files in hub.repos["user/trained"].commits.values() for name in files}
    assert "training/recipe.json" not in there
    assert "training/metrics.json" in there


def test_a_large_record_of_a_stranger_is_left_there(folder, hub, tmp_path, monkeypatch):
    push(folder, "user/trained")
    monkeypatch.setattr(hub_folder, "_LARGEST", 1000)
    pulled = pull("user/trained", tmp_path)
    assert not (pulled / "training" / "curves.png").exists()
    assert (pulled / "training" / "recipe.json").exists()


def test_scores_on_test_images_are_on_the_card_too(copy):
    file = copy / "training" / "metrics.json"
    test = segzoo.Scores(counts=((5, 0, 0), (0, 4, 0), (1, 0, 0)), images=2)
    file.write_text(json.dumps({**json.loads(file.read_text()), "test": test.to_json()}))
    model = segzoo.from_pretrained(copy)
    text = write_filled_card(copy, model, read_records(copy).scores).read_text()
    assert "## Scores on the validation images" in text
    assert "## Scores on the test images" in text
    assert "| streets | test | Pixel accuracy | 0.9 |" in text


def test_damaged_records_are_left_out(copy, tmp_path):
    inside = copy / "training"
    (inside / "recipe.json").write_text("[1")
    (inside / "data.json").write_bytes(b"\xff")
    row = {"epoch": 1, "loss": 2.0, "lr": 0.1, "val": {"miou": None, "pixel_accuracy": 0.5}}
    rows = [row, {"epoch": 1}, {**row, "loss": "<b>"}, {**row, "val": {"miou": []}}]
    (inside / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"epo')
    records = read_records(copy)
    assert records.recipe == records.data == {}
    assert records.history == [row]
    assert read_records(tmp_path / "none").scores is None
    (inside / "metrics.json").write_text('{"val": {"counts": 3}}')
    assert read_records(copy).scores is None


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"images": "/data/streets/images/train", "masks": None}, "streets"),
        ({"images": "C:\\data\\cells\\imgs"}, "cells"),
        ({"images": "pairs/list.csv"}, "list"),
        ("Subset", "Subset"),
        ({"images": "images"}, "the data it was trained on"),
        (None, "the data it was trained on"),
        ({"images": "x\x1by"}, "the data it was trained on"),
    ],
)
def test_what_data_are_called(source, name):
    assert dataset_name({"source": source}) == name


def test_scores_are_plain_json(folder):
    json.dumps(read_records(folder).scores.to_json(), allow_nan=False)


@pytest.mark.parametrize("versions", [None, "0.2", ["segzoo"]])
def test_versions_that_nobody_wrote_down_are_not_on_the_card(copy, versions):
    file = copy / "training" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "versions": versions}))
    model = segzoo.from_pretrained(copy)
    text = write_filled_card(copy, model, read_records(copy).scores).read_text()
    assert "| seed | 0 |" in text
    assert "| versions |" not in text


def test_a_recipe_of_which_no_epoch_is_over_is_not_that_of_the_model(copy):
    """A restart has written it, and the model is still the one before."""
    for name in ("metrics.jsonl", "metrics.json"):
        (copy / "training" / name).unlink()
    assert trained_size(copy) is None
    assert (read_records(copy).recipe, read_records(copy).data) == ({}, {})
