"""What the package needs of torch and timm that is private to them, and how it does without.

A name that begins with an underscore may be gone in the next release. All of them are here, each
asked for by :func:`found` when it is needed. Where one is gone the package gives up what the name
was for (a faster way, a finer answer), never its work. Public names are preferred where there are
any. ``tests/test_compat.py`` takes each name away in turn, and refuses them in any other file.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

#: Ways to move or cast a module by its public methods.
_MOVES = (
    *("to", "to_empty", "type", "cpu", "cuda", "xpu", "mtia", "ipu"),
    *("float", "double", "half", "bfloat16", "share_memory"),
)


def found(owner: object, name: str) -> Any:
    """``owner.name``, or None where there is none.

    Args:
        owner: Anything; a text is the name of a module, which is imported.
        name: Name of the attribute.
    """
    if isinstance(owner, str):
        try:
            owner = importlib.import_module(owner)
        except ImportError:
            return None
    return getattr(owner, name, None)  # torch.compile follows this, but no except clause


def weight_norm(direction: Tensor, magnitude: Tensor) -> Tensor:
    """The kernel whose outputs have the lengths ``magnitude``, along ``direction``.

    torch's own function, in one step; public is only what hangs it on a module. Without it the
    same is computed step by step, up to a rounding.
    """
    at_once = found(torch, "_weight_norm")
    if at_once is not None:
        kernel: Tensor = at_once(direction, magnitude, 0)
        return kernel
    axes = tuple(range(1, direction.ndim))
    length: Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * (magnitude / length)


def refuse_moves(kind: type[nn.Module], refuse: Callable[..., NoReturn]) -> None:
    """Let every way to move or cast a module of that class end in ``refuse``.

    All of them go through one private method, also when a module around it is moved. Without that
    the public methods refuse; a module around it is then moved as any other.
    """
    inner = found(nn.Module, "_apply")
    for name in _MOVES if inner is None else ("_apply",):
        setattr(kind, name, refuse)


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """What is called before the module's forward, after it, before its backward, and after it.

    torch lets hooks be added, but not be seen. Those that cannot be seen are missing here: then
    :func:`segzoo.optimize` no longer notices that they get lost, unless outputs change.
    """
    return tuple({} if hooks is None else hooks for hooks in _hooks(module))


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where torch does not tell.

    Then a map that something changes after its ReLU would pass for unchanged; nothing here does.
    """
    version: int | None = found(tensor, "_version")
    return version


def may_have_hooks(module: nn.Module) -> bool:
    """Whether calling the module may do more than its forward: it has hooks, or nobody can see."""
    return any(hooks is None or len(hooks) > 0 for hooks in _hooks(module))


def _hooks(module: nn.Module) -> list[dict[int, Any] | None]:
    return [
        found(module, "_forward_pre_hooks"),
        found(module, "_forward_hooks"),
        found(module, "_backward_pre_hooks"),
        found(module, "_backward_hooks"),
    ]


def operations_go_to(
    compute: Callable[[Any, Any, dict[str, Any]], Any],
) -> AbstractContextManager[object]:
    """While it is active torch's operations are given to ``compute``, as function and arguments.

    The documented way to see what happens below autograd, in a module with a private name. Without
    it operations go where they went before: on the meta device positions have no values, so that a
    backbone which looks them up in a table passes for one that takes every size, and the few that
    read them cannot be built. Other backbones do not need it.
    """
    base = found("torch.utils._python_dispatch", "TorchDispatchMode")
    if base is None:
        return nullcontext()

    def dispatch(
        mode: object, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    mode: AbstractContextManager[object] = type(
        "OperationsGoTo", (base,), {"__torch_dispatch__": dispatch}
    )()
    return mode


def gives_new_tensors(operation: Any) -> bool:
    """Whether an operation changes none of its arguments, and gives no view of them.

    Its schema says so. Without that no operation is trusted, and shapes are computed each time.
    """
    schema = found(operation, "_schema")
    if schema is None:
        return False
    return all(item.alias_info is None for item in (*schema.arguments, *schema.returns))


def fuses_on_cpu() -> bool:
    """Whether oneDNN is there with the operators below, which torch's compiler uses too.

    Without them convolutions are computed by torch's public functions, and what follows them one
    step after the other.
    """
    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.aten, "mkldnn_reorder_conv2d_weight")
        and found(ops, "_convolution_pointwise") is not None
        and found(ops, "_convolution_transpose_pointwise") is not None
        and found(ops, "_reorder_convolution_transpose_weight") is not None
    )


def computes_on_cpu(dtype: torch.dtype) -> bool:
    """Whether oneDNN has these operators, in that precision, on this processor.

    Numbers of 16 bits need instructions that some processors lack. There torch computes step by
    step, and of a transposed convolution rounds each of the parts that it adds up.
    """
    return fuses_on_cpu() and _packs(dtype)


@functools.cache
def _packs(dtype: torch.dtype) -> bool:
    # What torch asks the processor has a name in some versions; all refuse a weight by the answer.
    try:
        weight = torch.zeros(1, 1, 1, 1, dtype=dtype).to_mkldnn()
        torch.ops.aten.mkldnn_reorder_conv2d_weight(weight)
    except RuntimeError:
        return False
    return True


def convolve(*arguments: Any) -> Tensor:
    """A convolution and its activation by oneDNN, with a packed weight."""
    out: Tensor = found(torch.ops.mkldnn, "_convolution_pointwise")(*arguments)
    return out


def convolve_and_add(*arguments: Any) -> Tensor:
    """A convolution, an addition and an activation by oneDNN, with a packed weight."""
    out: Tensor = found(torch.ops.mkldnn, "_convolution_pointwise").binary(*arguments)
    return out


def convolve_onto(x: Tensor, other: Tensor, *arguments: Any) -> Tensor:
    """As :func:`convolve_and_add`; what comes out takes the place of ``other``, which is lost.

    The addition and a ReLU only. Without it the result has a place of its own.
    """
    at_once = found(torch.ops.mkldnn, "_convolution_pointwise_")
    if at_once is None:
        return convolve_and_add(x, other, *arguments)
    out: Tensor = at_once.binary(other, x, *arguments)
    return out


def convolve_transposed(*arguments: Any) -> Tensor:
    """A transposed convolution and its activation by oneDNN, with a packed weight."""
    out: Tensor = found(torch.ops.mkldnn, "_convolution_transpose_pointwise")(*arguments)
    return out


def packed_transposed(*arguments: Any) -> Tensor:
    """The weight of a transposed convolution in the order that oneDNN wants."""
    out: Tensor = found(torch.ops.mkldnn, "_reorder_convolution_transpose_weight")(*arguments)
    return out


def packs_linear(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear layers are there in a precision, which torch's compiler uses too.

    Without them a layer, its activation and an addition are computed one after the other.
    """
    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and found(ops, "_linear_pointwise") is not None
        and found(ops, "_reorder_linear_weight") is not None
        and _packs(dtype)
    )


def packed_linear(weight: Tensor, rows: int) -> Tensor:
    """The weight of a linear layer in the order that oneDNN wants for inputs of so many rows."""
    out: Tensor = found(torch.ops.mkldnn, "_reorder_linear_weight")(weight, rows)
    return out


def linear(*arguments: Any) -> Tensor:
    """A linear layer and its activation by oneDNN, with a packed weight."""
    out: Tensor = found(torch.ops.mkldnn, "_linear_pointwise")(*arguments)
    return out


def linear_and_add(*arguments: Any) -> Tensor:
    """A linear layer and an addition by oneDNN, with a packed weight."""
    out: Tensor = found(torch.ops.mkldnn, "_linear_pointwise").binary(*arguments)
    return out


def freezing() -> AbstractContextManager[object]:
    """What is compiled meanwhile takes its weights as constants, which the compiler packs.

    A setting that ``torch.compile`` has no argument for: its ``options`` come too late for the part
    of it that reads the module. Without it weights stay inputs: the same outputs, later.
    """
    patch = found("torch._inductor.config", "patch")
    if patch is None or found("torch._inductor.config", "freezing") is None:
        return nullcontext()
    frozen: AbstractContextManager[object] = patch(freezing=True)
    return frozen


def keeping_at_most(share: float) -> AbstractContextManager[object]:
    """What is compiled meanwhile keeps at most so much for the backward pass, 0 to 1 of all.

    The rest is computed again. Another setting that ``torch.compile`` has no argument for; without
    it the compiler keeps what it keeps by itself.
    """
    patch = found("torch._functorch.config", "patch")
    if patch is None or found("torch._functorch.config", "activation_memory_budget") is None:
        return nullcontext()
    limited: AbstractContextManager[object] = patch(activation_memory_budget=share)
    return limited


def options_of(mode: str) -> dict[str, Any]:
    """The compiler's settings that a mode of ``torch.compile`` stands for, to be added to.

    Raises:
        RuntimeError: This torch does not tell. Then a mode is had as it is, or not at all.
    """
    of_modes = found("torch._inductor", "list_mode_options")
    if of_modes is None:
        raise RuntimeError(
            f"torch {torch.__version__} does not tell which settings mode={mode!r} stands for; "
            "give torch.compile the mode alone"
        )
    settings: dict[str, Any] = of_modes(mode)
    return settings


def collector(hook: Any) -> Any:
    """What one of timm's backbones collects its maps in by that hook; None for any other hook.

    The hooks are methods of it. Its class is known by where it comes from and by what it is asked
    for, so that it may have another name or place.
    """
    owner = getattr(getattr(hook, "func", hook), "__self__", None)
    at_home = type(owner).__module__.startswith("timm.models.")
    return owner if at_home and hasattr(owner, "get_output") else None


def collect_in(owner: Any, maps: Any) -> None:
    """Let what :func:`collector` gave keep its maps there, where it has such a place.

    Where it has none a graph that is recorded lacks the maps, so the backbone stays a module.
    """
    if found(owner, "_feature_outputs") is not None:
        owner._feature_outputs = maps


def is_view(tensor: Tensor) -> bool:
    """Whether a tensor is a view of another one. Where nobody tells, every tensor may be one."""
    asked = found(tensor, "_is_view")
    return True if asked is None else bool(asked())
