"""From segmentation_models_pytorch."""

from __future__ import annotations

from .keymap import Rule

#: The names of smp's Unet in ours. ``tu-`` encoders have a ``model.`` of their own in front.
UNET_RULES: tuple[Rule, ...] = (
    (r"^encoder\.(?:model\.)?", "encoder.backbone."),
    (r"^(decoder\.blocks\.\d+\.conv[12])\.0\.", r"\1.conv."),
    (r"^(decoder\.blocks\.\d+\.conv[12])\.1\.", r"\1.norm."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.cSE\.1\.", r"\1.squeeze."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.cSE\.3\.", r"\1.excite."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.sSE\.0\.", r"\1.spatial."),
    (r"^segmentation_head\.0\.", "head.conv."),
)
