"""Which encoders of segmentation_models_pytorch come over, and whether the logits are the same.

    python -m benchmarks.parity.smp_encoders

Every encoder of smp's own, and the smallest architecture of every timm module on which smp can
build a Unet. Weights and statistics are random; logits are compared in float32, bit for bit, and
where bits differ in float64 too. Noted is whose maps lie in memory channels last, because there the
order of sums could be another one.
"""

from __future__ import annotations

import argparse
import re
import warnings
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch

import segzoo
from benchmarks.common import randomise, write_result
from benchmarks.records import record
from segzoo.convert import from_smp
from segzoo.errors import ConversionError, SegzooError

CHANNELS = (32, 16, 16, 8, 8)
#: Larger encoders (resnext101_32x32d: 466 M) only repeat what their smaller relatives show.
MOST_PARAMETERS = 250e6


def smallest_of_each_module() -> list[str]:
    """One architecture of each timm module, by number of parameters on the meta device."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if module in smallest and smallest[module][0] < 3e6:
            continue
        try:
            with torch.device("meta"):
                count = sum(p.numel() for p in timm.create_model(name).parameters())
        except Exception:
            continue
        smallest[module] = min(smallest.get(module, (1 << 62, "")), (count, name))
    return sorted(f"tu-{name}" for _, name in smallest.values())


def compare(name: str) -> dict[str, Any]:
    """Build smp's model, convert it, compare; or say who refused and why."""
    if is_large(name):
        return {"skipped": "too large"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = smp.Unet(name, encoder_weights=None, decoder_channels=CHANNELS).eval()
        size = next(size for size in ((64, 64), (224, 224), (256, 256)) if runs(theirs, size))
    except Exception as error:
        return {"smp": f"{type(error).__name__}: {first_line(error)}"}
    randomise(theirs)
    try:
        ours = from_smp(theirs, {"encoder_name": name}).eval()
    except ConversionError as error:
        return {"refused": first_line(error)}
    except SegzooError as error:
        return {"failed": first_line(error)}
    # One for a single size resizes others here, where smp may take them as they are.
    size = ours.encoder.size_rule.fixed or size
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        a, b = theirs(image), ours(image)
        maps = [item for item in ours.encoder(image) if not item.is_contiguous()]
        found: dict[str, Any] = {
            "encoder": ours.config.encoder,
            "size": f"{size[0]}x{size[1]}",
            "bit_identical": torch.equal(a, b),
            "channels_last": bool(maps),
        }
        if not found["bit_identical"]:
            found["relative_difference_float32"] = relative(a, b)
            found["relative_difference_float64"] = relative(
                theirs.double()(image.double()), ours.double()(image.double())
            )
    return found


def is_large(name: str) -> bool:
    """Whether the encoder has more than MOST_PARAMETERS, if that can be told on the meta device."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            encoder = smp.Unet(name, encoder_weights=None).encoder
    except Exception:
        return False
    return sum(p.numel() for p in encoder.parameters()) > MOST_PARAMETERS


def runs(model: torch.nn.Module, size: tuple[int, int]) -> bool:
    """Whether smp's model takes images of that size."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    except Exception:
        return False
    return True


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((a - b).abs().max() / a.abs().max())


def first_line(error: Exception) -> str:
    """The message without addresses and continuation lines."""
    return re.sub(r"\s+", " ", str(error).splitlines()[0] if str(error) else "")[:200]


def main() -> None:
    """Compare all, or those that were named: of the others the record keeps what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="smp's names of encoders; all where none is given")
    names = parser.parse_args().names
    torch.manual_seed(0)
    rows: dict[str, dict[str, Any]] = dict(record("smp_conversion")["encoders"]) if names else {}
    for name in names or [*sorted(smp.encoders.encoders), *smallest_of_each_module()]:
        rows[name] = compare(name)
        print(name, rows[name], flush=True)
    counts = {
        "compared": sum("bit_identical" in row for row in rows.values()),
        "bit_identical": sum(row.get("bit_identical", False) for row in rows.values()),
        "refused": sum("refused" in row for row in rows.values()),
        "failed": sum("failed" in row for row in rows.values()),
    }
    print(counts)
    write_result(
        "smp_conversion", {"segzoo": segzoo.__version__, "counts": counts, "encoders": rows}
    )


if __name__ == "__main__":
    main()
