"""A server under load: how quick it is beside the bare model, and whether anything piles up.

    python -m benchmarks.serving
    python -m benchmarks.serving --requests 40 --rounds 1 --batches 1  # a short try

A process of its own measures the bare model, serves it, and measures it again, in the same
threads; the faster of both counts, for other work on a machine comes and goes. Sixteen
clients first send good pictures only, for the times; then good ones mixed with bad ones, kills in
the middle of uploads and slow bodies, round after round: every good answer must be right, memory
flat and every seat free afterwards. At last SIGTERM must end it with exit code 0.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import segzoo
from segzoo.data.pictures import read_picture
from segzoo.serving import Limits, create_app
from segzoo.serving.run import bound, listen, run
from segzoo.threads import compute_alone
from tests.serving.clients import TOO_LARGE, Picture, Visit, visit_all

from .common import peak_rise, randomise, write_result

ENCODER, CLASSES, CLIENTS = "resnet18", 11, 16
#: Height and width of the pictures: a few of equal size, so that batches can form.
SIZES = ((240, 320), (240, 320), (320, 240), (201, 333))
#: Seconds that an upload may take.
UPLOAD = 5.0


def build() -> segzoo.SegmentationModel:
    """A model whose masks have more than one class."""
    torch.manual_seed(0)
    model = segzoo.Unet(ENCODER, classes=CLASSES)
    randomise(model)
    return model.eval()


def write_pictures(folder: Path) -> None:
    """Smooth noise, which JPEG and PNG make about as much of as of photographs."""
    chance = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        rough = chance.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}", quality=90)


def serve(folder: Path, threads: int, batch: int) -> None:
    """The server's process: masks and times of the bare model, then requests until SIGTERM."""
    torch.set_num_threads(threads)
    compute_alone()  # as the command line does
    model = build()
    paths = sorted(folder.glob("[0-9].*"))
    pictures = [read_picture(path) for path in paths]
    np.savez(
        folder / "masks.npz",
        **{path.name: model.predict(item) for path, item in zip(paths, pictures, strict=True)},
    )

    def decoded_too() -> None:
        for path in paths:
            mask = model.predict(read_picture(path)).numpy().astype(np.uint8)
            Image.fromarray(mask).save(io.BytesIO(), "PNG")

    def alone() -> dict[str, float]:
        count = len(pictures)
        with ThreadPoolExecutor(1) as thread:  # whose helpers end with it: the server's has all
            bare = thread.submit(per_second, lambda: [model.predict(x) for x in pictures], count)
            decoded = thread.submit(per_second, decoded_too, count)
            return {"bare": bare.result(), "decoded": decoded.result()}

    before = alone()
    large = torch.zeros(model.in_channels, 1000, 1000, dtype=torch.uint8)
    needed = peak_rise(lambda: model.predict(large))
    limits = Limits(
        max_bytes=TOO_LARGE // 2, seats=max(2, batch), batch=batch, upload_timeout=UPLOAD
    )
    app = create_app(model, limits=limits)
    with bound("127.0.0.1", 0) as listener:
        address = listen(listener)
        print(json.dumps({"address": address, "needed": needed}), flush=True)
        run(app, listener, patience=60)
    (folder / "alone.json").write_text(json.dumps([before, alone()]))


def batches(threads: int) -> list[dict[str, Any]]:
    """Milliseconds of the bare model for each picture, by size and number at once."""
    torch.set_num_threads(threads)
    model, rows = build(), []
    for height, width in ((128, 128), (256, 256), (480, 640)):
        row: dict[str, Any] = {"size": [height, width]}
        for count in (1, 4, 8):
            pictures = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
            row[f"of_{count}_ms"] = 1000 / per_second(partial(model.predict, pictures), count)
        rows.append(row)
        print(row, flush=True)
    return rows


def per_second(call: Callable[[], object], pictures: int, seconds: float = 5.0) -> float:
    """Pictures a second."""
    call()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        count += pictures
    return count / (time.perf_counter() - began)


def metric(address: str, name: str) -> float:
    """A line of what the server tells Prometheus."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def settled(address: str) -> dict[str, float]:
    """Memory and seats, once nobody is there any more."""
    until = time.monotonic() + 120
    while metric(address, "segzoo_places_taken") and time.monotonic() < until:
        time.sleep(0.05)
    return {
        "memory_mib": metric(address, "process_resident_memory_bytes") / 2**20,
        "places_taken": metric(address, "segzoo_places_taken"),
        "seats_taken": metric(address, "segzoo_seats_taken"),
    }


def times(visits: Sequence[Visit]) -> dict[str, float]:
    """Milliseconds of answers."""
    seconds = [visit.seconds * 1000 for visit in visits]
    return {f"p{rank}_ms": float(np.percentile(seconds, rank)) for rank in (50, 99)}


def measure(threads: int, batch: int, requests: int, rounds: int) -> dict[str, Any]:
    """One server from its start to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder)
        command = [sys.executable, "-m", "benchmarks.serving", "--serve", name]
        command += ["--threads", str(threads), "--batches", str(batch)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            told = json.loads(child.stdout.readline())
            masks = np.load(folder / "masks.npz")
            pictures = [
                Picture(
                    (folder / item).read_bytes(),
                    f"image/{item[2:].replace('jpg', 'jpeg')}",
                    masks[item],
                )
                for item in masks.files
            ]
            found = load(told["address"], pictures, requests, rounds)
        finally:
            child.terminate()
            code = child.wait(120)
        alone = json.loads((folder / "alone.json").read_text())
    return {
        "batch": batch,
        "threads": threads,
        "mib_a_megapixel": told["needed"],
        "bare_per_second": max(item["bare"] for item in alone),
        "bare_with_files_per_second": max(item["decoded"] for item in alone),
        **found,
        "exit_code_after_sigterm": code,
    }


def load(address: str, pictures: Sequence[Picture], requests: int, rounds: int) -> dict[str, Any]:
    """Times of good requests alone, then rounds of mixed ones."""
    host = address.removeprefix("http://")
    visit_all(host, pictures, requests=CLIENTS, clients=CLIENTS, bad=False)  # warm
    alone = visit_all(host, pictures, requests=20, clients=1, bad=False)
    began = time.perf_counter()
    good = visit_all(host, pictures, requests=requests, clients=CLIENTS, bad=False)
    seconds = time.perf_counter() - began
    assert all(visit.right for visit in (*alone, *good))
    mixed, after = [], []
    for seed in range(rounds + 1):
        mixed += visit_all(host, pictures, requests=requests, clients=CLIENTS, bad=True, seed=seed)
        after.append(settled(address))
        print(f"  round {seed}: {after[-1]}", flush=True)
    names = Counter(visit.name for visit in mixed)
    wrong = [visit for visit in mixed if not visit.right]
    assert not wrong, wrong
    memory = [item["memory_mib"] for item in after]
    return {
        "per_second": len(good) / seconds,
        "one_client": times(alone),
        "good": times(good),
        "mixed": times([visit for visit in mixed if visit.name == "good"]),
        "requests": dict(sorted(names.items())),
        "right": len(mixed) - len(wrong),
        "memory_mib": memory,
        # The first round is what the server needs; what comes after must add next to nothing.
        "memory_growth": max(memory[1:], default=memory[0]) / memory[0] - 1,
        "places_taken_afterwards": max(item["places_taken"] for item in after),
        "seats_taken_afterwards": max(item["seats_taken"] for item in after),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="of mixed requests, after the first")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.threads, arguments.batches[0])
        return
    rows = []
    for batch in arguments.batches:
        rows.append(measure(arguments.threads, batch, arguments.requests, arguments.rounds))
        print(json.dumps(rows[-1], indent=1))
    together = batches(arguments.threads)
    about = {
        "batches": together,
        "encoder": ENCODER,
        "classes": CLASSES,
        "sizes": SIZES,
        "clients": CLIENTS,
    }
    write_result("serving", about, rows=rows)


if __name__ == "__main__":
    main()
