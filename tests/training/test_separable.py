"""Parts of a model that can be put together by themselves: asked of the model, not listed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import segzoo
from segzoo.architectures.query_heads import Queries
from segzoo.training import separable
from segzoo.training.objective import called
from segzoo.training.sharding import owned

from .toys import toy_model


def groups(model, monkeypatch, least):
    monkeypatch.setattr(separable, "LEAST", least)
    heads = called(model)
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    random = torch.get_rng_state()
    found = separable.separable_groups(heads)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in heads.state_dict().items())
    names = {part: name for name, part in heads.named_modules()}
    return [names[part] for part in found]


def test_blocks_of_a_transformer_are_groups_and_small_parts_are_not(monkeypatch):
    model = segzoo.Unet("test_vit", classes=3)
    block = sum(item.numel() for item in model.encoder.backbone.model.blocks[0].parameters())
    found = groups(model, monkeypatch, block)
    blocks = [name for name in found if name.rpartition(".")[0].endswith("blocks")]
    assert len(blocks) == len(model.encoder.backbone.model.blocks)
    assert groups(model, monkeypatch, 10**9) == []


class Reaches(nn.Module):
    """A backbone that takes a weight out of a part, and never runs the part itself."""

    features = (segzoo.FeatureSpec(4, 2), segzoo.FeatureSpec(8, 4))

    def __init__(self, in_channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        self.fine = nn.Conv2d(in_channels, 4, 3, 2, 1)
        self.taken = nn.Conv2d(4, 8, 3, 2, 1)
        self.run = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        shape = self.taken.weight.shape  # looking at it is no use
        assert len(shape) == 4
        return [fine, self.run(torch.conv2d(fine, self.taken.weight, self.taken.bias, 2, 1))]


def test_a_part_whose_weights_are_used_from_outside_is_no_group(monkeypatch):
    name = "reaches_into_its_parts"
    segzoo.register_encoder(name)(Reaches)
    found = groups(segzoo.Unet(name, 3, decoder_channels=(8, 4)), monkeypatch, 50)
    assert any(each.endswith("run.0") for each in found)
    assert any(each.endswith("fine") for each in found)
    assert not any(each.endswith("taken") for each in found)


def test_each_parameter_is_in_one_group_at_most(monkeypatch):
    model = toy_model()
    found = groups(model, monkeypatch, 20)
    parts = dict(called(model).named_modules())
    assert len(found) > 3
    inner = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    items = [id(item) for name in inner for item in parts[name].parameters()]
    assert len(items) == len(set(items))


def test_where_nobody_tells_views_there_are_no_groups(monkeypatch):
    monkeypatch.setattr(separable, "is_view", lambda tensor: True)
    assert groups(toy_model(), monkeypatch, 20) == []


@pytest.mark.parametrize("view", [True, False])
def test_a_part_that_gives_a_view_is_no_group(monkeypatch, view):
    class Flat(nn.Conv2d):
        def forward(self, image: Tensor) -> Tensor:
            found = super().forward(image)
            return found.view(found.shape) if view else found

    model = toy_model()
    inner = model.encoder.backbone.coarse[0]
    flat = Flat(inner.in_channels, inner.out_channels, 3, 2, 1)
    model.encoder.backbone.coarse[0] = flat
    found = groups(model, monkeypatch, 250)
    assert any(name.endswith("coarse.0") for name in found) is not view


def test_what_a_model_gives_is_no_view():
    whole = torch.arange(6.0)
    part = whole[:3]
    given = Queries(part, whole, ((part, whole),)), {"a": part}, None
    queries, named, nothing = owned(given)
    assert type(queries) is Queries
    assert nothing is None
    assert queries.class_logits is whole
    for copied in (queries.mask_logits, queries.layers[0][0], named["a"]):
        assert torch.equal(copied, part)
        assert copied.data_ptr() != part.data_ptr()
