"""What `segzoo doctor` finds: each problem made, seen, and told with what to do."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

import segzoo
from segzoo.cli import main
from segzoo.environment import devices, distributions, folders, machine, report
from segzoo.environment.problem import ERROR, WARNING, Problem

ROOT = Path(__file__).parents[2]
#: Extras that are for working on segzoo, not with it.
OF_DEVELOPERS = {"release", "test", "docs", "bench"}


@pytest.fixture
def installed(monkeypatch):
    """Packages that are installed, by name: (version, what it needs)."""
    there: dict[str, tuple[str, list[str]]] = {}

    def of(name):
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    fake = SimpleNamespace(
        version=lambda name: of(name)[0],
        requires=lambda name: of(name)[1],
        PackageNotFoundError=importlib.metadata.PackageNotFoundError,
    )
    monkeypatch.setattr(distributions, "metadata", fake)
    return there


@pytest.fixture(scope="module")
def here():
    """The report of this very machine."""
    return segzoo.check_environment()


def found(problems):
    return [(item.level, item.message) for item in problems]


def test_every_extra_for_people_says_what_it_brings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert set(distributions.BRINGS) == {*parser["options.extras_require"]} - OF_DEVELOPERS


def test_extras_and_what_is_missing_of_them(installed):
    needs = [
        *map(
            Requirement,
            (
                "torch>=2.8",
                'rasterio; extra == "geo"',
                'peft>=1; extra == "lora"',
                'onnx; extra == "lora"',
                'pytest; extra == "test"',
            ),
        )
    ]
    installed.update(rasterio=("1.4", []), onnx=("1", []))
    assert distributions.find_extras(needs) == (
        distributions.Extra("lora", distributions.BRINGS["lora"], ("peft",)),
        distributions.Extra("geo", distributions.BRINGS["geo"], ()),
    )
    assert distributions.find_extras(needs)[0].command == 'pip install "segzoo[lora]"'
    assert set(distributions.unknown_extras(needs)) == {*distributions.BRINGS} - {"lora", "geo"}


def test_versions_that_do_not_go_together(installed):
    needs = [
        *map(
            Requirement,
            (
                "timm>=1",
                'gone; python_version < "3"',
                'onnx; extra == "export"',
                'peft; extra == "lora"',
            ),
        )
    ]
    installed.update(
        timm=("1.0.20", ["torch", "torchvision"]),
        torch=("2.7.0+cpu", ["numpy", "sympy>=1.13"]),
        torchvision=("0.21.0+cpu", ["torch==2.6.0", 'scipy; extra == "scipy"']),
        numpy=("2.0", []),
        onnx=("1.0", ["numpy<2", "torch==2.7.0"]),
    )
    problems = list(distributions.misfits(needs))
    assert found(problems) == [
        (ERROR, "torch needs sympy>=1.13, which is not installed."),
        (ERROR, "torchvision needs torch==2.6.0, and 2.7.0+cpu is installed."),
        (WARNING, "onnx needs numpy<2, and 2.0 is installed."),
    ]
    assert problems[1].remedy == 'pip install --upgrade torchvision "torch==2.6.0"'


def test_what_an_extra_of_a_package_needs_is_looked_at(installed):
    installed.update({"ray": ("2.60", ['pyarrow>=9; extra == "data"']), "pyarrow": ("8", [])})
    assert not list(distributions.misfits([Requirement('ray; extra == "ray"')]))
    (problem,) = distributions.misfits([Requirement('ray[data]; extra == "ray"')])
    assert problem.message == "ray needs pyarrow>=9, and 8 is installed."


def test_requirements_that_cannot_be_read_are_passed_over(installed):
    installed.update(a=("1", ["b (>=1) or so", "missing"]))
    (problem,) = distributions.misfits([Requirement("a")])
    assert problem.message == "a needs missing, which is not installed."


def test_circles_of_packages_end(installed):
    installed.update(a=("1", ["b"]), b=("1", ["a", "missing"]))
    assert len(list(distributions.misfits([Requirement("a")]))) == 1


def test_packages_of_which_files_are_gone(tmp_path, monkeypatch):
    """As they are after an update that was interrupted; tests and scripts may be missing."""
    lines = ("whole/__init__.py,,", "whole/tests/test_it.py,,", "../../bin/whole,,")
    for name, more in (("whole", ()), ("holed", ("holed/a.py,,", "holed/b.so,,", "holed/c.md,,"))):
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "RECORD").write_text("\n".join([*lines, *more]) + "\n")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    of_extra = 'holed; extra == "train"'
    for needs, level in (("holed>=1", ERROR), (of_extra, WARNING)):
        (problem,) = distributions.incomplete([Requirement("whole"), Requirement(needs)])
        assert problem.level == level
        assert problem.message == (
            "holed 1.5 is installed without 2 of its files: the first holed/a.py."
        )
        assert problem.remedy == 'pip install --force-reinstall --no-deps "holed==1.5"'
    assert not [*distributions.incomplete([Requirement("not-there")])]


@pytest.mark.parametrize(
    ("of_torch", "of_vision", "level"),
    [
        ("2.7.0+cpu", "0.22.0+cu128", [ERROR]),
        ("2.7.0+cpu", "0.22.0+cpu", []),
        ("2.7.0", "0.22.0+cpu", []),  # PyPI's has no word for it
        ("2.7.0+cpu", None, []),
        ("of my own", "0.22.0+cpu", []),
    ],
)
def test_torch_and_torchvision_of_two_indices(installed, of_torch, of_vision, level):
    installed["torch"] = (of_torch, [])
    if of_vision:
        installed["torchvision"] = (of_vision, [])
    assert [item.level for item in distributions.torch_builds()] == level


CPU = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512f {}\n\nprocessor\t: 1\nmodel name\t: Another\n"


def files(root, **contents):
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_processor_and_what_it_can_do(tmp_path):
    files(tmp_path, proc__cpuinfo=CPU.format("amx_bf16 amx_int8"))
    here = machine.find_machine(tmp_path)
    assert here.processor == "A CPU"
    assert here.instructions == ("AVX2", "AVX-512", "AMX BF16", "AMX INT8")
    assert here.bfloat16 is True
    files(tmp_path, proc__cpuinfo=CPU.format(""))
    assert machine.find_machine(tmp_path).bfloat16 is False
    files(tmp_path, proc__cpuinfo="processor : 0\nFeatures : asimd bf16\n")
    assert machine.find_machine(tmp_path).instructions == ("NEON", "BF16")
    files(tmp_path, proc__cpuinfo="processor : 0\n\nHardware : B\nModel : A board\n")
    assert machine.find_machine(tmp_path).processor == "A board"  # which is named at the end
    (tmp_path / "proc" / "cpuinfo").unlink()  # as on macOS
    assert machine.find_machine(tmp_path).bfloat16 is None


def test_what_a_container_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.usable_cpus(tmp_path) == 8
    group = tmp_path / "sys" / "fs" / "cgroup"
    (group / "cpu").mkdir(parents=True)
    (group / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cpus(tmp_path) == 8
    (group / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    assert machine.usable_cpus(tmp_path) == 3
    (group / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cpus(tmp_path) == 3
    (group / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cpus(tmp_path) == 1
    (group / "memory.max").write_text("max\n")
    whole = machine.usable_memory(tmp_path)
    (group / "memory.max").write_text("1048576\n")
    assert machine.usable_memory(tmp_path) == 2**20 < whole


def fake_torch(*, cuda=None, capability=None, archs=(), threads=1, generations=(9,)):
    """A torch with or without CUDA, on a machine with or without cards of a generation each."""
    current = []

    @contextmanager
    def device(index):
        current.append(index)
        yield
        current.pop()

    def has_bfloat16(including_emulation=True):
        return including_emulation or generations[current[-1]] >= 8

    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        get_num_threads=lambda: threads,
        cuda=SimpleNamespace(
            is_available=lambda: capability is not None,
            is_bf16_supported=has_bfloat16,
            device=device,
            device_count=lambda: len(generations),
            get_arch_list=lambda: [*archs],
            get_device_capability=lambda index: capability,
            get_device_properties=lambda index: SimpleNamespace(name="A card", total_memory=2**33),
        ),
        xpu=SimpleNamespace(is_available=lambda: False),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
    )


def test_cards_are_named():
    (card,) = devices.find_devices(fake_torch(cuda="12.8", capability=(9, 0)))
    assert card == devices.Device("cuda:0", "A card", 2**33, True)
    assert devices.find_devices(fake_torch()) == ()


def test_emulated_bfloat16_is_none():
    fake = fake_torch(cuda="12.8", capability=(7, 5), generations=(9, 7))
    assert [card.bfloat16 for card in devices.find_devices(fake)] == [True, False]


@pytest.mark.parametrize(
    ("torch_", "says"),
    [
        (fake_torch(), "built without CUDA"),
        (fake_torch(cuda="12.8"), "finds no device"),
        (fake_torch(cuda="12.8", capability=(9, 0)), None),
    ],
)
def test_a_card_that_torch_cannot_use(tmp_path, monkeypatch, torch_, says):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not list(devices.unseen_gpus(torch_, tmp_path))  # no driver, nothing to say
    files(tmp_path, proc__driver__nvidia__version="NVRM")
    problems = list(devices.unseen_gpus(torch_, tmp_path))
    assert [says in item.message for item in problems] == ([True] if says else [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a person's own word
    assert not list(devices.unseen_gpus(torch_, tmp_path))


@pytest.mark.parametrize(
    ("archs", "fits"),
    [
        (["sm_80", "sm_90a"], True),
        (["sm_80", "sm_86"], True),  # a later card of the generation
        (["sm_90"], False),
        (["sm_90", "compute_80"], True),  # compiled when it is first used
        (["sm_50", "sm_120"], False),
        ([], True),
    ],
)
def test_a_card_that_this_torch_has_no_code_for(archs, fits):
    torch_ = fake_torch(cuda="12.8", capability=(8, 9), archs=archs)
    assert bool(list(devices.unsupported_gpus(torch_))) != fits
    assert not list(devices.unsupported_gpus(fake_torch()))


def test_more_threads_than_cpus():
    here = machine.Machine("s", "p", (), None, 2, None)
    assert not list(devices.too_many_threads(fake_torch(threads=2), here))
    (problem,) = devices.too_many_threads(fake_torch(threads=64), here)
    assert "64 threads on 2 CPUs" in problem.message
    assert "OMP_NUM_THREADS=2" in problem.remedy


def test_a_torch_that_knows_no_numpy():
    def fail():
        raise RuntimeError("Numpy is not available")

    broken = SimpleNamespace(zeros=lambda _: SimpleNamespace(numpy=fail))
    (problem,) = devices.numpy_bridge(broken)
    assert (problem.level, "Numpy is not available" in problem.message) == (ERROR, True)
    assert not list(devices.numpy_bridge(torch))


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    good = folders.look_at(tmp_path / "not" / "yet", "weights")
    assert good.writable
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    bad = folders.look_at(tmp_path / "file" / "cache", "weights")
    full = folders.Folder("here", "weights", True, 2**20)
    problems = list(folders.folder_problems([good, bad, full]))
    assert [item.level for item in problems] == [ERROR, WARNING]
    assert "HF_HOME" in problems[0].remedy
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not folders.look_at(tmp_path, "weights").writable


def test_shared_memory_of_a_container(tmp_path, monkeypatch):
    assert not list(folders.shared_memory(tmp_path))  # not Linux
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(total=2**26))
    (problem,) = folders.shared_memory(tmp_path)
    assert "64 MiB" in problem.message


def test_the_hub_that_is_switched_off(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert not list(folders.offline())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (problem,) = folders.offline()
    assert (problem.level, "Unset" in problem.remedy) == (WARNING, True)


def test_the_report_has_it_all(here):
    assert here.versions["torch"] == importlib.metadata.version("torch")
    assert here.threads == torch.get_num_threads()
    assert here.location == str(Path(segzoo.__file__).parent)
    assert here.problems == (*here.errors, *here.warnings)
    assert json.loads(json.dumps(here.to_json()))["machine"]["cpus"] == here.machine.cpus
    for line in ("segzoo", "processor", "cache"):
        assert f"\n{line} " in f"\n{here}"


def test_without_problems_and_without_metadata(installed, monkeypatch):
    alone = list(report._of_packages(None))
    assert [item.level for item in alone] == [WARNING]
    monkeypatch.setattr(report, "_of_packages", lambda _: iter(()))
    for module, name in [
        (folders, "offline"),
        (folders, "shared_memory"),
        (devices, "too_many_threads"),
    ]:
        monkeypatch.setattr(module, name, lambda *_: iter(()))
    monkeypatch.setattr(folders, "find_folders", lambda: ())
    assert str(segzoo.check_environment()).endswith("\nNo problems found.")


@pytest.mark.parametrize("level", [ERROR, WARNING])
def test_the_command(here, capsys, monkeypatch, level):
    made = report.EnvironmentReport(
        **{**vars(here), "problems": (Problem(level, "It is broken.", "Mend\x1b it."),)}
    )
    monkeypatch.setattr(report, "check_environment", lambda: made)
    assert main(["doctor"]) == (level == ERROR)
    printed = capsys.readouterr()
    assert f"{level}: It is broken.\n  Mend\\x1b it.\n" in printed.out
    assert ("1 error to mend." in printed.err) == (level == ERROR)
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["problems"][0]["level"] == level


def test_a_broken_torch_is_told_of_and_nothing_heavy_is_imported():
    """In a process of its own, for here everything is imported already."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from segzoo.cli import main; code = main(['doctor'])\n"
        "print(sorted({'timm', 'torchvision', 'onnxruntime', 'openvino', 'ray', 'nncf', 'numpy'}"
        " & {*sys.modules})); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "error: torch cannot be imported: " in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
