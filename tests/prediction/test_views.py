"""Views of a picture are undone exactly and averaged in probability, in tiles too."""

import copy

import numpy as np
import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, InputError

from ..helpers import tiny_unet
from .tiles import (
    Predictor,
    equivariant,
    in_one_piece,
    random_picture,
)

# ---- views ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tta", ["mirror", "flips", "dihedral"])
def test_an_equivariant_model_is_the_same_with_views_and_without(tta):
    model, picture = equivariant(), random_picture(45, 62)
    plain = segzoo.predict_probabilities(model, picture)
    torch.testing.assert_close(segzoo.predict_probabilities(model, picture, tta=tta), plain)
    call = {"tiling": "exact", "tile": 32, "write": "probabilities"}
    tiled = segzoo.predict_tiled(model, picture, tta=tta, **call).values
    np.testing.assert_allclose(tiled, plain.numpy(), atol=1e-3)


def test_views_are_undone_exactly_and_averaged_in_probability(tiny):
    picture = random_picture(46, 61).float() / 255
    found = segzoo.predict_probabilities(tiny, picture, tta="dihedral")
    parts = []
    for mirrored in (False, True):
        for quarters in range(4):
            view = picture.flip(2) if mirrored else picture
            view = view.rot90(quarters, (1, 2))
            part = segzoo.predict_probabilities(tiny, view).rot90(-quarters, (1, 2))
            parts.append(part.flip(2) if mirrored else part)
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(46, 61))
    batch = segzoo.predict_probabilities(tiny, torch.stack([picture, picture]), tta="flips")
    assert batch.shape == (2, 3, 46, 61)


@pytest.mark.parametrize("tta", ["mirror", "flips", "dihedral"])
def test_views_of_tiles_are_views_of_the_padded_picture(double, tta):
    picture = random_picture(91, 134)
    call = {"tiling": "exact", "tile": 64, "tta": tta}
    result = segzoo.predict_tiled(double, picture, **call)
    assert result.tiling.padded == (92, 136)
    expected = in_one_piece(double, picture, kind="classes", unit=4, tta=tta)
    assert torch.equal(torch.from_numpy(result.values).long(), expected)


def test_scales(tiny):
    picture = random_picture(80, 100)
    found = segzoo.predict_probabilities(tiny, picture, scales=(0.5, 1, 1.5), tta="mirror")
    torch.testing.assert_close(found.sum(dim=0), torch.ones(80, 100))
    alone = segzoo.predict_probabilities(tiny, picture)
    assert (found - alone).abs().max() > 1e-4
    constant = Predictor(lambda image: image.new_ones(image.shape) * torch.arange(3)[:, None, None])
    same = segzoo.predict_probabilities(constant, picture, scales=(0.5, 2))
    torch.testing.assert_close(same[:, 0, 0], torch.arange(3.0).softmax(0))
    with pytest.raises(ArgumentError, match="cut between pixels"):
        segzoo.predict_tiled(tiny, picture, tiling="exact", tile=64, scales=(0.5, 1))
    assert segzoo.predict_tiled(tiny, picture, tile=64, scales=(0.5, 1)).tiling.mode != "exact"


def test_weights_that_are_not_finite_are_refused_at_every_door(tiny):
    broken = copy.deepcopy(tiny)
    name, weight = next(iter(broken.named_parameters()))
    torch.nn.init.constant_(weight, float("nan"))
    picture = torch.zeros(3, 40, 50, dtype=torch.uint8)
    for call in (segzoo.predict_probabilities, segzoo.predict_tiled):
        with pytest.raises(InputError, match=f"not finite: NaN or infinity in {name}"):
            call(broken, picture)


def test_logits_that_are_nan_are_refused_at_every_door():
    """Finite weights may give them: too large for the precision, say."""
    model = tiny_unet(classes=3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "conv" in name and not name.startswith("encoder"):
                weight.mul_(1e25)
    picture = torch.randint(0, 256, (3, 40, 52), dtype=torch.uint8)
    tiles = {"tiling": "blend", "tile": 32}
    doors = [
        lambda: model.predict(picture),
        lambda: segzoo.predict_probabilities(model, picture),
        lambda: segzoo.evaluate(model, [(picture, torch.zeros(40, 52).long())]),
        *(
            lambda kind=kind: segzoo.predict_tiled(model, picture, write=kind, **tiles)
            for kind in ("classes", "probabilities", "logits")
        ),
    ]
    for door in doors:
        with pytest.raises(InputError, match="logits are NaN for a picture of finite pixels"):
            door()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_pictures_of_no_numbers_are_refused_before_a_model_can_hide_them(value):
    """A ReLU of oneDNN or OpenVINO makes zero of NaN: then no logit tells."""
    model = tiny_unet(classes=3).eval()
    model.register_forward_hook(lambda module, inputs, logits: torch.nan_to_num(logits, 0, 0, 0))
    picture = torch.rand(3, 40, 52)
    picture[1, 7, 8] = value
    doors = [
        lambda: model.predict(picture),
        lambda: segzoo.predict_probabilities(model, picture[None], tta="mirror"),
        lambda: segzoo.evaluate(model, [(picture, torch.zeros(40, 52).long())]),
    ]
    for door in doors:
        with pytest.raises(InputError, match="picture has pixels that are NaN or infinite"):
            door()
    with pytest.raises(InputError, match="values that are not finite numbers"):
        segzoo.predict_tiled(model, picture, tiling="blend")
    with pytest.raises(InputError, match="example has pixels that are NaN or infinite"):
        segzoo.optimize(tiny_unet().eval(), example=picture[None])
