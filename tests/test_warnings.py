"""A warning points at the line of the person who can do something about it."""

import ast
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import segzoo
from segzoo.encoders import SizeRule
from tests.helpers import TinyBackbone

PACKAGE = Path(segzoo.__file__).parent


def fixed_unet():
    """Takes images of 16x16 only, and warns for others."""
    backbone = TinyBackbone()
    encoder = segzoo.Encoder(
        backbone, backbone.features, name="fixed", size_rule=SizeRule(fixed=(16, 16))
    )
    return segzoo.Unet(encoder, classes=2).eval()


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image)


def line_warned_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    assert warning.filename == __file__
    return Path(__file__).read_text().splitlines()[warning.lineno - 1].strip()


def test_from_every_way_to_run_a_model():
    model = fixed_unet()
    fast = segzoo.optimize(model, backend="eager", example=torch.rand(1, 3, 16, 16))
    parallel = nn.DataParallel(model)
    wrapped = Wrapped(model)
    image, picture = torch.rand(1, 3, 20, 24), torch.rand(3, 20, 24)
    calls = (
        lambda: model(image),
        lambda: model.predict(picture),
        lambda: model.train().predict(picture),
        lambda: fast(image),
        lambda: fast.predict(picture),
        lambda: parallel(image),
        lambda: torch.no_grad()(model)(image),
    )
    for call in calls:
        assert line_warned_of(call).startswith("lambda: "), call
    assert line_warned_of(lambda: wrapped(image)) == "return self.model(image)"


def test_from_saving_a_card(tmp_path, honest):
    model = segzoo.from_pretrained(honest)
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("by hand")
    card = segzoo.ModelCard(description="new")
    line = line_warned_of(lambda: model.save_pretrained(tmp_path, card=card))
    assert line == "line = line_warned_of(lambda: model.save_pretrained(tmp_path, card=card))"


def test_once_for_a_line_under_the_default_filter():
    model, image = fixed_unet(), torch.rand(1, 3, 20, 24)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            model(image)
    assert len(caught) == 1


def test_an_error_where_warnings_are_errors():
    with pytest.raises(UserWarning, match="16x16 images only"):
        fixed_unet()(torch.rand(1, 3, 20, 24))


def test_no_other_way_to_warn():
    """Frames that are counted hold for one way to a place, and there are several to each."""
    names = {"warn", "warn_explicit"}
    callers = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and ast.unparse(node.value) == "warnings"
    }
    assert callers == {"errors.py"}
