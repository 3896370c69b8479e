"""Tiles give what one piece gives, or say how far they are from it, or are refused."""

import numpy as np
import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import ArgumentError, InputError
from segzoo.prediction.pixel_model import pixel_model
from segzoo.prediction.tiling.axis import plan_axis, plan_overlapping
from segzoo.prediction.tiling.margin import Margin, UnboundedError, probe_margin
from segzoo.prediction.tiling.proof import prove
from tests.helpers import ready, tiny_unet

from .tiles import (
    Predictor,
    blur,
    corners_aligned,
    in_one_piece,
    random_picture,
    right_at_even_sizes,
    with_cyclic_shift,
    with_global_pooling,
)

# ---- the cut -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 200, 1000, 1003])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (8, 4), (20, 24)])
def test_cores_are_the_picture_and_have_their_margins(size, before, after):
    spans = plan_axis(size, 64, before, after, 4)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == size
    for span in spans:
        assert 0 < span.last - span.first <= 64
        assert span.first % 4 == 0
        assert span.last % 4 == 0 or span.last == size
        assert span.first == max(0, span.start - before)
        assert span.last >= min(size, span.stop + after)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [10, 64, 65, 300])
def test_blended_tiles_cover_the_picture(size, overlap):
    spans = plan_overlapping(size, 64, overlap)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == size
    assert all(span.last - span.first == min(64, size) for span in spans)


# ---- the margin ----------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 1, 7])
def test_the_probe_finds_how_far_a_model_looks(radius):
    with pixel_model(blur(radius)) as model:
        assert probe_margin(model, 4) == Margin(radius, radius, radius, radius)


def test_a_model_that_hides_nan_is_probed_by_differences():
    inner = blur(6)
    hidden = Predictor(lambda image: torch.nan_to_num(inner(image)))
    with pixel_model(hidden) as model:
        found = probe_margin(model, 4)
    assert min(vars(found).values()) == max(vars(found).values()) == 6
    broken = Predictor(lambda image: image * torch.nan)
    with pixel_model(broken) as model, pytest.raises(InputError, match="NaN for an ordinary image"):
        probe_margin(model, 4)


def test_the_probe_tells_directions_apart():
    def lopsided(image):
        left = torch.nn.functional.pad(image, (5, 0))[..., :-5]
        return left + torch.nn.functional.pad(image, (0, 0, 0, 2))[..., 2:, :]

    with pixel_model(Predictor(lopsided)) as model:
        assert probe_margin(model, 4) == Margin(top=0, bottom=2, left=5, right=0)


@pytest.mark.parametrize("kind", [with_global_pooling, with_cyclic_shift])
def test_a_spoilt_far_end_is_refused(kind):
    with pixel_model(kind()) as model, pytest.raises(UnboundedError, match="whole width"):
        probe_margin(model, 4)


def test_a_fixed_size_is_refused_without_a_warning():
    model = blur(1)
    model.size_rule = segzoo.SizeRule(fixed=(224, 224))
    with pixel_model(model) as fixed, pytest.raises(UnboundedError, match="resizes all others"):
        probe_margin(fixed, 16)
    assert model.calls == 0


def test_a_margin_that_is_too_small_does_not_pass(tiny):
    with pixel_model(tiny) as model:
        found = probe_margin(model, 4).to_unit(4)
        assert prove(model, found, 4, (131, 170)).padded is False
        with pytest.raises(UnboundedError, match="differ from one piece"):
            prove(model, Margin(0, 4, 4, 4), 4, (131, 170))


def test_ratios_that_depend_on_the_size_are_found_by_the_proof():
    picture = random_picture(150, 170)
    with pytest.raises(ArgumentError, match=r"align_corners=True.*tiling='measured'"):
        segzoo.predict_tiled(corners_aligned(), picture, tiling="exact", tile=64)
    result = segzoo.predict_tiled(corners_aligned(), picture, tiling="auto", tile=64)
    assert result.tiling.mode != "exact"
    assert "align_corners" in result.tiling.reason


def test_ragged_sizes_that_round_differently_are_padded_and_said():
    model, picture = right_at_even_sizes(), random_picture(151, 173)
    result = segzoo.predict_tiled(model, picture, tiling="exact", tile=64, write="logits")
    assert result.tiling.padded == (152, 176)
    assert "padded with zeros to 152x176" in result.tiling.reason
    expected = in_one_piece(model, picture, unit=4)
    torch.testing.assert_close(torch.from_numpy(result.values), expected)
    even = segzoo.predict_tiled(model, picture[:, :148, :172], tiling="exact", tile=64)
    assert even.tiling.padded is None


# ---- exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(131, 170), (128, 172), (40, 301), (67, 65), (50, 60)])
def test_exact_tiles_are_one_piece_to_the_rounding_of_float64(double, size):
    picture = random_picture(*size)
    result = segzoo.predict_tiled(double, picture, tiling="exact", tile=64, write="logits")
    assert result.tiling.mode == ("exact" if max(size) > 64 else "whole")
    expected = in_one_piece(double, picture)
    # Not to the bit: the order of a sum may hang on a map's width, on some processors.
    limit = 1e-14 * float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("encoder", ["resnet10t", "convnext_atto"])
def test_exact_tiles_of_timms_backbones(encoder):
    torch.manual_seed(0)
    model = ready(segzoo.Unet(encoder, classes=3, depth=2))
    picture = random_picture(300, 333)
    result = segzoo.predict_tiled(model, picture, tiling="exact", tile=256, write="logits")
    # ConvNeXt cuts its image into patches of 4 pixels, so ragged sizes round differently.
    assert (result.tiling.padded is not None) is (encoder == "convnext_atto")
    expected = in_one_piece(model, picture, unit=model.stride if result.tiling.padded else 1)
    assert result.tiling.mode == "exact"
    limit = 2e-5 * float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=0, atol=limit)


def test_classes_probabilities_and_logits(tiny):
    picture = random_picture(90, 130)
    call = {"tiling": "exact", "tile": 64}
    classes = segzoo.predict_tiled(tiny, picture, **call)
    assert classes.values.dtype == np.uint8
    assert torch.equal(torch.from_numpy(classes.values).long(), tiny.predict(picture))
    shares = np.bincount(classes.values.ravel(), minlength=3) / classes.values.size
    assert classes.shares == pytest.approx({i: s for i, s in enumerate(shares) if s})
    found = segzoo.predict_tiled(tiny, picture, write="probabilities", **call).values
    assert found.dtype == np.float16
    expected = in_one_piece(tiny, picture, kind="probabilities").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    logits = segzoo.predict_tiled(tiny, picture, write="logits", **call).values
    assert logits.dtype == np.float32


def test_one_class_has_the_models_threshold():
    torch.manual_seed(0)
    model = ready(tiny_unet(classes=1))
    picture = random_picture(90, 130)
    found = segzoo.predict_tiled(model, picture, tiling="exact", tile=64)
    assert torch.equal(torch.from_numpy(found.values).long(), model.predict(picture))


def test_optimised_models_in_any_tile(tiny):
    fast = segzoo.optimize(tiny, backend="eager", example=torch.rand(1, 3, 64, 64))
    picture = random_picture(131, 170)
    found = segzoo.predict_tiled(fast, picture, tiling="exact", tile=80, write="logits")
    expected = in_one_piece(tiny, picture)
    assert found.tiling.mode == "exact"
    limit = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(found.values), expected, rtol=0, atol=limit)


def test_a_model_in_training_mode_stays_in_it():
    model = tiny_unet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    picture = random_picture(90, 130)
    found = segzoo.predict_tiled(model, picture, tiling="exact", tile=64)
    assert all(part.training for part in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.from_numpy(found.values).long(), model.predict(picture))


# ---- measured and blended ------------------------------------------------------------------


def test_a_measured_margin_is_the_smallest_that_is_tolerable():
    model, picture = blur(10), random_picture(200, 230)
    strict = segzoo.predict_tiled(
        model, picture, tiling="measured", tile=96, tolerance=1e-6, write="logits"
    )
    assert strict.tiling.margin == Margin(12, 12, 12, 12)
    expected = in_one_piece(model, picture)
    torch.testing.assert_close(torch.from_numpy(strict.values), expected)
    loose = segzoo.predict_tiled(model, picture, tiling="measured", tile=96, tolerance=0.5)
    assert loose.tiling.margin.left < 12
    assert "elsewhere it may be more" in loose.tiling.reason
    with pytest.raises(ArgumentError, match=r"no margin within a tile of 64.*tiling='blend'"):
        segzoo.predict_tiled(
            with_global_pooling(), picture, tiling="measured", tile=64, tolerance=0
        )


def test_measured_tiles_of_ragged_sizes_that_round_differently_are_padded_and_said():
    model, picture = right_at_even_sizes(), random_picture(203, 301)
    result = segzoo.predict_tiled(
        model, picture, tiling="measured", tile=64, tolerance=1e-6, write="logits"
    )
    assert result.tiling.padded == (204, 304)
    assert "padded with zeros to 204x304" in result.tiling.reason
    expected = in_one_piece(model, picture, unit=4)
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=0, atol=1e-6)
    # Whom ragged sizes do not matter, for that the picture stays as it is.
    for plain, size in ((blur(3), (203, 301)), (model, (204, 304))):
        picture = random_picture(*size)
        result = segzoo.predict_tiled(
            plain, picture, tiling="measured", tile=64, tolerance=1e-6, write="logits"
        )
        assert result.tiling.padded is None
        expected = in_one_piece(plain, picture)
        torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=0, atol=1e-5)


def test_blended_tiles_are_multiples_of_the_stride():
    model, picture = right_at_even_sizes(), random_picture(203, 301)
    assert segzoo.predict_tiled(model, picture, tiling="blend", tile=71).tiling.tile == 68


def test_blended_tiles_of_a_model_without_context_are_exact():
    model, picture = blur(0), random_picture(131, 170)
    for overlap in (0.0, 0.3, 0.5):
        found = segzoo.predict_tiled(
            model, picture, tiling="blend", tile=64, overlap=overlap, write="logits"
        )
        expected = in_one_piece(model, picture)
        torch.testing.assert_close(torch.from_numpy(found.values), expected)


def test_blended_tiles_are_the_weighted_mean_of_all_tiles():
    model, picture = blur(9), random_picture(100, 64)
    found = segzoo.predict_tiled(
        model, picture, tiling="blend", tile=64, overlap=0.5, write="logits"
    ).values
    total, weights = np.zeros((3, 100, 64)), np.zeros((100, 1))
    weight = np.exp(-0.5 * ((np.arange(64) - 31.5) / 8) ** 2)[:, None]
    for top in (0, 32, 36):
        part = in_one_piece(model, picture[:, top : top + 64]).numpy()
        total[:, top : top + 64] += part * weight
        weights[top : top + 64] += weight
    np.testing.assert_allclose(found, total / weights, atol=1e-5)


def test_auto_takes_the_best_that_is_not_too_dear(tiny):
    picture = random_picture(200, 230)
    assert segzoo.predict_tiled(tiny, picture, tile=64).tiling.mode == "exact"
    assert segzoo.predict_tiled(tiny, picture, tile=256).tiling.mode == "whole"
    dear = segzoo.predict_tiled(blur(14), picture, tile=40, tolerance=1)
    assert dear.tiling.mode == "measured"
    assert "times the pixels" in dear.tiling.reason
    pooled = segzoo.predict_tiled(with_global_pooling(), picture, tile=64, tolerance=0)
    assert pooled.tiling.mode == "blend"
    assert "global pooling" in pooled.tiling.reason


# ---- refused -------------------------------------------------------------------------------


def test_a_tile_without_a_core():
    picture = random_picture(200, 230)
    with pytest.raises(
        ArgumentError, match=r"needs 20 pixels before and 20 after.*tile=552 or more"
    ):
        segzoo.predict_tiled(blur(20), picture, tiling="exact", tile=40)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tiling": "exakt"}, "Did you mean exact"),
        ({"write": "class"}, "Did you mean classes"),
        ({"tta": "flip"}, "Did you mean flips"),
        ({"tile": 8}, "tile must be between 32"),
        ({"overlap": 1}, "overlap must be between"),
        ({"scales": ()}, "at least one factor"),
        ({"scales": 1}, "scales must be a sequence, got 1"),
        ({"nodata": "-9999"}, "nodata must be a number"),
        ({"rows": (9, 8)}, r"rows must be \(part, parts\)"),
        ({"rows": (1, 8)}, "needs a file as sink"),
        ({"tta": "flips", "write": "logits"}, "no logits to write"),
        ({"value_range": (1, 0)}, "low < high"),
    ],
    ids=str,
)
def test_arguments_that_cannot_work(tiny, change, reason):
    with pytest.raises(ArgumentError, match=reason):
        segzoo.predict_tiled(tiny, random_picture(90, 130), **change)


def test_sources_and_models_that_cannot_be_used(tiny):
    for source, reason in (
        (3, "cannot be read from int"),
        (torch.rand(90, 130), r"\(C, H, W\)"),
        (torch.rand(4, 90, 130), "4 bands and the model takes 3"),
        (torch.randint(0, 9, (3, 90, 130)), "int64 values"),
        (torch.zeros(3, 0, 5), "is empty"),
        ("missing.tif", "cannot be read"),
    ):
        with pytest.raises(InputError, match=reason):
            segzoo.predict_tiled(tiny, source, tile=64)
    with pytest.raises(InputError, match="it has no classes"):
        segzoo.predict_tiled(nn.Conv2d(3, 3, 1), random_picture(90, 130))
    halved = Predictor(lambda image: image[..., ::2, ::2])
    with pytest.raises(InputError, match="logits of the shape"):
        segzoo.predict_tiled(halved, random_picture(90, 130), tile=64)
    with pytest.raises(ArgumentError, match="Results cannot go to list"):
        segzoo.predict_tiled(tiny, random_picture(90, 130), [], tile=64)
    with pytest.raises(ArgumentError, match=r"shape \(3, 3\); expected \(90, 130\)"):
        segzoo.predict_tiled(tiny, random_picture(90, 130), np.zeros((3, 3)), tile=64)
    with pytest.raises(InputError, match=r"the Flat has the shape \(90, 130\)"):
        segzoo.predict_tiled(tiny, type("Flat", (), {"shape": (90, 130), "read": len})(), tile=64)


@pytest.mark.parametrize(
    ("kind", "write", "reason"),
    [
        (bool, "classes", "type bool, which does not hold classes; expected uint8"),
        (np.int8, "classes", "does not hold classes"),
        (np.uint8, "probabilities", "does not hold probabilities"),
    ],
)
def test_arrays_that_do_not_hold_the_results(tiny, kind, write, reason):
    shape = (90, 130) if write == "classes" else (3, 90, 130)
    with pytest.raises(ArgumentError, match=reason):
        segzoo.predict_tiled(tiny, random_picture(90, 130), np.zeros(shape, kind), write=write)
    locked = np.zeros((90, 130), np.uint8)
    locked.flags.writeable = False
    with pytest.raises(ArgumentError, match="cannot be written to"):
        segzoo.predict_tiled(tiny, random_picture(90, 130), locked)
