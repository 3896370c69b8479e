"""Kill what writes at arbitrary moments; afterwards one whole thing is there, the old or the new.

    python -m benchmarks.kills --kills 50

Six actions, each killed that often: ``save``, ``push`` and ``pull`` (with a Hub on loopback, of
weights with and without a config in their header), ``predict``, ``convert``, ``train``. Each runs
in a process forked for it; SIGKILL comes at a random time between its beginning and its usual end.
What came too late, after the end, is not counted. A run that is stopped goes on where it was, as
long as the commit is the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import hub_server

from .common import COMMIT, write_result
from .records import exists, record

#: Kills come up to this much later than an action usually ends.
_LONGER = 1.1
#: Seconds that anything may take.
_LONGEST = 120
#: A training is killed so often before it may end.
_KILLS_EACH = 5
ACTIONS = ("save", "push", "pull", "predict", "convert", "train")

#: Begins an action anew, and looks at what one that was killed left: what is wrong, or None.
Trial = tuple[Callable[[], tuple[Callable[..., None], tuple[Any, ...]]], Callable[[], str | None]]


def kill_once(
    made: Any, action: Callable[..., None], arguments: tuple[Any, ...], wait: float | None
) -> tuple[bool, float]:
    """Run an action, and kill it after some seconds.

    Args:
        made: Where processes are forked from.
        action: Given an event, to be set where the work begins.
        arguments: What else it is given.
        wait: Seconds from the beginning of the work to the kill; None for no kill.

    Returns:
        Whether it was killed in its work, and the seconds of the work.
    """
    begun = made.Event()
    process = made.Process(target=action, args=(begun, *arguments))
    process.start()
    if not begun.wait(_LONGEST):
        process.kill()
        raise RuntimeError(f"{action.__name__} does not begin.")
    started = time.perf_counter()
    process.join(_LONGEST if wait is None else wait)
    seconds = time.perf_counter() - started
    killed = process.exitcode is None
    process.kill()
    process.join()
    if not killed and process.exitcode != 0:
        raise RuntimeError(f"{action.__name__} failed with {process.exitcode}, without a kill.")
    return killed, seconds


def trials(root: Path, hub: hub_server.HubServer) -> Iterator[tuple[str, Trial]]:
    """Each action with how it is begun, and how its end is looked at."""
    from . import kill_actions as act

    folder = root / "saved"
    act.marked(2).save_pretrained(folder)
    turn = iter(range(10**9))
    yield (
        "save",
        (lambda: (act.save, (folder, 2 + next(turn) % 2)), lambda: _model(act, folder)),
    )
    act.marked(2).push_to_hub("user/pushed")
    yield (
        "push",
        (
            lambda: (act.push, ("user/pushed", 2 + next(turn) % 2)),
            lambda: _remote(act, "user/pushed", root),
        ),
    )
    pulled = root / "pulled"
    for classes in (2, 3):
        act.marked(classes).push_to_hub(f"user/with{classes}")
        files = hub.files(f"user/with{classes}")
        hub.add(
            f"user/without{classes}",
            {**files, "model.safetensors": _bare(files["model.safetensors"])},
        )
    names = [f"user/{kind}{classes}" for kind in ("with", "without") for classes in (2, 3)]
    yield (
        "pull",
        (lambda: (act.pull, (names[next(turn) % 4], pulled)), lambda: _model(act, pulled)),
    )
    pictures, masks = root / "pictures", root / "masks"
    act.make_pictures(pictures)
    yield (
        "predict",
        (lambda: (act.predict, (pictures, folder, masks)), lambda: _masks(act, pictures, masks)),
    )
    checkpoint, converted = root / "checkpoint", root / "converted"
    act.make_checkpoint(checkpoint)

    yield (
        "convert",
        (
            lambda: (act.convert, (checkpoint, converted)),
            lambda: _converted(act, checkpoint, converted),
        ),
    )


def _bare(weights: bytes) -> bytes:
    """A weights file as others write it: nothing in its header but the tensors."""
    import json

    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    header.pop("__metadata__")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights[8 + length :]


def _model(act: Any, folder: Path) -> str | None:
    """Whether a folder has one whole model, and after the next save nothing else."""
    try:
        act.whole(folder)
        act.marked(2).save_pretrained(folder)
        left = act.leftovers(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{left} temporary files stay" if left else None


def _remote(act: Any, repo_id: str, root: Path) -> str | None:
    try:
        act.whole(repo_id, cache_dir=root / "cache")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(root / "cache", ignore_errors=True)
    return None


def _masks(act: Any, pictures: Path, out: Path) -> str | None:
    """Whether each mask that is there can be read, and the same command does what is missing."""
    from segzoo.data.pictures import read_mask

    try:
        for path in out.glob("*.png"):
            if "_overlay" not in path.name:
                read_mask(path)
        with act.quiet():
            code = act.main(
                ["predict", str(pictures), "-m", str(pictures.parent / "saved"), "-o", str(out),
                 "--skip-existing"]
            )  # fmt: skip
        count = len(list(out.glob("[0-9].png")))
        left = act.leftovers(out)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return None if (code, count, left) == (0, act.PICTURES, 0) else f"{code}, {count}, {left}"


def _converted(act: Any, checkpoint: Path, folder: Path) -> str | None:
    """Whether there is a whole model or none, and in that case the same command makes one."""
    import segzoo

    try:
        found = folder.exists() and any(folder.glob("[!.]*"))
        if not found:
            with act.quiet():
                act.main(["convert", "smp", str(checkpoint), str(folder)])
        classes, left = segzoo.from_pretrained(folder).classes, act.leftovers(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if classes != 3:
        return f"a model of {classes} classes"
    return f"{left} temporary files stay" if left and not found else None


def train(root: Path, kills: int, chance: random.Random) -> tuple[int, str | None]:
    """Kill a training often, and compare its end with that of one that was left alone."""
    from tests.training import killing

    alone, out = root / "alone", root / "killed"
    if not alone.exists():
        killing.finish(killing.start(alone, 0, 1))
    shutil.rmtree(out, ignore_errors=True)
    done = killing.killed_often(out, 0, 1, kills, chance, 1.0)
    return done, None if killing.same(alone, out) else "it ended with other bits"


class Counts:
    """What was counted so far, kept in the record."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        if exists("kills") and record("kills")["environment"]["commit"] == COMMIT:
            self.rows = record("kills")["actions"]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.rows.setdefault(name, {"kills": 0, "whole": 0, "wrong": []})

    def add(self, name: str, kills: int, wrong: str | None) -> None:
        """Add kills after which all was whole, or not."""
        row = self[name]
        row["kills"] += kills
        row["whole"] += 0 if wrong else kills
        if wrong:
            row["wrong"].append(wrong[:300])
            print(name, wrong, flush=True)

    def write(self) -> None:
        """Write the record."""
        write_result("kills", {"actions": {name: self[name] for name in ACTIONS}})


def main() -> None:
    """Kill, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="of each action")
    wanted = parser.parse_args().kills
    hub = hub_server.start()
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ.update(hub.environment, HF_HOME=str(root / "hub"), OMP_NUM_THREADS="1")
        from . import kill_actions as act

        made = act.context()
        for name, (begin, look) in trials(root, hub):
            usual = []
            for _ in range(3):
                usual.append(kill_once(made, *begin(), None)[1])
                look()
            longest = _LONGER * statistics.median(usual)  # the first may have to read from disks
            while counts[name]["kills"] < wanted:
                chance = random.Random(f"{name} {counts[name]['kills']}")
                killed, _ = kill_once(made, *begin(), chance.uniform(0, longest))
                wrong = look()
                if killed or wrong:
                    counts.add(name, 1, wrong)
                if counts[name]["kills"] % 10 == 0:
                    counts.write()
            counts.write()
        while counts["train"]["kills"] < wanted:
            kills = min(_KILLS_EACH, wanted - counts["train"]["kills"])
            counts.add("train", *train(root, kills, random.Random(counts["train"]["kills"])))
            counts.write()


if __name__ == "__main__":
    main()
