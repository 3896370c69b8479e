"""Files of fastai users: brought over exactly, without fastai, or refused with the way out."""

import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import segzoo
from benchmarks.parity.fastai_models import Case, fastai_unet, plain
from segzoo.convert import from_fastai
from segzoo.errors import ArgumentError, ConversionError, StorageError, UnknownNameError

IMAGE = torch.rand(1, 3, 33, 47, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What a fastai user has after training: files of every kind, and the expected output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.callback.schedule import Learner  # where it gets its fit_one_cycle
        from fastai.data.core import Datasets
        from fastai.losses import CrossEntropyLossFlat

        folder = tmp_path_factory.mktemp("fastai")
        picture, mask = torch.rand(3, 33, 33), torch.randint(0, 3, (33, 33))
        pairs = Datasets(range(4), [[lambda _: picture], [lambda _: mask]], splits=[[0, 1], [2, 3]])
        loaders = pairs.dataloaders(bs=2, num_workers=0)
        model = fastai_unet(Case())
        learn = Learner(
            loaders, model, loss_func=CrossEntropyLossFlat(axis=1), path=folder, model_dir="."
        )
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, 1e-3)
        learn.save("with_optimiser")
        learn.save("weights_only", with_opt=False)
        learn.export("export.pkl")
        torch.save(learn.model.state_dict(), folder / "state_dict.pth")
        with torch.no_grad():
            expected = plain(learn.model.eval()(IMAGE))
    return folder, expected


@pytest.mark.parametrize("name", ["with_optimiser", "weights_only", "state_dict"])
def test_files_of_every_kind(saved, name):
    folder, expected = saved
    model = from_fastai(folder / f"{name}.pth", class_names=["sky", "road", "car"])
    assert not model.training
    assert model.config.encoder.partition(".")[0] == "resnet18"
    assert model.config.class_names == ("sky", "road", "car")
    with torch.no_grad():
        assert torch.equal(model(IMAGE), expected)


def test_fastai_is_not_needed(saved, tmp_path):
    folder, expected = saved
    code = (
        "import sys; sys.modules.update(fastai=None, fastcore=None, matplotlib=None)\n"
        "import segzoo; from segzoo.convert import from_fastai\n"
        f"from_fastai({str(folder / 'with_optimiser.pth')!r}).save_pretrained({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        assert torch.equal(segzoo.from_pretrained(tmp_path)(IMAGE), expected)


def test_a_learners_export_is_opened_without_running_it(saved):
    folder, expected = saved
    with torch.no_grad():
        assert torch.equal(from_fastai(folder / "export.pkl")(IMAGE), expected)


def test_a_pickle_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Hostile()))
    for name, message in (("hostile.pth", r"mkdir wherever"), ("plain.pkl", "did not write")):
        with pytest.raises(StorageError, match=message):
            from_fastai(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a checkpoint", "is text"),
        (b"PK\x03\x04 broken", "ends too early"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=message):
        from_fastai(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(StorageError, match="There is no file"):
        from_fastai(tmp_path / "none.pth")


@pytest.fixture(scope="module")
def state():
    return fastai_unet(Case()).state_dict()


def test_a_wrong_encoder_is_told_which_it_looks_like(state):
    with pytest.raises(ConversionError, match=r"not hold a 'resnet34'.*looks like 'resnet18'"):
        from_fastai(state, "resnet34")
    assert from_fastai(state, "resnet18.tv_in1k").config.encoder == "resnet18.tv_in1k"
    with pytest.raises(UnknownNameError, match="Did you mean resnet34"):
        from_fastai(state, "resnet43")


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet101", "resnext50_32x4d"])
def test_encoders_are_found(encoder):
    # On the meta device: the names and shapes are all that counts.
    import torchvision

    with torch.device("meta"):
        body = getattr(torchvision.models, encoder)(weights=None)
    children = dict(zip("0123456789", body.children(), strict=True))
    state = {
        f"layers.0.{i}.{name}": tensor
        for i, child in list(children.items())[:8]
        for name, tensor in child.state_dict().items()
    }
    from segzoo.convert.fastai import _encoder

    assert _encoder(state, None, "x") == encoder


def test_an_encoder_that_is_no_resnet(state):
    other = {name: t for name, t in state.items() if not name.startswith("layers.0.7.1.")}
    with pytest.raises(ConversionError, match=r"none of resnet18.*_32x8d: it has \d+ tensors"):
        from_fastai(other)
    with pytest.raises(ConversionError, match=r"none of resnet18.* nor 'resnet18': it has"):
        from_fastai(other, "resnet18")
    vgg = {name.replace("layers.0.4.", "layers.0.0.4."): t for name, t in state.items()}
    with pytest.raises(ConversionError, match="no ResNet of torchvision"):
        from_fastai(vgg)


def test_a_checkpoint_of_fastai_1(state):
    old = {name.replace("shuf.0.", "shuf.conv."): tensor for name, tensor in state.items()}
    with pytest.raises(ConversionError, match="fastai 1"):
        from_fastai(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"a": torch.ones(1)}, "no DynamicUnet of fastai"),
        (lambda s: {**s, "extra": torch.ones(1)}, "have no place"),
        (lambda s: {**s, "layers.8.0.0.bias": torch.ones(7)}, r"shape \(7,\), expected \(384,\)"),
        (lambda s: {n: t for n, t in s.items() if n != "layers.8.0.0.bias"}, "lacks 1 tensors"),
        (lambda s: {n: t for n, t in s.items() if "layers.12" not in n}, "last convolution"),
        (lambda s: {**s, "layers.1.weight": 3}, "lacks 1 tensors"),
        (lambda s: {"model": [1], "opt": {}}, "holds no tensors"),
    ],
)
def test_what_does_not_fit(state, change, message):
    with pytest.raises(ConversionError, match=message):
        from_fastai(change(state))


def test_options_are_checked(state):
    with pytest.raises(ArgumentError, match="low < high"):
        from_fastai(state, y_range=(1, 0))
    with pytest.raises(UnknownNameError, match="act must be one of"):
        from_fastai(state, act="rleu")
    with pytest.raises(TypeError):
        from_fastai(state, blurr=True)


def test_the_checkpoint_is_left_alone(state):
    before = {name: tensor.clone() for name, tensor in state.items()}
    model = from_fastai(state)
    nn.init.zeros_(model.head.conv.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
