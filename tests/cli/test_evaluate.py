"""``segzoo evaluate`` and ``segzoo report``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.storage.transfer import push
from segzoo.training import card
from tests.model_folders import small
from tests.training.trained import NAMES, Data, trained


@pytest.fixture
def folders(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "night" / kind).mkdir(parents=True)
    for i, (image, mask) in enumerate(Data()[k] for k in range(3)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            tmp_path / "night" / "images" / f"p{i}.png"
        )
        Image.fromarray(mask.numpy().astype(np.uint8)).save(
            tmp_path / "night" / "masks" / f"p{i}.png"
        )
    return [str(tmp_path / "night" / kind) for kind in ("images", "masks")]


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_a_table_and_json(folders, tmp_path, capsys):
    model = small(3, class_names=("a", "b", "c"))
    model.save_pretrained(tmp_path / "model")
    expected = segzoo.evaluate(model, tuple(folders), ignore_index=255)
    code, output = run(capsys, "evaluate", tmp_path / "model", *folders, "--ignore-index", 255)
    assert code == 0
    assert output.out == f"{expected}\n"
    code, output = run(
        capsys, "evaluate", tmp_path / "model", *folders, "--ignore-index", 255, "--json",
        "--batch-size", 2, "--size", 32, 48,
    )  # fmt: skip
    assert code == 0
    found = segzoo.Scores.from_json(json.loads(output.out))
    expected = segzoo.evaluate(model, tuple(folders), ignore_index=255, size=(32, 48), batch_size=2)
    assert found == expected
    before = (tmp_path / "model" / "README.md").read_text()
    assert "mean_iou" not in before


def test_the_card_is_filled_in_and_the_size_of_the_training_is_kept(folders, tmp_path, capsys):
    trained(tmp_path / "model")
    code, output = run(
        capsys, "evaluate", tmp_path / "model", *folders, "--ignore-index", 255, "--write-card"
    )
    assert code == 0
    assert "resized to 32x48, as in the model's training" in output.err
    assert "README.md: the scores" in output.out
    text = (tmp_path / "model" / "README.md").read_text()
    assert "Scores on the test images" in text
    assert "name: night" in text
    assert "## Training" in text
    code, output = run(capsys, "report", tmp_path / "model", "-o", tmp_path / "r.html")
    assert code == 0
    assert output.out.strip() == str(tmp_path / "r.html")


@pytest.mark.parametrize("layout", ["test/images", "images/test", "valid/images", "table"])
def test_data_with_one_split_only(folders, tmp_path, capsys, layout):
    small(3, class_names=("a", "b", "c")).save_pretrained(tmp_path / "model")
    night = tmp_path / "night"
    expected = "validation" if layout.startswith("valid") else "test"
    if layout == "table":
        lines = [f"images/p{i}.png,masks/p{i}.png,test" for i in range(3)]
        (night / "t.csv").write_text("\n".join(["image,mask,split", *lines]))
        given = [night / "t.csv"]
    else:
        for kind in ("images", "masks"):
            target = night / layout.replace("images", kind)
            target.parent.mkdir(exist_ok=True)
            (night / kind).rename(night / "moved")
            target.parent.mkdir(exist_ok=True)
            (night / "moved").rename(target)
        given = [night]
    call = ("evaluate", tmp_path / "model", *given, "--ignore-index", 255, "--write-card")
    code, output = run(capsys, *call)
    assert code == 0, output.err
    text = (tmp_path / "model" / "README.md").read_text()
    assert f"Scores on the {expected} images" in text
    if layout == "valid/images":  # the split's own folders say it, too
        code, output = run(
            capsys, *call[:2], night / "valid" / "images", night / "valid" / "masks", *call[3:]
        )
        assert code == 0, output.err
        assert "Scores on the validation images" in (tmp_path / "model" / "README.md").read_text()
    if layout != "images/test":  # of which pairs in subfolders are found without splits, too
        code, output = run(capsys, "check", *given)
        assert code == 1
        assert "train" in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--ignore-index 255 if 255 is void"),
        (["--ignore-index", 255, "--size", 0, 3], "size[0] must be between 1"),
        (["--ignore-index", 255, "--mask-suffix", "_m"], "_m"),
    ],
)
def test_what_cannot_be_scored(folders, tmp_path, capsys, arguments, message):
    small(3).save_pretrained(tmp_path / "model")
    code, output = run(capsys, "evaluate", tmp_path / "model", *folders, *arguments)
    assert code == 2
    assert message in output.err
    assert "Traceback" not in output.err


def test_a_card_is_for_a_folder(folders, capsys, hub):
    code, output = run(capsys, "evaluate", "user/name", *folders, "--write-card")
    assert code == 2
    assert "--write-card is for a folder" in output.err


def test_a_folder_without_a_training_has_no_report(tmp_path, capsys):
    small(3).save_pretrained(tmp_path)
    code, output = run(capsys, "report", tmp_path)
    assert code == 2
    assert "nothing to report" in output.err


def test_a_model_on_the_hub_gets_the_size_of_its_training_too(folders, tmp_path, capsys, hub):
    model = small(3, class_names=NAMES)
    model.save_pretrained(tmp_path / "plain")
    push(tmp_path / "plain", "user/model")
    first = hub.repos["user/model"].refs["main"]
    trained(tmp_path / "model")
    push(tmp_path / "model", "user/model")
    call = ("evaluate", *folders, "--ignore-index", 255, "--json")

    def scored(*given):
        code, output = run(capsys, call[0], given[0], *call[1:], *given[1:])
        assert code == 0, output.err
        return json.loads(output.out), "resized to 32x48" in output.err

    expected = scored(tmp_path / "model")
    assert expected[1]
    assert scored("user/model") == expected
    assert scored(tmp_path / "model" / "model.safetensors") == expected
    assert scored("user/model", "--size", 32, 48) == (expected[0], False)
    whole = scored("user/model", "--revision", first)
    assert whole == scored(tmp_path / "plain")
    assert whole[0] != expected[0]


def test_model_and_size_are_of_one_commit(folders, tmp_path, capsys, hub, monkeypatch):
    """A push between the two does not mix them."""
    trained(tmp_path / "model")
    push(tmp_path / "model", "user/model")
    found = card.find_records

    def pushed(model, access):
        answer = found(model, access)
        small(2).save_pretrained(tmp_path / "other")
        push(tmp_path / "other", "user/model")
        return answer

    monkeypatch.setattr(card, "find_records", pushed)
    code, output = run(capsys, "evaluate", "user/model", *folders, "--ignore-index", 255)
    assert code == 0, output.err
    assert "resized to 32x48" in output.err
    assert "car | bus" in output.out


def test_a_hub_that_does_not_tell_the_size_is_told(folders, tmp_path, capsys, hub):
    trained(tmp_path / "model")
    push(tmp_path / "model", "user/model")
    hub.refuse[("HEAD", "recipe")] = 403
    code, output = run(capsys, "evaluate", "user/model", *folders, "--ignore-index", 255)
    assert code == 2
    assert "what is known of the training of 'user/model'" in output.err
    assert "Traceback" not in output.err
