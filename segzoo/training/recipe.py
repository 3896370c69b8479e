"""How a model is trained: frozen values with a strict round trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from .. import checks
from ..config import MAX_CLASSES
from ..data.transforms import Augmentation
from ..errors import ArgumentError
from ..files import strict_json

PRECISIONS = ("auto", "float32", "bfloat16")
SHARDINGS = ("full",)
#: Fields that are a whole number: the least and the greatest.
_COUNTS = {
    "epochs": (1, 10**6),
    "accumulate": (1, 10**4),
    "freeze_epochs": (0, 10**6),
    "seed": (0, 2**63 - 1),
}
#: Fields that are a number: the least and the greatest.
_NUMBERS: dict[str, tuple[float, float]] = {
    "weight_decay": (0, 1e3),
    "warmup": (0, 1),
    **dict.fromkeys(
        ("cross_entropy", "dice", "focal", "boundary", "lovasz", "auxiliary"), (0, 1e6)
    ),
    "focal_gamma": (0, 100),
    "label_smoothing": (0, 1),
    "temperature": (1e-3, 1e3),
    "distillation": (0, 1e6),
}
#: Fields that are None or a number.
_OPTIONAL: dict[str, tuple[float, float]] = {
    "clip_norm": (1e-12, 1e12),
    "ema": (0, 1),
    "encoder_scale": (1e-12, 1e9),
    "layer_decay": (1e-12, 1),
}
_FLAGS = ("channels_last", "keep_features", "sync_batch_norm")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How :func:`segzoo.train` trains. A training is the same recipe, data and seed again.

    Args:
        epochs: How often every image is seen, without those of ``freeze_epochs``.
        batch_size: Images of one device in each batch. ``"auto"`` finds by doubling what a CUDA
            device has memory for; elsewhere it is 8.
        accumulate: Batches whose gradients make one step.
        learning_rate: The peak of the schedule, for decoder and head. ``"find"`` looks for it
            (Smith, 2017) and leaves a picture of what it saw.
        weight_decay: AdamW's (Loshchilov and Hutter, 2019), not for biases, normalisations and
            what the backbone itself excludes.
        warmup: Share of the steps on which the rate rises; then it falls along a cosine to next to
            nothing (one cycle: Smith and Topin, 2018).
        clip_norm: Longest gradient, all parameters together; None for no limit.
        precision: What convolutions compute in: ``float32``, ``bfloat16`` (the weights stay
            float32), or ``auto``: bfloat16 where a GPU has it, and where a processor is measured to
            be faster in it; a training that goes on keeps what it began with.
        channels_last: Keep images and weights with their channels last, which is mostly faster.
        ema: Decay of an average of the weights, which is then what is scored and kept
            (``0.999``); None for none.
        encoder_scale: Ratio of learning rates towards the image, as in
            :meth:`~segzoo.SegmentationModel.parameter_groups`. None for 0.3 where the encoder
            began with pretrained weights, else 1.
        layer_decay: Ratio of the learning rate from one layer of the encoder to the one before it,
            for transformers (Clark et al., 2020; ``0.75``); instead of ``encoder_scale``.
        freeze_epochs: Epochs before the others in which the encoder stands still, with a cycle of
            their own (``fine_tune`` in fastai: Howard and Gugger, 2020).
        keep_features: Whether the maps of an encoder that stands still are computed once for each
            image and kept. Each image then passes the encoder by itself, so that what is kept, and
            where, changes no bit.
        patience: Stop when the best epoch on the validation data is that many epochs ago, those of
            ``freeze_epochs`` left out; None for never.
        seed: Of the order of the images, their augmentation, dropout and drop path.
        size: ``(height, width)`` to which images are resized before anything else; scores are at
            the masks' own size all the same. None for images as they are.
        hflip: Mirror every second image, left for right.
        vflip: Mirror every second image, top for bottom.
        scale: Range of the random factor of an image's size, within 0.05 to 20; ``(1, 1)`` for
            none.
        crop: ``(height, width)`` of random crops; None for whole images.
        color: Strength of random changes of brightness, contrast and each band's own gain, 0 to 1.
        rare_class_crops: Share of crops that are placed on a class, the rare as often as the
            frequent.
        cross_entropy: Weight of the cross-entropy.
        dice: Weight of the soft Dice loss (Milletari et al., 2016).
        focal: Weight of the focal loss (Lin et al., 2017).
        focal_gamma: Its exponent.
        boundary: Weight of the boundary loss.
        lovasz: Weight of the Lovasz loss (Berman et al., 2018).
        auxiliary: Weight of the losses of a model's auxiliary heads.
        class_weights: One weight for each class; ``"balanced"`` for those of ENet (Paszke et al.,
            2016) from the pixels of the training masks; None for equal ones.
        label_smoothing: Share of the truth that is spread over all classes.
        teacher: A trained model, a folder or ``user/name`` on the Hub, whose answers are learned
            beside the labels (Hinton et al., 2015), with the same classes; None for none.
        temperature: At which its answers are learned; the higher, the more counts what it thinks of
            the classes that it does not choose.
        distillation: Weight of that loss.
        sharding: What several processes have of the model: None for all of it in each (DDP), or
            ``"full"`` for a part each of weights, gradients and moments (FSDP: Zhao et al., 2023),
            for models that are too large for one device.
        sync_batch_norm: Whether batch normalisation takes its statistics over the images of all
            processes in a step (Peng et al., "MegDet", 2018), which helps where each has few. On
            GPUs only; with one process it changes nothing.

    Raises:
        ArgumentError: A value out of its range.
    """

    epochs: int = 30
    batch_size: int | str = 8
    accumulate: int = 1
    learning_rate: float | str = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.3
    clip_norm: float | None = 1.0
    precision: str = "auto"
    channels_last: bool = True
    ema: float | None = None
    encoder_scale: float | None = None
    layer_decay: float | None = None
    freeze_epochs: int = 0
    keep_features: bool = False
    patience: int | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    hflip: bool = True
    vflip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    color: float = 0.0
    rare_class_crops: float = 0.0
    cross_entropy: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    focal_gamma: float = 2.0
    boundary: float = 0.0
    lovasz: float = 0.0
    auxiliary: float = 0.4
    class_weights: str | tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    teacher: str | None = None
    temperature: float = 2.0
    distillation: float = 1.0
    sharding: str | None = None
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        values: dict[str, Any] = {}
        for name, (least, greatest) in _COUNTS.items():
            checks.integer(name, getattr(self, name), minimum=least, maximum=greatest)
        for name, limits in {**_NUMBERS, **_OPTIONAL}.items():
            given = getattr(self, name)
            if given is not None or name in _NUMBERS:
                values[name] = checks.number(name, given, minimum=limits[0], maximum=limits[1])
        for name in _FLAGS:
            checks.flag(name, getattr(self, name))
        checks.choice("precision", self.precision, PRECISIONS)
        if self.sharding is not None:
            checks.choice("sharding", self.sharding, SHARDINGS)
        if self.teacher is not None:
            values["teacher"] = checks.text("teacher", self.teacher, longest=4096)
        if self.patience is not None:
            checks.integer("patience", self.patience, minimum=1, maximum=10**6)
        if isinstance(self.batch_size, str):
            checks.choice("batch_size", self.batch_size, ("auto",))
        else:
            checks.integer("batch_size", self.batch_size, minimum=1, maximum=10**6)
        if isinstance(self.learning_rate, str):
            checks.choice("learning_rate", self.learning_rate, ("find",))
        else:
            values["learning_rate"] = checks.number(
                "learning_rate", self.learning_rate, minimum=1e-12, maximum=1e3
            )
        # Its limits are asked of the class that will have to work with them, not written again.
        changes = {item.name: getattr(self, item.name) for item in fields(Augmentation)}
        values |= Augmentation(**changes).arguments()
        if isinstance(self.class_weights, str):
            checks.choice("class_weights", self.class_weights, ("balanced",))
        elif self.class_weights is not None:
            values["class_weights"] = checks.sequence(
                "class_weights", self.class_weights, _weight, longest=MAX_CLASSES
            )
        if self.encoder_scale is not None and self.layer_decay is not None:
            raise ArgumentError(
                "encoder_scale and layer_decay are two ways to say the same; give one of them."
            )
        if not any((self.cross_entropy, self.dice, self.focal, self.boundary, self.lovasz)):
            raise ArgumentError(
                "All losses have the weight 0, so nothing would be learned. Give one of "
                "cross_entropy, dice, focal, boundary and lovasz a weight."
            )
        if self.sharding is not None and (self.keep_features or self.batch_size == "auto"):
            raise ArgumentError(
                "sharding goes with neither keep_features nor batch_size='auto': both need the "
                "whole model on one device. Give batch_size a number, and leave keep_features out."
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> str:
        """All values as JSON, which :meth:`from_json` takes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe in a JSON text; what it does not name has its default.

        Raises:
            ArgumentError: It is no JSON object, or has an unknown name or a value out of range.
        """
        try:
            values = strict_json.parse(text)
        except ValueError as error:
            raise ArgumentError(f"The recipe is not valid JSON: {error}.") from error
        return cls().changed(values)

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values for some of its fields.

        Raises:
            ArgumentError: An unknown name (the nearest ones are suggested) or a value out of range.
        """
        checks.keywords("A recipe", values, [item.name for item in fields(self)])
        return replace(self, **values)

    def differences(self, other: Recipe) -> list[str]:
        """What is not the same in two recipes, one line a field."""
        pairs = (
            (item.name, getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)
        )
        return [f"{name}: {mine!r} -> {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


def default(name: str) -> Any:
    """The default of one of the fields."""
    value = {item.name: item.default for item in fields(Recipe)}[name]
    assert value is not MISSING
    return value


def _weight(name: str, value: Any) -> float:
    return checks.number(name, value, minimum=0, maximum=1e9)
