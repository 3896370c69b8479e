"""Which library a checkpoint comes from, for whoever gave it to the converter of another one."""

from __future__ import annotations

from collections.abc import Iterable

#: Beginnings of names that all have to occur -> what to do with such a checkpoint.
_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("encoder.backbone.",), "one of segzoo's own: segzoo.from_pretrained opens its folder"),
    (("encoder.", "segmentation_head."), "one of smp: try segzoo.convert.from_smp"),
    (("backbone.", "classifier."), "one of torchvision: try segzoo.convert.from_torchvision"),
    (("backbone.", "decode_head."), "one of transformers: try segzoo.convert.from_transformers"),
    (("segformer.", "decode_head."), "one of transformers: try segzoo.convert.from_transformers"),
    (("query.", "upscale_block."), "one of transformers: try segzoo.convert.from_transformers"),
    (("dpt.", "neck."), "one of transformers: try segzoo.convert.from_transformers"),
)


def hint(names: Iterable[str]) -> str:
    """A sentence for a message, with a space in front; empty where nothing is known.

    >>> hint(["backbone.conv1.weight", "classifier.4.weight"])
    ' It looks like one of torchvision: try segzoo.convert.from_torchvision.'
    """
    known = list(names)
    for beginnings, what in _SIGNS:
        if all(any(name.startswith(item) for name in known) for item in beginnings):
            return f" It looks like {what}."
    return ""
