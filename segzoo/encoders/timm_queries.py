"""timm's transformers with queries in their last blocks: built, and tried on the meta device."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, EncoderError
from .dilation import OutputStride
from .positions import PositionsHaveValues
from .probe import build_on_meta
from .query_blocks import KINDS, QueryTokens, WithQueries, refused, why_not
from .sizes import SizeRule
from .timm_meta import bands, meta_backbone

#: Options of ours among those for ``timm.create_model``.
_OURS = ("norm_eps", "pad_first")


def check_asked(
    own: bool,
    depth: int | None,
    stride: OutputStride | None,
    options: Mapping[str, Any] | None,
) -> None:
    """Refuse what cannot be had together with queries in a transformer's blocks.

    Args:
        own: Whether the encoder is somebody's own, not built by timm's name.
        depth: How many maps are asked for.
        stride: What stride is asked for.
        options: For ``timm.create_model``.
    """
    if own:
        raise EncoderError(
            "Queries join the blocks of a transformer while it is built: give the name of one of "
            f"timm's, with no module of your own. What works: {KINDS}."
        )
    if depth is not None or "out_indices" in (options or {}):
        raise ArgumentError(
            "The maps are those in front of the blocks that queries join, and behind them: give "
            "blocks, not depth or encoder_options['out_indices']."
        )
    if stride is not None and stride.required:
        raise ArgumentError(
            "A plain transformer has one stride, its patch size: give "
            "encoder_options={'patch_size': ...}, not output_stride."
        )


def joined_options(name: str, options: Mapping[str, Any], tokens: QueryTokens) -> dict[str, Any]:
    """The options with which the maps are those in front of the query blocks, and behind them.

    Raises:
        EncoderError: The backbone is no plain transformer.
        ArgumentError: It has not that many blocks.
    """
    others = {option: value for option, value in options.items() if option not in _OURS}
    return {**options, "out_indices": _indices(name, json.dumps(others), tokens)}


@functools.lru_cache(maxsize=256)
def _indices(name: str, options: str, tokens: QueryTokens) -> tuple[int, int]:
    meta: Any = meta_backbone(name, json.loads(options))
    model = getattr(meta, "model", meta)
    reason = why_not(model)
    if reason is not None:
        raise refused(name, reason)
    depth = len(meta.feature_info)
    # timm knows of no map in front of the first block; those behind it have the same shape.
    return max(depth - 1 - tokens.of(depth, name), 0), depth - 1


def joiner(name: str, tokens: QueryTokens) -> Callable[..., WithQueries]:
    """What ``timm.create_model`` wraps the whole model in, in place of its own extractor.

    The backbone keeps it among its arguments, so it has to go wherever a pickled model goes.
    """
    return functools.partial(_joined, name=name, tokens=tokens)


def _joined(model: Any, *, name: str, tokens: QueryTokens, **features: Any) -> WithQueries:
    return WithQueries(model, tokens, name)


@functools.lru_cache(maxsize=256)
def check_joined(name: str, options: str, tokens: QueryTokens, rule: SizeRule) -> None:
    """Whether the blocks really take the queries: tried where there are shapes only.

    Raises:
        EncoderError: They do not, for any reason.
    """
    import timm

    given = {**json.loads(options), "feature_cls": joiner(name, tokens)}

    def build() -> nn.Module:
        return timm.create_model(name, features_only=True, **given)

    try:
        joined = build_on_meta(build).eval()
        image = rule.fit(torch.empty(1, bands(joined), 64, 64, device="meta"))
        with torch.no_grad(), PositionsHaveValues():
            _, after, queries = joined(image)
    except ArgumentError:
        raise
    except Exception as error:  # blocks may fail in any way
        lines = str(error).splitlines()
        raise refused(name, f"its blocks fail ({lines[0][:200] if lines else error!r})") from error
    if queries.shape[1:] != (tokens.count, after.shape[1]):
        raise refused(name, "its blocks do not pass them on")
