"""What :mod:`tests.forking`'s server imports once, for all processes that are forked from it."""

import importlib

for name in (
    "timm",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "tests.folders.killing",
    "tests.training.killing",
):
    importlib.import_module(name)
