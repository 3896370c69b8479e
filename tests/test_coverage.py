"""Architectures from all over timm's list; benchmarks/coverage.py takes many more."""

import pytest
import timm

from benchmarks.coverage import try_ours

NAMES = timm.list_models()
SAMPLE = NAMES[:: len(NAMES) // 30]


@pytest.mark.filterwarnings("ignore:.* images only, so others are resized:UserWarning")
@pytest.mark.parametrize("name", SAMPLE)
def test_works_at_every_size_in_eval_and_training(name):
    assert try_ours(name, "meta") == "ok"
