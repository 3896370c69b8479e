import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import ArgumentError, EncoderError

from ..helpers import assert_near, tiny_unet


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_frozen_stages_hold_through_train_and_eval():
    model = segzoo.Unet("resnet18", classes=2).freeze_encoder(stages=2)
    backbone = model.encoder.backbone
    for _ in range(2):
        model.train()
        assert not backbone.bn1.training
        assert not backbone.layer1.training
        assert backbone.layer2[0].bn1.training
        assert model.decoder.training
        model.eval()
        assert not any(module.training for module in model.modules())
    model.train()
    before = statistics(model)
    model(torch.rand(2, 3, 64, 64)).mean().backward()
    after = statistics(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [
        n for n in moved if n.startswith(("encoder.backbone.bn1", "encoder.backbone.layer1"))
    ]
    assert any(name.startswith("encoder.backbone.layer2") for name in moved)
    assert backbone.conv1.weight.grad is None
    assert backbone.layer2[0].conv1.weight.grad is not None


def test_unfreeze_gives_back_what_freeze_took_and_no_more():
    model = tiny_unet()
    mine = model.encoder.backbone.fine[0].bias
    mine.requires_grad_(False)
    model.freeze_encoder()
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())
    model.unfreeze_encoder()
    assert not mine.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not mine)
    assert model.encoder.backbone.fine[1].training


def test_drop_path_is_off_where_frozen_and_in_eval():
    model = segzoo.Unet(
        "convnext_atto", norm="group", encoder_options={"drop_path_rate": 0.9}
    ).freeze_encoder()
    image = torch.rand(1, 3, 64, 64)
    for mode in (True, False):
        model.train(mode)
        assert_near(model(image), model(image))
    model.unfreeze_encoder().train()
    assert not torch.equal(model(image), model(image))


def test_stages_are_those_of_the_maps():
    stages = segzoo.create_encoder("resnet34").stages()
    roots = [sorted({name.split(".")[0] for name in stage}) for stage in stages]
    assert roots == [["bn1", "conv1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "dla34"])
def test_stages_hold_every_parameter_once(name):
    encoder = segzoo.create_encoder(name)
    names = [item for stage in encoder.stages() for item in stage]
    assert sorted(names) == sorted(name for name, _ in encoder.backbone.named_parameters())
    assert len(encoder.stages()) == len(encoder.features)


class ReadsPixels(nn.Module):
    """A backbone that can be run with values only."""

    features = (segzoo.FeatureSpec(4, 2), segzoo.FeatureSpec(6, 4))

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        fine = self.fine(image if image.mean() < 1e9 else image / 2)
        return [fine, self.coarse(fine)]


def test_what_is_frozen_is_of_its_stage_all_the_same():
    model = segzoo.Unet(ReadsPixels(), classes=2)
    stages = model.encoder.stages()
    assert stages == [["fine.weight", "fine.bias"], ["coarse.weight", "coarse.bias"]]
    for _ in range(2):
        model.freeze_encoder(1)
        assert model.encoder.stages() == stages
        frozen = [name for name, p in model.encoder.named_parameters() if not p.requires_grad]
        assert frozen == ["backbone.fine.weight", "backbone.fine.bias"]


@pytest.mark.parametrize("stages", [0, 6, -1, 2.5, True])
def test_stages_out_of_range(stages):
    with pytest.raises(EncoderError, match="stages must be between 1 and 5"):
        segzoo.Unet("resnet18").freeze_encoder(stages)


def test_parameter_groups_cover_the_model_once_with_falling_rates():
    model = segzoo.Unet("resnet34")
    groups = model.parameter_groups(1e-2, encoder_scale=0.1)
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-3, 1e-2])
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    early = {id(p) for p in groups[0]["params"]}
    backbone = model.encoder.backbone
    # fastai's split of a resnet: stem, layer1 and layer2 | layer3 and layer4 | the rest.
    assert {id(p) for p in backbone.layer2.parameters()} <= early
    assert not {id(p) for p in backbone.layer3.parameters()} & early
    torch.optim.AdamW(groups).step()
    with pytest.raises(ArgumentError, match="lr must be above 0"):
        model.parameter_groups(0)
    with pytest.raises(ArgumentError, match="encoder_scale must be above 0"):
        model.parameter_groups(1e-3, encoder_scale=-1)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_freezing_works_where_gradients_are_off(context):
    with context():
        model = tiny_unet().freeze_encoder(1)
    assert not model.encoder.backbone.fine[0].weight.requires_grad
    assert model.encoder.backbone.coarse[0].weight.requires_grad
