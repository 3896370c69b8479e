"""Where pictures come from and results go, in memory; pixels that are not known."""

import numpy as np
import pytest
import torch

import segzoo
from segzoo.data.pictures import to_bands
from segzoo.errors import InputError
from tests.helpers import ready, tiny_unet

from .tiles import (
    Predictor,
    in_one_piece,
    random_picture,
)

# ---- sources and sinks in memory -----------------------------------------------------------


class Windows:
    """A source of a person's own."""

    def __init__(self, values):
        self.values, self.shape = values, tuple(values.shape)

    def read(self, rows, columns):
        return self.values[:, rows, columns]


class Bands:
    """A sink of a person's own."""

    def __init__(self):
        self.parts, self.closed = [], False

    def write(self, rows, values):
        self.parts.append((rows, values.copy()))

    def close(self):
        self.closed = True


def test_every_kind_of_source_and_sink(tiny):
    picture = random_picture(90, 130)
    expected = tiny.predict(picture).numpy()
    call = {"tiling": "exact", "tile": 64}
    sources = (picture, picture.numpy(), Windows(picture), picture.float() / 255)
    for source in sources:
        assert np.array_equal(segzoo.predict_tiled(tiny, source, **call).values, expected)
    filled = np.zeros((90, 130), np.uint8)
    result = segzoo.predict_tiled(tiny, picture, filled, **call)
    assert result.values is None
    assert np.array_equal(filled, expected)
    sink = Bands()
    segzoo.predict_tiled(tiny, picture, sink, **call)
    assert sink.closed
    assert np.array_equal(np.concatenate([part for _, part in sink.parts]), expected)
    assert [rows.start for rows, _ in sink.parts] == [0, *(r.stop for r, _ in sink.parts[:-1])]


def test_colours_become_grey_as_in_one_piece():
    torch.manual_seed(0)
    model = ready(tiny_unet(in_channels=1))
    picture = random_picture(90, 130)
    expected = model.predict(to_bands(picture, 1)).numpy()
    assert np.array_equal(segzoo.predict_tiled(model, picture, tile=64).values, expected)


@pytest.mark.parametrize("kind", ["int32", "uint32"])
def test_values_of_16_bits_in_32_are_told_how_to_be_taken(tiny, kind):
    """A whole picture tells its largest value; its windows each have another."""
    picture = random_picture(90, 130).numpy().astype("uint16") * 200
    expected = tiny.predict(torch.from_numpy(picture)).numpy()
    call = {"tiling": "exact", "tile": 64}
    with pytest.raises(InputError, match=r"in a file of 32 have value_range=\(0, 65535\)"):
        segzoo.predict_tiled(tiny, picture.astype(kind), **call)
    found = segzoo.predict_tiled(tiny, picture.astype(kind), value_range=(0, 65535), **call)
    assert np.array_equal(found.values, expected)
    with pytest.raises(InputError, match=r"--range LOW HIGH\.$"):
        segzoo.predict_tiled(tiny, picture.astype(kind) * 9, **call)


def test_unknown_pixels_stay_unknown_and_cost_nothing(tiny):
    values = random_picture(128, 256).float().numpy() / 255
    values[:, :, 100:] = np.nan
    values[:, 30:40, 20:50] = np.nan
    model = Predictor(tiny)
    known = ~np.isnan(values[0])
    result = segzoo.predict_tiled(model, values, nodata=float("nan"), tiling="exact", tile=64)
    assert (result.values[~known] == 255).all()
    assert (result.values[known] < 3).all()
    assert 0 < result.skipped < result.tiles
    assert sum(result.shares.values()) == pytest.approx(1)
    # What is not known has the mean colour for those beside it.
    filled = np.where(known, values, 0.5).astype(np.float32)
    expected = in_one_piece(model, torch.from_numpy(filled), kind="classes").numpy()
    assert np.array_equal(result.values[known], expected[known])
    soft = segzoo.predict_tiled(
        model, values, nodata=float("nan"), tiling="blend", tile=64, write="probabilities"
    )
    assert np.isnan(soft.values[:, ~known]).all()
    assert np.isfinite(soft.values[:, known]).all()
    with pytest.raises(InputError, match="not finite numbers in rows"):
        segzoo.predict_tiled(model, values, tiling="exact", tile=64)


def test_a_source_that_shrinks_is_told(tiny):
    class Shrinking(Windows):
        def read(self, rows, columns):
            return self.values[:, rows, columns] if rows.start < 40 else self.values[:, :1, :1]

    with pytest.raises(InputError, match="was changed while it was read"):
        segzoo.predict_tiled(tiny, Shrinking(random_picture(90, 130)), tiling="exact", tile=64)
