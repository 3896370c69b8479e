"""Candidates: how a model can be run, to be compared by ``benchmarks.throughput.run``.

One that cannot be built on a machine (a package is missing, a device cannot) raises, and what it
raised is recorded.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segzoo
from segzoo._compat import freezing, options_of
from segzoo.bench import DTYPES, as_called, copied, eager, optimized

from .settings import PRECISIONS, Setting

#: Inductor's switch behind TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION=0.
NO_REINDEXING = {"loop_reindexing_after_fusion": False}
_numbers = itertools.count()

Call = Callable[[], Any]


@dataclass(frozen=True)
class Load:
    """A model to run and what to run it on; the image is float32 on its device."""

    model: nn.Module
    image: Tensor
    setting: Setting

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and image, or of activations in training."""
        return DTYPES[PRECISIONS[self.setting.precision][0]]

    @property
    def channels_last(self) -> Tensor:
        """The image in the dtype, channels last."""
        return self.image.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def copy(self) -> nn.Module:
        """The model on the image's device in the dtype, channels last."""
        return copied(self.model, self.image.device, self.dtype, torch.channels_last)


@dataclass(frozen=True)
class Candidate:
    """A named implementation of a model's run.

    Attributes:
        name: Without the library in front.
        build: Gives what is called and timed.
        sides: Whose model it can run: ``ours``, ``theirs``.
        devices: Where it is worth running.
        kind: What building it costs: ``plain``, ``optimized``, ``compiled``, ``tuned`` or
            ``exported``.
    """

    name: str
    build: Callable[[Load], Call]
    sides: tuple[str, ...] = ("ours", "theirs")
    devices: tuple[str, ...] = ("cpu", "cuda")
    kind: str = "plain"


def unique(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function with a code object of its own.

    torch.compile keeps what it compiled with the code object and gives up after a few entries; two
    candidates must not share one.
    """

    def call(image: Tensor) -> Tensor:
        return function(image)

    call.__code__ = call.__code__.replace(co_name=f"call_{next(_numbers)}")
    return call


def compiled(
    load: Load, *, mode: str | None = None, frozen: bool = False, **settings: bool
) -> Call:
    """torch.compile in a mode, channels last, with other settings of inductor than the mode's."""
    function = torch.compile(unique(load.copy()), options=_options(mode, settings))
    call = as_called(function, load.channels_last)
    with freezing() if frozen else contextlib.nullcontext():  # what is read when it first runs
        call()
    return call


def _options(mode: str | None, settings: dict[str, bool]) -> dict[str, Any]:
    """Both for torch.compile, which takes either a mode or options."""
    return {**(options_of(mode) if mode else {}), **settings}


def onnx_runtime(load: Load, *, path: Path | None = None) -> Call:
    """ONNX Runtime on the CPU, with the setting's threads."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = load.setting.threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path or exported(load, Path(folder)), options, providers=["CPUExecutionProvider"]
        )
    feed = {session.get_inputs()[0].name: load.image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(load: Load, *, path: Path | None = None) -> Call:
    """OpenVINO on the CPU, in bfloat16 where the setting is, with the setting's threads."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        core = ov.Core()
        model = core.read_model(path or exported(load, Path(folder)))
        request = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": load.setting.threads or torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "bf16" if load.dtype is torch.bfloat16 else "f32",
                "PERFORMANCE_HINT": "LATENCY",
            },
        ).create_infer_request()
    image = load.image.numpy()
    return lambda: torch.from_numpy(request.infer([image], share_inputs=True)[0])


def exported(load: Load, folder: Path) -> Path:
    """The model as it is, by torch's own ONNX exporter."""
    path = folder / "model.onnx"
    model = copied(load.model, load.image.device, torch.float32)
    torch.onnx.export(model, (load.image,), path, dynamo=True, external_data=False, verbose=False)
    return path


def exported_optimized(load: Load, run: Callable[..., Call], *, form: str) -> Call:
    """What :func:`segzoo.export` writes, in the same runtime."""
    shape = load.image.shape
    with tempfile.TemporaryDirectory() as folder:
        path = segzoo.export(
            load.model,
            Path(folder) / "model",
            format=form,
            dynamic=False,
            size=(shape[-2], shape[-1]),
            batch=shape[0],
        )
        return run(load, path=path)


def _eager(load: Load, *, channels_last: bool) -> Call:
    return eager(load.model, load.image, load.dtype, channels_last=channels_last)


def _optimized(load: Load, *, backend: str) -> Call:
    assert isinstance(load.model, segzoo.SegmentationModel)
    return optimized(load.model, load.image, load.dtype, backend=backend)


def onnx_runtime_cuda(load: Load) -> Call:
    """ONNX Runtime on the card, images and logits staying there; needs onnxruntime-gpu."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = exported(load, Path(folder))
        session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("this onnxruntime has no CUDA")
    image, binding = load.image.contiguous(), session.io_binding()
    name, index = session.get_inputs()[0].name, image.device.index or 0
    binding.bind_input(name, "cuda", index, "float32", tuple(image.shape), image.data_ptr())
    binding.bind_output(session.get_outputs()[0].name, "cuda", index)

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0].to_dlpack())

    return call


def tensorrt(load: Load) -> Call:
    """Torch-TensorRT; needs torch_tensorrt."""
    trt = importlib.import_module("torch_tensorrt")
    image = load.channels_last
    model = trt.compile(
        load.copy(), ir="dynamo", inputs=[image], enabled_precisions={load.dtype}, min_block_size=1
    )
    return as_called(model, image)


def training(load: Load, *, how: str = "channels_last", **config: Any) -> Call:
    """Forward, cross-entropy and backward; gives the loss and the parameters with gradients.

    float16 and bfloat16 by autocast, with weights in float32. ``config`` are options of the model
    that change neither its weights nor its outputs.
    """
    form = torch.contiguous_format if how == "eager" else torch.channels_last
    source = load.model
    if config:
        assert isinstance(source, segzoo.Unet)
        source = copy.deepcopy(source).configure_training(**config)
    stored = load.image.dtype  # float32, or float64 for the reference
    cast = stored == torch.float32 and load.dtype != torch.float32
    model = copied(source, load.image.device, stored, form).train()
    image = load.image.contiguous(memory_format=form)
    target = targets(image)

    def loss(image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, load.dtype if cast else None, enabled=cast):
            logits = model(image)
        return nn.functional.cross_entropy(plain(logits).to(stored), target)

    forward: Callable[[Tensor], Tensor] = loss
    if how.startswith("compiled"):
        patches = NO_REINDEXING if "reindexing" in how else {}
        mode = "max-autotune" if "autotune" in how else None
        forward = torch.compile(unique(loss), options=_options(mode, patches))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step() -> tuple[Tensor, list[nn.Parameter]]:
        for parameter in parameters:
            parameter.grad = None
        value = forward(image)
        value.backward()
        return value.detach(), parameters

    return step


def plain(output: Tensor) -> Tensor:
    """Without fastai's subclass."""
    return output.as_subclass(Tensor)


def targets(image: Tensor) -> Tensor:
    """A random class for each pixel, the same for every implementation."""
    generator = torch.Generator().manual_seed(3)
    shape = (image.shape[0], *image.shape[2:])
    return torch.randint(0, segzoo.bench.CLASSES, shape, generator=generator).to(image.device)


_OURS = ("ours",)
_GPU = ("cuda",)
_CPU = ("cpu",)
INFERENCE = (
    Candidate("eager", partial(_eager, channels_last=False)),
    Candidate("channels_last", partial(_eager, channels_last=True)),
    Candidate("optimize", partial(_optimized, backend="auto"), _OURS, kind="optimized"),
    Candidate("optimize eager", partial(_optimized, backend="eager"), _OURS, kind="optimized"),
    Candidate("optimize compile", partial(_optimized, backend="compile"), _OURS, kind="compiled"),
    Candidate(
        "optimize cudagraph", partial(_optimized, backend="cudagraph"), _OURS, _GPU, "compiled"
    ),
    Candidate("ONNX Runtime", onnx_runtime, ("theirs",), _CPU, "exported"),
    Candidate("OpenVINO", openvino, ("theirs",), _CPU, "exported"),
    Candidate(
        "ONNX Runtime, optimized",
        partial(exported_optimized, run=onnx_runtime, form="onnx"),
        _OURS,
        _CPU,
        "exported",
    ),
    Candidate(
        "OpenVINO, optimized",
        partial(exported_optimized, run=openvino, form="openvino"),
        _OURS,
        _CPU,
        "exported",
    ),
    Candidate("compiled, frozen", partial(compiled, frozen=True), ("theirs",), kind="compiled"),
    Candidate("compiled", compiled, devices=_GPU, kind="compiled"),
    Candidate(
        "max-autotune, frozen",
        partial(compiled, mode="max-autotune", frozen=True),
        ("theirs",),
        _GPU,
        "tuned",
    ),
    Candidate(
        "optimize fastest",
        partial(_optimized, backend="fastest"),
        _OURS,
        _GPU,
        "tuned",
    ),
    Candidate(
        "max-autotune-no-cudagraphs",
        partial(compiled, mode="max-autotune-no-cudagraphs"),
        ("theirs",),
        _GPU,
        "tuned",
    ),
    Candidate("TensorRT", tensorrt, ("theirs",), _GPU, "tuned"),
    Candidate("ONNX Runtime CUDA", onnx_runtime_cuda, ("theirs",), _GPU, "exported"),
    Candidate(
        "compiled, no reindexing",
        partial(compiled, **NO_REINDEXING),
        ("theirs",),
        _GPU,
        "compiled",
    ),
    Candidate(
        "reduce-overhead", partial(compiled, mode="reduce-overhead"), ("theirs",), _GPU, "compiled"
    ),
    Candidate("max-autotune", partial(compiled, mode="max-autotune"), ("theirs",), _GPU, "tuned"),
    Candidate(
        "max-autotune, no reindexing",
        partial(compiled, mode="max-autotune", **NO_REINDEXING),
        ("theirs",),
        _GPU,
        "tuned",
    ),
)
TRAINING = (
    Candidate("eager", partial(training, how="eager")),
    Candidate("channels_last", training),
    Candidate("rewritten", partial(training, decoder_impl="rewritten"), _OURS),
    Candidate(
        "rewritten, checkpoint",
        partial(training, decoder_impl="rewritten", checkpoint=True),
        _OURS,
    ),
    Candidate("compiled", partial(training, how="compiled"), devices=_GPU, kind="compiled"),
    Candidate(
        "rewritten, compiled",
        partial(training, how="compiled", decoder_impl="rewritten"),
        _OURS,
        _GPU,
        "compiled",
    ),
    Candidate(
        "compiled, no reindexing",
        partial(training, how="compiled, no reindexing"),
        ("theirs",),
        _GPU,
        "compiled",
    ),
    Candidate(
        "max-autotune", partial(training, how="compiled, autotune"), ("theirs",), _GPU, "tuned"
    ),
)


def candidates(setting: Setting, side: str, device: str) -> Sequence[Candidate]:
    """What a setting compares of one side; ``quick`` settings without what tunes for minutes."""
    every = INFERENCE if setting.task == "inference" else TRAINING
    return [
        candidate
        for candidate in every
        if side in candidate.sides
        and device in candidate.devices
        and not (setting.quick and (candidate.kind == "tuned" or "reindexing" in candidate.name))
    ]
