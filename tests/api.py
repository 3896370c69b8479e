"""The public names of segzoo with their signatures, one a line, as tests/api.txt keeps them.

``python -m tests.api`` writes the file again, after a change that is meant. The lines are the same
on every Python and with every torch: signatures are written out here, annotations as they stand in
the source, and of a class only what segzoo defines.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ForwardRef

FILE = Path(__file__).with_name("api.txt")

#: What stands behind every class or error says nothing.
_GIVEN = (object, Exception, BaseException, ABC)


def public_lines(module: ModuleType) -> list[str]:
    """What a module offers: the names of ``__all__``, or all that it defines itself."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    values = {name: getattr(module, name) for name in names}
    public = [value for value in values.values() if inspect.isclass(value)]
    lines: list[str] = []
    for name, value in sorted(values.items()):
        full = f"{module.__name__}.{name}"
        if inspect.ismodule(value):
            lines += public_lines(value)
        elif inspect.isclass(value):
            lines += _class_lines(full, value, public)
        elif callable(value):
            lines.append(full + signature(value))
        else:
            lines.append(f"{full}: {type(value).__name__}")
    return lines


def _class_lines(full: str, kind: type, public: list[type]) -> Iterator[str]:
    """How to make one, what it is, and what it has; what a public base says is not said again."""
    bases = [base for base in kind.__mro__[1:] if base in public or not _is_ours(base)]
    shown = [base.__name__ for base in bases if base not in _GIVEN]
    yield f"class {full}({', '.join(shown)})"
    inherited = {line for base in bases for line in _members(base)}
    for line in _members(kind):
        if line not in inherited:
            yield full + line


def _members(kind: type) -> list[str]:
    """The methods, properties and attributes that classes of segzoo give to a class."""
    found: dict[str, str] = {}
    for owner in filter(_is_ours, reversed(kind.__mro__)):
        for name, annotation in vars(owner).get("__annotations__", {}).items():
            found[name] = f".{name}: {_annotation(annotation)}"
        for name, value in vars(owner).items():
            if name in ("__init__", "__new__"):
                found["__init__"] = signature(getattr(owner, name), method=True)
            elif isinstance(value, (property, functools.cached_property)):
                getter = value.fget if isinstance(value, property) else value.func
                returned = inspect.signature(getter).return_annotation
                found[name] = f".{name}: {_annotation(returned)}"
            elif isinstance(value, (classmethod, staticmethod)):  # Python hides a class itself
                found[name] = f".{name}{signature(getattr(owner, name))}"
            elif inspect.isroutine(value):
                found[name] = f".{name}{signature(value, method=True)}"
            else:
                found.setdefault(name, f".{name}")
    return [
        line.replace(".__call__", "()", 1)
        for name, line in sorted(found.items())
        if name in ("__init__", "__call__") or not name.startswith("_")
    ]


def signature(function: Any, *, method: bool = False) -> str:
    """A signature, written out here; of a method without its first parameter, ``self``."""
    described = inspect.signature(function)
    parts: list[str] = []
    before = None
    for parameter in list(described.parameters.values())[method:]:
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            parts.append("*")
        elif before is parameter.POSITIONAL_ONLY and parameter.kind is not before:
            parts.append("/")
        parts.append(_parameter(parameter))
        before = parameter.kind
    if before is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    returned = described.return_annotation
    arrow = "" if returned is inspect.Signature.empty else f" -> {_annotation(returned)}"
    return f"({', '.join(parts)}){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f" = {parameter.default!r}"
    return text


def _annotation(annotation: object) -> str:
    """As it stands in the source: Python versions print evaluated annotations differently."""
    if isinstance(annotation, ForwardRef):  # what a NamedTuple makes of it
        annotation = annotation.__forward_arg__
    if annotation is not None and not isinstance(annotation, str):
        raise TypeError(
            f"The annotation {annotation!r} is evaluated: the module of this name needs "
            "`from __future__ import annotations`."
        )
    return str(annotation)


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "segzoo"


def segzoo_lines() -> list[str]:
    """The lines of the file."""
    import segzoo

    return public_lines(segzoo)


if __name__ == "__main__":
    FILE.write_text("\n".join(segzoo_lines()) + "\n")
