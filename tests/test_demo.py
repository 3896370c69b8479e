"""The demo: what it learns from, that it learns, and what it leaves behind."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.data.pictures import read_mask, read_picture
from segzoo.demo import Scene, coins_scene, read_scene, run_demo
from segzoo.demo.run import class_iou
from segzoo.errors import ArgumentError, InputError, MissingPackageError


@pytest.fixture(scope="module")
def coins():
    return coins_scene()


def files(folder, photo, mask):
    Image.fromarray(photo).save(folder / "photo.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "photo.png", folder / "mask.png"


def test_the_coins_are_the_coins(coins):
    assert coins.photo.shape == (3, 303, 384)
    assert coins.truth.unique().tolist() == [0, 1]
    # The photograph shows 24 coins on a dark ground, which cover about a third of it.
    assert 0.3 < coins.truth.float().mean() < 0.37
    grey = coins.photo[0].float()
    assert grey[coins.truth == 1].mean() > 2 * grey[coins.truth == 0].mean()


def test_the_parts_make_the_whole_and_share_nothing(coins):
    left, right = coins.left(), coins.right()
    assert torch.equal(torch.cat([left.photo, right.photo], dim=-1), coins.photo)
    assert torch.equal(torch.cat([left.truth, right.truth], dim=-1), coins.truth)
    assert (left.truth.shape[1], right.truth.shape[1]) == (256, 128)


def test_training_reduces_the_loss_and_repeats_itself(coins, tmp_path, monkeypatch):
    # Drawing takes longer than these trainings; the next test looks at what is drawn.
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
    strip = Scene(coins.photo[:, 100:148], coins.truth[100:148], coins.class_names)

    def run(seed, out):
        return run_demo(strip, out=tmp_path / out, encoder="test_resnet", steps=4, seed=seed)

    first, again, other = run(0, "a"), run(0, "a"), run(1, "b")
    assert first.losses == again.losses
    assert first.iou == again.iou
    assert first.losses != other.losses
    assert len(first.losses) == 4
    assert first.losses[-1] < first.losses[0]


def test_a_run_leaves_model_mask_and_picture(coins, tmp_path):
    state = torch.get_rng_state()
    result = run_demo(coins, out=tmp_path / "out", encoder="test_resnet", steps=2, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    unseen = coins.right()
    mask = read_mask(result.mask)
    model = segzoo.from_pretrained(result.model_folder)
    assert result.identical
    assert torch.equal(model.predict(unseen.photo), mask)
    assert model.config.class_names == ("background", "coin")
    both = ((mask == 1) & (unseen.truth == 1)).sum() / ((mask == 1) | (unseen.truth == 1)).sum()
    assert result.iou == pytest.approx(both.item())
    assert result.iou == result.class_iou["coin"]
    assert (result.steps, len(result.losses)) == (2, 2)
    height, width = read_picture(result.picture).shape[1:]
    assert width > height > 200
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("demo.png", "mask.png", "model")
    ]


def test_the_command_takes_your_own_photograph(capsys, tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((50, 150), dtype=np.uint8)
    mask[10:40, 5::15] = 128
    mask[20:30] = 255
    photo = np.stack([mask] * 3, axis=-1) // 2 + rng.integers(0, 60, (50, 150, 3), dtype=np.uint8)
    image, truth = files(tmp_path, photo, mask)
    arguments = ["demo", "--image", image, "--mask", truth, "-o", tmp_path / "out", "--steps", 2]
    code = main([*map(str, arguments), "--encoder", "test_resnet", "--no-page", "--json"])
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (code, captured.err) == (0, "")
    assert set(facts["class_iou"]) == {"value 0", "value 128", "value 255"}
    assert facts["identical"] is True
    assert facts["page"] is None
    assert read_mask(facts["mask"]).shape == (50, 50)


@pytest.mark.parametrize(
    ("photo", "mask", "reason"),
    [
        (np.zeros((60, 150), np.uint8), np.zeros((60, 149), np.uint8), "60x150 and the mask 60x149"),
        (np.zeros((60, 150), np.uint8), np.zeros((60, 150), np.uint8), "1 distinct values"),
        (np.zeros((60, 200), np.uint8), np.tile(np.arange(200, dtype=np.uint8), (60, 1)), "200 distinct"),
        (np.zeros((20, 150), np.uint8), np.tile(np.arange(150, dtype=np.uint8) % 2, (20, 1)), "at least 48"),
        (np.zeros((60, 150), np.uint8), np.repeat([[0] * 100 + [1] * 50], 60, 0).astype(np.uint8), "do not show 'value 1'"),
        (np.zeros((60, 150), np.uint8), np.repeat([[1] * 50 + [0] * 100], 60, 0).astype(np.uint8), "nothing but 'value 0'"),
    ],
    ids=["sizes", "one value", "too many values", "too small", "unseen class", "nothing to judge"],
)  # fmt: skip
def test_photographs_that_cannot_serve(tmp_path, photo, mask, reason):
    with pytest.raises(InputError, match=reason):
        read_scene(*files(tmp_path, photo, mask))


@pytest.mark.parametrize("argument", [{"steps": 1}, {"seed": -1}, {"device": "abacus"}])
def test_arguments_out_of_range(coins, tmp_path, argument):
    with pytest.raises(ArgumentError):
        run_demo(coins, out=tmp_path / "out", **argument)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingPackageError, match=r'pip install "segzoo\[demo\]"'):
        coins_scene()


def test_a_missing_matplotlib_is_told_before_the_training(coins, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("segzoo.demo.run.train", lambda *_, **__: pytest.fail("trained in vain"))
    with pytest.raises(MissingPackageError, match="matplotlib"):
        run_demo(coins, out=tmp_path / "out")


def test_several_classes_are_averaged_without_the_first():
    truth = torch.tensor([[0, 1, 2, 2]])
    assert class_iou(torch.tensor([[0, 1, 1, 2]]), truth, 4) == (1.0, 0.5, 0.5, None)
    assert Scene(torch.zeros(3, 1, 4), truth, ("a", "b", "c")).classes == 3
