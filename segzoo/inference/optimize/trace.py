"""A model as a graph of its operations, so that passes can see what follows what.

``torch.fx`` records a forward by running it on stand-ins for tensors. A module whose forward cannot
be recorded (it asks for values or branches on sizes) is kept whole, as one step of the graph of the
module around it; so every model can be traced, and what is kept whole is merely not looked into.
Sizes are recorded as operations too: a graph takes images of any size that its module takes.

Some of timm's backbones collect their maps by hooks on the modules inside. While such a backbone is
recorded its hooks collect stand-ins, which are the outputs of the graph; the graph has no hooks.
"""

from __future__ import annotations

import collections
import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, fx, nn

from ..._compat import collect_in, collector, hooks_of
from ...architectures.base import SegmentationModel
from ...encoders import Encoder
from ...nn.layers import BatchNorm, resize
from ...nn.sharing import collects_by_hooks

#: While torch.fx records, it changes how every module of the process is called: one at a time.
RECORDING = threading.RLock()
#: Of these a pass wants the module, not what it calls.
_WHOLE = (nn.Conv2d, nn.ConvTranspose2d, BatchNorm)


class Decode(nn.Module):
    """From the encoder's maps and the image to the logits: pyramid, decoder and head."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        # The maps, and the tokens that come after them where the architecture wants any.
        self.count = len(model.encoder.features) + model.encoder.extra_outputs

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of the encoder's ``features``, finest first, and the image they came from."""
        maps = [maps[i] for i in range(self.count)]  # a recorded list cannot be iterated over
        return self.model.decode_fully(maps, image)


class Body(nn.Module):
    """What a model does to an image that fits its encoder: two graphs, encoder and the rest."""

    def __init__(self, encoder: Encoder, decode: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decode = decode

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, W)`` of a size that the encoder takes -> logits ``(N, classes, H, W)``."""
        logits: Tensor = self.decode(self.encoder(image), image)
        return logits

    def parts(self) -> list[nn.Module]:
        """Both halves: the backbone, and all that follows the encoder."""
        return [self.encoder.backbone, self.decode]

    def graphs(self) -> list[fx.GraphModule]:
        """What could be traced: the parts, or modules inside of them."""
        return [part for part in self.modules() if isinstance(part, fx.GraphModule)]


def trace(model: SegmentationModel, image: Tensor) -> Body:
    """A copy of a model in eval mode, as graphs; the model itself is not touched.

    Args:
        model: Any.
        image: A small one that fits its encoder. A half whose graph gives something else for it
            stays as it is.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    encoder, decode = model.encoder, Decode(model)
    encoder.lays_out = False
    # A graph leaves the layout of maps to who runs it; a decoder does not change this one either.
    maps = [item.contiguous() for item in encoder(image)]
    # Of a copy: a backbone that collects its maps by hooks would collect stand-ins.
    traced = trace_module(copy.deepcopy(encoder.backbone))
    if gives(traced, encoder.backbone(image), image):
        encoder.backbone = traced
        if not collects_by_hooks(traced):
            encoder.one_at_a_time = None
    graph = trace_module(decode)
    expected = decode(maps, image)
    return Body(encoder, graph if gives(graph, expected, maps, image) else decode)


def gives(traced: nn.Module, expected: object, *inputs: object) -> bool:
    """Whether a graph gives what its module gave, to the last bit."""
    try:
        torch.testing.assert_close(traced(*inputs), expected, rtol=0, atol=0)
    except Exception:  # a graph that is wrong may fail in any way
        return False
    return True


def trace_module(module: nn.Module) -> nn.Module:
    """The module as a graph of its own submodules, or itself where its forward cannot be traced."""
    tracer = _Tracer()
    for part in module.modules():
        for owner in [collector(hook) for hooks in hooks_of(part) for hook in hooks.values()]:
            if owner is not None:
                collect_in(owner, _OnePlace())
    try:
        with RECORDING:
            graph = tracer.trace(module)
    except Exception:  # a forward may fail in any way on stand-ins for tensors
        return module
    traced = fx.GraphModule(tracer.root, graph)
    # The graph returns the maps itself. Hooks left on its modules would collect them once more, and
    # keep those of the last image alive.
    for part in traced.modules():
        for hooks in hooks_of(part):
            for key in [key for key, hook in hooks.items() if collects_maps(hook)]:
                del hooks[key]
    simplify(traced)
    return traced.eval()


def collects_maps(hook: Any) -> bool:
    """Whether one of timm's backbones collects its maps by that hook."""
    return collector(hook) is not None


class _OnePlace(collections.defaultdict[Any, Any]):
    """Where hooks put maps by the device that they are on, which stand-ins do not know."""

    def __init__(self) -> None:
        super().__init__(collections.OrderedDict)

    def __getitem__(self, device: object) -> Any:
        return super().__getitem__(None)

    def __setitem__(self, device: object, maps: Any) -> None:
        super().__setitem__(None, maps)


def module_at(graph: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a step calls, or None where it calls none, or is no step."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def constant(graph: fx.GraphModule, node: object) -> Tensor | None:
    """The tensor of the model that a step stands for, or None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(graph.get_submodule(owner), name)
    return value if isinstance(value, Tensor) else None


def simplify(graph: fx.GraphModule) -> None:
    """Take out what does nothing in eval mode; to be called after each change of a graph."""
    nothing = (nn.Identity, nn.Dropout, nn.Dropout2d)
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and type(graph.get_submodule(node.target)) in nothing:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def is_opaque(step: nn.Module) -> bool:
    """Whether a step of a graph holds others that passes cannot see."""
    return next(step.children(), None) is not None and not isinstance(step, _WHOLE)


class _Tracer(fx.Tracer):
    """Looks into every module that lets it; convolutions and batch norms of any kind stay whole.

    Modules that other threads call meanwhile come here as well, and run as ever.
    """

    def __init__(self) -> None:
        # Each is one step: what the first does depends on sizes, and the other has a faster form.
        super().__init__(autowrap_functions=(resize, apply_rot_embed_cat))
        self._thread = threading.get_ident()

    def _is_ours(self) -> bool:
        return threading.get_ident() == self._thread

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Asked for the parameters of every module in the process: those of a module that another
        # thread runs must stay tensors.
        if not self._is_ours():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _WHOLE) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if not self._is_ours():
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if not self.is_leaf_module(m, name):
            known = set(self.graph.nodes)
            try:
                return forward(*args, **kwargs)
            except Exception:
                # It is kept whole. What it had recorded until then goes, users first: a node that
                # is still used cannot be erased.
                for node in [node for node in reversed(self.graph.nodes) if node not in known]:
                    self.graph.erase_node(node)
        # A module that is one step is not called, so neither are its hooks. Those that collect maps
        # are, with the stand-ins, which thereby become outputs of the graph.
        before, after, *_ = hooks_of(m)
        for hook in filter(collects_maps, before.values()):
            hook(m, args)
        made = self.create_proxy("call_module", name, args, kwargs)
        for hook in filter(collects_maps, after.values()):
            hook(m, args, made)
        return made
