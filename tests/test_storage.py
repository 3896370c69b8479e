"""Models in folders: round trips, interrupted saves, cards, other classes and bands."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import segzoo
from segzoo.errors import ArgumentError, ConfigError, StorageError, UnknownKeywordError
from segzoo.models import storage
from segzoo.models.card import is_untouched

FILES = ["README.md", "config.json", "model.safetensors"]


def small(classes: int = 2, **options: object) -> segzoo.Unet:
    return segzoo.Unet(
        "test_resnet", classes=classes, decoder_channels=(16, 8, 8, 8, 8), **options
    ).eval()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def logits(model: nn.Module) -> torch.Tensor:
    weight = next(model.parameters())
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 3 * 64 * 48).reshape(1, 3, 64, 48).to(weight.dtype))


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
    assert torch.equal(logits(loaded), logits(saved))
    for name, tensor in saved.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype


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
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(segzoo.from_pretrained(tmp_path)(image), saved(image))


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


# Other classes and bands


def test_another_number_of_classes(tmp_path, caplog):
    saved = small(class_names=("a", "b"))
    saved.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = segzoo.from_pretrained(tmp_path, classes=7)
    assert caplog.messages == [
        "Unet now has 7 classes and 3 bands; new and untrained: head.conv.weight, head.conv.bias."
    ]
    assert model.classes == 7
    assert model.config.class_names is None
    assert not model.training
    for name, tensor in saved.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(model.state_dict()[name], tensor), name
    model.save_pretrained(tmp_path / "seven")
    assert torch.equal(logits(segzoo.from_pretrained(tmp_path / "seven")), logits(model))


@pytest.mark.parametrize("bands", [1, 4])
def test_another_number_of_bands(tmp_path, caplog, bands):
    saved = small()
    saved.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = segzoo.from_pretrained(tmp_path, in_channels=bands)
    assert caplog.messages == [
        f"Unet now has 2 classes and {bands} bands; new and untrained: nothing."
    ]
    assert len(model.normalization.mean) == bands
    grey = torch.rand(1, 1, 64, 64)
    if bands == 1:  # timm sums over RGB: a grey image gives what it gave as RGB
        with torch.no_grad():
            torch.testing.assert_close(model(grey), saved(grey.expand(-1, 3, -1, -1)))


def test_the_same_numbers_change_nothing(tmp_path, caplog):
    saved = small()
    saved.save_pretrained(tmp_path)
    model = segzoo.from_pretrained(tmp_path, classes=2, in_channels=3)
    assert torch.equal(logits(model), logits(saved))
    assert caplog.messages == []
    with pytest.raises(ArgumentError, match="classes must be between"):
        segzoo.from_pretrained(tmp_path, classes=0)


# Cards

CARD = segzoo.ModelCard(
    license="cc-by-4.0",
    datasets=("user/streets",),
    tags=("driving",),
    description="For *streets*.",
    metrics=(
        segzoo.Metric(type="mean_iou", value=0.71, dataset="user/streets", split="test"),
        segzoo.Metric(type="accuracy", value=0.9, dataset="user/streets", name="Pixel accuracy"),
    ),
)


def test_the_card_holds_what_was_given_and_nothing_else(tmp_path):
    small(class_names=("road: [x]", "<b>rest</b>")).save_pretrained(tmp_path / "a", card=CARD)
    text = (tmp_path / "a" / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    data = yaml.safe_load(metadata)
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "segzoo"
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["datasets"] == ["user/streets"]
    assert "base_model" not in data
    assert {"segzoo", "unet", "driving"} <= set(data["tags"])
    [model] = data["model-index"]
    values = [metric["value"] for result in model["results"] for metric in result["metrics"]]
    assert values == [0.71, 0.9]
    assert "For *streets*." in body
    assert r"- 0: road: \[x\]" in body
    assert "<b>" not in body
    assert is_untouched(text)
    small().save_pretrained(tmp_path / "b")
    plain = (tmp_path / "b" / "README.md").read_text()
    assert "license" not in plain
    assert "model-index" not in plain


def test_the_card_is_what_the_hub_reads():
    from huggingface_hub import ModelCard

    model = small()
    model.base_model = "timm/test_resnet.r160_in1k"
    text = storage.render(
        CARD,
        model.config,
        architecture="unet",
        title="A: title",
        base_model=model.base_model,
        repo_id="user/name",
    )
    card = ModelCard(text)
    assert card.data.base_model == "timm/test_resnet.r160_in1k"
    assert [result.metric_value for result in card.data.eval_results] == [0.71, 0.9]


def test_the_base_model_survives(tmp_path):
    model = small()
    assert model.base_model is None
    model.base_model = "timm/test_resnet.r160_in1k"
    model.save_pretrained(tmp_path)
    assert "base_model: timm/test_resnet.r160_in1k" in (tmp_path / "README.md").read_text()
    assert segzoo.from_pretrained(tmp_path).base_model == "timm/test_resnet.r160_in1k"


def test_cards_in_a_folder(tmp_path):
    card = tmp_path / "README.md"
    small().save_pretrained(tmp_path, card=CARD)
    first = card.read_text()
    small().save_pretrained(tmp_path)
    assert card.read_text() == first
    small().save_pretrained(tmp_path, card=segzoo.ModelCard(license="mit"))
    assert "license: mit" in card.read_text()
    card.write_text(first.replace("For *streets*", "For roads"))
    with pytest.warns(UserWarning, match="by hand and is kept"):
        small().save_pretrained(tmp_path, card=CARD)
    assert "For roads" in card.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"license": 3}, "license must be a string"),
        ({"license": ""}, "1 to 256 characters"),
        ({"metrics": (0.5,)}, "must be a segzoo.Metric"),
        ({"picture": "x.gif"}, r"must be a \.png"),
        ({"picture": "missing.png"}, "must be a file"),
        ({"description": None}, "must be text"),
    ],
)
def test_what_a_card_cannot_say(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.ModelCard(**arguments)
    with pytest.raises(ArgumentError, match="value must be"):
        segzoo.Metric(type="iou", value=float("nan"), dataset="d")


# Interrupted saves


def read(folder: Path) -> int:
    model = segzoo.from_pretrained(folder)
    assert torch.equal(model.head.conv.bias, torch.full((model.classes,), float(model.classes))), (
        "weights and config are not of one save"
    )
    return model.classes


def marked(classes: int) -> segzoo.Unet:
    model = small(classes)
    nn.init.constant_(model.head.conv.bias, classes)
    return model


KILLED = """
import os, signal, sys
from pathlib import Path
import segzoo.hub, segzoo.weights_file
from tests.test_storage import POINTS, marked

def kill(*args, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

def half(path, tensors, metadata):
    path.write_bytes(b"half of it")
    kill()

def save(point):
    if point == "in the middle of the weights":
        segzoo.weights_file.write = half
    elif point == "before the weights are in place":
        os.replace = kill
    elif point == "before the config":
        segzoo.hub._write_text = kill
    else:
        segzoo.hub._write_card = kill
    marked(3).save_pretrained(Path(sys.argv[1], point))

for point in POINTS:
    if not (child := os.fork()):
        save(point)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
"""
#: Where a save is killed -> the number of classes of the model that is there then.
POINTS = {
    "in the middle of the weights": 2,
    "before the weights are in place": 2,
    "before the config": 3,
    "before the card": 3,
}


def script(text: str, folder: Path) -> list[str]:
    """A command that runs a script which imports this file; the imports are paid once."""
    path = [*sys.path, str(Path(__file__).parents[1])]
    return [sys.executable, "-c", f"import sys; sys.path = {path}\n{text}", str(folder)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_leaves_one_whole_model(tmp_path):
    for point in POINTS:
        marked(2).save_pretrained(tmp_path / point)
    subprocess.run(script(KILLED, tmp_path), check=True)
    for point, classes in POINTS.items():
        assert read(tmp_path / point) == classes, point
        marked(4).save_pretrained(tmp_path / point)
        assert read(tmp_path / point) == 4


def test_a_first_save_killed_before_the_config_can_be_loaded(tmp_path):
    marked(2).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert read(tmp_path) == 2


def test_leftovers_are_swept_when_they_are_old(tmp_path):
    old, new = tmp_path / ".model.safetensors.aa.tmp", tmp_path / ".config.json.bb.tmp"
    for path in (old, new, tmp_path / "mine.tmp"):
        path.write_text("x")
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    os.utime(new)
    small().save_pretrained(tmp_path)
    assert names(tmp_path) == [".config.json.bb.tmp", *FILES[:2], "mine.tmp", FILES[2]]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_full_disk(tmp_path, monkeypatch, name):
    marked(2).save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"No space left.*Free some space"):
        marked(3).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    assert read(tmp_path) == (2 if name == "model.safetensors" else 3)
    marked(3).save_pretrained(tmp_path)
    assert read(tmp_path) == 3


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs the superuser"
)
def test_a_disk_that_is_really_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        marked(2).save_pretrained(tmp_path)
        with pytest.raises(StorageError, match="could not be saved"):
            marked(3).save_pretrained(tmp_path)
        assert not list(tmp_path.glob(".*"))
        assert read(tmp_path) == 2
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not be saved"):
        small().save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


WRITERS = """
import os, sys
from tests.test_storage import marked

children = []
for classes in (2, 3):
    if not (child := os.fork()):
        model = marked(classes)
        for _ in range(10):
            model.save_pretrained(sys.argv[1])
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_save_into_one_folder_while_it_is_read(tmp_path):
    marked(2).save_pretrained(tmp_path)
    with subprocess.Popen(script(WRITERS, tmp_path)) as writers:
        seen = set()
        while writers.poll() is None:
            seen.add(read(tmp_path))
            time.sleep(0.05)
    assert writers.returncode == 0
    assert seen <= {2, 3}
    assert read(tmp_path) in (2, 3)
    assert names(tmp_path) == FILES


def test_a_save_replaces_a_link_and_does_not_follow_it(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(outside)
    marked(2).save_pretrained(folder)
    assert outside.read_text() == "precious"
    assert read(folder) == 2


def test_misspelt_arguments():
    with pytest.raises(UnknownKeywordError, match="classes"):
        small(clases=3)
