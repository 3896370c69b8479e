"""Files of segmentation_models_pytorch: opened without running code, or refused with the reason."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import segzoo
from segzoo.convert import from_smp
from segzoo.convert.smp.architecture import converters
from segzoo.errors import ConversionError, HubError, SegzooError, StorageError

from ..helpers import shown
from .smp_models import assert_same, theirs

smp = pytest.importorskip("segmentation_models_pytorch")


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(0)
    return theirs()


NAME = {"encoder_name": "tu-test_resnet"}


def test_a_folder_and_a_repository(source, tmp_path, hub):
    source.save_pretrained(tmp_path / "model")
    assert_same(source, from_smp(tmp_path / "model"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    hub.tokens = {"secret"}
    hub.add("user/smp", files)
    hub.repos["user/smp"].private = True
    with pytest.raises(HubError, match="token"):
        from_smp("user/smp")
    assert_same(source, from_smp("user/smp", token="secret", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model._orig_mod."])
def test_files(source, tmp_path, prefix):
    tensors = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pth")
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "c.ckpt")
    for path in tmp_path.iterdir():
        assert_same(source, from_smp(path, NAME), (64, 64))


def test_a_config_of_an_older_version(source, tmp_path):
    source.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["decoder_use_norm"], config["decoder_interpolation"]
    config |= {"decoder_use_batchnorm": True, "upscale_mode": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert from_smp(tmp_path).config.interpolation == "bilinear"
    config["decoder_use_batchnorm"] = "inplace"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="'inplace' cannot be brought over exactly"):
        from_smp(tmp_path)


def test_a_converted_model_can_be_saved(source, tmp_path):
    from_smp(source).save_pretrained(tmp_path)
    assert_same(source, segzoo.from_pretrained(tmp_path))


def test_a_conversion_draws_no_random_numbers(source):
    before = torch.get_rng_state()
    from_smp(source.state_dict(), NAME)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_tensors_do_not_tell_is_named(tmp_path, caplog):
    model = smp.DeepLabV3("resnet18", encoder_weights=None, encoder_output_stride=16).eval()
    assumed = "encoder_output_stride=8, decoder_atrous_rates=(12, 24, 36); taken as smp's default"
    taken = from_smp(model.state_dict())
    assert taken.config.output_stride == 8
    assert assumed in caplog.text
    caplog.clear()
    rates = {"decoder_atrous_rates": [12, 24, 36]}
    from_smp(model.state_dict(), rates)
    assert "tell encoder_output_stride=8; taken" in caplog.text
    caplog.clear()
    model.save_pretrained(tmp_path)
    said = {"encoder_output_stride": 16, **rates}
    for found in (from_smp(model.state_dict(), said), from_smp(model), from_smp(tmp_path)):
        assert_same(model, found, (64, 64))
    assert not caplog.text


def test_the_pooling_of_a_classification_head_is_named(caplog):
    head = {"classes": 3, "pooling": "max"}
    model = smp.Linknet("resnet18", encoder_weights=None, aux_params=head)
    found = from_smp(model.state_dict())
    assert "aux_params={'pooling': 'avg'}; taken" in caplog.text
    caplog.clear()
    assert found.config.classification.pooling == "avg"
    assert from_smp(model.state_dict(), {"aux_params": head}).config.classification.pooling == "max"
    assert not caplog.text


def test_nothing_is_named_where_tensors_tell_all(caplog):
    from_smp(smp.Linknet("resnet18", encoder_weights=None).state_dict())
    assert not caplog.text


@pytest.mark.parametrize("converter", converters().values(), ids=lambda item: item.name)
def test_what_is_taken_where_nothing_is_said_is_the_default_of_smp(converter):
    theirs = inspect.signature(getattr(smp, converter.name)).parameters
    assert {name: theirs[name].default for name in converter.untold} == dict(converter.untold)
    # All else that a class has and that changes answers, a tensor tells or a converter refuses.
    unseen = {"encoder_output_stride", "decoder_atrous_rates", "decoder_interpolation"}
    assert theirs.keys() & (unseen | {"encoder_output_indices"}) == converter.untold.keys()


def test_a_converted_model_is_in_eval_mode():
    assert not from_smp(theirs().train()).training


def test_a_model_that_something_holds(source):
    holder = nn.Module()
    holder.network = nn.DataParallel(source)
    holder.loss = nn.CrossEntropyLoss(weight=torch.ones(2))
    assert_same(source, from_smp(holder))


def test_a_model_that_was_saved_whole(source, tmp_path):
    torch.save(nn.DataParallel(source), tmp_path / "whole.pth")
    assert_same(source, from_smp(tmp_path / "whole.pth", NAME))


class Trap:
    """Opened without weights_only, this pickle would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_runs_no_code(tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "caught")}, tmp_path / "evil.pth")
    message = r"holds no tensors, but objects of pathlib\.(_local\.)?Path\.touch"
    with pytest.raises(ConversionError, match=message):
        from_smp(tmp_path / "evil.pth")
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b"nothing"), ("a.safetensors", b"nothing"), ("a.pth", b"")],
)
def test_files_that_are_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError):
        from_smp(tmp_path / name)
    with pytest.raises(StorageError, match="There is no file"):
        from_smp(tmp_path / "missing.pth")


# Refusals


def without(name: str) -> Any:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def added(name: str, value: Tensor) -> Any:
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (dict, {}, r"tensors do not tell which.*encoder_name"),
        (dict, {"encoder_name": "tu-nothing"}, "not in this version of timm"),
        (dict, {"encoder_name": "tu-vit_tiny_patch16_224"}, "maps of strides"),
        (dict, {"encoder_name": "tu-test_resnet.nothing"}, "no pretrained tag"),
        (dict, {"encoder_name": "dpn68"}, "exactly: smp puts a ReLU on its maps"),
        (dict, {"encoder_name": "xception"}, "exactly: smp pads its first convolutions"),
        (dict, {"encoder_name": "mobileone_s0"}, "exactly: smp adds up its branches in another"),
        (dict, {"encoder_name": "mit_b7"}, r"no network.*Did you mean mit_b"),
        (dict, {"encoder_name": "densenet121"}, "does not fit Unet"),
        (dict, {"encoder_name": "tu-resnet18"}, "does not fit Unet"),
        (dict, {"encoder_name": "resnext101_32x48d"}, "not in this version of timm"),
        (dict, {**NAME, "classes": 5}, "config says classes=5, its tensors say 2"),
        (dict, {**NAME, "encoder_depth": 3}, "config says encoder_depth=3"),
        (dict, {**NAME, "decoder_channels": [1, 2]}, "config says decoder_channels"),
        (dict, {**NAME, "decoder_attention_type": "scse"}, "tensors say none"),
        (dict, {**NAME, "decoder_use_norm": False}, "tensors say 'batch'"),
        (dict, {**NAME, "decoder_use_norm": "layernorm"}, "cannot be brought over exactly"),
        (dict, {**NAME, "decoder_use_norm": {"type": "batchnorm", "eps": 1e-3}}, "eps=0.001"),
        (dict, {**NAME, "decoder_interpolation": "lanczos"}, "must be one of"),
        (dict, {**NAME, "output_stride": 16}, "dilated"),
        (dict, {**NAME, "encoder_dept": 5}, "Did you mean encoder_depth"),
        (dict, {**NAME, "checkpoint_path": "/etc/passwd"}, "not known here"),
        (dict, {**NAME, "aux_params": {"classes": 3}}, "no tensors classification_head"),
        (dict, {**NAME, "_model_class": "UnetMinus"}, "'UnetMinus'.*Did you mean Unet"),
        (lambda tensors: {}, NAME, "holds no tensors"),
        (lambda tensors: {"a": torch.zeros(1)}, NAME, "no model of segmentation_models_pytorch"),
        (without("decoder.blocks.2.conv1.1.bias"), NAME, "lacks 1 tensors"),
        (without("segmentation_head.0.bias"), NAME, "lacks 1 tensors"),
        (without("decoder.blocks.2.conv1.0.weight"), NAME, "no Unet"),
        (added("decoder.blocks.1.extra", torch.zeros(1)), NAME, "1 that have no place"),
        (added("classification_head.3.weight", torch.zeros(1, 64)), NAME, "lacks 1 tensors"),
        (added("segmentation_head.0.bias", torch.zeros(3)), NAME, "shape"),
        (added("segmentation_head.0.bias", torch.zeros(2).double()), NAME, "mixes the types"),
    ],
    ids=shown,
)
def test_refusals(source, change, config, message):
    with pytest.raises(SegzooError, match=message) as caught:
        from_smp(change(source.state_dict()), config)
    assert isinstance(caught.value, ConversionError)


def test_another_architecture_is_refused(source):
    tensors = source.state_dict()
    with pytest.raises(ConversionError, match="architecture 'OneOfTomorrow'"):
        from_smp(tensors, {"_model_class": "OneOfTomorrow"})
    others = {name: value for name, value in tensors.items() if not name.startswith("decoder.")}
    with pytest.raises(
        ConversionError, match="no model of segmentation_models_pytorch that is known"
    ):
        from_smp(others, NAME)
