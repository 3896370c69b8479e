"""What ``benchmarks.throughput.run`` measures: settings, in the order of what matters most."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

#: timm's names; the first is the reference.
ENCODERS = (
    "resnet34",
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "swin_tiny_patch4_window7_224",
    "vit_base_patch14_dinov2",
)
#: Precision -> the dtype of weights and images (of activations, in training), and whether float32
#: may be computed in TF32.
PRECISIONS = {
    "fp32": ("float32", False),
    "tf32": ("float32", True),
    "fp16": ("float16", False),
    "bf16": ("bfloat16", False),
}
TASKS = ("inference", "training")


@dataclass(frozen=True)
class Setting:
    """One row of pictures: every implementation is run on it in turn.

    Attributes:
        batch: Images at a time; None for the batch at which doubling it gains nothing more.
        threads: Of the CPU; None on a GPU.
        quick: Leave out the implementations that take minutes to compile.
        seconds: The most that it may take, so that what comes after it is measured too.
    """

    encoder: str = "resnet34"
    size: tuple[int, int] = (512, 512)
    batch: int | None = 1
    precision: str = "fp32"
    task: str = "inference"
    arch: str = "unet"
    threads: int | None = None
    quick: bool = False
    seconds: float | None = None

    def __str__(self) -> str:
        rows = "best batch" if self.batch is None else f"batch {self.batch}"
        parts = [
            f"{self.arch} {self.encoder}",
            f"{self.size[0]}x{self.size[1]}",
            rows,
            self.precision,
            self.task,
        ]
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The inverse of :func:`from_json`."""
        return asdict(self)


def from_json(values: dict[str, Any]) -> Setting:
    """A setting that was written as JSON."""
    return Setting(**{**values, "size": tuple(values["size"])})


#: On a CPU: one image of 512x512, four of 256x256, with one thread and with two.
CPU = tuple(
    Setting(size=(side, side), batch=batch, threads=threads)
    for threads in (1, 2)
    for side, batch in ((512, 1), (256, 4))
)
CPU_FULL = (
    *CPU,
    *(
        replace(setting, encoder=encoder, quick=True)
        for encoder in ENCODERS[1:]
        for setting in CPU
        if setting.threads == 2
    ),
    Setting(arch="dynamic_unet", size=(256, 256), threads=2),
    Setting(task="training", size=(256, 256), batch=4, threads=2),
)
#: On a GPU, within nine minutes; the first, in four, is what the others are beside.
GPU = (
    Setting(precision="bf16", batch=32, seconds=240),
    Setting(precision="bf16", batch=None, quick=True),
    Setting(precision="bf16", batch=None, task="training", quick=True),
    Setting(precision="bf16", batch=1, quick=True),
    Setting(precision="tf32", batch=None, quick=True),
    Setting(precision="fp16", batch=None, quick=True),
    Setting(precision="fp32", batch=None, quick=True),
    Setting(precision="bf16", batch=None, arch="dynamic_unet", quick=True),
)
GPU_FULL = (
    *(replace(setting, quick=False, seconds=None) for setting in GPU),
    *(
        Setting(encoder=encoder, size=(side, side), precision=precision, batch=batch, task=task)
        for encoder in ENCODERS
        for side in (512, 256)
        for precision in ("bf16", "tf32", "fp16", "fp32")
        for batch in (None, 1)
        for task in TASKS
        if not (task == "training" and (batch or precision in ("fp16", "fp32")))
        and not (encoder == "resnet34" and side == 512 and (batch is None or precision == "bf16"))
    ),
)
