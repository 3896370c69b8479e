"""Lives of the package in which torch and timm lack some of their private names.

``python -m tests.without_names NAME ...`` imports the libraries once, and those modules of the
package that ask for no name yet. Then, for each argument, a process of its own imports the rest of
``segzoo``, which does not find that name there, or those, joined by commas, and trains and optimises
a model; the last one also writes and times one. A line of JSON for each tells how it went.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
import traceback
import warnings

import timm
import torch

#: Imported before there are many processes; where they are missing, files are not exported.
EXPORTERS = ("onnx", "onnxscript", "onnxruntime")
#: Imported before as well: they ask for names when they run, and none while they are imported.
ASK_LATER = ("segzoo.architectures.unet", "segzoo.inference.export.export", "segzoo.bench")


def hide(names: set[str]) -> None:
    """Torch and timm keep what they need themselves; it is the package that no longer finds it."""
    from segzoo import _compat

    there = _compat.found
    _compat.found = lambda owner, name: None if name in names else there(owner, name)


def live(*, everything: bool) -> dict[str, object]:
    """What the package is for, on models as small as can be."""
    import segzoo
    from segzoo import bench
    from segzoo.inference.export import export
    from segzoo.nn.weight_norm import WeightNormConv

    torch.manual_seed(0)
    image = torch.rand(2, 3, 32, 32)
    backbone = timm.create_model(
        "test_resnet", features_only=True, feature_cls="hook", out_indices=(0, 1)
    )
    model = segzoo.Unet(backbone, classes=2, decoder_channels=(16, 8))
    bench.settle(model, image)
    model.train()(image).sum().backward()
    model.eval()
    with torch.no_grad():
        wanted = model(image)
        fast = segzoo.optimize(model, backend="eager", example=image)
        torch.testing.assert_close(fast(image), wanted, rtol=1e-4, atol=1e-4)
        try:
            fast.half()
        except segzoo.errors.ArgumentError:
            pass
        else:
            raise AssertionError("an optimised model was moved")
        static = export._Static(model, image, dynamic=False)
        torch.testing.assert_close(static(image), wanted, rtol=1e-4, atol=1e-4)
        assert segzoo.Unet("test_resnet", classes=1)(image).shape == (2, 1, 32, 32)
        assert WeightNormConv(torch.rand(4, 3, 3, 3))(image).shape == (2, 4, 32, 32)
    if everything:
        found = bench.run_bench("test_resnet", arch="dynamic_unet", size=(64, 64), rounds=1)
        assert all(result.timing for result in found.results.values()), found
        if all(name in sys.modules for name in EXPORTERS):
            with tempfile.TemporaryDirectory() as folder:
                segzoo.export(model, f"{folder}/model.onnx", dynamic=False, size=(64, 64))
    return {"report": fast.report(), "logits": float(wanted.double().square().mean())}


def outcome(names: set[str], *, everything: bool) -> dict[str, object]:
    """What :func:`live` gives without those names, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return json.loads(text or '{"error": "died"}')
    try:
        warnings.simplefilter("ignore")
        hide(names)
        answer = live(everything=everything)
    except BaseException:
        answer = {"error": traceback.format_exc()}
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def prepare() -> None:
    """Import what all lives share, none of which depends on a name that is taken away."""
    for name in EXPORTERS:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    from segzoo import _compat

    there, asked = _compat.found, []
    _compat.found = lambda owner, name: asked.append(name)
    for name in ASK_LATER:
        importlib.import_module(name)
    _compat.found = there
    assert not asked, f"each life has to import by itself what asks for {asked}"
    gc.freeze()  # or each process looks through all of it for what is no longer used


def main(arguments: list[str]) -> None:
    """See above."""
    prepare()
    for number, argument in enumerate(arguments, 1):
        names = set(filter(None, argument.split(",")))
        print(json.dumps(outcome(names, everything=number == len(arguments))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
