"""smp's DPT, whose encoder is the whole of one of timm's models."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...encoders import build_on_meta, timm_meta, timm_source
from ...errors import ArgumentError, ConversionError, EncoderError
from ..keymap import rename
from .architecture import SmpArchitecture, tensor_of, tensors_of, told, told_depth
from .encoders import EncoderPlan, backbone_rules, bands_of, here

#: smp's names of what becomes of the tokens -> ours.
_READOUTS = {"cat": "project", "add": "add", "ignore": "ignore"}
_OUT = r"^decoder\.fusion_blocks\.(\d+)\."


class _DPT(SmpArchitecture):
    name = "DPT"
    options = (
        *("encoder_output_indices", "decoder_readout", "decoder_intermediate_channels"),
        "decoder_fusion_channels",
    )
    untold = MappingProxyType({"encoder_output_indices": None})  # spread evenly
    depth = 4
    typical = "decoder.reassemble_blocks.0.project_to_out_channel.weight"
    rules = (
        (r"^decoder\.projection_blocks\.(\d+)\.project\.0\.", r"decoder.readouts.\1.linear."),
        (r"^decoder\.reassemble_blocks\.", "decoder.levels."),
        (r"(?<=\d\.)project_to_out_channel\.", "project."),
        (r"(?<=\d\.)upsample\.", "resample."),
        (r"(?<=\d\.)project_to_feature_dim\.", "widen."),
        (_OUT, r"decoder.fusions.\1."),
        (r"(?<=\d\.)residual_conv_block1\.", "level."),
        (r"(?<=\d\.)residual_conv_block2\.", "joined."),
        (r"(?<=(?:level|oined)\.)conv_(\d)\.", r"conv\1."),
        (r"(?<=(?:level|oined)\.)batch_norm_(\d)\.", r"norm\1."),
        (r"^segmentation_head\.head\.0\.", "head.unit.conv."),
        (r"^segmentation_head\.head\.1\.", "head.unit.norm."),
        (r"^segmentation_head\.head\.4\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        projections = tensors_of(tensors, self.typical.replace("0", "{}"), self, where)
        channels = [weight.shape[0] for weight in projections]
        fused = tensor_of(tensors, "decoder.fusion_blocks.0.project.weight", self, where).shape[0]
        told(
            given,
            {"decoder_intermediate_channels": channels, "decoder_fusion_channels": fused},
            where,
        )
        told_depth(given, len(channels), where)
        return {
            "readout": _readout(tensors, given, where),
            "reassemble_channels": tuple(channels),
            "decoder_channels": fused,
        }

    def plan_encoder(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        given: dict[str, Any],
        options: Mapping[str, Any],
    ) -> EncoderPlan:
        depth = given["encoder_depth"]
        if not name.startswith("tu-"):
            raise ConversionError(
                f"smp's DPT has encoders of timm only, whose names begin with tu-; got {name!r}."
            )
        encoder, _ = here(name)
        try:
            whole = _whole(encoder, options)
            backbone = timm_meta.meta_backbone(encoder, options)
        except (ArgumentError, EncoderError) as error:
            raise ConversionError(f"timm cannot build the encoder {name!r}: {error}") from error
        chosen = _indices(given.pop("encoder_output_indices", None), len(whole.feature_info), depth)
        try:
            features = timm_meta.features_at(backbone, chosen)
            own = timm_source.plan_backbone(encoder, depth=depth, options=options)
        except (ArgumentError, EncoderError) as error:
            raise ConversionError(f"timm cannot build the encoder {name!r}: {error}") from error
        strides = [feature.stride for feature in features]
        if any(stride & (stride - 1) for stride in strides):
            raise ConversionError(
                f"The encoder {name!r} gives smp's DPT maps of the strides {strides}. What can be "
                "brought over are powers of two: of others smp's levels have sizes that do not fit "
                "each other, so that its model cannot be run."
            )
        rules = backbone_rules(whole, backbone)
        tensors = rename(
            {key: value for key, value in tensors.items() if key.startswith("encoder.model.")},
            ((r"^encoder\.model\.", ""), *rules),
        )
        expected = {key: tuple(value.shape) for key, value in whole.state_dict().items()}
        info: Any = backbone.feature_info
        taken = tuple(own.options.get("out_indices", info.out_indices))
        return EncoderPlan(
            encoder=encoder,
            in_channels=bands_of(backbone.state_dict(), tensors, name),
            depth=depth if taken == chosen else None,
            options={**options, **({} if taken == chosen else {"out_indices": chosen})},
            rules=rules,
            whole=rename(expected, rules),
            # smp makes its first level of whatever map comes first, one of stride 2 as well.
            arguments={"finest_stride": strides[0]} if strides[0] < 4 else {},
        )


def _readout(tensors: Mapping[str, Tensor], given: dict[str, Any], where: str) -> str:
    """What becomes of the tokens; where it is not projected tensors do not tell."""
    said = given.pop("decoder_readout", None)
    if said is not None and said not in _READOUTS:
        raise ConversionError(
            f"{where}: decoder_readout must be one of {', '.join(_READOUTS)}, got "
            f"{checks.shown(said)}."
        )
    projects = "decoder.projection_blocks.0.project.0.weight" in tensors
    if said is None and not projects:
        raise ConversionError(
            f"{where} does not project the tokens of its encoder, and its tensors do not tell "
            "whether it adds or ignores them. Give config={'decoder_readout': 'add'} or 'ignore'."
        )
    if said is not None and projects != (said == "cat"):
        raise ConversionError(
            f"{where}: the config says decoder_readout={said!r}, its tensors say "
            f"{'cat' if projects else 'add or ignore'}."
        )
    return _READOUTS[said or "cat"]


def _whole(encoder: str, options: Mapping[str, Any]) -> Any:
    """timm's model with all that it is classified by, on the meta device."""
    import timm

    model: nn.Module = build_on_meta(lambda: timm.create_model(encoder, **options))
    if not hasattr(model, "forward_intermediates"):
        raise ConversionError(f"timm's {encoder!r} gives no intermediate maps, which DPT is of.")
    return model


def _indices(given: Any, total: int, depth: int) -> tuple[int, ...]:
    """The blocks whose maps smp takes."""
    if given is None:
        return tuple(int(total / depth * i) - 1 for i in range(1, depth + 1))
    try:
        found = checks.sequence(
            "encoder_output_indices",
            given,
            lambda name, item: checks.integer(name, item, minimum=-total, maximum=total - 1),
        )
    except ArgumentError as error:
        raise ConversionError(str(error)) from error
    chosen = tuple(index % total for index in found)
    if len(chosen) != depth or list(chosen) != sorted(set(chosen)):
        raise ConversionError(
            f"encoder_output_indices={list(found)} must be {depth} blocks in ascending order."
        )
    return chosen


CONVERTER = _DPT()
