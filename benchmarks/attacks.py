"""Files of strangers: each is held or refused, in little more memory than an honest one takes.

    python -m benchmarks.attacks

A case is *refused* where one of segzoo's errors says why, *held* where it did no harm (a card that
is kept, a picture that is read), and *failed* where anything else came of it: another library's
error, a process that died, more than a minute, or more than 1.2 times the memory of the honest case
of its kind. Each runs in a process forked from one that has imported everything; peak memory is
that of the whole process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import hub_server
from tests.fuzzing import CORPUS

from .common import write_result

#: Seconds, and times the memory of the honest case.
SECONDS, MEMORY = 60, 1.2
HELD, REFUSED, FAILED = "held", "refused", "failed"


def _load(target: str) -> None:
    import segzoo

    segzoo.from_pretrained(target)


def _save(target: str) -> None:
    import segzoo

    segzoo.from_pretrained(target).save_pretrained(target, card=segzoo.ModelCard(license="mit"))


def _pull(target: str) -> None:
    from segzoo.storage import transfer

    with tempfile.TemporaryDirectory() as folder:
        transfer.pull(target, Path(folder, "model"), cache_dir=Path(folder, "cache"))


def _picture(target: str) -> None:
    from segzoo.data.pictures import read_picture

    read_picture(target)


def _mask(target: str) -> None:
    from segzoo.data.mask_coding import MaskCoding
    from segzoo.data.mask_file import read_classes

    read_classes(Path(target), MaskCoding(3))


def _convert(target: str) -> None:
    from segzoo.convert import from_smp

    from_smp(target)


ACTIONS: dict[str, Callable[[str], None]] = {
    "load": _load,
    "save": _save,
    "pull": _pull,
    "picture": _picture,
    "mask": _mask,
    "convert": _convert,
}


def serve() -> None:
    """Run cases, a line of JSON each, in forked processes; answer with a line for each."""
    from PIL import Image

    import segzoo

    for name in ("tifffile", "segzoo.convert.smp", "segzoo.storage.transfer"):
        importlib.import_module(name)  # once, for all
    segzoo.encoder_info("test_resnet")
    segzoo.encoder_info("resnet18")
    Image.init()
    print("ready", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(_watched(ACTIONS[case["action"]], case["target"])), flush=True)


def _watched(action: Callable[[str], None], target: str) -> dict[str, Any]:
    """What came of an action in a process of its own."""
    reader, writer = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(reader)
        os.write(writer, json.dumps(_outcome(action, target)).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    late = False
    while True:
        found, _, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.perf_counter() - started > SECONDS and not late:
            late = True
            os.kill(child, 9)
        time.sleep(0.005)
    seconds = round(time.perf_counter() - started, 2)
    with os.fdopen(reader) as file:
        text = file.read()
    outcome = [FAILED, f"over {SECONDS} s" if late else "the process died"]
    if text:
        outcome = json.loads(text)
    return {
        "outcome": outcome[0],
        "why": outcome[1],
        "seconds": seconds,
        "peak_kib": usage.ru_maxrss,
    }


def _outcome(action: Callable[[str], None], target: str) -> tuple[str, str]:
    from segzoo.errors import SegzooError

    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    resource.setrlimit(resource.RLIMIT_DATA, (16 * 2**30,) * 2)
    try:
        action(target)
    except SegzooError as error:
        return REFUSED, f"{type(error).__name__}: {error}"[:300]
    except BaseException as error:
        return FAILED, f"{type(error).__name__}: {error}"[:300]
    return HELD, ""


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their memory against that of the honest case of their kind."""
    honest = {row["kind"]: row for row in rows if row["name"] == "honest"}
    for row in rows:
        ratio = row["peak_kib"] / honest[row["kind"]]["peak_kib"]
        row["memory"] = round(ratio, 3)
        if row["name"] == "honest" and row["outcome"] != HELD:
            raise SystemExit(f"The honest {row['kind']} is {row['outcome']}: {row['why']}")
        if ratio > MEMORY and row["outcome"] != FAILED:
            row["outcome"], row["why"] = FAILED, f"{ratio:.2f} times the memory ({row['outcome']})"
    return rows


def by_kind(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of each kind, without its honest case."""
    summary: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind and row["name"] != "honest"]
        counts = Counter(row["outcome"] for row in own)
        summary[kind] = {
            "cases": len(own),
            **{name: counts[name] for name in (REFUSED, HELD, FAILED)},
            "most_memory": max(row["memory"] for row in own),
            "longest_s": max(row["seconds"] for row in own),
        }
    return summary


def main() -> None:
    """Run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kind", help="only the cases of this kind; nothing is written")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    hub = hub_server.start()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ.update(hub.environment, HF_HOME=str(root / "hub"), OMP_NUM_THREADS="1")
        command = [sys.executable, "-m", "benchmarks.attacks", "--serve"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdout.readline()
            from .attack_cases import cases

            rows = []
            for case in cases(root, hub):
                if arguments.kind not in (None, case.kind):
                    continue
                server.stdin.write(
                    json.dumps({"action": case.action, "target": case.target}) + "\n"
                )
                server.stdin.flush()
                found = json.loads(server.stdout.readline())
                rows.append({"kind": case.kind, "name": case.name, **found})
                print(rows[-1], flush=True)
            server.stdin.close()
    rows = judged(rows)
    summary = by_kind(rows)
    print(json.dumps(summary, indent=1))
    for row in rows:
        if row["outcome"] == FAILED:
            print(row)
        for place in (folder, str(CORPUS.parents[2])):  # of this machine, no part of the record
            row["why"] = row["why"].replace(place, "")
        row["why"] = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "", row["why"])
    if arguments.kind is None:
        write_result("attacks", {"limit_of_memory": MEMORY, "kinds": summary}, rows=rows)


if __name__ == "__main__":
    main()
