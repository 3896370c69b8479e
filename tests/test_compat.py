"""Private names of other libraries are in one file, and the package lives without each of them."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segzoo
from segzoo import _compat
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.inference.optimize.backends import CompiledFor
from segzoo.nn.upsample_conv import runs_as_written

from .private_names import code_in, is_private, owned_names, private_names

PACKAGE = Path(segzoo.__file__).parent
PROJECT = PACKAGE.parent
COMPAT = Path(_compat.__file__)


# ---- the rule -------------------------------------------------------------------------------


def is_ours(kind: type) -> bool:
    """Whether the package defines it."""
    return kind.__module__.split(".")[0] == "segzoo"


def is_others(kind: type) -> bool:
    """Whether another library does."""
    return not is_ours(kind) and kind.__module__.split(".")[0] not in sys.stdlib_module_names


@functools.cache
def known() -> tuple[set[str], dict[str, set[str]]]:
    """All names that the package defines, and the private ones that its classes get from others."""
    ours = set()
    for path in PACKAGE.rglob("*.py"):
        ours |= owned_names(ast.parse(path.read_text()))
    inherited: dict[str, set[str]] = {}
    for module in pkgutil.walk_packages(segzoo.__path__, "segzoo."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:  # of what is optional
            continue
        for kind in vars(found).values():
            if isinstance(kind, type) and is_ours(kind):
                names = inherited.setdefault(kind.__name__, set())
                for base in filter(is_others, kind.__mro__):
                    names |= set(filter(is_private, vars(base)))
                names |= set(vars(nn.Module())) if issubclass(kind, nn.Module) else set()
    return ours, inherited


@functools.cache
def looked_up() -> tuple[str, ...]:
    """The private names that are asked for through ``found``."""
    calls = [node for node in ast.walk(ast.parse(COMPAT.read_text())) if isinstance(node, ast.Call)]
    names = [ast.literal_eval(call.args[1]) for call in calls if ast.unparse(call.func) == "found"]
    return tuple(dict.fromkeys(names))


def test_private_names_are_in_one_file():
    found = [
        f"{path.relative_to(PROJECT)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != COMPAT
        for line, name in private_names(path.read_text(), *known())
    ]
    assert not found, "move these into segzoo/_compat.py, each with a way to do without:\n" + (
        "\n".join(found)
    )


def test_neither_benchmarks_nor_tests_nor_pages_use_them():
    """They ask segzoo/_compat.py, or do with public names; here alone they are named, as text."""
    paths = [PROJECT / "conftest.py"]
    for folder in ("benchmarks", "tests", "docs"):
        paths += sorted((PROJECT / folder).rglob("*.py"))
    sources = {path: path.read_text() for path in paths}
    ours, inherited = known()
    ours = ours.union(*(owned_names(ast.parse(source)) for source in sources.values()))
    for path in (*sorted((PROJECT / "docs").glob("*.md")), *sorted(PROJECT.glob("*.md"))):
        sources[path] = code_in(path.read_text())
    found = [
        f"{path.relative_to(PROJECT)}:{line}: {name}"
        for path, source in sources.items()
        for line, name in private_names(source, ours, inherited, texts=path != Path(__file__))
    ]
    assert len(sources) > 100  # they were found
    assert not found, "ask segzoo/_compat.py, or use public names:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from timm.models._features import FeatureHooks",
        "from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm",
        "import torch._inductor.config as inductor",
        "from huggingface_hub.utils import _http",
        "import torch; torch._C._has_mkldnn",
        "import torch; torch.ops.mkldnn._convolution_pointwise.binary",
        "from torch import ops; ops.mkldnn._entries",
        "module._forward_hooks.values()",
        "hooks._feature_outputs = {}",
        "getattr(module, '_modules')",
        "operator.attrgetter('weight._version')(module)",
        "importlib.import_module('torch._dynamo')",
        "step(x, _inplace=True)",
        "class Layer(nn.Conv2d):\n    def forward(self, x): return self._conv_forward(x)",
        "class Layer(nn.Module):\n    def _apply(self, fn): ...",
        "class Layer(nn.Module):\n    _version: int = 2",
        "class Encoder(nn.Module):\n    def __init__(self): self._buffers = {}",
    ],
)
def test_the_rule_sees_them(source):
    ours, inherited = known()
    found = list(private_names(source, ours | owned_names(ast.parse(source)), inherited))
    assert found, source


def test_the_rule_lets_the_rest_be():
    source = "import os; os._exit(0); self._packed = 1; other._packed; f'{x.__name__}'; _private()"
    assert not list(private_names(source, {"_packed", "_private"}, known()[1]))
    source = "class Registry(Mapping):\n    def __init__(self): self._modules = {}"
    assert not list(private_names(source, {"_modules"}, known()[1]))


def test_pages_are_read_line_by_line():
    page = "Text.\n```bash\nls _x\n```\n\n```python\nimport torch\n\ntorch._C\n```\n"
    assert list(private_names(code_in(page), set(), {})) == [(9, "_C")]


def test_each_private_name_is_asked_for_before_it_is_used():
    used = {name for _, name in private_names(COMPAT.read_text(), {"_hooks"}, known()[1])}
    parts = {
        "_inductor",
        "_functorch",
        "_python_dispatch",
    }  # modules, in the paths of what is asked for
    assert used - parts <= set(looked_up())
    assert {name for name in looked_up() if is_private(name)} <= used


# ---- life without them ----------------------------------------------------------------------


def seen(name: str) -> bool:
    """Whether the report of an optimised model tells that a name is missing."""
    return "_convolution_" in name or name == "_feature_outputs"


def lives() -> dict[str, Any]:
    """How a model is built, trained and optimised without each name, and without all of them.

    A life takes a second: names of which no more is asked than that it goes on are missing by fives.
    """
    alone = [name for name in looked_up() if seen(name)]
    others = [name for name in looked_up() if not seen(name)]
    few = [",".join(others[start::3]) for start in range(3)]
    cases = ["", *alone, *few, ",".join(looked_up())]
    run = subprocess.run(
        [sys.executable, "-m", "tests.without_names", *cases],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(cases, map(json.loads, run.stdout.splitlines()), strict=True))


# One test, for tests that run side by side would each wait for lives of their own.
def test_the_package_lives_without_any_of_them():
    found = lives()
    whole = found[""]
    for name, life in found.items():
        assert "error" not in life, f"without {name or 'nothing'}: {life['error']}"
        assert life["logits"] == pytest.approx(whole["logits"], rel=1e-4), name

    assert "2 of 2 parts are graphs" in whole["report"]
    assert "1 of 2 parts are graphs" in found["_feature_outputs"]["report"]
    if _compat.fuses_on_cpu():
        assert "onednn" in whole["report"]
    for name in filter(seen, looked_up()):
        if name == "_convolution_pointwise_":  # sums have places of their own, that is all
            assert ("onednn" in found[name]["report"]) == _compat.fuses_on_cpu()
        elif "_convolution_" in name:
            assert "onednn" not in found[name]["report"], name


@pytest.fixture
def without(monkeypatch):
    def hide(*names):
        there = _compat.found
        monkeypatch.setattr(
            _compat, "found", lambda owner, name: None if name in names else there(owner, name)
        )

    return hide


def test_what_is_not_there_is_none():
    assert _compat.found("torch.nn", "Module") is nn.Module
    assert _compat.found(nn, "Module") is nn.Module
    assert _compat.found(nn, "_NoSuchModule") is None
    assert _compat.found("torch.nn", "_NoSuchModule") is None
    assert _compat.found("torch._no_such_room.inside", "Module") is None


def test_weight_norm_is_computed_by_hand(without):
    torch.manual_seed(0)
    direction = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    magnitude = torch.rand(5, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    wanted = _compat.weight_norm(direction, magnitude)
    slopes = torch.autograd.grad(wanted.square().sum(), (direction, magnitude))
    without("_weight_norm")
    found = _compat.weight_norm(direction, magnitude)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), (direction, magnitude)), slopes
    )


def test_hooks_that_cannot_be_seen_may_be_there(without):
    conv = nn.Conv2d(1, 1, 1)
    assert runs_as_written(conv, nn.Conv2d)
    for add in ("register_forward_hook", "register_full_backward_pre_hook"):
        handle = getattr(conv, add)(lambda *_: None)
        assert not runs_as_written(conv, nn.Conv2d)
        assert sum(map(len, _compat.hooks_of(conv))) == 1
        handle.remove()
    without("_backward_hooks")
    assert not runs_as_written(conv, nn.Conv2d)
    assert not any(_compat.hooks_of(conv))


def test_a_module_refuses_to_move_by_its_public_methods(without):
    class Stays(nn.Linear):
        pass

    def refuse(*_, **__):
        raise RuntimeError("stays")

    without("_apply")
    _compat.refuse_moves(Stays, refuse)
    module = Stays(1, 1)
    for move in (
        module.half,
        module.cpu,
        lambda: module.to("cpu"),
        lambda: module.to_empty("meta"),
    ):
        with pytest.raises(RuntimeError, match="stays"):
            move()


def test_positions_have_no_values(without):
    without("TorchDispatchMode")
    with PositionsHaveValues():
        assert torch.arange(3, device="meta").is_meta


@pytest.mark.parametrize("name", ["patch", "freezing"])
def test_what_is_compiled_may_keep_its_weights_as_inputs(name, without, monkeypatch):
    with _compat.freezing():
        assert _compat.found("torch._inductor.config", "freezing") is True
    settings = []

    def compiled(body, **_):
        settings.append(importlib.import_module("torch._inductor.config").freezing)
        return body

    monkeypatch.setattr(torch, "compile", compiled)
    image = torch.rand(1, 3, 4, 4)
    for hidden in ((), (name,)):
        without(*hidden)
        assert torch.equal(CompiledFor(nn.ReLU(), image)(image), image)
    assert settings == [True, False]


def test_a_mode_s_settings_are_told_or_refused(without):
    assert _compat.options_of("max-autotune")["max_autotune"] is True
    without("list_mode_options")
    with pytest.raises(RuntimeError, match="mode='max-autotune' stands for"):
        _compat.options_of("max-autotune")


@pytest.mark.parametrize("name", ["patch", "activation_memory_budget"])
def test_a_compiler_keeps_what_it_is_told_or_what_it_likes(name, without):
    settings = importlib.import_module("torch._functorch.config")
    before = settings.activation_memory_budget
    with _compat.keeping_at_most(0.25):
        assert settings.activation_memory_budget == 0.25
    without(name)
    with _compat.keeping_at_most(0.25):
        assert settings.activation_memory_budget == before


def test_changes_of_a_tensor_are_counted_or_not_known(without):
    tensor = torch.zeros(2)
    before = _compat.version_of(tensor)
    tensor.add_(1)
    assert _compat.version_of(tensor) == before + 1
    without("_version")
    assert _compat.version_of(tensor) is None
