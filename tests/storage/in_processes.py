"""What the tests of this room do in processes of their own: be killed, save at once, be measured."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

import segzoo
from segzoo.errors import SegzooError
from segzoo.storage import model_folder, safetensors_file

from ..forking import context
from ..model_folders import small


def marked(classes: int) -> segzoo.Unet:
    """A model whose weights tell the number of its classes."""
    model = small(classes)
    nn.init.constant_(model.head.conv.bias, classes)
    return model


def kill(*_: Any, **__: Any) -> NoReturn:
    """End this process at once, as nothing can catch."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


def _half(path: Path, *_: Any) -> None:
    path.write_bytes(b"half of it")
    kill()


def killed_save(point: str, folder: str) -> None:
    """Save a model of three classes, and die at a point."""
    if point == "in the middle of the weights":
        safetensors_file.write = _half
    elif point == "before the weights are in place":
        os.replace = kill
    elif point == "before the config":
        model_folder.write_text = kill
    else:
        model_folder.replace_card = kill
    marked(3).save_pretrained(folder)


def keep_saving(classes: int, folder: str) -> None:
    """Save the same model ten times."""
    model = marked(classes)
    for _ in range(10):
        model.save_pretrained(folder)


def _read_all(folders: Sequence[str], answer: Connection) -> None:
    for folder in folders:
        with contextlib.suppress(SegzooError):
            segzoo.from_pretrained(folder)
    answer.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak(*folders: Path) -> int:
    """KiB, at most, of a process that reads folders one after the other, honest or not."""
    receiver, sender = context().Pipe(duplex=False)
    process = context().Process(target=_read_all, args=(list(map(str, folders)), sender))
    process.start()
    sender.close()
    found: int = receiver.recv()
    process.join()
    assert process.exitcode == 0
    return found
