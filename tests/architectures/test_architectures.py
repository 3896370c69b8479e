"""An architecture is one file and one line in a table."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo._compat import may_have_hooks
from segzoo.architectures.wants import Wants
from segzoo.bench import run_bench
from segzoo.cli import main
from segzoo.errors import ArgumentError, DuplicateNameError, InputError
from segzoo.registry import BUILT_IN

from ..helpers import randomise

FOLDER = Path(segzoo.__file__).parent / "architectures"

#: All that somebody writes for an architecture of their own.
TOY = """
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from segzoo.architectures.base import SegmentationModel
from segzoo.architectures.decoder_config import DecoderConfig
from segzoo.config import built_from
from segzoo.nn.layers import ConvNormAct, SegmentationHead
from segzoo.registry import register_architecture

@dataclass(frozen=True, kw_only=True)
class ToyConfig(DecoderConfig):
    width: int = 8

@register_architecture("toy")
class Toy(SegmentationModel):
    config_class = ToyConfig
    align_corners = False

    @built_from(ToyConfig)
    def __init__(self, config):
        super().__init__(config)
        self.decoder = torch.nn.ModuleList(ConvNormAct(f.channels, config.width, norm=config.norm) for f in self.features)
        self.head = SegmentationHead(config.width, config.classes, dropout=config.dropout)

    def decode(self, maps, image):
        size = maps[0].shape[-2:]
        return self.head(sum(F.interpolate(step(x), size) for step, x in zip(self.decoder, maps)))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    file = tmp_path_factory.mktemp("toy") / "toy_architecture.py"
    file.write_text(TOY)
    spec = importlib.util.spec_from_file_location("toy_architecture", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_architecture"] = module
    spec.loader.exec_module(module)
    yield module.Toy
    segzoo.ARCHITECTURES._entries.pop("toy")


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_toy_of_25_lines_can_do_everything(toy, encoder, tmp_path):
    assert sum(bool(line.strip()) for line in TOY.splitlines()) <= 25
    model = toy(encoder, classes=3, depth=2, class_names=("a", "b", "c"))
    randomise(model)
    image = torch.rand(2, 3, 65, 97)
    model(image).mean().backward()
    assert all(item.grad is not None for item in model.decoder.parameters())
    model.eval().save_pretrained(tmp_path / "model")
    loaded = segzoo.from_pretrained(tmp_path / "model")
    assert type(loaded) is toy
    with torch.no_grad():
        assert torch.allclose(loaded(image), model(image), atol=1e-5)
        fast = segzoo.optimize(model, backend="eager", example=image)
        assert torch.allclose(fast(image), model(image), atol=1e-4)
    assert model.predict(image).shape == (2, 65, 97)
    if encoder == "test_resnet":  # of a transformer it is what the next test does
        segzoo.export(model, tmp_path / "model.onnx", size=(64, 96))
    assert "head" in str(segzoo.architectures.diagram.diagram(model))


def test_the_command_line_knows_the_toy(toy, capsys):
    assert main(["info", "test_resnet", "--arch", "toy"]) == 0
    assert "Toy on test_resnet" in capsys.readouterr().out
    found = run_bench("test_resnet", arch="toy", size=(64, 64), rounds=3, limit=1)
    assert {"segzoo eager", "segzoo optimized"} <= set(found.results)
    assert found.reason == "smp has no architecture toy"


def test_an_architecture_can_have_the_tokens_of_a_transformer(toy, tmp_path):
    class Readout(toy):
        @classmethod
        def wants(cls, config):
            return Wants(own_maps=True, prefix_tokens=True)

        def decode(self, maps, image):
            count = len(self.features)
            seen.append([tuple(item.shape) for item in maps])
            if self.encoder.prefix_tokens:
                pairs = zip(maps[:count], maps[count:], strict=True)
                maps = [item + tokens.mean(1)[..., None, None] for item, tokens in pairs]
            return super().decode(maps[:count], image)

    seen: list[object] = []
    image = torch.rand(2, 3, 65, 97)
    plain, model = toy("test_vit", classes=3).eval(), Readout("test_vit", classes=3).eval()
    assert model(image).shape == (2, 3, 65, 97)
    count, channels = len(model.features), model.features[0].channels
    assert seen[-1][count:] == [(2, model.encoder.prefix_tokens, channels)] * count
    names = [name for name, _ in plain.encoder.named_parameters()]
    assert [name for name, _ in model.encoder.named_parameters()] == names
    assert model.encoder.stages() == plain.encoder.stages()
    # The tokens are those that timm's own model gives.
    vit = model.encoder.backbone.model
    fitted = model.encoder.size_rule.fit(image)
    pairs = vit.forward_intermediates(
        fitted,
        indices=model.encoder.backbone.out_indices,
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    with torch.no_grad():
        given = model.encoder(fitted)
    assert torch.equal(given[-1], pairs[-1][1])
    fast = segzoo.optimize(model, backend="eager", example=image)
    with torch.no_grad():
        assert torch.allclose(fast(image), model(image), atol=1e-4)
    segzoo.export(model, tmp_path / "m.onnx", dynamic=False, size=(64, 96))
    # A backbone without such tokens gives its maps alone.
    assert Readout("test_resnet", classes=3)(image).shape == (2, 3, 65, 97)
    assert len(seen[-1]) == 5


def test_models_that_share_a_config_load_as_themselves(toy, tmp_path):
    class Sibling(toy):
        def decode(self, maps, image):
            return 2 * super().decode(maps, image)

    segzoo.register_architecture("sibling")(Sibling)
    try:
        Sibling("test_resnet").save_pretrained(tmp_path)
        assert type(segzoo.from_pretrained(tmp_path)) is Sibling
    finally:
        segzoo.ARCHITECTURES._entries.pop("sibling")


def registered(path: Path) -> dict[str, str]:
    """Registered name -> class, in a file of architectures/."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        for decorator in getattr(node, "decorator_list", ()):
            if (
                isinstance(decorator, ast.Call)
                and ast.unparse(decorator.func) == "register_architecture"
            ):
                found[ast.literal_eval(decorator.args[0])] = node.name
    return found


def test_the_table_names_every_file():
    found = {path.stem: registered(path) for path in FOLDER.glob("*.py")}
    assert {stem: names for stem, names in found.items() if names} == {
        module: {module: name} for name, module in BUILT_IN.items()
    }


def test_type_checkers_and_readers_know_every_architecture():
    init = (FOLDER.parent / "__init__.py").read_text()
    guide = (FOLDER.parents[1] / "docs" / "architectures.md").read_text()
    api = (FOLDER.parents[1] / "docs" / "api.md").read_text()
    for name, module in BUILT_IN.items():
        line = f"from .architectures.{module} import {name} as {name}"
        assert line in init, f"add to segzoo/__init__.py, under TYPE_CHECKING: {line}"
        assert f"`{name}`" in guide, f"docs/architectures.md does not mention {name}"
        assert f"segzoo.{name}\n" in api, f"docs/api.md has no segzoo.{name}"
        assert getattr(segzoo, name).architecture == module
        assert name in dir(segzoo)


def test_a_misspelt_name_is_told_the_nearest():
    name = "UNet"
    with pytest.raises(AttributeError, match=r"no attribute 'UNet'\. Did you mean Unet"):
        getattr(segzoo, name)


def test_a_name_of_the_table_is_taken_before_it_is_imported():
    with pytest.raises(DuplicateNameError, match="already registered"):
        segzoo.register_architecture("unet")(type("Mine", (segzoo.SegmentationModel,), {}))


# Heads beside the mask.


HEADS = {
    "classification": segzoo.Classification(classes=4, pooling="max"),
    "deep_supervision": ("blocks.1", "blocks.3"),
    "auxiliary_stride": 16,
}


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_heads_answer_beside_the_mask_and_leave_it_alone(size):
    plain = segzoo.Unet("test_resnet", classes=3)
    model = segzoo.Unet("test_resnet", classes=3, **HEADS)
    missing, extra = model.load_state_dict(plain.state_dict(), strict=False)
    assert not extra
    assert {name.split(".")[0] for name in missing} == {"auxiliary_heads", "classification_head"}
    image = torch.rand(2, 3, *size)
    outputs = model.forward_heads(image)
    assert torch.equal(outputs.logits, plain.train()(image))
    assert set(outputs.auxiliary) == {"blocks.1", "blocks.3", "encoder"}
    assert all(item.shape == outputs.logits.shape for item in outputs.auxiliary.values())
    assert outputs.image_logits.shape == (2, 4)
    sum(item.mean() for item in outputs.auxiliary.values()).backward()
    head = model.auxiliary_heads["blocks_1"]
    assert head.weight.grad.any()
    assert not any(map(may_have_hooks, model.modules()))


def test_heads_are_saved_and_left_out_of_what_only_predicts(tmp_path):
    model = segzoo.Unet("test_resnet", classes=3, **HEADS).eval()
    image = torch.rand(1, 3, 64, 64)
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    fast = segzoo.optimize(model, backend="eager", example=image)
    assert not any("head" in name and "auxiliary" in name for name, _ in fast.named_parameters())
    assert not any("classification" in name for name, _ in fast.named_parameters())
    assert torch.allclose(fast(image), model(image), atol=1e-5)


def test_a_model_without_heads_has_the_config_of_before():
    arguments = segzoo.Unet("test_resnet").config.arguments()
    assert not {"output_stride", *HEADS} & set(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deep_supervision": ("block.1",)}, r"'block.1'. Did you mean blocks.1"),
        ({"deep_supervision": ("blocks.1", "blocks.1")}, "a step twice: blocks.1, blocks.1"),
        ({"auxiliary_stride": 12}, r"auxiliary_stride=12.*strides \(2, 4, 8, 16, 32\)"),
        ({"classification": 3}, r"must be a segzoo.Classification, got 3"),
        ({"output_stride": 12}, "one of 8, 16, 32, got 12"),
    ],
)
def test_heads_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.Unet("test_resnet", **arguments)
    with pytest.raises(ArgumentError):
        segzoo.Classification(classes=2, pooling="mean")


def test_a_batch_of_one_behind_a_global_pool_is_explained():
    model = segzoo.Unet("resnest14d", depth=3).train()
    with pytest.raises(InputError, match=r"one image of 64x64.*at encoder.*at least two images"):
        model(torch.rand(1, 3, 64, 64))
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 1, 64, 64)
