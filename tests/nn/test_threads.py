"""A model that several threads use at once: what one of them asks does not disturb the others."""

import copy
import functools
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from segzoo._compat import may_have_hooks
from segzoo.encoders import timm_source
from segzoo.errors import ArgumentError
from segzoo.nn.sharing import collects_by_hooks, copied_modules, in_eval_mode
from tests.helpers import TinyBackbone, in_threads, randomise, tiny_unet

PICTURES = torch.rand(24, 3, 20, 28, generator=torch.Generator().manual_seed(0))


def masks_in_eval_mode(model):
    model = copy.deepcopy(model).eval()
    return [model.predict(picture) for picture in PICTURES]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_state(model, expected):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def training():
    """A model in training mode."""
    torch.manual_seed(0)
    model = tiny_unet(dropout=0.5)
    randomise(model)
    return model.train()


class Watching(TinyBackbone):
    """Notes in what state the one that was built is while it, or a copy of it, runs."""

    def __init__(self, watched, in_channels=3):
        super().__init__(in_channels)
        self.watched = watched  # a module registers its modules, not those in a list

    def forward(self, image):
        for module in self.watched:
            module.seen()
        return super().forward(image)


class Watched:
    """Is no copy of itself, and knows the backbone that was built."""

    def __init__(self):
        self.backbone = None
        self.modes, self.hooks, self.devices = set(), set(), set()

    def __deepcopy__(self, memo):
        return self

    def seen(self):
        if self.backbone is not None:
            self.modes |= {part.training for part in self.backbone.modules()}
            self.hooks |= set(map(may_have_hooks, self.backbone.modules()))
            self.devices |= {tensor.device.type for tensor in self.backbone.parameters()}


def watched_backbone():
    watched = Watched()
    watched.backbone = Watching([watched])
    return watched, watched.backbone


# ---- predictions ----------------------------------------------------------------------------


def test_predictions_of_eight_threads_on_a_model_in_training_mode(training):
    wanted, before = masks_in_eval_mode(training), state(training)
    found = in_threads(lambda i: training.predict(PICTURES[i % 24]), range(8 * 24))
    wrong = sum(not torch.equal(mask, wanted[i % 24]) for i, mask in enumerate(found))
    assert wrong == 0
    assert all(part.training for part in training.modules())
    assert_state(training, before)


def test_a_prediction_never_switches_the_model_itself():
    watched, backbone = watched_backbone()
    model = segzoo.Unet(backbone, classes=3).train()
    watched.modes.clear()
    model.predict(PICTURES[0])
    assert watched.modes == {True}
    model.eval()
    model.predict(PICTURES[0])
    assert watched.modes == {True, False}


def test_training_goes_on_beside_predictions(training):
    images = PICTURES[:4]

    def losses(model):
        for dropout in (part for part in model.modules() if isinstance(part, nn.Dropout2d)):
            dropout.p = 0.0
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(5):
            loss = model(images).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        return found

    wanted = losses(copy.deepcopy(training))
    stop = threading.Event()

    def predict():
        while not stop.is_set():
            training.predict(PICTURES[0])

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(predict)
        try:
            found = losses(training)
        finally:
            stop.set()
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_newest_weights_count(training):
    training.predict(PICTURES[0])
    with torch.no_grad():
        training.head.conv.bias[1] += 1e3
    assert (training.predict(PICTURES[0]) == 1).all()


def test_each_part_keeps_its_own_mode(training):
    training.encoder.backbone.fine.eval()  # by hand, which no other code knows of
    training.predict(PICTURES[0])
    assert not training.encoder.backbone.fine[1].training
    assert training.decoder.training
    training.eval()
    training.head.dropout.train()
    one, two = (training.predict(PICTURES[0]) for _ in range(2))
    assert torch.equal(one, two)  # in eval mode all the same
    assert training.head.dropout.training


def test_frozen_stages_stay_frozen(training):
    training.freeze_encoder(1)
    modes = {name: part.training for name, part in training.named_modules()}
    training.predict(PICTURES[0])
    assert {name: part.training for name, part in training.named_modules()} == modes
    assert False in modes.values()


# ---- what copies must get right -------------------------------------------------------------


def test_a_copy_has_the_tensors_of_its_original(training):
    training.tied = training.head
    copied = copied_modules(training)
    pairs = zip(
        training.state_dict(keep_vars=True).values(),
        copied.state_dict(keep_vars=True).values(),
        strict=True,
    )
    assert all(one is two for one, two in pairs)
    assert copied.tied is copied.head is not training.head


class MergesInEvalMode(nn.Conv2d):
    """As adapters do: their weights are added to the convolution's where nothing is trained."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.extra = nn.Parameter(torch.randn_like(self.weight))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += -self.extra.data if mode else self.extra.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        weight = self.weight if self.merged else self.weight + self.extra
        return F.conv2d(x, weight, self.bias)


def test_a_module_that_changes_with_its_mode(training):
    training.head.conv = MergesInEvalMode(training.decoder.out.channels, 3, 1)
    before = state(training)
    mask = training.predict(PICTURES[0])
    assert torch.equal(mask, masks_in_eval_mode(training)[0])
    assert_state(training, before)
    assert not training.head.conv.merged


@pytest.mark.parametrize("norm", ["weight_norm", "parametrizations.spectral_norm"])
def test_weights_that_are_computed(training, norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older one is deprecated, and in use
        functools.reduce(getattr, norm.split("."), nn.utils)(training.head.conv)
    training(PICTURES[:2])  # from here on one of them is no leaf of the graph of gradients
    before = state(training)
    copied = copied_modules(training)
    assert copied is not None
    assert torch.equal(copied.eval().predict(PICTURES[0]), training.predict(PICTURES[0]))
    assert_state(training, before)


class Outside:
    """Somebody's tool, which looks at what a module gives."""

    def __init__(self):
        self.maps = []

    def keep(self, module, inputs, output):
        self.maps.append(output)


def test_hooks_of_others_are_called(training):
    outside, called = Outside(), []
    training.head.register_forward_hook(outside.keep)
    training.head.register_forward_hook(lambda *_: called.append(1))
    assert copied_modules(training) is not None
    training.predict(PICTURES[0])
    assert len(outside.maps) == len(called) == 1


class Collecting(TinyBackbone):
    """Its maps are what hooks collected, as with some of timm's backbones."""

    def __init__(self, in_channels=3, closure=False):
        super().__init__(in_channels)
        self.maps = []
        hook = (lambda *a: self.keep(*a)) if closure else self.keep
        for stage in (self.fine, self.coarse):
            stage.register_forward_hook(hook)

    def keep(self, module, inputs, output):
        self.maps.append(output)
        time.sleep(1e-3)  # the time of larger maps

    def forward(self, image):
        super().forward(image)
        maps, self.maps = self.maps, []
        return maps


@pytest.mark.parametrize("training_mode", [False, True])
@pytest.mark.parametrize("closure", [False, True])
def test_backbones_that_collect_their_maps_by_hooks(closure, training_mode):
    torch.manual_seed(0)
    model = segzoo.Unet(Collecting(closure=closure), classes=3)
    randomise(model)
    assert collects_by_hooks(model)
    assert (copied_modules(model) is None) == closure  # a function cannot be bound anew
    other = segzoo.Unet(Collecting(closure=closure), classes=3).eval()
    other.load_state_dict(model.state_dict())
    wanted = [other.predict(picture) for picture in PICTURES]
    model.train(training_mode)
    found = in_threads(model.predict, PICTURES)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    assert all(part.training == training_mode for part in model.modules())


def test_a_backbone_of_timm_that_collects_its_maps_by_hooks():
    model = segzoo.Unet("pit_ti_224", classes=2, image_size=(32, 32)).eval()
    pictures = torch.rand(8, 3, 32, 32)
    wanted = [model.predict(picture) for picture in pictures]
    found = in_threads(model.predict, pictures, threads=4)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


class Uncopied(TinyBackbone):
    """As what FSDP has sharded."""

    def __deepcopy__(self, memo):
        raise AssertionError("no copies")


@pytest.mark.parametrize("kind", ["refuses", "closure"])
def test_where_no_copy_can_be_made(kind):
    torch.manual_seed(0)
    backbone = Uncopied() if kind == "refuses" else TinyBackbone()
    model = segzoo.Unet(backbone, classes=3)
    randomise(model)
    model.eval()
    wanted = [model.predict(picture) for picture in PICTURES]
    model.train()
    model.encoder.backbone.fine.eval()
    if kind == "closure":
        forward = backbone.forward
        backbone.forward = lambda image: forward(image)
    assert copied_modules(model) is None
    before, modes = state(model), [part.training for part in model.modules()]
    found = in_threads(model.predict, PICTURES)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    assert [part.training for part in model.modules()] == modes
    assert_state(model, before)


def test_an_error_leaves_the_mode_alone(training):
    training.encoder.backbone.__class__ = Uncopied
    with in_eval_mode(training) as model:
        assert model is training
        assert not any(part.training for part in model.modules())
        with pytest.raises(segzoo.errors.InputError):
            model.predict(PICTURES[0, :2])
    with pytest.raises(segzoo.errors.InputError):
        training.predict(PICTURES[0, :2])
    assert all(part.training for part in training.modules())


# ---- questions ------------------------------------------------------------------------------


def test_questions_do_not_change_what_runs_meanwhile():
    watched, backbone = watched_backbone()
    backbone.fine.eval()
    modes = [part.training for part in backbone.modules()]
    model = segzoo.Unet(backbone, classes=3)
    assert [part.training for part in backbone.modules()] == modes
    assert watched.modes == {True, False}  # while its sizes were tried, too
    model.print_tree()
    model.parameter_groups(0.1)
    assert watched.hooks == {False}
    assert watched.devices == {"cpu"}


class Reads(TinyBackbone):
    """Asks for values, so that shapes alone do not do."""

    def forward(self, image):
        assert image.mean().item() < 10
        return super().forward(image)


def test_stages_of_a_backbone_that_reads_pixels_leave_its_statistics_alone():
    model = segzoo.Unet(Reads(), classes=3).train()
    before = state(model)
    assert [len(stage) for stage in model.encoder.stages()] == [4, 4]
    assert_state(model, before)
    assert all(part.training for part in model.modules())


def test_a_plan_is_the_callers_own():
    plan = timm_source.plan_backbone("resnet18")
    before = dict(plan.options)
    plan.options["drop_rate"] = 0.5
    assert timm_source.plan_backbone("resnet18").options == before


def test_a_part_in_training_mode_is_not_optimised(training):
    training.eval()
    training.decoder.train()
    before = state(training)
    with pytest.raises(ArgumentError, match="training mode"):
        segzoo.optimize(training, example=torch.rand(1, 3, 16, 16))
    assert_state(training, before)
