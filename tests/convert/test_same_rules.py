"""One rule at each door: what one converter refuses or takes, the others refuse or take too."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import segzoo
from segzoo.cli import main
from segzoo.convert import from_fastai, from_smp, from_torchvision, from_transformers
from segzoo.convert.keymap import built, check_fits
from segzoo.errors import ArgumentError, ConversionError, StorageError
from segzoo.files.checkpoint import open_checkpoint

from .smp_models import theirs


def smp_state() -> Mapping[str, Tensor]:
    return theirs().state_dict()


def torchvision_state() -> Mapping[str, Tensor]:
    models = pytest.importorskip("torchvision").models.segmentation
    return models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()


def transformers_state() -> Mapping[str, Tensor]:
    """A file's, whose names differ from those in memory in some versions."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = transformers.SegformerConfig(num_labels=2, decoder_hidden_size=16)
    with tempfile.TemporaryDirectory() as folder:
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def fastai_state() -> Mapping[str, Tensor]:
    pytest.importorskip("fastai")
    from benchmarks.parity.fastai_models import Case, fastai_unet

    return fastai_unet(Case()).state_dict()


#: Library -> its converter, and a state dict of one of its models.
DOORS: dict[str, tuple[Callable[..., Any], Callable[[], Mapping[str, Tensor]]]] = {
    "smp": (lambda s, **o: from_smp(s, {"encoder_name": "tu-test_resnet"}, **o), smp_state),
    "torchvision": (from_torchvision, torchvision_state),
    "transformers": (from_transformers, transformers_state),
    "fastai": (from_fastai, fastai_state),
}


@pytest.fixture(scope="module")
def state_of():
    """The state dict of a library's model, made once."""
    return functools.cache(lambda library: dict(DOORS[library][1]()))


def a_bias(state: Mapping[str, Tensor]) -> str:
    """The last bias: of the layer that gives the logits, or of one near it."""
    return [name for name in state if name.endswith(".bias")][-1]


@pytest.mark.parametrize("library", ["smp", "transformers", "fastai"])
def test_values_that_are_no_numbers(library, state_of):
    convert, state = DOORS[library][0], state_of(library)
    name = a_bias(state)
    broken = {**state, name: torch.full_like(state[name], torch.nan)}
    with pytest.raises(ConversionError, match=f"not finite: NaN or infinity in '{name}'"):
        convert(broken)


@pytest.mark.parametrize("library", DOORS)
def test_a_checkpoint_of_everything_at_once(library, state_of, tmp_path):
    convert, state = DOORS[library][0], state_of(library)
    old = {name: item for name, item in state.items() if "num_batches" not in name}
    averaged = {name: item + 1 if item.is_floating_point() else item for name, item in old.items()}
    torch.save(
        {
            "state_dict": {
                **{f"net.model.{name}": item for name, item in old.items()},
                **{f"ema.module.{name}": item for name, item in averaged.items()},
                "mean": torch.ones(3),
            },
            "args": Path("runs"),
        },
        tmp_path / "last.ckpt",
    )
    with pytest.raises(ConversionError, match=r"'state_dict.net.model', 'state_dict.ema.module'"):
        convert(tmp_path / "last.ckpt")
    found = convert(tmp_path / "last.ckpt", weights="ema").state_dict()
    values = [item for name, item in found.items() if name.endswith(".bias")]
    assert any(torch.equal(item, averaged[a_bias(state)]) for item in values)
    assert not any(torch.equal(item, state[a_bias(state)]) for item in values)
    counters = [item for name, item in found.items() if "num_batches" in name]
    assert counters
    assert not any(counters)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_types_that_lose_something(dtype):
    state = {"weight": torch.ones(1, 1), "bias": torch.ones(1).to(dtype)}
    with pytest.raises(ConversionError, match=f"bias is of {dtype}, expected floating point of 16"):
        check_fits(nn.Linear(1, 1), state, source="x")


def test_counters_that_are_no_integers():
    state = {**nn.BatchNorm1d(1).state_dict(), "num_batches_tracked": torch.tensor(1.5)}
    with pytest.raises(ConversionError, match=r"is of torch.float32, expected torch.int64"):
        check_fits(nn.BatchNorm1d(1), state, source="x")


@pytest.mark.parametrize("library", ["torchvision", "transformers", "fastai"])
@pytest.mark.parametrize("names", ["road", 4], ids=str)
def test_names_that_are_no_list_are_the_caller_s_fault(library, names, state_of):
    with pytest.raises(ArgumentError, match=rf"^class_names must be a sequence, got .?{names}"):
        DOORS[library][0](state_of(library), class_names=names)


@pytest.mark.parametrize("convert", [from_smp, from_transformers])
def test_a_config_that_is_none_is_the_caller_s_fault(convert):
    with pytest.raises(ArgumentError, match=r"^config must be a mapping .* got \['a'\] \(list\)"):
        convert("nothing.pth", ["a"])


# The command line


@pytest.mark.parametrize("weights", ["model", "model_ema"])
def test_weights_on_the_command_line(weights, tmp_path):
    state = {**smp_state(), "segmentation_head.0.bias": torch.ones(2)}
    other = {name: torch.zeros_like(item) for name, item in state.items()}
    torch.save({"model": state, "model_ema": other}, tmp_path / "a.pth")
    out = tmp_path / "out"
    arguments = ["convert", "smp", str(tmp_path / "a.pth"), str(out), "--weights", weights]
    assert main([*arguments, "--encoder", "tu-test_resnet"]) == 0
    found = segzoo.from_pretrained(out).state_dict()["head.conv.bias"]
    assert bool(found.any()) == (weights == "model")


def test_every_converter_has_the_option(capsys):
    for library in DOORS:
        assert main(["convert", library, "--help"]) == 0
        assert "--weights" in capsys.readouterr().out


def test_a_config_beside_a_file_is_read(tmp_path):
    source = theirs(decoder_interpolation="bilinear")
    torch.save(source.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ConversionError, match=r"command line --encoder .* config\.json beside"):
        from_smp(tmp_path / "a.pth")
    (tmp_path / "config.json").write_text('{"project": "roads"}')  # of something else
    with pytest.raises(ConversionError, match="tensors do not tell which"):
        from_smp(tmp_path / "a.pth")
    config = '{"encoder_name": "tu-test_resnet", "decoder_interpolation": "bilinear"}'
    (tmp_path / "config.json").write_text(config)
    assert from_smp(tmp_path / "a.pth").config.interpolation == "bilinear"


def test_a_folder_of_an_older_version(tmp_path):
    source = theirs()
    source.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    found = from_smp(tmp_path).state_dict()
    assert torch.equal(found["head.conv.bias"], source.state_dict()["segmentation_head.0.bias"])


class WithTable(nn.Module):
    """A weight, and a table that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.ones(2), persistent=False)


def test_tables_have_the_type_of_the_weights_whatever_is_left_out():
    others = (torch.float64, torch.float32, torch.bfloat16, torch.complex64)
    state = {"weight": torch.ones(2, dtype=torch.float16)}
    state |= {f"other{i}": torch.ones(2, dtype=dtype) for i, dtype in enumerate(others)}
    model = built(WithTable, lambda _, given: {"weight": given["weight"]}, open_checkpoint(state))
    assert model.get_buffer("table").dtype == torch.float16


def test_a_file_has_no_revision(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    for convert in (from_smp, from_transformers):
        with pytest.raises(StorageError, match="a file has no revision 'v1'"):
            convert(tmp_path / "a.pth", revision="v1")
