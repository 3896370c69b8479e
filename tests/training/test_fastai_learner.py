"""A fastai user stays in fastai: Learner, freezing, discriminative learning rates, saving.

On CamVid where SEGZOO_CAMVID names its folder, on the photograph of coins otherwise.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.errors import ArgumentError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    from fastai.callback.schedule import Learner  # where it gets its fine_tune
    from fastai.vision.augment import Resize
    from fastai.vision.data import SegmentationDataLoaders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def camvid(root):
    images = sorted((Path(root) / "train" / "images").iterdir())[::40][:6]
    codes = [str(i) for i in range(12)]
    return images, lambda path: Path(root) / "train" / "masks" / f"{path.stem}.png", codes


def coins(folder):
    """Six pieces of the photograph, the mask by a threshold."""
    from skimage.data import coins as photograph

    picture = photograph()
    for i in range(6):
        piece = picture[40 * i : 40 * i + 64, 30 * i : 30 * i + 96]
        Image.fromarray(piece).save(folder / f"{i}.png")
        Image.fromarray((piece > 110).astype(np.uint8)).save(folder / f"{i}_mask.png")
    images = [folder / f"{i}.png" for i in range(6)]
    return images, lambda path: folder / f"{path.stem}_mask.png", ["ground", "coin"]


def make_learner(folder, model=None, **options):
    root = os.environ.get("SEGZOO_CAMVID")
    images, label, codes = camvid(root) if root else coins(folder)
    loaders = SegmentationDataLoaders.from_label_func(
        folder, images, label, codes=codes, bs=2, valid_pct=0.34, seed=0, num_workers=0,
        item_tfms=Resize((48, 64)),
    )  # fmt: skip
    model = model or segzoo.DynamicUnet("test_resnet", len(codes))
    return Learner(loaders, model, splitter=segzoo.fastai_splitter, path=folder, **options)


def test_fine_tune_freezes_then_trains_all_and_saves(tmp_path):
    torch.manual_seed(0)
    learn = make_learner(tmp_path)
    weights = dict(learn.model.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in weights.items()}

    def moved(prefix):
        return {n for n, p in weights.items() if n.startswith(prefix) and not p.equal(start[n])}

    with learn.no_bar(), learn.no_logging():
        learn.freeze()
        learn.fit_one_cycle(1, 1e-3)
        # Batch norm goes on training in fastai, as it does with its own models.
        norms = {
            f"{name}.{parameter}"
            for name, module in learn.model.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
            for parameter in ("weight", "bias")
        }
        assert moved("encoder.") <= norms
        assert len(moved("decoder.")) > 20
        learn.unfreeze()
        learn.fit_one_cycle(1, slice(1e-5, 1e-3))
        rates = [group["lr"] for group in learn.opt.hypers]
        assert rates == sorted(rates)
        assert len(set(rates)) == 3
        assert moved("encoder.backbone.conv1")
        loss = learn.validate()[0]
        learn.fine_tune(1, 1e-3)
        assert learn.validate()[0] != loss
    learn.save("trained")
    with torch.no_grad():
        expected = learn.model.eval()(torch.ones(1, 3, 48, 64))
    again = make_learner(tmp_path).load("trained")
    with torch.no_grad():
        assert torch.equal(again.model.eval()(torch.ones(1, 3, 48, 64)), expected)
    learn.model.save_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(
            segzoo.from_pretrained(tmp_path / "ours")(torch.ones(1, 3, 48, 64)), expected
        )


def test_another_architecture_trains_as_well(tmp_path):
    codes = 12 if os.environ.get("SEGZOO_CAMVID") else 2
    learn = make_learner(tmp_path, segzoo.Unet("test_resnet", codes))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()


def test_the_splitter_is_for_our_models():
    with pytest.raises(ArgumentError, match="got Linear"):
        segzoo.fastai_splitter(torch.nn.Linear(1, 1))
