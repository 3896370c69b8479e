"""Models as files for other runtimes: the same logits, the facts with them, nothing half written."""

import copy
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

import segzoo
from segzoo.cli import main
from segzoo.errors import ArgumentError, ExportError, MissingPackageError, StorageError
from segzoo.inference.export import export, formats

from ..helpers import TinyBackbone, randomise, tiny_unet

SIZE = (64, 96)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=2, depth=2, class_names=("sky", "straße"))
    randomise(model)
    return model


def runner(path):
    """A function that runs a file, and its facts, by the runtime's own means."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        assert session.get_inputs()[0].shape[-2:] in (["height", "width"], [*SIZE])
        assert session.get_outputs()[0].shape[0] in ("batch", 2)
        facts = session.get_modelmeta().custom_metadata_map
        return lambda image: session.run(["logits"], {"image": image})[0], facts
    network = openvino.Core().read_model(path)
    facts = {key: network.get_rt_info(["segzoo", key]).astype(str) for key in FACTS}
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: compiled({"image": image})["logits"], facts


FACTS = ("bands", "mean", "std", "classes", "class_names", "batch", "size", "smallest_side")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_file_gives_the_model_s_logits_and_says_how_to_use_it(model, tmp_path, suffix, dynamic):
    before = copy.deepcopy(model.state_dict())
    path = segzoo.export(model, tmp_path / f"m{suffix}", dynamic=dynamic, size=SIZE, batch=2)
    assert path == tmp_path / f"m{suffix}"
    beside = {".bin"} if suffix == ".xml" else set()
    assert {file.suffix for file in tmp_path.iterdir()} == {suffix} | beside
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    run, facts = runner(path)
    shapes = [(2, 3, *SIZE), (1, 3, 65, 97), (3, 3, 33, 32)] if dynamic else [(2, 3, *SIZE)]
    reference = copy.deepcopy(model).eval()
    for shape in shapes:
        image = torch.randn(shape)
        with torch.no_grad():
            expected = reference(image).numpy()
        np.testing.assert_allclose(run(image.numpy()), expected, atol=1e-4 * np.abs(expected).max())
    found = {name: json.loads(facts[name]) for name in FACTS}
    assert found == {
        "bands": 3,
        "mean": list(model.normalization.mean),
        "std": list(model.normalization.std),
        "classes": 2,
        "class_names": ["sky", "straße"],
        "batch": None if dynamic else 2,
        "size": None if dynamic else list(SIZE),
        "smallest_side": 1 if dynamic else None,
    }


def test_threads_export_at_once(tmp_path):
    def export(i):
        return segzoo.export(tiny_unet(), tmp_path / f"{i}.onnx", dynamic=False, size=(16, 16))

    with ThreadPoolExecutor(3) as pool:
        assert all(path.is_file() for path in pool.map(export, range(3)))


def operations(path):
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


def test_the_optimized_graph_of_one_size_is_convolutions(tmp_path):
    model = tiny_unet()
    path = segzoo.export(model, tmp_path / "m.onnx", dynamic=False, size=SIZE)
    assert operations(path) == {"Conv", "ConvTranspose", "Relu", "Add"}
    plain = segzoo.export(model, path, dynamic=False, size=SIZE, optimized=False)
    assert {"Concat", "Resize"} <= operations(plain)
    assert "ConvTranspose" not in operations(plain)


def one_size():
    """A model whose encoder takes one size only, and is given none."""
    backbone = TinyBackbone()
    rule = segzoo.SizeRule(fixed=(32, 48))
    encoder = segzoo.Encoder(backbone, backbone.features, name="one_size", size_rule=rule)
    return segzoo.Unet(encoder, classes=1)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (lambda: segzoo.DynamicUnet(TinyBackbone(), classes=2), {"size": (33, 50)}),
        # Sizes that no map gives: a graph has to compute them.
        (lambda: segzoo.Unet("convnext_atto", depth=1, in_channels=4), {"size": (65, 97)}),
        (lambda: tiny_unet(attention="scse", decoder_impl="rewritten").double(), {"size": SIZE}),
        (one_size, {"dynamic": False}),
        # Sides for which float32 finds the wrong cells.
        (tiny_unet, {"size": (3, 9999), "dynamic": False}),
    ],
    ids=["dynamic_unet", "convnext", "attention", "one size", "long"],
)
def test_other_models(build, arguments, tmp_path):
    path = segzoo.export(build(), tmp_path / "m.onnx", **arguments)
    assert path.exists()  # compared by export itself


def test_an_encoder_of_one_size_has_no_dynamic_file(tmp_path):
    with pytest.raises(ArgumentError, match=r"32x48 only.*dynamic=False"):
        segzoo.export(one_size(), tmp_path / "m.onnx")


def test_names_of_files(tmp_path, monkeypatch):
    written = []

    def write(_, path, __):
        assert path.suffix == ".xml"  # OpenVINO writes no other
        path.with_suffix(".bin").write_text("weights")
        path.write_text("x")

    kind = formats.Format(".xml", (), "openvino", write, None)
    monkeypatch.setitem(formats.FORMATS, "openvino", kind)
    monkeypatch.setattr(export, "_compare", lambda *_: written.append(1))
    model = tiny_unet()
    assert segzoo.export(model, tmp_path / "a", format="openvino", size=SIZE) == tmp_path / "a.xml"
    assert segzoo.export(model, str(tmp_path / "b.XML"), size=SIZE).read_text() == "x"
    assert len(written) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.xml", "a.bin", "b.XML", "b.bin"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "model"}, ArgumentError, r"must end in \.onnx or \.xml, got .*model"),
        ({"path": "model.pt"}, ArgumentError, r"must end in \.onnx or \.xml"),
        ({"path": "m.onnx", "format": "openvino"}, ArgumentError, r"must end in \.xml, got"),
        ({"path": "m", "format": "onx"}, ArgumentError, "Did you mean onnx"),
        ({"path": "missing/m.onnx"}, StorageError, "no folder .*missing"),
        ({"path": "folder.onnx"}, StorageError, "is a folder"),
        ({"path": "m\0.onnx"}, StorageError, "cannot be written"),
        ({"path": "x" * 300 + ".onnx"}, StorageError, "cannot be written"),
        ({"size": (64,)}, ArgumentError, r"size must be \(height, width\)"),
        ({"size": (0, 64)}, ArgumentError, r"size\[0\] must be between 2"),
        ({"size": (64, 64.0)}, ArgumentError, "must be an integer"),
        ({"dynamic": False}, ArgumentError, r"needs size=\(height, width\)"),
        ({"batch": 0}, ArgumentError, "batch must be between 1"),
        ({"dynamic": 1}, ArgumentError, "dynamic must be True or False"),
        ({"model": torch.nn.Identity()}, ArgumentError, "takes a segzoo model, got Identity"),
    ],
    ids=str,
)
def test_wrong_use_leaves_nothing(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    call = {"model": tiny_unet(), "path": "m.onnx", **arguments}
    with pytest.raises(error, match=message):
        segzoo.export(call.pop("model"), call.pop("path"), **call)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.onnx"]


@torch.no_grad()
def test_what_hooks_do_is_in_the_graph(tmp_path, monkeypatch):
    """Steps that were folded into others would not be called, nor their hooks."""
    model, graphs = tiny_unet(), []
    randomise(model.eval())
    for part in model.decoder.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_hook(lambda module, inputs, output: 3 * output)

    def record(graph, example, dynamic):
        graphs.append((graph, example))
        raise ExportError("enough")

    monkeypatch.setattr(
        importlib.import_module("segzoo.inference.export.export"), "_record", record
    )
    with pytest.raises(ExportError, match="enough"):
        segzoo.export(model, tmp_path / "m.onnx", size=(32, 32))
    [(graph, example)] = graphs
    assert torch.equal(graph(example), model(example))


def test_a_model_that_cannot_be_copied_is_told(tmp_path):
    with pytest.raises(ExportError, match=r"cannot be copied to the CPU in float32: .*meta"):
        segzoo.export(tiny_unet().to("meta"), tmp_path / "m.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_that_differs_is_not_kept(suffix, tmp_path, monkeypatch):
    old = tmp_path / f"m{suffix}"
    old.write_text("the old one")
    model = tiny_unet().eval()
    real = export._record

    def wrong(module, *arguments):
        other = copy.deepcopy(model)
        other.head.conv.bias.data += 1
        return real(other, *arguments)

    monkeypatch.setattr(export, "_record", wrong)
    with pytest.raises(ExportError, match=r"differ from the model's by .*it was not kept"):
        segzoo.export(model, old, size=SIZE)
    assert [file.name for file in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "the old one"


def test_what_a_converter_raises_is_explained(tmp_path, monkeypatch):
    def fails(*_):
        raise KeyError("aten.unheard_of\nand more")

    kind = formats.Format(".onnx", (), "onnxruntime", fails, None)
    monkeypatch.setitem(formats.FORMATS, "onnx", kind)
    with pytest.raises(ExportError, match=r"Could not write the graph as \.onnx: .*unheard_of"):
        segzoo.export(tiny_unet(), tmp_path / "m.onnx", size=SIZE)
    full = formats.Format(".onnx", (), "onnxruntime", _no_space, None)
    monkeypatch.setitem(formats.FORMATS, "onnx", full)
    with pytest.raises(StorageError, match=r"cannot be written: .*No space"):
        segzoo.export(tiny_unet(), tmp_path / "m.onnx", size=SIZE)
    assert not list(tmp_path.iterdir())


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_packages_that_are_missing(tmp_path, monkeypatch):
    model = tiny_unet()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(MissingPackageError, match=r'onnxscript is needed.*"segzoo\[export\]"'):
            segzoo.export(model, tmp_path / "m.onnx", size=SIZE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="not compared with the model: onnxruntime is needed"):
        assert segzoo.export(model, tmp_path / "m.onnx", size=SIZE).exists()


def test_the_command(tmp_path, capsys, model):
    folder = model.save_pretrained(tmp_path / "model")
    out = tmp_path / "m.onnx"
    call = ["export", str(folder), "-o", str(out), "--fixed", "--size", *map(str, SIZE)]
    assert main([*call, "--batch", "2"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert onnxruntime.InferenceSession(out).get_inputs()[0].shape == [2, 3, *SIZE]
    for arguments, message in (
        (call, "exists already"),
        ([*call[:4], "--batch", "2"], "--batch goes with --fixed"),
        ([*call[:3], str(tmp_path / "m.pt")], "must end in .onnx or .xml"),
        ([*call[:3], str(tmp_path / "n.onnx"), "--fixed"], "needs size=(height, width)"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""
    assert main([*call, "--overwrite", "--plain"]) == 0
    assert "Concat" in operations(out)
