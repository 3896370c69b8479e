"""What :mod:`tests.forking`'s server imports once, for all processes that are forked from it."""

import timm  # noqa: F401

import tests.folders.killing
import tests.training.killing  # noqa: F401
