"""Architectures from all over timm's list; benchmarks/encoders/coverage.py takes many more."""

import importlib
from pathlib import Path

import pytest
import timm

import benchmarks
from benchmarks.encoders.coverage import try_ours

BENCHMARKS = Path(benchmarks.__file__).parent
NAMES = timm.list_models()
SAMPLE = NAMES[:: len(NAMES) // 6]


@pytest.mark.filterwarnings("ignore:.* images only, so others are resized:UserWarning")
@pytest.mark.parametrize("name", SAMPLE)
def test_works_at_every_size_in_eval_and_training(name):
    assert try_ours(name, "meta") == "ok"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path):
    importlib.import_module(f"benchmarks.{path.stem}")
