"""Additions that write into the map which they read, where nobody reads it afterwards.

A residual block adds its input to what its last convolution gives. Where the input is used no more,
the sum can take its place: one map less to write, and the place is in the cache already.
"""

from __future__ import annotations

from torch import fx, nn

from .doubled_conv import DoubledConv
from .fused_conv import FusedConv
from .max_pool import PooledRelu
from .trace import module_at

#: Steps that give a tensor of their own, no view of what they were given.
_FRESH = (FusedConv, DoubledConv, PooledRelu, nn.MaxPool2d)


def overwrite_addends(graph: fx.GraphModule) -> int:
    """Let convolutions overwrite what they add, where they are the last to read it, in place.

    To be called when implementations are chosen: a step that changes its input cannot be run twice.

    Returns:
        How many do.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    count = 0
    for node in graph.graph.nodes:
        step = module_at(graph, node)
        # The others write their sum into what the convolution gave.
        if not isinstance(step, FusedConv) or not step.adds or step.kernel != "onednn":
            continue
        x, other = node.args
        owned = isinstance(other, fx.Node) and isinstance(module_at(graph, other), _FRESH)
        # A user that gives a view, such as the output, may be followed by others that read it. A
        # module that is called twice would overwrite in both places.
        step.overwrites = (
            owned
            and x is not other
            and all(
                isinstance(module_at(graph, user), _FRESH) and order[user] <= order[node]
                for user in other.users
            )
            and sum(item.target == node.target for item in graph.graph.nodes) == 1
        )
        count += step.overwrites
    return count
