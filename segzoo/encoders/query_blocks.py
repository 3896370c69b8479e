"""Queries that join the last blocks of a plain vision transformer.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, section 3 and
figure 2: learned tokens are put in front of a transformer's own and pass its last blocks with them.

What a transformer is like is asked of it. It has a sequence of like blocks, each of which turns
tokens ``(N, L, C)`` into as many; what else a block takes, its signature says: rotary positions,
an attention mask, or a bias that is added to the attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, EncoderError
from .relative_bias import RelativeBias, has_table

#: What to say where a backbone has no such blocks.
KINDS = (
    "plain vision transformers, whose blocks are all alike and pass on tokens: ViT, DeiT, DINOv2, "
    "BEiT, EVA, DINOv3 and NaFlexViT (segzoo.list_encoders('vit_*'), for example)"
)
#: Augmentations of rotary positions, which are drawn anew at each call.
_DRAWN = ("shift_coords", "jitter_coords", "rescale_coords")


@dataclass(frozen=True)
class QueryTokens:
    """Which tokens join a transformer, and where.

    Attributes:
        count: How many there are.
        blocks: They join the last so many blocks; None for two and one more for each dozen: the 3,
            4 and 5 of the paper's code for 12, 24 and 40 blocks.
    """

    count: int
    blocks: int | None = None

    def of(self, depth: int, name: str) -> int:
        """The number of blocks, of a transformer that has ``depth``.

        Raises:
            ArgumentError: It has not that many.
        """
        if self.blocks is None:
            return min(2 + depth // 12, depth - 1)
        if self.blocks > depth:
            raise ArgumentError(
                f"blocks={self.blocks}, but {name!r} has {depth} blocks: queries can join the last "
                f"1 to {depth} of them."
            )
        return self.blocks


def _passed(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """A block that does nothing."""
    return x


class _WithoutBlocks:
    """A model as it is at any moment, but for its blocks: it only makes tokens of an image.

    No copy, whose tensors would not be those that the model has by then, and which no compiler
    could follow.
    """

    blocks = (_passed,)

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class States(NamedTuple):
    """Tokens behind the transformer's last normalisation.

    Attributes:
        map: Those of the image, ``(N, C, h, w)``.
        queries: ``(N, queries, C)``.
    """

    map: Tensor
    queries: Tensor


#: Given the states in front of a query block, and its number, which cells each query may attend to:
#: ``(N, queries, h * w)``, or None for all.
Look = Callable[[int, States], Tensor | None]


class WithQueries(nn.Module):
    """A transformer of timm and the queries that join its last blocks.

    Args:
        model: timm's model.
        tokens: What joins it.
        name: For messages.

    Attributes:
        model: The transformer; its parts keep their names.
        query: ``(queries, C)``.
        norm: What the tokens pass in the end, where the transformer has no normalisation there:
            some normalise only what they have averaged.
        blocks: How many blocks the queries pass.
        added: Names of parameters that are none of the transformer's.
        extra_outputs: How many outputs come after the maps.
    """

    extra_outputs = 1

    def __init__(self, model: Any, tokens: QueryTokens, name: str) -> None:
        super().__init__()
        reason = why_not(model)
        if reason is not None:
            raise refused(name, reason)
        depth = len(model.blocks)
        self.blocks = tokens.of(depth, name)
        self.first = depth - self.blocks
        _without_classifier(model)
        self.model = model
        self.prefix = int(model.num_prefix_tokens)
        channels = model.num_features
        self.query = nn.Parameter(torch.empty(tokens.count, channels))
        nn.init.normal_(self.query)
        fresh = isinstance(model.norm, nn.Identity)
        self.norm = nn.LayerNorm(channels, eps=1e-6) if fresh else nn.Identity()
        self.added = frozenset({"query", *(f"norm.{n}" for n, _ in self.norm.named_parameters())})
        names = _parameters(model.blocks[-1])
        self.turns = "rope" in names and getattr(model, "rope", None) is not None
        self.mask_name = next((n for n in ("attn_mask", "shared_rel_pos_bias") if n in names), None)
        if self.turns:
            self._leave_unturned(tokens.count)
        self.biases = nn.ModuleList()
        if any(map(has_table, self._last())):
            self.biases.extend(RelativeBias(block.attn) for block in self._last())

    def _leave_unturned(self, count: int) -> None:
        """Queries have no place in the image: rotary positions begin behind them too."""
        drawn = [item for item in _DRAWN if getattr(self.model.rope, item, None) is not None]
        if drawn:
            raise ArgumentError(
                f"Queries need the same positions in all blocks, but {', '.join(drawn)} of the "
                "encoder's rotary positions would be drawn anew for the last ones. Leave "
                f"{', '.join(f'rope_{item}' for item in drawn)} out of encoder_options."
            )
        for block in self._last():
            for part in block.modules():
                if getattr(part, "num_prefix_tokens", None) == self.prefix:
                    part.num_prefix_tokens = self.prefix + count

    def _last(self) -> list[Any]:
        return [self.model.blocks[i] for i in range(self.first, self.first + self.blocks)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, C, H, W)`` -> the map in front of the query blocks, that behind, and the queries.

        The maps are ``(N, C, h, w)``, the queries ``(N, queries, C)``; the last two normalised.
        """
        return self.run(image)

    def run(self, image: Tensor, look: Look | None = None) -> list[Tensor]:
        """:meth:`forward`, with a look at the states in front of each query block.

        Args:
            image: ``(N, C, H, W)``.
            look: Says which cells each query attends to in the block that follows.

        Raises:
            EncoderError: It does, but the transformer's blocks take no mask.
        """
        before, prefix = self._start(image)
        count, height, width = before.shape[0], before.shape[-2], before.shape[-1]
        parts = [self.query.expand(count, -1, -1), *prefix, before.flatten(2).transpose(1, 2)]
        x = torch.cat(parts, dim=1)
        places = self._places(height, width)
        for i, block in enumerate(self._last()):
            allowed = None if look is None else look(i, self._states(x, height, width))
            x = block(x, **places[i], **self._bias(i, x, allowed))
        return [before, *self._states(x, height, width)]

    def _start(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map in front of the query blocks, and the prefix tokens if there are any."""
        asked = {"return_prefix_tokens": True} if self.prefix else {}
        model: Any = self.model if self.first else _WithoutBlocks(self.model)
        found = type(self.model).forward_intermediates(
            model,
            image,
            indices=[max(self.first - 1, 0)],
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
            **asked,
        )[0]
        return (found[0], [found[1]]) if self.prefix else (found, [])

    def _states(self, x: Tensor, height: int, width: int) -> States:
        """Tokens as they are behind the last block, normalised and told apart."""
        x = self.norm(self.model.norm(x))
        count = self.query.shape[0]
        cells = x[:, count + self.prefix :].transpose(1, 2)
        return States(cells.reshape(x.shape[0], -1, height, width), x[:, :count])

    def _places(self, height: int, width: int) -> Sequence[dict[str, Tensor]]:
        """Rotary positions for each query block, where the transformer has them."""
        if not self.turns:
            return [{}] * self.blocks
        rope = self.model.rope.get_embed(shape=(height, width))
        # Some learn them block by block.
        each = isinstance(rope, (list, tuple)) or rope.ndim > 2
        return [{"rope": rope[self.first + i] if each else rope} for i in range(self.blocks)]

    def _bias(self, i: int, x: Tensor, allowed: Tensor | None) -> dict[str, Tensor]:
        """What is added to the attention of a query block, if anything is."""
        bias: Tensor | None = self.biases[i](self.query.shape[0]) if self.biases else None
        shared: Any = getattr(self.model, "rel_pos_bias", None)
        if shared is not None and self.mask_name == "shared_rel_pos_bias":
            more = _beside(shared(), self.query.shape[0])
            bias = more if bias is None else bias + more
        if allowed is not None:
            mask = self._mask(x, allowed)
            bias = mask if bias is None else bias + mask
        if bias is None:
            return {}
        if self.mask_name is None:
            kind = type(self.model).__name__
            raise EncoderError(
                f"The blocks of this {kind} take no attention mask, so queries cannot attend "
                "within their masks only. Use attention_mask_probability=0, or another encoder."
            )
        return {self.mask_name: bias}

    def _mask(self, x: Tensor, allowed: Tensor) -> Tensor:
        """What is added to the attention: minus infinity where a query may not look.

        In the order of the tokens; of queries to queries and prefix tokens nothing is masked, so
        that each has something to look at.
        """
        count, length = self.query.shape[0], x.shape[1]
        mask = x.new_zeros(x.shape[0], 1, length, length)
        mask[:, 0, :count, count + self.prefix :].masked_fill_(~allowed, -torch.inf)
        return mask

    def no_weight_decay(self) -> set[str]:
        """What an optimiser leaves undecayed, as timm does where it keeps these tables itself."""
        return {name for name, _ in self.named_parameters() if name.startswith("biases.")}


def _without_classifier(model: Any) -> None:
    """Take off what follows the blocks and their normalisation."""
    prune = getattr(model, "prune_intermediate_layers", None)
    if prune is not None:
        prune(len(model.blocks), prune_norm=False, prune_head=True)
        return
    model.reset_classifier(0, "")  # NaFlexViT in older versions
    model.fc_norm = nn.Identity()


def _beside(bias: Tensor, count: int) -> Tensor:
    """A bias between a transformer's own tokens, nothing for those that are put in front."""
    return nn.functional.pad(bias, (count, 0, count, 0))


def _parameters(block: nn.Module) -> list[str]:
    return list(inspect.signature(block.forward).parameters)


def why_not(model: Any) -> str | None:
    """Why queries cannot join a model's blocks, or None where they can."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or len(blocks) < 2:
        return "it has no sequence of blocks"
    kinds = sorted({type(block).__name__ for block in blocks})
    if len(kinds) > 1:
        return f"its blocks are of several kinds ({', '.join(kinds)})"
    needed = [
        item.name
        for item in inspect.signature(blocks[-1].forward).parameters.values()
        if item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) != 1:
        return f"its blocks need {', '.join(needed)}, not tokens alone"
    give = getattr(model, "forward_intermediates", None)
    known = inspect.signature(give).parameters if give is not None else {}
    if "return_prefix_tokens" not in known or not hasattr(model, "num_prefix_tokens"):
        return "it does not give its tokens"
    if not hasattr(model, "norm"):
        return "it has no normalisation behind its blocks"
    return None


def refused(name: str, reason: str) -> EncoderError:
    """The error for a backbone that queries cannot join; it says what would work."""
    return EncoderError(f"Queries cannot join the blocks of {name!r}: {reason}. Choose {KINDS}.")
