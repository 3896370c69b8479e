"""Modules inside of what could not be traced whole, as graphs of their own.

The forward of a vision transformer asks for sizes, which a graph for all sizes does not have; its
blocks do not ask. So the largest modules that can be recorded become graphs, and passes see what is
in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._compat import may_have_hooks
from ...errors import OptimizationError
from .trace import Body, gives, trace_module


@dataclass(frozen=True)
class Form:
    """How a module is called: ``Tensor`` stands for a tensor, all else for itself.

    Attributes:
        places: The arguments by position.
        named: Those by name.
    """

    places: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, arguments: Sequence[Any], named: Mapping[str, Any]) -> Form | None:
        """That of a call; None where some argument is neither a tensor nor a plain value."""
        values = (*arguments, *named.values())
        if not all(item is None or isinstance(item, (Tensor, bool, int, float)) for item in values):
            return None
        places = tuple(Tensor if isinstance(item, Tensor) else item for item in arguments)
        pairs = ((name, Tensor if isinstance(x, Tensor) else x) for name, x in named.items())
        return cls(places, tuple(pairs))

    def filled(self, tensors: Any) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call with these tensors, which may be a stand-in for a list."""
        count = iter(range(len(self.places) + len(self.named)))

        def value(item: Any) -> Any:
            return tensors[next(count)] if item is Tensor else item

        return [value(item) for item in self.places], {n: value(item) for n, item in self.named}


def _tensors(arguments: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
    return [item for item in (*arguments, *named.values()) if isinstance(item, Tensor)]


class Part(nn.Module):
    """A graph in place of a module, called as the module is.

    Args:
        graph: Takes the list of the tensors that the module is given.
        form: How it is called.
    """

    def __init__(self, graph: nn.Module, form: Form) -> None:
        super().__init__()
        self.graph = graph
        self.form = form

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the module gives.

        Raises:
            OptimizationError: It is not called as it was while it was recorded.
        """
        # A compiler sees the call for which it compiles, and would stumble over the comparison.
        if not torch.compiler.is_compiling() and Form.of(arguments, named) != self.form:
            raise OptimizationError(
                "For an image of this size the model calls its parts in another way than for the "
                "example. Give optimize an example of such a size, or use the model itself."
            )
        return self.graph(_tensors(arguments, named))


class _Given(nn.Module):
    """A module that takes a list of tensors, of which a graph may have any number."""

    def __init__(self, part: nn.Module, form: Form) -> None:
        super().__init__()
        self.part = part
        self.form = form

    def forward(self, tensors: list[Tensor]) -> Any:
        """What the module gives."""
        arguments, named = self.form.filled(tensors)
        return self.part(*arguments, **named)


class _Calls:
    """How the modules of a body are called for some images, and with what for the last of them."""

    def __init__(self, body: Body, images: Sequence[Tensor]) -> None:
        self.forms: dict[nn.Module, list[Form | None]] = {}
        self.last: dict[nn.Module, tuple[list[Tensor], Any]] = {}
        self._is_last = False
        parts = [part for part in body.modules() if _has_parts(part)]
        handles = [part.register_forward_hook(self._note, with_kwargs=True) for part in parts]
        for i, image in enumerate(images):
            self._is_last = i == len(images) - 1
            body(image)
        for handle in handles:
            handle.remove()

    def _note(self, part: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        self.forms.setdefault(part, []).append(Form.of(arguments, named))
        if self._is_last:
            self.last[part] = (_tensors(arguments, named), output)

    def form(self, part: nn.Module) -> Form | None:
        """The form of all its calls, or None where they have several or it is not called."""
        forms = self.forms.get(part, [])
        return forms[0] if forms and all(form == forms[0] for form in forms) else None


def trace_parts(body: Body, images: Sequence[Tensor]) -> int:
    """Put graphs in place of the largest modules that can be recorded, in place.

    Those that are kept whole within a graph of the encoder as well; the steps of a decoder's graph
    stay what other passes know.

    Args:
        body: Of which not everything is a graph.
        images: A module is called alike for all of them, or stays as it is; on what it gets for the
            last, its graph must give what it gives.

    Returns:
        How many modules became graphs.
    """
    return _Parts(body, images).replaced()


class _Parts:
    """One run of :func:`trace_parts`."""

    def __init__(self, body: Body, images: Sequence[Tensor]) -> None:
        self.body, self.image = body, images[-1]
        self.calls = _Calls(body, images)
        self.expected = body(self.image)

    def replaced(self) -> int:
        """How many modules became graphs."""
        count = self._replace_in(self.body.encoder.backbone)
        if not isinstance(self.body.decode, fx.GraphModule):
            count += self._replace_in(self.body.decode)
        return count

    def _replace_in(self, owner: nn.Module) -> int:
        count = 0
        for name, part in list(owner.named_children()):
            if not _has_parts(part):
                continue
            graph = _graph_of(part, self.calls)
            if graph is not None:
                owner.add_module(name, graph)
                # The module around it may want more of it than to call it.
                if gives(self.body, self.expected, self.image):
                    count += 1
                    continue
                owner.add_module(name, part)
            count += self._replace_in(part)
        return count


def _graph_of(part: nn.Module, calls: _Calls) -> Part | None:
    """The module as a graph, or None where it cannot be one."""
    form = calls.form(part)
    if form is None or part not in calls.last or any(map(may_have_hooks, part.modules())):
        return None
    tensors, output = calls.last[part]
    traced = trace_module(_Given(part, form))
    graph = isinstance(traced, fx.GraphModule) and gives(traced, output, tensors)
    return Part(traced, form) if graph else None


def _has_parts(part: nn.Module) -> bool:
    return next(part.children(), None) is not None
