"""Private names of other libraries in a file: which it uses, told from its own."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

#: The packages of this project: what is imported from them is ours.
OURS = frozenset(("benchmarks", "conftest", "segzoo", "tests"))
#: What takes the name of an attribute, or of a module, as text.
ASKING = frozenset(
    (
        *("attrgetter", "delattr", "getattr", "hasattr", "methodcaller", "setattr"),
        *("found", "find_spec", "import_module", "locate", "resolve_name"),
    )
)


def is_private(name: str) -> bool:
    """Names such as ``__init__`` and ``_missing_`` are for others to use."""
    return name.startswith("_") and not name.endswith("_")


def owned_names(tree: ast.AST) -> set[str]:
    """What a file defines: functions, classes, variables, and attributes of ``self``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def private_names(
    source: str, ours: set[str], inherited: dict[str, set[str]], *, texts: bool = True
) -> Iterator[tuple[int, str]]:
    """Where a file uses a private name that is not ours: the line and the name.

    A name is ours if we define it (``ours``) and no class of others from which ours derive has it
    (``inherited``, by our class); on ``self`` those count from which its own class derives. One
    that is asked of something imported is never ours. The standard library's are let be: those
    that are of use are documented. Without ``texts`` a name may be given as text, by a test that
    takes it away.
    """
    tree = ast.parse(source)
    foreign, documented = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            module = getattr(node, "module", None)
            for alias in node.names:
                path = (f"{module}." if module else "") + alias.name
                root = path.split(".")[0]
                if root in OURS:
                    continue
                standard = root in sys.stdlib_module_names
                bound = alias.asname or alias.name.split(".")[0]
                (documented if standard else foreign).add(bound)
                if not standard:
                    yield from ((node.lineno, part) for part in path.split(".") if is_private(part))
    anyones = set().union(*inherited.values())
    homes = {
        node: kind.name
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in ast.walk(kind)
    }
    for node in ast.walk(tree):
        if not texts and isinstance(node, ast.Call):
            continue
        owner, names = names_in(node)
        theirs = inherited.get(homes.get(node, ""), anyones) if owner == "self" else anyones
        for name in filter(is_private, names):
            if owner not in documented and (owner in foreign or name not in ours or name in theirs):
                yield node.lineno, name


def names_in(node: ast.AST) -> tuple[str, list[str]]:
    """The names that a node uses, and what the first of them is asked of, where it has a name."""
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value).split(".")[0], [node.attr]
    if isinstance(node, ast.keyword):
        return "", [node.arg or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ASKING:
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        return "", [part for text in texts if isinstance(text, str) for part in text.split(".")]
    if isinstance(node, ast.ClassDef):  # what it overrides
        return "self", [name for name in owned_names(node) if name != node.name]
    return "", []


def code_in(markdown: str) -> str:
    """The Python in a page, each line where it stands in the page."""
    lines = markdown.splitlines()
    shown = [""] * len(lines)
    inside = False
    for number, line in enumerate(lines):
        if line.strip().startswith("```"):
            inside = not inside and bool(re.match(r"\s*```(python|pycon)\b", line))
        elif inside:
            shown[number] = line.removeprefix(">>> ").removeprefix("... ")
    return "\n".join(shown)
