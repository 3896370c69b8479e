"""BEiT's table of relative positions, for a sequence of tokens with others in front.

Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2022. timm's attention adds what it
looks up in a table of its own to the attention between its own tokens, so no others can be among
them. Without the table it adds what it is given instead.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

#: What timm calls them.
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"


def has_table(block: Any) -> bool:
    """Whether a block's attention has such a table."""
    return getattr(getattr(block, "attn", None), _TABLE, None) is not None


class RelativeBias(nn.Module):
    """The table of one attention, which has none any more.

    Args:
        attention: timm's module; what it adds to the attention must be given to it from here on.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.relative_position_bias_table = getattr(attention, _TABLE)
        self.register_buffer(_INDEX, getattr(attention, _INDEX), persistent=False)
        setattr(attention, _TABLE, None)

    def forward(self, count: int) -> Tensor:
        """``(1, heads, count + L, count + L)``: zero for ``count`` tokens that stand in front."""
        index: Any = getattr(self, _INDEX)
        side = index.shape[0]
        found = self.relative_position_bias_table[index.reshape(-1)].view(side, side, -1)
        bias = found.permute(2, 0, 1).contiguous()[None]
        return nn.functional.pad(bias, (count, 0, count, 0))
