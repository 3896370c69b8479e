"""segzoo.train on items, names and folders that are not what they should be."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from tqdm import tqdm

import segzoo
from segzoo.cli.train import _value
from segzoo.data.mask_coding import MaskCoding
from segzoo.data.splits import Subset
from segzoo.errors import ArgumentError, DataError, StorageError, TrainingError
from segzoo.training.features import FeatureCache
from segzoo.training.folder import TrainingFolder
from segzoo.training.items import Told, collated, raised
from segzoo.training.splits import as_splits

from .toys import ENCODER, Blobs, toy_model
from .trainings import train

ONE = segzoo.Recipe(epochs=1, batch_size=4)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


class Odd(Blobs):
    """One item of twenty is another one, which those that are looked at first do not show."""

    def __init__(self, change):
        super().__init__(20)
        self.change = change

    def __getitem__(self, index, /):
        image, mask = super().__getitem__(index)
        return self.change(image, mask) if index == 9 else (image, mask)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda image, mask: (image, mask[:12, :12]), "24x32 pixels, its mask 12x12"),
        (lambda image, mask: (image[:1], mask), "1 bands, the model takes 3"),
        (lambda image, mask: (image, mask.float()), "mask torch.float32"),
    ],
)
@pytest.mark.parametrize("part", ["train", "val"])
def test_an_item_that_does_not_fit_is_told_by_its_name(tmp_path, change, reason, part):
    given = (Odd(change), Blobs(2)) if part == "train" else (Blobs(4), Odd(change))
    with pytest.raises(DataError, match=f"blob9: .*{reason}"):
        # Cut and resized, they would all be of one size.
        train(tmp_path / "out", ONE.changed({"crop": (8, 8), "size": (16, 16)}), given=given)


class Sent(Told):
    """As a worker sends its items: pickled."""

    def __getitem__(self, key, /):
        return pickle.loads(pickle.dumps(super().__getitem__(key)))


def test_an_error_of_a_worker_arrives_as_it_was_raised():
    def broken(image, mask):
        raise DataError("x.png is broken.")

    items = Sent(Odd(broken))
    found = raised(collated([items[i], items[i + 1]], list) for i in range(0, 20, 2))
    assert [len(next(found)) for _ in range(4)] == [2] * 4
    with pytest.raises(DataError) as error:
        next(found)
    assert str(error.value) == "x.png is broken."

    def refuse(items):
        raise DataError("they differ.")

    with pytest.raises(DataError, match=r"^they differ\.$"):
        next(raised([collated([items[0]], refuse)]))


def test_validation_data_of_nothing_but_void(tmp_path, monkeypatch):
    class Void(Blobs):
        def __getitem__(self, index, /):
            image, mask = super().__getitem__(index)
            return image, torch.full_like(mask, 255)

    shown = io.StringIO()
    monkeypatch.setattr("segzoo.training.loop.tqdm", lambda **given: tqdm(file=shown, **given))
    result = train(
        tmp_path / "out",
        segzoo.Recipe(epochs=2, batch_size=4),
        given=(Blobs(4), Void(2)),
        ignore_index=255,
        progress=True,
    )
    assert result.scores.miou is None
    assert shown.getvalue()


def test_the_name_of_one_logit_is_that_of_its_class():
    data = (Blobs(4, classes=2), Blobs(2, classes=2))
    model = toy_model(1, class_names=("coin",))
    assert as_splits(data, model, None).class_names == ("background", "coin")
    named = segzoo.DataSplits.of(*data, classes=("ground", "coin"))
    assert as_splits(named, model, None) is named


def test_names_in_another_order_are_refused():
    data = segzoo.DataSplits.of(Blobs(4), Blobs(2), classes=("car", "road", "sky"))
    with pytest.raises(
        ArgumentError, match="Class 0 is 'car' in the data and 'road' in the model, and 1 more"
    ):
        as_splits(data, toy_model(class_names=("road", "car", "sky")), None)


@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_a_model_of_which_nothing_learns_is_refused(tmp_path, freeze_epochs):
    model = toy_model()
    model.requires_grad_(False)
    if freeze_epochs:
        model.encoder.requires_grad_(True)
    with pytest.raises(ArgumentError, match="No parameter of the model would learn"):
        train(tmp_path / "out", ONE.changed({"freeze_epochs": freeze_epochs}), model=model)


def test_scores_of_another_training_do_not_stay_beside_a_new_one(tmp_path):
    def stop(row):
        raise RuntimeError

    def kept():
        return {path.name for path in inside.iterdir()}

    inside = tmp_path / "out" / "training"
    train(tmp_path / "out", ONE)
    assert "metrics.json" in kept()
    other = ONE.changed({"learning_rate": 0.01})
    with pytest.raises(RuntimeError):
        train(tmp_path / "out", other, restart=True, on_epoch=stop)
    assert kept() == {"recipe.json", "data.json", "metrics.jsonl", "state.pt"}
    assert segzoo.Recipe.from_json((inside / "recipe.json").read_text()) == other
    train(tmp_path / "out", other)
    assert "metrics.json" in kept()


def test_a_training_that_does_not_begin_leaves_the_records_of_the_one_before(tmp_path):
    inside = tmp_path / "out" / "training"
    train(tmp_path / "out", ONE)
    before = {path.name: path.read_bytes() for path in inside.iterdir()}

    class Flat(Blobs):
        def __getitem__(self, index, /):
            raise DataError("no more")

    broken = Flat(4)
    data = segzoo.DataSplits.of(Blobs(4), Blobs(2), classes=3)
    object.__setattr__(data, "train", broken)
    with pytest.raises((DataError, TrainingError)):
        train(tmp_path / "out", ONE.changed({"learning_rate": "find"}), given=data, restart=True)
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == before


def test_a_folder_of_an_impossible_name_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        TrainingFolder(tmp_path / ("a" * 300)).look(restart=False)
    with pytest.raises(StorageError, match="cannot be made"):
        TrainingFolder(tmp_path / "a\0b").make()


def test_features_of_another_architecture_are_others(tmp_path):
    torch.manual_seed(0)
    plain = segzoo.Unet("test_resnet", classes=2).freeze_encoder()
    dilated = segzoo.DeepLabV3Plus("test_resnet", classes=2).freeze_encoder()
    dilated.encoder.load_state_dict(plain.encoder.state_dict())
    image = torch.rand(1, 3, 64, 64)
    for model, strides in ((plain, [32, 16, 8, 4, 2]), (dilated, [32, 16, 8, 4, 4])):
        cache = FeatureCache(model.eval(), folder=tmp_path)
        maps = cache.maps(image, image, channels_last=False)
        assert [item.shape[-1] for item in maps] == strides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".001", 0.001),
        ("1e-3", 0.001),
        ("True", True),
        ("true", True),
        ("None", None),
        ("(0.5, 2.0)", (0.5, 2.0)),
        ("balanced", "balanced"),
        ("user/name", "user/name"),
        ("a b", "a b"),
    ],
)
def test_a_setting_is_written_as_in_python_or_in_json(text, value):
    assert _value(text) == value
    assert type(_value(text)) is type(value)


def squeezed(low, high, classes=1):
    with torch.random.fork_rng():
        return segzoo.DynamicUnet(ENCODER, classes, y_range=(low, high))


def head_of(low, high):
    head = segzoo.Head("dynamic_unet", 1, options={"y_range": (low, high)})
    with torch.random.fork_rng():
        return segzoo.MultiHead(ENCODER, heads={"depth": head})


@pytest.mark.parametrize(
    "make", [lambda: squeezed(0, 1), lambda: squeezed(-1, 1), lambda: squeezed(0, 1, 2), lambda: head_of(-1, 1)]
)  # fmt: skip
def test_outputs_in_a_range_are_no_logits_to_learn(tmp_path, make):
    data = (Blobs(4, classes=2), Blobs(2, classes=2))
    with pytest.raises(ArgumentError, match=r"squeezes its outputs into a range.*y_range=None"):
        train(tmp_path / "out", ONE, model=make(), given=data)
    make().save_pretrained(tmp_path / "teacher")
    taught = ONE.changed({"teacher": str(tmp_path / "teacher")})
    student = toy_model(make().classes)
    with pytest.raises(ArgumentError, match=r"teacher .* squeezes its outputs into a range"):
        train(tmp_path / "out", taught, model=student, given=data)
    assert not (tmp_path / "out").exists()


def test_a_threshold_of_its_own_counts_in_validation_too(tmp_path, monkeypatch):
    """Logits whose even odds lie elsewhere: whoever scores asks the model."""
    model = toy_model(1)
    monkeypatch.setattr(type(model), "threshold", property(lambda self: 0.3))
    data = (Blobs(8, classes=2), Blobs(3, seed=1, classes=2))
    result = train(tmp_path / "out", ONE.changed({"precision": "float32"}), model=model, given=data)
    expected = segzoo.evaluate(result.model, data[1])
    assert result.scores.counts == expected.counts
    assert result.history[0]["val"]["miou"] == expected.miou
    monkeypatch.setattr(type(model), "threshold", 0.0)
    assert segzoo.evaluate(result.model, data[1]).counts != expected.counts


class Named(Blobs):
    """Its errors have the name of the item, as those of files do."""

    def __getitem__(self, index, /):
        if index == 2:
            raise DataError("blob2: values that are no class: 7.")
        return super().__getitem__(index)


@pytest.mark.parametrize("given", [(Named(20), Blobs(2)), (Blobs(4), Named(20))])
def test_a_name_comes_once(tmp_path, given):
    with pytest.raises(DataError) as error:
        train(tmp_path / "out", ONE, given=given)
    assert str(error.value) == "blob2: values that are no class: 7."


class Says(Blobs):
    """A dataset that says what its masks hold, as rows of a table do."""

    def __init__(self, count, names=None):
        super().__init__(count, ignore_index=255)
        self.coding, self.class_names = MaskCoding(3, 255), names


@pytest.mark.parametrize("part", [lambda data: data, lambda data: Subset(data, (0, 1))])
def test_what_data_says_of_its_classes_is_kept_and_held_to(tmp_path, part):
    names = ("sky", "road", "car")
    rows = part(Says(4, names))
    for given in ((rows, Blobs(2)), (Blobs(2), rows)):
        splits = as_splits(given, toy_model(), None)
        assert (splits.class_names, splits.ignore_index) == (names, 255)
        with pytest.raises(ArgumentError, match="ignore_index=7, but the void of the data is 255"):
            as_splits(given, toy_model(), 7)
    scores = segzoo.evaluate(toy_model(), rows)
    assert (scores.ignore_index, scores.class_names) == (255, names)
    plain = part(Says(4))
    assert segzoo.evaluate(toy_model(), plain).ignore_index == 255
    other = toy_model(class_names=("road", "sky", "car"))
    for given in ((rows, rows), (Blobs(2), rows)):
        with pytest.raises(
            ArgumentError, match="Class 0 is 'sky' in the data and 'road' in the mo"
        ):
            as_splits(given, other, None)
        with pytest.raises(ArgumentError, match="The data has 3 classes, the model 4"):
            as_splits(given, toy_model(4), None)
    with pytest.raises(ArgumentError, match="Class 0 is 'sky' in the data and 'road' in the model"):
        segzoo.evaluate(other, rows)
    with pytest.raises(ArgumentError, match="The data has 3 classes, the model 4"):
        segzoo.evaluate(toy_model(4), plain)
    with pytest.raises(ArgumentError, match="ignore_index=7, but the void of the data is 255"):
        segzoo.evaluate(toy_model(), plain, ignore_index=7)
