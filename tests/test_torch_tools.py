"""Everything that people do to a module works on a model."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.export import Dim

import segzoo

from .helpers import reference, tiny_unet

IMAGE = torch.rand(2, 3, 70, 51, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected():
    with torch.no_grad():
        return reference()(IMAGE)


@torch.no_grad()
def test_copy_and_pickle(expected):
    assert torch.equal(copy.deepcopy(reference())(IMAGE), expected)
    assert torch.equal(pickle.loads(pickle.dumps(reference()))(IMAGE), expected)
    buffer = io.BytesIO()
    torch.save(reference(), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(IMAGE), expected)


@torch.no_grad()
def test_channels_last(expected):
    model = copy.deepcopy(reference()).to(memory_format=torch.channels_last)
    out = model(IMAGE.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model = tiny_unet(attention="scse").eval()
    exact = model(IMAGE)
    out = copy.deepcopy(model).to(dtype)(IMAGE.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.05)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(model(IMAGE).float(), exact, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_compile_without_graph_breaks():
    model = tiny_unet(attention="scse").eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGE), model(IMAGE))


@pytest.mark.parametrize("training", [False, True])
def test_compiled_predictions(training):
    model = tiny_unet().train(training)
    compiled = torch.compile(model.predict, backend="eager")
    assert torch.equal(compiled(IMAGE), model.predict(IMAGE))
    model.compile(backend="eager")
    assert torch.equal(model.predict(IMAGE), compiled(IMAGE))
    assert all(part.training == training for part in model.modules())


def test_compile_the_reference_without_graph_breaks():
    graph = torch.compile(reference(), fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(graph(IMAGE), reference()(IMAGE))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["resnet18", "dla46x_c", "test_vit"])
def test_export_with_dynamic_sizes(encoder):
    model = segzoo.Unet(encoder, classes=2).eval()
    # Sides with names are refused by torch 2.8, which wants to be sure that none is special.
    sizes = {
        0: Dim("batch", min=1, max=64),
        2: Dim.DYNAMIC(min=64, max=4096),
        3: Dim.DYNAMIC(min=64, max=4096),
    }
    program = torch.export.export(
        model, (torch.rand(2, 3, 96, 128),), dynamic_shapes={"image": sizes}
    )
    for shape in ((1, 3, 65, 97), (3, 3, 128, 64), (2, 3, 250, 317)):
        image = torch.rand(shape)
        torch.testing.assert_close(program.module()(image), model(image), atol=1e-4, rtol=1e-4)


def test_the_meta_device():
    with torch.device("meta"):
        model = segzoo.Unet("resnet34", classes=2)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model(torch.empty(2, 3, 50, 40, device="meta")).shape == (2, 2, 50, 40)


def test_distributed_data_parallel(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model = tiny_unet()
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        parallel(IMAGE).mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_data_parallel():
    model = tiny_unet().eval()
    assert torch.equal(torch.nn.DataParallel(model)(IMAGE), model(IMAGE))


def test_a_shallow_copy_is_a_model_with_the_same_tensors():
    """DataParallel makes one for each device: an object with the same entries, made without a call."""
    model = tiny_unet().eval()
    replica = copy.copy(model)
    assert replica.config is model.config
    assert replica.head.conv.weight is model.head.conv.weight
    assert torch.equal(replica(IMAGE), model(IMAGE))


def test_printing_names_the_encoder():
    assert "resnet34.a1_in1k, channels=(64, 64, 128, 256, 512)" in repr(reference())
