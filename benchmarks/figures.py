"""What sets segzoo apart, in five lines with figures: for README and the site's first page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segzoo.registry import BUILT_IN

from .records import record
from .throughput.report import title as title_of


def figures(docs: str = "") -> str:
    """Five lines of Markdown, made from the records.

    Args:
        docs: Where the pages of the documentation lie, seen from the file that gets the lines.
    """
    lines = [
        (backbones(), "benchmarks.md#coverage-of-timm"),
        (architectures(), "benchmarks.md#the-same-numbers-as-smp"),
        (tiles(), "large-images.md#what-it-costs"),
        (speed(), "performance.md#measured-a-cpu"),
        (strangers(), "strangers.md"),
    ]
    return "".join(f"- {line} ([measured]({docs}{page}))\n" for line, page in lines)


def backbones() -> str:
    """How many of timm's architectures work as encoders, here and in smp."""
    found = record("coverage")
    works, sizes = found["works_at_all_sizes"], len(found["sizes"])
    version = found["environment"]["packages"]["segmentation_models_pytorch"]
    return (
        f"**Any backbone, by its name.** A U-Net on {works['segzoo']} of timm's "
        f"{found['architectures']} architectures, each at {sizes} image sizes, without options. "
        f"segmentation_models_pytorch {version} (smp): {works['smp']}. "
        "Counted by shapes, without pixels."
    )


def architectures() -> str:
    """How many architectures there are, and how often smp's have its logits to the bit."""
    found = record("architecture_parity")
    pairs = [row for row in found["rows"] if "smp" not in row]  # else smp cannot build it itself
    refused = sum("refused" in row for row in pairs)
    sizes = ["x".join(map(str, size)) for size in found["sizes"]]
    equal = sum(
        all(size in row and row[size]["difference"] == 0 for size in sizes) for row in pairs
    )
    theirs = len({row["architecture"] for row in pairs})
    return (
        f"**{len(BUILT_IN)} architectures, smp's to the bit.** {theirs} are smp's too. "
        f"Of {len(pairs)} pairs of architecture and encoder {equal} have its logits bit for bit "
        "with its weights; "
        f"{refused} {'is' if refused == 1 else 'are'} refused with the reason."
    )


def tiles() -> str:
    """How many pixels of a large picture get another class by being cut into tiles."""
    found = record("tiling")
    pixels = found["size"][0] * found["size"][1]
    exact = next(row for row in found["rows"] if row["method"].startswith("exact"))
    windows = [row for row in found["rows"] if row["method"].startswith("MONAI")]
    best = min(windows, key=lambda row: row["flipped"])
    library = best["method"].partition(",")[0]
    return (
        "**Large pictures without seams.** Cut into exact tiles, "
        f"{exact['flipped'] * pixels:.0f} of {pixels / 1e6:.1f} million pixels "
        f"get another class than in one piece; by the best of {library}'s sliding "
        f"windows {best['flipped']:.1%} do."
    )


def speed() -> str:
    """The fastest way to compute, here and in the other library, from one run."""
    measured = record("throughput_cpu")["results"][0]
    ours, theirs = (fastest(measured, library) for library in ("segzoo", measured["library"]))
    return (
        f"**Fast.** {ours[1]} images a second on a CPU ({ours[0]}); {measured['library']} at its "
        f"fastest ({theirs[0]}) {theirs[1]}, in the same run: {title_of(measured)}."
    )


def strangers() -> str:
    """What kills and hostile files did."""
    actions = record("kills")["actions"].values()
    kills, whole = (sum(row[key] for row in actions) for key in ("kills", "whole"))
    kinds = record("attacks")["kinds"].values()
    cases, failed = (sum(row[key] for row in kinds) for key in ("cases", "failed"))
    return (
        f"**Nothing half done, nothing run.** {whole} of {kills} kills amid a save, push, pull, "
        f"prediction, conversion or training left everything whole; {cases - failed} of {cases} "
        "hostile files were refused or did no harm."
    )


def fastest(measured: Mapping[str, Any], library: str) -> tuple[str, float]:
    """A library's fastest implementation, and its images per second."""
    speeds = {
        name.removeprefix(f"{library} "): row["images_per_second"]
        for name, row in measured["ways"].items()
        if name.startswith(f"{library} ") and "ms" in row
    }
    if not speeds:
        return "", 0.0
    best = max(speeds, key=lambda name: speeds[name])
    return best, speeds[best]
