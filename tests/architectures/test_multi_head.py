"""Several heads on one encoder: one pass of the image, and each head is what it is alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import segzoo
from segzoo.architectures.base import create_model
from segzoo.architectures.diagram import diagram
from segzoo.encoders import build_on_meta
from segzoo.errors import ArgumentError, ConfigError, UnknownNameError

from ..architecture_checks import assert_everyday, randomise_all
from ..helpers import TinyBackbone

HEADS = {
    "road": segzoo.Head("unet", 2, options={"decoder_channels": [8, 4]}),
    "depth-bins": segzoo.Head("linear_head", 5),
    "sky": segzoo.Head("fpn", 1, options={"decoder_channels": 8, "dropout": 0.0}),
}
ENCODER = "multi_head_toy"
if ENCODER not in segzoo.list_encoders():
    segzoo.register_encoder(ENCODER)(TinyBackbone)


def toy(**arguments: object) -> segzoo.MultiHead:
    torch.manual_seed(0)
    return randomise_all(segzoo.MultiHead(ENCODER, heads=HEADS, **arguments))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_head_answers_as_its_architecture_on_that_encoder_would(training, dtype):
    model = toy().to(dtype).train(training)
    image = torch.rand(2, 3, 33, 50).to(dtype)
    alone = {}
    for name, head in HEADS.items():
        one = create_model(head.architecture, copy.deepcopy(model.encoder), head.classes, **head.options)  # fmt: skip
        one.load_state_dict(model.single(name).state_dict())
        alone[name] = one.to(dtype).train(training)(image)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = model.answers(image)
    assert calls == [1]
    assert list(found) == list(HEADS)
    for name, logits in found.items():
        assert logits.shape == (2, HEADS[name].classes, 33, 50)
        assert torch.equal(logits, alone[name]), name


def test_one_answer_is_the_first_head_s():
    model = toy().eval()
    image = torch.rand(1, 3, 33, 50)
    with torch.no_grad():
        outputs = model.forward_heads(image)
        assert torch.equal(model(image), outputs.auxiliary["road"])
    assert torch.equal(outputs.logits, outputs.auxiliary["road"])
    assert (model.classes, outputs.image_logits) == (2, None)
    assert "heads.road.blocks.0 8" in diagram(model)


def test_the_first_head_s_outputs_are_decided_as_that_head_decides_them():
    probability = segzoo.Head("dynamic_unet", 1, options={"y_range": (0.0, 1.0)})
    model = segzoo.MultiHead(ENCODER, heads={"sure": probability, "sky": HEADS["sky"]}).eval()
    randomise_all(model)
    single = model.single("sure")
    assert model.threshold == single.threshold == 0.5
    assert model.single("sky").threshold == 0.0
    picture = torch.rand(3, 33, 50)
    mask = model.predict(picture)
    assert torch.equal(mask, single.predict(picture))
    assert 0 < mask.float().mean() < 1


def test_there_is_one_encoder_in_the_file_and_in_the_memory(tmp_path):
    model = toy().eval()
    names = list(model.state_dict())
    assert not [name for name in names if name.startswith("heads.") and "encoder" in name]
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert isinstance(loaded, segzoo.MultiHead)
    assert loaded.config == model.config
    image = torch.rand(1, 3, 33, 50)
    with torch.no_grad():
        for one, other in zip(loaded.answers(image).values(), model.answers(image).values(), strict=True):  # fmt: skip
            assert torch.equal(one, other)
    for each in (loaded, copy.deepcopy(loaded), loaded.double()):
        assert all(head.encoder is each.encoder for head in each.heads.values())
    with pytest.raises(ArgumentError, match=r"classes=7, but the first head 'road' has 2"):
        segzoo.from_pretrained(tmp_path, classes=7)


def test_a_single_head_is_a_model_like_any_other(tmp_path):
    model = toy(in_channels=4).eval()
    image = torch.rand(2, 4, 33, 50)
    with torch.no_grad():
        answers = model.answers(image)
        for name in HEADS:
            one = model.single(name)
            assert one.encoder is model.encoder
            loaded = segzoo.from_pretrained(one.save_pretrained(tmp_path / name))
            assert type(loaded) is type(one)
            assert torch.equal(loaded(image), answers[name])
    road = model.single("road").train()
    road(image).mean().backward()
    assert model.encoder.backbone.fine[0].weight.grad is not None
    assert not any(part.training for part in model.heads["sky"].modules())
    with pytest.raises(UnknownNameError, match=r"no head 'rode'. Did you mean road\? There are: "):
        model.single("rode")


def test_heads_can_be_trained_one_after_the_other_on_a_frozen_encoder():
    model = toy().freeze_encoder().train()
    before = copy.deepcopy(model.state_dict())
    for name in ("depth-bins", "sky"):
        single = model.single(name)
        trained = [item for item in single.parameters() if item.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        single(torch.rand(2, 3, 33, 50)).square().mean().backward()
        optimizer.step()
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith(("heads.depth-bins.", "heads.sky.")) for key in changed)
    groups = model.parameter_groups(1e-3)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_without_heads_it_is_a_unet(tmp_path):
    model = segzoo.MultiHead("test_resnet", classes=2)
    assert list(model.config.heads) == ["mask"]
    assert_everyday(model, tmp_path)


def test_tokens_and_output_strides_of_their_own_heads_do_without():
    heads = {"dpt": segzoo.Head("dpt", 2), "deeplab": segzoo.Head("deeplabv3plus", 3)}
    model = build_on_meta(lambda: segzoo.MultiHead("test_vit", heads=heads))
    assert model.encoder.prefix_tokens == 0
    assert model.heads["dpt"].config.readout == "ignore"


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({}, "heads must be a mapping of 1 to 64 names"),
        ({"a.b": segzoo.Head("fcn")}, "A head cannot be called 'a.b'"),
        ({"keys": segzoo.Head("fcn")}, "A head cannot be called 'keys'"),
        ({"a": "fcn"}, "head 'a' must be a segzoo.Head, got 'fcn'"),
        ({"a": {"architecture": "fcn", "clases": 3}}, "argument 'clases'. Did you mean classes"),
    ],
    ids=str,
)
def test_heads_that_cannot_be(heads, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.MultiHead(ENCODER, heads=heads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "unett"}, "architecture must be one of .* Did you mean unet"),
        ({"architecture": "multi_head"}, "MultiHead cannot be a head"),
        ({"architecture": "eomt"}, "EoMT cannot be a head"),
        ({"architecture": "fcn", "classes": 0}, "classes must be between 1 and"),
        ({"architecture": "fcn", "class_names": ("a", "b")}, "2 names for classes=1"),
        ({"architecture": "fcn", "options": {"encoder": "resnet18"}}, "no argument 'encoder'"),
        ({"architecture": "fcn", "options": {"pretrained": True}}, "no argument 'pretrained'"),
        ({"architecture": "fcn", "options": {"norm": "bach"}}, "Did you mean batch"),
        ({"architecture": "fcn", "options": 3}, "options must be a mapping"),
    ],
    ids=str,
)
def test_a_head_that_cannot_be(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.Head(**arguments)


def test_what_is_for_models_of_one_head():
    with pytest.raises(ArgumentError, match="for models of one head"):
        segzoo.MultiHead(ENCODER, heads=HEADS, auxiliary_stride=4)
    with pytest.raises(ArgumentError, match=r"The encoder comes first, then the heads: segzoo\."):
        segzoo.MultiHead(HEADS)


def test_a_file_with_a_head_that_cannot_be_is_refused(tmp_path):
    file = toy().save_pretrained(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    config["arguments"]["heads"]["road"]["options"]["pretrained"] = "weights.pth"
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="no argument 'pretrained'"):
        segzoo.from_pretrained(tmp_path)
