"""The registry of architectures: the name in a config -> the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..registry import Registry

if TYPE_CHECKING:
    from .base import SegmentationModel

Architecture = TypeVar("Architecture", bound="type[SegmentationModel]")

#: Architectures by the name that stands in a config.
ARCHITECTURES: Registry[type[SegmentationModel]] = Registry("architecture")


def register_architecture(name: str) -> Callable[[Architecture], Architecture]:
    """Make an architecture known by a name: all that saving, loading and the command line need.

    Raises:
        DuplicateNameError: The name is taken.
    """

    def register(architecture: Architecture) -> Architecture:
        ARCHITECTURES.add(name, architecture)
        architecture.architecture = name
        return architecture

    return register
