"""Settings of the test run, for tests/ and for the examples in the docstrings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import segzoo


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _names_for_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(segzoo=segzoo, torch=torch)
