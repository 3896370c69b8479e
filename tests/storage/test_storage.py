"""Models in folders: round trips."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import segzoo
from segzoo.errors import ConfigError, StorageError, UnknownKeywordError
from tests.helpers import assert_near, assert_same_tensors
from tests.model_folders import FILES, logits, names, small


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            lambda: small(
                class_names=("a", "ü 中"),
                encoder_options={"drop_path_rate": 0.1},
                norm="group",
                attention="scse",
                dropout=0.25,
                interpolation="bilinear",
                normalization=segzoo.Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
            ),
            id="options",
        ),
        pytest.param(lambda: small().double(), id="float64"),
        pytest.param(lambda: small().bfloat16(), id="bfloat16"),
        pytest.param(
            lambda: segzoo.Unet("test_vit3", image_size=(64, 48), decoder_channels=(8,) * 5).eval(),
            id="vit with an image size",
        ),
        pytest.param(
            lambda: segzoo.Unet("test_convnext", depth=2, decoder_channels=(8,) * 3).eval(),
            id="depth",
        ),
    ],
)
def test_a_loaded_model_is_the_saved_one(model, tmp_path):
    saved = model()
    assert saved.save_pretrained(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert names(tmp_path / "new" / "folder") == FILES
    loaded = segzoo.Unet.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == saved.config
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert_same_tensors(loaded, saved)
    assert_near(logits(loaded), logits(saved))


def test_an_encoder_without_pretrained_weights(tmp_path):
    model = segzoo.Unet("selecsls42", decoder_channels=(8,) * 5)
    model.save_pretrained(tmp_path)
    assert segzoo.from_pretrained(tmp_path).config.encoder == "selecsls42"


def test_a_model_in_channels_last(tmp_path):
    saved = small()
    before = logits(saved)
    saved.to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    assert torch.equal(logits(segzoo.from_pretrained(tmp_path)), before)


def test_buffers_that_are_not_saved_are_computed(tmp_path):
    saved = segzoo.Unet("swin_tiny_patch4_window7_224", decoder_channels=(8,) * 5).eval()
    unsaved = {name for name, _ in saved.named_buffers()} - saved.state_dict().keys()
    assert unsaved
    saved.save_pretrained(tmp_path)
    loaded = segzoo.from_pretrained(tmp_path)
    assert_same_tensors(loaded, saved)
    assert_near(logits(loaded), logits(saved))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_buffers_that_are_computed_are_of_the_type_of_the_weights(tmp_path, dtype, classes):
    saved = segzoo.LinearHead("vit_tiny_patch16_dinov3_qkvb", classes=2).to(dtype).eval()
    image = torch.rand(1, 3, 32, 32, dtype=dtype)
    saved.save_pretrained(tmp_path)
    loaded = segzoo.from_pretrained(tmp_path, classes=classes)
    assert_same_tensors(loaded.encoder, saved.encoder)
    with torch.no_grad():
        assert loaded(image).dtype == dtype
        assert loaded(image).shape == (1, classes, 32, 32)
        for found, expected in zip(loaded.encoder(image), saved.encoder(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_each_part_of_a_model_of_two_types_keeps_its_own(tmp_path):
    saved = segzoo.LinearHead("vit_tiny_patch16_dinov3_qkvb")
    saved.encoder.bfloat16()
    saved.save_pretrained(tmp_path)
    assert_same_tensors(segzoo.from_pretrained(tmp_path), saved)


def test_a_computed_buffer_of_a_type_that_loading_does_not_give(tmp_path):
    model = segzoo.LinearHead("vit_tiny_patch16_dinov3_qkvb")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    with pytest.raises(
        StorageError, match=r"not saved, is of type torch\.float32.*in torch\.bfloat16"
    ):
        model.save_pretrained(tmp_path)
    assert names(tmp_path) == []
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert_same_tensors(segzoo.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("encoder", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_loading_draws_no_random_numbers(tmp_path, encoder):
    segzoo.Unet(encoder, decoder_channels=(8,) * 5).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    segzoo.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_model_is_loaded_into_memory_whatever_the_default_device(tmp_path, mmap):
    saved = segzoo.LinearHead("vit_tiny_patch16_dinov3_qkvb").eval()
    saved.save_pretrained(tmp_path)
    with torch.device("meta"):  # as a GPU by torch.set_default_device
        loaded = segzoo.from_pretrained(tmp_path, mmap=mmap)
    assert_same_tensors(loaded, saved)


def test_a_model_of_types_that_could_not_be_loaded_keeps_the_one_before(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    before = logits(model)
    averaged = {name: item.float() + 1 for name, item in model.state_dict().items()}
    model.load_state_dict(averaged, assign=True)
    with pytest.raises(StorageError, match=r"num_batches_tracked is of type torch\.float32.*int64"):
        model.save_pretrained(tmp_path)
    assert names(tmp_path) == FILES
    assert torch.equal(logits(segzoo.from_pretrained(tmp_path)), before)


def test_training_a_loaded_model_leaves_the_file_alone(tmp_path):
    small().save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = segzoo.from_pretrained(tmp_path).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(segzoo.from_pretrained(tmp_path)), logits(model.eval()))


def test_the_weights_carry_the_config_and_a_checksum(tmp_path):
    small().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["config"] == (tmp_path / "config.json").read_text()
    config = json.loads(metadata["config"])
    assert config["format_version"] == 1
    assert config["segzoo_version"] == segzoo.__version__
    assert len(metadata["crc32"]) == 8
    assert metadata["crc32"] != "00000000"


def test_tensors_are_where_torch_would_put_them(tmp_path):
    """Kernels round differently on other addresses, so a loaded model has to have the same."""
    small(3).save_pretrained(tmp_path)
    loaded = segzoo.from_pretrained(tmp_path)
    assert {tensor.data_ptr() % 64 for tensor in loaded.state_dict().values()} == {0}


def test_a_file_of_the_safetensors_library_is_read_too(tmp_path):
    saved = small(3)
    saved.save_pretrained(tmp_path)
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    loaded = segzoo.from_pretrained(tmp_path)
    assert {tensor.data_ptr() % 64 for tensor in loaded.state_dict().values()} == {0}
    assert torch.equal(logits(loaded), logits(saved))


def test_a_config_that_was_edited_counts(tmp_path):
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"]["class_names"] = ["road", "rest"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert segzoo.from_pretrained(tmp_path).config.class_names == ("road", "rest")


def test_models_that_could_not_be_loaded_are_not_saved(tmp_path):
    class Backbone(nn.Module):
        features = (segzoo.FeatureSpec(4, 2),)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(image)]

    with pytest.raises(StorageError, match="register_encoder"):
        segzoo.Unet(Backbone()).save_pretrained(tmp_path)
    changed = small()
    changed.head.conv = nn.Conv2d(8, 7, 3)
    with pytest.raises(StorageError, match=r"head\.conv\.bias, 2 in all"):
        changed.save_pretrained(tmp_path)
    odd = small(encoder_options={"stem_width": 32})
    with pytest.raises(StorageError, match="stem_width"):
        odd.save_pretrained(tmp_path)
    assert names(tmp_path) == []


def test_a_model_of_another_architecture(tmp_path):
    small().save_pretrained(tmp_path)

    class Other(segzoo.SegmentationModel):
        pass

    with pytest.raises(ConfigError, match="'unet', not a Other"):
        Other.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword"):
        segzoo.from_pretrained(tmp_path, revison="main")


def test_misspelt_arguments():
    with pytest.raises(UnknownKeywordError, match="classes"):
        small(clases=3)
