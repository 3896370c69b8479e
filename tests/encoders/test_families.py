"""Real backbones of every pattern, with real tensors through training, saving and loading.

The tests take a spread of small models. ``SEGZOO_SWEEP=1 pytest tests/encoders/test_families.py`` (``make
sweep``) takes one of each of timm's modules in its place, and benchmarks/encoders/coverage.py
every architecture.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models import FeatureHookNet, FeatureListNet

import segzoo
from benchmarks.encoders.families import smallest
from segzoo.encoders import build_on_meta
from segzoo.encoders.own_weights import classifier_keys
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.encoders.timm_meta import meta_backbone
from segzoo.encoders.timm_source import plan_backbone
from segzoo.errors import ArgumentError
from segzoo.features import ceil_div
from tests.helpers import NEWER_TIMM, assert_near, assert_same_tensors

#: Encoders with more weights than this are too slow to train and save here.
MOST_PARAMETERS = 100_000_000
#: Odd sides, and small enough to be quick.
SIZE = (65, 97)
#: Smaller than some backbones take, and larger than most were made for.
OTHER_SIZES = ((20, 9), (225, 257))

#: Each model, and what it is here for: patterns that a decoder, a size rule, a save or a load has
#: to get right. A pattern is asked of the backbone below, so none can leave the spread unnoticed.
SPREAD = {
    "test_resnet": ("strides 2 to 32", "any size as it is", "sizes rounded up", "a list of layers"),
    "test_efficientnet": ("strides 2 to 32", "a forward of its own"),
    "vgg11": ("a map at stride 1", "sizes rounded down", "a smallest size"),
    "regnetx_002": ("several maps at one stride",),
    "test_convnext": ("strides 4 to 32", "sizes rounded down", "a smallest size"),
    "ese_vovnet19b_slim_dw": ("sizes rounded both ways",),
    "dla46x_c": ("padded to a multiple",),
    "test_mambaout": ("channels last", "strides 4 to 32"),
    "swin_tiny_patch4_window7_224": (
        "channels last",
        "tables that are not saved",
        "other sizes by an option",
    ),
    "mvitv2_tiny": ("one size only", "a table of positions that ends"),
    "coat_tiny": ("modules that have two names",),
    "test_coatnet": ("one size only", "tables that are not saved", "strides 2 to 32"),
    "pit_ti_224": ("maps collected by hooks", "strides 8 to 32", "sizes of no rule"),
    "efficientvit_m0": ("strides 16 to 64", "a classifier with a norm"),
    "efficientvim_m1": ("strides 16 to 64", "weights that are not trained", "several classifiers"),
    "crossvit_tiny_240": ("odd strides", "sizes of no rule", "several classifiers"),
    "csatv2": ("RGB only", "padded to a multiple", "a smallest size"),
    "test_vit": ("flat, stride 16", "other sizes by an option"),
    "test_vit_relpos": ("flat, stride 16", "one size only", "tables that are not saved"),
    "eva02_tiny_patch14_224": ("flat, stride 14", "tables that are not saved"),
    "xcit_nano_12_p8_224": ("flat, stride 8",),
}
#: What a model of the spread is built with to have its pattern.
OPTIONS = {"regnetx_002": {"output_stride": 16}}

#: Before timm 1.0.31 the first cannot be built so, and the others have other strides and options.
NO_MAPS_BEFORE = ("regnetx_002", "coat_tiny", "crossvit_tiny_240")
OTHERS_BEFORE = ("swin_tiny_patch4_window7_224", "pit_ti_224")

SWEEP = os.environ.get("SEGZOO_SWEEP") == "1"


@pytest.fixture(params=timm.list_modules() if SWEEP else SPREAD)
def name(request: pytest.FixtureRequest) -> str:
    return smallest_up_to_the_limit(request.param) if SWEEP else known(request.param)


def known(name: str) -> str:
    if not timm.is_model(name) or (name in NO_MAPS_BEFORE and not NEWER_TIMM):
        pytest.skip(f"timm {timm.__version__} has no {name}, or not as it is built here")
    return name


def smallest_up_to_the_limit(module: str) -> str:
    name = smallest(module)
    parameters = sum(weight.numel() for weight in meta_backbone(name, {}).parameters())
    if parameters > MOST_PARAMETERS:
        pytest.skip(
            f"{name}, the smallest of {module}, has {parameters:,} parameters, too many to train "
            "here; benchmarks.encoders.coverage --real does"
        )
    return name


@pytest.mark.filterwarnings("ignore:.* images only, so others are resized:UserWarning")
def test_real_tensors_through_training_saving_and_loading(name, tmp_path):
    model = segzoo.Unet(name, classes=3, encoder_options=OPTIONS.get(name, {}))
    image, mask = torch.rand(2, 3, *SIZE), torch.randint(3, (2, *SIZE))

    torch.nn.functional.cross_entropy(model.train()(image), mask).backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    assert any(key.startswith("encoder.") and g is not None for key, g in gradients.items())
    for key, gradient in gradients.items():
        if not key.startswith("encoder."):
            assert gradient is not None, key
            assert gradient.isfinite().all(), key
            assert gradient.any(), key
    del gradients
    model.zero_grad()

    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert_same_tensors(loaded, model)
    with torch.inference_mode():
        logits = model.eval()(image)
        assert logits.shape == (2, 3, *SIZE)
        assert logits.isfinite().all()
        assert_near(loaded(image), logits)
        # Sizes above a backbone's own reach what is out of bounds in its tables of positions.
        for size in OTHER_SIZES if model.encoder.size_rule.fixed is None else ():
            out = model(torch.rand(1, 3, *size))
            assert out.shape == (1, 3, *size)
            assert out.isfinite().all()


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_any_number_of_bands(name):
    for bands in (1, 13):
        try:
            encoder = build_on_meta(lambda n=bands: segzoo.create_encoder(name, in_channels=n))
        except ArgumentError:
            backbone = meta_backbone(name, {"in_chans": bands})
            with pytest.raises(RuntimeError):  # of timm's own
                backbone(torch.empty(1, bands, 256, 256, device="meta"))
            continue
        image = encoder.size_rule.fit(torch.empty(2, bands, *SIZE, device="meta"))
        assert [item.shape[1] for item in encoder.eval()(image)] == list(encoder.channels)


def test_whole_checkpoints_fit_when_the_classifier_is_left_out(name):
    whole = build_on_meta(lambda: timm.create_model(name)).state_dict()
    rest = build_on_meta(lambda: timm.create_model(name, num_classes=0)).state_dict()
    assert whole.keys() - classifier_keys(name) == rest.keys()


# ---- the spread: each pattern is asked of the encoder ----------------------------------------


def strides(*expected: int) -> Callable[[segzoo.Encoder], bool]:
    return lambda encoder: encoder.strides == expected


def flat(stride: int) -> Callable[[segzoo.Encoder], bool]:
    return lambda encoder: len(encoder.strides) > 1 and set(encoder.strides) == {stride}


def roundings(encoder: segzoo.Encoder) -> set[str]:
    """Where a stride does not divide a side: whether the map's side is rounded up or down."""
    image = encoder.size_rule.fit(torch.empty(2, encoder.in_channels, *SIZE, device="meta"))
    with torch.no_grad(), PositionsHaveValues():
        maps = encoder(image)
    found = set()
    for item, stride in zip(maps, encoder.strides, strict=True):
        for side, whole in zip(item.shape[-2:], image.shape[-2:], strict=True):
            down, up = whole // stride, ceil_div(whole, stride)
            if side not in (down, up):
                found.add("neither")
            elif down != up:
                found.add("down" if side == down else "up")
    return found


def refuses_other_bands(encoder: segzoo.Encoder) -> bool:
    try:
        build_on_meta(lambda: segzoo.create_encoder(encoder.name, in_channels=4))
    except ArgumentError:
        return True
    return False


def has_a_table_that_ends(encoder: segzoo.Encoder) -> bool:
    height, width = encoder.size_rule.fixed or SIZE
    try:
        with torch.no_grad(), PositionsHaveValues():
            encoder(torch.empty(1, encoder.in_channels, 2 * height, 2 * width, device="meta"))
    except IndexError:
        return True
    return False


def has_two_names(encoder: segzoo.Encoder) -> bool:
    every = encoder.named_parameters(remove_duplicate=False)
    return len(list(every)) > len(list(encoder.parameters()))


def has_unsaved_tables(encoder: segzoo.Encoder) -> bool:
    return bool(dict(encoder.named_buffers()).keys() - encoder.state_dict().keys())


def last_words(keys: set[str]) -> list[str]:
    return [key.rpartition(".")[2] for key in keys]


PATTERNS: dict[str, Callable[[segzoo.Encoder], bool]] = {
    "strides 2 to 32": strides(2, 4, 8, 16, 32),
    "strides 4 to 32": strides(4, 8, 16, 32),
    "strides 8 to 32": strides(8, 16, 32),
    "strides 16 to 64": strides(16, 32, 64),
    "a map at stride 1": lambda e: e.strides[0] == 1,
    "odd strides": lambda e: e.strides[-1] % 2 == 1,
    "several maps at one stride": lambda e: 1 < len(set(e.strides)) < len(e.strides),
    "flat, stride 8": flat(8),
    "flat, stride 14": flat(14),
    "flat, stride 16": flat(16),
    "channels last": lambda e: e.channels_last,
    "any size as it is": lambda e: e.size_rule == segzoo.SizeRule(),
    "a smallest size": lambda e: e.size_rule.minimum > min(OTHER_SIZES[0]),
    "padded to a multiple": lambda e: e.size_rule.kind == "multiple",
    "one size only": lambda e: e.size_rule.kind == "fixed",
    "other sizes by an option": lambda e: "dynamic_img_size" in plan_backbone(e.name).options,
    "a table of positions that ends": has_a_table_that_ends,
    "sizes rounded up": lambda e: roundings(e) == {"up"},
    "sizes rounded down": lambda e: roundings(e) == {"down"},
    "sizes rounded both ways": lambda e: roundings(e) == {"up", "down"},
    "sizes of no rule": lambda e: "neither" in roundings(e),
    "a list of layers": lambda e: isinstance(e.backbone, FeatureListNet),
    "maps collected by hooks": lambda e: isinstance(e.backbone, FeatureHookNet),
    "a forward of its own": lambda e: not isinstance(e.backbone, (FeatureListNet, FeatureHookNet)),
    "tables that are not saved": has_unsaved_tables,
    "modules that have two names": has_two_names,
    "weights that are not trained": lambda e: not all(w.requires_grad for w in e.parameters()),
    "RGB only": refuses_other_bands,
    "a classifier with a norm": lambda e: "running_mean" in last_words(classifier_keys(e.name)),
    "several classifiers": lambda e: last_words(classifier_keys(e.name)).count("weight") > 1,
}


@functools.cache
def described(name: str) -> segzoo.Encoder:
    options = OPTIONS.get(name)
    return build_on_meta(lambda: segzoo.create_encoder(name, options=options)).eval()


@pytest.mark.parametrize("name", SPREAD)
def test_a_model_of_the_spread_has_the_patterns_it_is_there_for(name):
    if name in OTHERS_BEFORE and not NEWER_TIMM:
        pytest.skip(f"{name} of timm {timm.__version__} has other patterns")
    encoder = described(known(name))
    assert [pattern for pattern in SPREAD[name] if not PATTERNS[pattern](encoder)] == []


def test_the_spread_has_every_pattern():
    assert {pattern for patterns in SPREAD.values() for pattern in patterns} == PATTERNS.keys()
