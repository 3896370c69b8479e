"""Optional packages: what is said where one is missing, and that none tells its makers."""

import os
import pickle
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from segzoo import packages
from segzoo.data.faults import PairError
from segzoo.errors import MissingPackageError, SegzooError

#: What a file for OpenVINO and its calibration import, in a process of its own: here the test
#: runner, which the packages recognise, would keep them silent.
_CHILD = """
import sys
from pathlib import Path
from segzoo.packages import load_package
for name in sys.argv[1:]:
    load_package(name, extra="export")
assert "openvino_telemetry" not in sys.modules
assert "openvino.tools.ovc.telemetry_stub" in sys.modules
assert not list(Path.home().iterdir()), list(Path.home().iterdir())
import openvino_telemetry  # what somebody else wants of it, they get
"""


def test_openvino_and_nncf_report_nothing(tmp_path):
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "NNCF_CI")}
    subprocess.run(
        [sys.executable, "-c", _CHILD, "openvino", "nncf"],
        env=kept | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        check=True,
    )


def test_a_reporter_that_somebody_imported_stays(monkeypatch):
    for theirs in (object(), None):  # or hid by themselves
        monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
        packages.load_package("json", extra="export")
        assert sys.modules["openvino_telemetry"] is theirs


def test_reporters_stay_hidden_until_the_last_of_several_imports_is_done(tmp_path, monkeypatch):
    (tmp_path / "slow_one.py").write_text("import gates; gates.inside.set(); gates.go_on.wait(30)")
    gates = types.ModuleType("gates")
    gates.inside, gates.go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gates", gates)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(packages.load_package, "slow_one", extra="export")
        assert gates.inside.wait(30)
        packages.load_package("json", extra="export")
        assert sys.modules["openvino_telemetry"] is None
        with pytest.raises(MissingPackageError):
            packages.load_package("no_such_one", extra="export")
        assert sys.modules["openvino_telemetry"] is None
        gates.go_on.set()
        slow.result(30)
    assert "openvino_telemetry" not in sys.modules
    monkeypatch.delitem(sys.modules, "slow_one")


def test_onnx_runtime_is_told_to_be_silent(monkeypatch):
    import onnxruntime

    calls = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append(1))
    packages.load_package("onnxruntime", extra="export")
    assert calls == [1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import no_such_part", "ModuleNotFoundError: No module named 'no_such_part'"),
        (
            "raise ImportError('libGL.so.1: no such file\\nand more')",
            "ImportError: libGL.so.1: no such",
        ),
        ("raise ValueError('numpy.dtype size changed')", "ValueError: numpy.dtype size changed"),
    ],
)
def test_a_broken_installation_is_not_called_missing(tmp_path, monkeypatch, content, reason):
    (tmp_path / "broken_one.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.has_package("broken_one")
    with pytest.raises(MissingPackageError) as caught:
        packages.load_package("broken_one", extra="x", package="broken-one")
    message = str(caught.value)
    assert reason in message
    assert "is needed for this and installed, but cannot be imported" in message
    assert "pip install --force-reinstall broken-one" in message
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.reason == caught.value.reason
    with pytest.raises(
        MissingPackageError, match=r"not installed: pip install \"segzoo\[x\]\""
    ) as missing:
        packages.load_package("no_such_one", extra="x")
    assert missing.value.reason is None


def test_the_environment_s_own_word_stands(monkeypatch):
    monkeypatch.setattr(packages, "_ENVIRONMENT", {"no_such_one": ("SEGZOO_TOLD", "0")})
    monkeypatch.setenv("SEGZOO_TOLD", "1")
    with pytest.raises(MissingPackageError):
        packages.load_package("no_such_one", extra="x")
    assert os.environ["SEGZOO_TOLD"] == "1"
    monkeypatch.delenv("SEGZOO_TOLD")
    with pytest.raises(MissingPackageError, match=r'a-name is needed.*"segzoo\[x\]"'):
        packages.load_package("no_such_one.part", extra="x", package="a-name")
    assert os.environ["SEGZOO_TOLD"] == "0"


def test_the_error_of_a_missing_package_goes_to_other_processes():
    error = MissingPackageError("wandb", extra=None)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.package, again.extra) == (str(error), "wandb", None)
    pair = pickle.loads(pickle.dumps(PairError("a.png", "no mask")))
    assert str(pair) == str(PairError("a.png", "no mask"))
    assert vars(pair) == vars(PairError("a.png", "no mask"))
    for kind in all_kinds(SegzooError):
        if kind.__module__.startswith("segzoo.") and kind not in (MissingPackageError, PairError):
            again = pickle.loads(pickle.dumps(kind("what is wrong")))
            assert (type(again), str(again)) == (kind, "what is wrong")


def all_kinds(kind):
    yield kind
    for child in kind.__subclasses__():
        yield from all_kinds(child)
