"""Kill predictions at arbitrary moments; they must end with the files of one that was left alone.

    python -m benchmarks.kill_predictions [--kills 50]

Folders in one process, and with two workers: everything is killed, and the same line goes on with
its manifest, or with what is missing. Single workers are killed while the run goes on; where some
in turn were killed before they could begin it gives up and says so, and is begun again. And one
picture in tiles, in two parts, goes on from the bands that are there.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import segzoo
from tests.folders import killing
from tests.folders.pictures import save_pictures

from .common import write_result

#: A run is killed so often before it may end; then the next one begins.
_KILLS_EACH = 5
#: Seconds within which a kill comes.
_LONGEST = 1.5
PICTURES, SIDE = 40, 96


@dataclass(frozen=True)
class Way:
    """One kind of run.

    Args:
        options: Of the command; ``{manifest}`` is a file of each run's own.
        kill: What is killed, of a run that goes on.
        parts: Calls that make up the whole.
    """

    options: Sequence[str]
    kill: Callable[[Any, random.Random], bool]
    parts: Sequence[Sequence[str]] = ((),)


def everything(process: Any, chance: random.Random) -> bool:
    """The run with its workers; it has to be begun again."""
    killing.kill(process)
    return True


def one_worker(process: Any, chance: random.Random) -> bool:
    """A worker, if there is one; the run goes on."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        workers = [int(pid) for pid in children.read_text().split()]
        os.kill(chance.choice(workers), signal.SIGKILL)
    except (OSError, IndexError):
        return False
    return True


WAYS = {
    "one process, manifest": Way(("--recursive", "--manifest", "{manifest}"), everything),
    "two workers, manifest": Way(
        ("--recursive", "--workers", "2", "--manifest", "{manifest}"), everything
    ),
    "two workers, skip existing": Way(
        ("--recursive", "--workers", "2", "--skip-existing"), everything
    ),
    "single workers": Way(("--recursive", "--workers", "2", "--skip-existing"), one_worker),
    "tiles in two parts": Way(
        ("--tiling", "blend", "--tile", "64", "--skip-existing"),
        everything,
        (("--rows", "1/2"), ("--rows", "2/2")),
    ),
}


def finished(folder: Path) -> dict[str, bytes]:
    """The files of a run: a killed one may leave temporary ones, and parts."""
    return {
        name: data
        for name, data in killing.contents(folder).items()
        if not name.endswith(".tmp") and ".parts/" not in name
    }


def killed_often(
    begin: Callable[[], Any], way: Way, kills: int, chance: random.Random
) -> tuple[int, int, bool]:
    """Run to the end, killed a number of times on the way: kills, exit code, whether it gave up."""
    done = 0
    process = begin()
    while done < kills:
        process.join(chance.uniform(0, _LONGEST))
        if process.exitcode is not None:
            break
        done += way.kill(process, chance)
        if process.exitcode is not None:
            process = begin()
    code = killing.finish(process)
    gave_up = way.kill is one_worker and code != 0
    return done, killing.finish(begin()) if gave_up else code, gave_up


def measure(name: str, model: Path, folder: Path, kills: int) -> dict[str, Any]:
    """Kill until there were that many kills, and compare each end."""
    way, chance = WAYS[name], random.Random(0)
    started = time.perf_counter()
    source = folder / ("scene.png" if way.parts != ((),) else "scans")
    whole = folder / f"whole {name}"
    call = (source, "-m", model)
    shared = way.options[:4] if source.is_file() else way.options[:1]
    killing.finish(killing.start(*call, "-o", whole, *shared, output=folder / "output.txt"))
    done = ends = equal = failed = gave_up = 0
    while done < kills:
        out, manifest = folder / f"killed {name} {ends}", folder / f"{name} {ends}.jsonl"
        for part in way.parts:
            options = [option.format(manifest=manifest) for option in (*way.options, *part)]

            def begin(out: Path = out, options: Sequence[str] = options) -> Any:
                return killing.start(*call, "-o", out, *options, output=folder / "output.txt")

            count, code, ended = killed_often(begin, way, min(_KILLS_EACH, kills - done), chance)
            done += count
            failed += code != 0
            gave_up += ended
        ends += 1
        equal += finished(out) == finished(whole)
    return {
        "kills": done,
        "runs": ends,
        "same_files": equal,
        "failed": failed,
        "gave_up": gave_up,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    record = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        torch.manual_seed(0)
        model = segzoo.Unet("test_resnet", classes=3).save_pretrained(folder / "model")
        for part in ("", "a"):
            save_pictures(folder / "scans" / part, PICTURES // 2, side=SIDE)
        values = torch.randint(0, 256, (700, 300, 3), dtype=torch.uint8).numpy()
        Image.fromarray(values).save(folder / "scene.png")
        for name in WAYS:
            record[name] = measure(name, model, folder, arguments.kills)
            print(name, record[name], flush=True)
    write_result("kill_predictions", {"pictures": PICTURES, "ways": record})


if __name__ == "__main__":
    main()
