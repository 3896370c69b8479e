"""What a model must compute and move at least: a model of the work, nothing that was timed.

    python -m benchmarks.throughput.roofline [--gb-s 4300 --tflop-s 790]

The real model runs on the meta device under a recorder of its operations. Four accounts of the same
images are drawn from that:

- ``eager``: every operation reads its inputs and writes its outputs.
- ``compiled``: elementwise operations between convolutions are one kernel each, which reads what is
  in memory and writes what the next convolution reads; upsampling and concatenation are one, too.
- ``rewritten``: elementwise operations are done by the convolution before them; a decoder block
  convolves the small map and the skip, without upsampling and concatenation
  (see :mod:`segzoo.nn.upsample_conv`).
- ``block_fused``: as before, and each decoder block is one kernel that reads its inputs and writes
  its output; the last one includes the head.

The floor of a part is the longer of moving its bytes and computing its FLOPs at the given ceilings.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import segzoo
import segzoo.bench
from segzoo._compat import operations_go_to
from segzoo.architectures.unet import UnetBlock
from segzoo.encoders import build_on_meta
from segzoo.encoders.positions import tensors_in
from segzoo.nn.upsample_conv import doubled_kernel

from ..common import write_result

ACCOUNTS = ("eager", "compiled", "rewritten", "block_fused")
#: Operations that are kernels of their own whatever is fused, besides those that have FLOPs.
_ANCHORS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")


@dataclass
class Part:
    """Values that are moved, and FLOPs, of one part of the model."""

    values: int = 0
    flops: int = 0


@dataclass
class _Map:
    """A tensor as the recorder sees it: in memory, or to be computed from maps that are."""

    size: int
    part: str
    sources: tuple[_Map, ...] = ()
    fresh: bool = False  # a convolution's output, to which its epilogue can still be added


@dataclass
class Recorder:
    """Counts, by part, what the operations of a run move and compute.

    A run under :meth:`watching` is counted.

    Args:
        fuse: ``nothing``, ``elementwise`` operations with each other, or as ``epilogues`` of the
            operation before them.
    """

    fuse: str = "nothing"
    parts: dict[str, Part] = field(default_factory=dict)
    part: str = "other"

    def __post_init__(self) -> None:
        self._maps: dict[int, tuple[Tensor, _Map]] = {}

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(out)
        account = self.parts.setdefault(self.part, Part())
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            account.flops += count(*args, **kwargs, out_val=out)
        if not inputs or not outputs:
            return out
        if func.is_view:  # the same memory
            for output in outputs:
                self._remember(output, self._map(inputs[0]))
        elif self.fuse == "nothing":
            account.values += sum(t.numel() for t in (*inputs, outputs[0]))
        elif count is not None or func.overloadpacket.__name__ in _ANCHORS:
            read = sum(self._read(tensor) for tensor in inputs)
            account.values += read + outputs[0].numel()
            fresh = count is not None
            self._remember(outputs[0], _Map(outputs[0].numel(), self.part, fresh=fresh))
        else:
            maps = [self._map(tensor) for tensor in inputs]
            sources = {id(s): s for m in maps for s in (m.sources or (m,))}
            self._remember(outputs[0], _Map(outputs[0].numel(), self.part, tuple(sources.values())))
        return out

    def _remember(self, tensor: Tensor, entry: _Map) -> None:
        self._maps[id(tensor)] = (tensor, entry)  # the tensor lives, so that its id stays its own

    def _map(self, tensor: Tensor) -> _Map:
        if id(tensor) not in self._maps:
            self._remember(tensor, _Map(tensor.numel(), self.part))
        return self._maps[id(tensor)][1]

    def _read(self, tensor: Tensor) -> int:
        """Values to read; what was not in memory yet is put there by the part that made it."""
        entry = self._map(tensor)
        if entry.sources:
            fresh = [source for source in entry.sources if source.fresh]
            moved = sum(source.size for source in entry.sources) + entry.size
            if self.fuse == "epilogues" and fresh:
                moved -= 2 * fresh[-1].size  # its kernel holds it, and writes the result instead
            self.parts[entry.part].values += moved
            entry.sources = ()
        entry.fresh = False
        return entry.size

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module] = MappingProxyType({})) -> Iterator[None]:
        """Count what runs meanwhile, under a module's name while it runs.

        Raises:
            RuntimeError: This torch shows nobody its operations.
        """
        handles = []
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(functools.partial(self._enter, name)))
            handles.append(module.register_forward_hook(functools.partial(self._enter, "other")))
        try:
            with operations_go_to(self._count):
                yield
        finally:
            for handle in handles:
                handle.remove()
        if not self.parts:
            raise RuntimeError(
                f"no operation was seen; torch {torch.__version__} has no mode that shows them, "
                "so nothing can be counted with it"
            )

    def _enter(self, name: str, *_: object) -> None:
        self.part = name


def parts_of(model: segzoo.SegmentationModel) -> dict[str, nn.Module]:
    """The encoder's children, the decoder's blocks, and the head, by name."""
    named = dict(model.encoder.backbone.named_children())
    blocks = getattr(model.decoder, "blocks", None)
    if isinstance(blocks, nn.ModuleList):
        named |= {f"decoder.blocks.{i}": block for i, block in enumerate(blocks)}
    return {**named, "head": model.head}


@dataclass(frozen=True)
class BlockShape:
    """Values that enter and leave a decoder block, and whether it can be rewritten exactly."""

    x: torch.Size
    skip: torch.Size | None
    out: torch.Size
    doubles: bool


def block_shapes(model: segzoo.Unet, image: Tensor) -> list[BlockShape]:
    """Of each block of the decoder, from a run."""
    shapes: list[BlockShape] = []

    def look(block: Any, args: tuple[Tensor, Tensor | None, tuple[int, int]], out: Tensor) -> None:
        x, skip, size = args
        doubles = (
            block.interpolation == "nearest"
            and tuple(size) == (2 * x.shape[-2], 2 * x.shape[-1])
            and isinstance(block.attention1, nn.Identity)
        )
        shapes.append(BlockShape(x.shape, None if skip is None else skip.shape, out.shape, doubles))

    handles = [block.register_forward_hook(look) for block in model.decoder.blocks]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return shapes


def rewritten(model: segzoo.Unet, shapes: list[BlockShape]) -> segzoo.Unet:
    """A copy whose blocks convolve the small map and the skip, where that is exact."""
    other = copy.deepcopy(model)
    for block, shape in zip(other.decoder.blocks, shapes, strict=True):
        if shape.doubles:
            weight = block.conv1.conv.weight
            small, rest = weight[:, : shape.x[1]], weight[:, shape.x[1] :]
            kernels = (doubled_kernel(small).detach(), rest.detach().clone())
            block.forward = functools.partial(_rewritten_forward, block, kernels)
    return other


def _rewritten_forward(
    block: UnetBlock,
    kernels: tuple[Tensor, Tensor],
    x: Tensor,
    skip: Tensor | None,
    size: tuple[int, int],
) -> Tensor:
    doubled, rest = kernels
    out = F.conv_transpose2d(x, doubled, stride=2, padding=1)
    if skip is not None:
        out = out + F.conv2d(skip, rest, padding=1)
    result: Tensor = block.attention2(block.conv2(block.conv1.act(block.conv1.norm(out))))
    return result


def block_fused(model: segzoo.Unet, shapes: list[BlockShape], parts: dict[str, Part]) -> None:
    """Turn the account of the rewritten model into that of whole blocks."""
    for i, (block, shape) in enumerate(zip(model.decoder.blocks, shapes, strict=True)):
        entering = shape.x.numel() + (0 if shape.skip is None else shape.skip.numel())
        weights = sum(parameter.numel() for parameter in block.parameters())
        last = i == len(shapes) - 1
        parts[f"decoder.blocks.{i}"].values = (
            entering + weights + (0 if last else shape.out.numel())
        )
        if last:
            logits = shape.out.numel() // shape.out[1] * model.classes
            parts["head"].values = logits + sum(p.numel() for p in model.head.parameters())


def accounts(model: segzoo.SegmentationModel, image: Tensor) -> dict[str, dict[str, Part]]:
    """The four accounts, in :data:`ACCOUNTS`'s order; rewriting changes a Unet's decoder only."""
    found = {"eager": _recorded(model, image, "nothing")}
    found["compiled"] = _recorded(model, image, "elementwise")
    shapes = block_shapes(model, image) if isinstance(model, segzoo.Unet) else []
    other = rewritten(model, shapes) if isinstance(model, segzoo.Unet) else model
    found["rewritten"] = _recorded(other, image, "epilogues")
    found["block_fused"] = {name: replace(part) for name, part in found["rewritten"].items()}
    if isinstance(model, segzoo.Unet):
        block_fused(model, shapes, found["block_fused"])
    return found


def _recorded(model: segzoo.SegmentationModel, image: Tensor, fuse: str) -> dict[str, Part]:
    recorder = Recorder(fuse)
    with torch.no_grad(), recorder.watching(parts_of(model)):
        model(image)
    return recorder.parts


def on_meta(model: segzoo.SegmentationModel) -> segzoo.SegmentationModel:
    """A copy without values."""
    return copy.deepcopy(model).to("meta").eval()


def work(
    model: segzoo.SegmentationModel, batch: int, size: tuple[int, int], task: str, itemsize: int
) -> dict[str, float]:
    """What an image of a batch takes: GFLOPs of the plain model; in inference the least MB."""
    image = torch.empty(batch, 3, *size, device="meta")
    model = on_meta(model)
    if task == "training":
        with FlopCounterMode(display=False) as counter:
            model.train()(image).sum().backward()
        return {"gflops": round(counter.get_total_flops() / batch / 1e9, 3)}
    found = accounts(model, image)
    return {
        "gflops": round(sum(p.flops for p in found["eager"].values()) / batch / 1e9, 3),
        "least_mb": round(
            sum(p.values for p in found["block_fused"].values()) * itemsize / batch / 1e6, 3
        ),
    }


def rows(
    found: Mapping[str, Mapping[str, Part]], batch: int, itemsize: int, given: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Of each part and account: MB and GFLOPs for an image, and its floor in microseconds."""
    table = []
    for name in merged(found["eager"]):
        row: dict[str, Any] = {"part": name}
        for account in ACCOUNTS:
            part = merged(found[account])[name]
            megabytes = part.values * itemsize / batch / 1e6
            gflops = part.flops / batch / 1e9
            row[account] = {
                "mb": round(megabytes, 2),
                "gflops": round(gflops, 3),
                "floor_us": round(
                    max(megabytes / given["gb_s"], gflops / given["tflop_s"]) * 1e3, 2
                ),
            }
        table.append(row)
    return table


def merged(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Parts without FLOPs (normalisation, activation, pooling) belong to the one before."""
    result: dict[str, Part] = {}
    for name, part in parts.items():
        if result and not part.flops:
            last = next(reversed(result))
            result[last] = Part(result[last].values + part.values, result[last].flops)
        else:
            result[name] = replace(part)
    return result


def measure(
    encoder: str, side: int, batch: int, itemsize: int, given: Mapping[str, float]
) -> dict[str, Any]:
    """The record for a Unet on an encoder."""
    model = build_on_meta(lambda: segzoo.Unet(encoder, segzoo.bench.CLASSES)).eval()
    table = rows(
        accounts(model, torch.empty(batch, 3, side, side, device="meta")), batch, itemsize, given
    )
    total = {
        account: {
            key: round(sum(row[account][key] for row in table), 2)
            for key in ("mb", "gflops", "floor_us")
        }
        for account in ACCOUNTS
    }
    return {
        "modelled": "bytes and FLOPs are counted on the meta device; nothing here was timed",
        "encoder": encoder,
        "size": [side, side],
        "batch": batch,
        "bytes_per_value": itemsize,
        "given_ceilings": dict(given),
        "parts": table,
        "total": total,
    }


def main() -> None:
    """Count and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="weights are read once a batch")
    parser.add_argument("--bytes", type=int, default=2, help="of a value: 2 for bfloat16")
    parser.add_argument("--gb-s", type=float, default=4300, help="the card's copy")
    parser.add_argument("--tflop-s", type=float, default=790, help="the card's matrix product")
    given = parser.parse_args()
    limits = {"gb_s": given.gb_s, "tflop_s": given.tflop_s}
    record = measure(given.encoder, given.size, given.batch, given.bytes, limits)
    print(json.dumps(record["total"], indent=1))
    write_result("roofline", record)


if __name__ == "__main__":
    main()
