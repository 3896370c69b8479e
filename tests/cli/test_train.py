"""segzoo train: two folders in, a model out; options are fields of the recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.cli.train import train_command

RECIPE = ("--epochs", "1", "--batch-size", "2", "--size", "32", "32", "--workers", "0")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ten pictures of grey blocks, and masks of three classes and void."""
    root = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(10):
        mask = np.kron(chance.integers(0, 3, (4, 5)), np.ones((10, 10))).astype(np.uint8)
        image = mask[..., None] * 80 + chance.integers(0, 40, (40, 50, 3))
        mask[0] = 255
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"a{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"a{index}.png")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """No pictures are drawn but where a test looks at them."""
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


def run(folders, out, *more):
    arguments = ["train", str(folders / "images"), str(folders / "masks"), "-o", str(out)]
    options = ("--encoder", "resnet10t", "--no-pretrained", "--ignore-index", "255")
    return main([*arguments, *options, *RECIPE, *map(str, more)])


def test_it_trains_says_what_it_does_and_the_same_line_again_knows(folders, tmp_path, capsys):
    out = tmp_path / "model"
    assert run(folders, out) == 0
    first = capsys.readouterr()
    assert "epoch   1  loss" in first.err
    assert "mIoU" in first.out
    assert f"segzoo predict photo.jpg --model {out}" in first.out
    model = segzoo.from_pretrained(out)
    assert (model.classes, model.in_channels, model.architecture) == (3, 3, "unet")
    recipe = segzoo.Recipe.from_json((out / "training" / "recipe.json").read_text())
    assert recipe == segzoo.Recipe(epochs=1, batch_size=2, size=(32, 32))
    data = json.loads((out / "training" / "data.json").read_text())
    assert data["counts"] == {"train": 8, "val": 2}
    assert run(folders, out) == 0
    assert "holds this training, finished" in capsys.readouterr().out
    assert run(folders, out, "--set", "dice=0.5") == 2
    assert "recipe.dice was 1.0, is 0.5" in capsys.readouterr().err
    assert run(folders, out, "--set", "dice=0.5", "--restart", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["epochs"], answer["best_epoch"], answer["was_finished"]) == (1, 1, False)
    assert answer["scores"]["images"] == 2


def test_torchrun_starts_two_processes_that_train_one_model(folders, tmp_path):
    pytest.importorskip("accelerate")
    out = tmp_path / "model"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "segzoo")
    given = ("train", folders / "images", folders / "masks", "-o", out, "--ignore-index", "255")
    options = ("--encoder", "test_resnet", "--no-pretrained", "--device", "cpu", *RECIPE)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launch, *given, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("segzoo predict photo.jpg") == 1  # one of them speaks
    (row,) = map(json.loads, (out / "training" / "metrics.jsonl").read_text().splitlines())
    assert (row["step"], row["val"]["images"]) == (2, 2)  # eight images, two for each process
    assert segzoo.from_pretrained(out).classes == 3


def test_a_recipe_comes_from_a_file_and_options_go_first(folders, tmp_path, capsys):
    file = tmp_path / "recipe.json"
    file.write_text(segzoo.Recipe(epochs=7, vflip=True, dice=0.25, seed=3).to_json())
    out = tmp_path / "model"
    settings = ("--set", "color=0.1", "--set", "crop=[24, 24]", "--lr", "0.01")
    code = run(folders, out, "--recipe", file, "--arch", "fpn", *settings)
    assert code == 0, capsys.readouterr().err
    recipe = segzoo.Recipe.from_json((out / "training" / "recipe.json").read_text())
    assert recipe == segzoo.Recipe(
        epochs=1,
        batch_size=2,
        size=(32, 32),
        vflip=True,
        dice=0.25,
        seed=3,
        color=0.1,
        crop=(24, 24),
        learning_rate=0.01,
    )
    assert segzoo.from_pretrained(out).architecture == "fpn"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--set", "epoch=3"), "Did you mean epochs?"),
        (("--set", "vflip"), "is no name=value"),
        (("--encoder", "resnet43"), "Did you mean"),
        (("--arch", "unte"), "Did you mean unet"),
        (("--epochs", "0"), "epochs must be between 1"),
        (("--recipe", "missing.json"), "missing.json cannot be read"),
        (("--device", "abacus"), "abacus"),
        (("--classes", "2"), "values that are no class: 2"),
        (("--val", "0.99999"), "val must be between"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line_and_leaves_nothing(
    folders, tmp_path, capsys, more, reason
):
    out = tmp_path / "model"
    code = run(folders, out, *more)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert reason in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()


def test_pretrained_weights_that_cannot_be_had_are_told(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run(folders, tmp_path / "model", "--pretrained") == 2
    error = capsys.readouterr().err
    assert "pretrained weights" in error
    assert "--no-pretrained" in error


def test_the_help_has_the_defaults_of_the_recipe():
    said = {option.name: option.help for option in train_command.params if hasattr(option, "help")}
    recipe = segzoo.Recipe()
    for option, value in {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.learning_rate,
        "seed": recipe.seed,
    }.items():
        assert f"{value} if left" in said[option]


def test_a_frozen_encoder_is_taught_and_its_features_outlive_the_training(folders, tmp_path):
    teacher, kept = tmp_path / "teacher", tmp_path / "features"
    assert run(folders, teacher) == 0
    more = ("--arch", "linear_head", "--freeze-encoder", "--set", "keep_features=true")
    given = ("--feature-folder", kept, "--teacher", teacher, "--temperature", 3)
    assert run(folders, tmp_path / "out", *more, *given) == 0
    recipe = segzoo.Recipe.from_json((tmp_path / "out/training/recipe.json").read_text())
    assert (recipe.teacher, recipe.temperature) == (str(teacher), 3.0)
    assert len(list(kept.glob("*/*.safetensors"))) == 10  # of each picture, in one epoch
    torch.manual_seed(0)
    first = segzoo.LinearHead("resnet10t", classes=3).encoder.state_dict()
    trained = segzoo.from_pretrained(tmp_path / "out").encoder.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in first.items())


def test_what_cannot_be_taught_or_kept_is_one_line(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "out", "--teacher", tmp_path / "nobody") == 2
    assert "There is no folder" in capsys.readouterr().err
    assert run(folders, tmp_path / "out", "--set", "keep_features=true") == 2
    assert "segzoo train --freeze-encoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
