"""Encoders chosen by what is asked of each."""

import dataclasses

import pytest
import tqdm

import segzoo
from segzoo.encoders import ENCODERS, listing, timm_source
from segzoo.errors import ArgumentError, UnknownNameError

from ..helpers import TinyBackbone, needs_timm_1_0_31

#: Encoders of every size rule, with strides of several patterns.
SOME = ("resnet18", "convnext_atto", "dla34", "levit_128s", "vit_tiny_patch16_224", "vgg11")


@pytest.fixture
def registered():
    """One that works and one that does not."""

    def broken(in_channels=3, pretrained=False):
        raise OSError("no such file")

    segzoo.register_encoder("tiny_for_tests")(TinyBackbone)
    segzoo.register_encoder("tiny_broken")(broken)
    yield
    for name in ("tiny_for_tests", "tiny_broken"):
        del ENCODERS._entries[name]


@pytest.fixture(scope="module")
def infos():
    return {name: segzoo.encoder_info(name) for name in SOME}


@pytest.fixture
def some(monkeypatch, infos):
    """Only these encoders exist, so that all of them can be asked."""
    monkeypatch.setattr(listing, "all_names", lambda: set(SOME))
    return infos


def test_by_name_and_weights():
    names = segzoo.list_encoders("resnet3*")
    assert "resnet34" in names
    assert names == sorted(names)
    assert set(segzoo.list_encoders(pretrained=True)) < set(segzoo.list_encoders())
    assert "mixer_s16_224" not in segzoo.list_encoders("mixer_*", pretrained=True)
    assert segzoo.list_encoders("no_such_*") == []


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"min_parameters": 10e6}, lambda info: info.parameters >= 10e6),
        ({"max_parameters": 11_176_512}, lambda info: info.parameters <= 11_176_512),
        (
            {"min_parameters": 4e6, "max_parameters": 10e6},
            lambda info: 4e6 <= info.parameters <= 10e6,
        ),
        ({"strides": [4, 8, 16, 32]}, lambda info: info.strides == (4, 8, 16, 32)),
        ({"strides": (16,) * 4}, lambda info: info.strides == (16,) * 4),
        ({"max_gflops": 3}, lambda info: info.gflops <= 3),
        ({"size_rule": "any"}, lambda info: str(info.size_rule).startswith("any")),
        ({"size_rule": "multiple"}, lambda info: info.size_rule.multiple > 1),
        ({"size_rule": "fixed"}, lambda info: info.size_rule.fixed),
        ({"license": "BSD-3*"}, lambda info: info.license == "bsd-3-clause"),
        (
            {
                "license": "apache-2.0",
                "max_gflops": 4,
                "size_rule": "any",
                "strides": (4, 8, 16, 32),
            },
            lambda info: info.name.startswith("convnext_atto"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_filters_agree_with_encoder_info(some, filters, passes):
    expected = sorted(name for name, info in some.items() if passes(info))
    assert 0 < len(expected) < len(SOME)
    assert segzoo.list_encoders(**filters) == expected


@pytest.mark.parametrize(
    "name",
    [
        *SOME,
        "swin_tiny_patch4_window7_224",
        pytest.param("crossvit_9_240", marks=needs_timm_1_0_31),
    ],
)
def test_one_build_tells_what_the_whole_plan_tells(name):
    features, parameters = timm_source.outline(name)
    info = segzoo.encoder_info(name)
    assert tuple(feature.stride for feature in features) == info.strides
    assert tuple(feature.channels for feature in features) == info.channels
    assert parameters == info.parameters


def test_what_is_dear_is_asked_of_what_is_left(some, monkeypatch):
    asked = []
    for module, question in ((timm_source, "outline"), (listing, "encoder_info")):
        original = getattr(module, question)

        def counted(name, original=original, question=question):
            asked.append((question, name))
            return original(name)

        monkeypatch.setattr(module, question, counted)
    assert segzoo.list_encoders("*1*", pretrained=True, license="bsd*") == ["vgg11"]
    assert asked == []
    segzoo.list_encoders(license="bsd*", max_parameters=12e6, size_rule="any")
    assert asked == [("outline", name) for name in ("dla34", "vgg11")] + [("encoder_info", "vgg11")]


def test_encoders_of_the_users_own_take_part(registered):
    with pytest.warns(
        UserWarning, match=r"could not be found out whether they pass: tiny_broken\."
    ):
        names = segzoo.list_encoders("tiny_[fb]*", max_parameters=1e6, strides=(2, 4))
    assert names == ["tiny_for_tests"]
    assert segzoo.list_encoders("tiny_f*", size_rule="any", max_gflops=1) == ["tiny_for_tests"]
    assert segzoo.list_encoders("tiny_f*", pretrained=True) == []
    assert segzoo.list_encoders("tiny_f*", license="mit") == []
    assert set(segzoo.list_encoders("tiny_*")) >= {"tiny_for_tests", "tiny_broken"}


def test_operations_that_cannot_be_counted_are_told_of(some, monkeypatch):
    unknown = dataclasses.replace(some["resnet18"], gflops=None)
    monkeypatch.setattr(listing, "encoder_info", lambda name: unknown)
    with pytest.warns(UserWarning, match="resnet18"):
        assert segzoo.list_encoders("resnet18", max_gflops=100) == []
    assert segzoo.list_encoders("resnet18", size_rule="any") == ["resnet18"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"pattern": ""}, "pattern must have"),
        ({"pattern": 3}, "pattern must be a string"),
        ({"pretrained": "yes"}, "pretrained must be True or False"),
        ({"max_parameters": "25M"}, "max_parameters must be a number, got '25M'"),
        ({"max_parameters": -1}, "max_parameters must be between 0 and"),
        ({"min_parameters": float("nan")}, "min_parameters must be between"),
        ({"min_parameters": 2e6, "max_parameters": 1e6}, "leaves no encoder"),
        ({"max_gflops": True}, "max_gflops must be a number"),
        ({"strides": 32}, "strides must be a sequence"),
        ({"strides": ()}, "finest first"),
        ({"strides": (32, 16)}, r"finest first.*got \(32, 16\)"),
        ({"strides": (2, 4.0)}, r"strides\[1\] must be an integer"),
        ({"strides": (0, 2)}, r"strides\[0\] must be between 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_values_that_cannot_work(filters, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.list_encoders(**filters)


def test_unknown_names_get_what_there_is():
    with pytest.raises(UnknownNameError, match=r"any, fixed, multiple; got 'fix'.*mean fixed"):
        segzoo.list_encoders(size_rule="fix")
    with pytest.raises(
        UnknownNameError, match=r"'apache'\. Did you mean apache-2\.0.*states: .*mit"
    ):
        segzoo.list_encoders(license="apache")
    with pytest.raises(TypeError, match="licence"):
        segzoo.list_encoders(licence="mit")


@pytest.mark.parametrize("wanted", [False, True])
def test_progress_is_shown_when_wanted(monkeypatch, wanted):
    bars = []
    original = tqdm.tqdm
    monkeypatch.setattr(
        tqdm, "tqdm", lambda *args, **options: (bars.append(options), original(*args, **options))[1]
    )
    segzoo.list_encoders("resnet18", max_parameters=1e9, progress=wanted)
    assert [options["disable"] for options in bars] == [not wanted]
