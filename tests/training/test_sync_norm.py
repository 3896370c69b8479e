"""Normalisation over all processes: put in, and taken out again without a trace."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import ArgumentError
from segzoo.training.finding import find_learning_rate
from segzoo.training.learner import Learner
from segzoo.training.processes import Processes
from segzoo.training.sync_norm import SyncedNorms

from .test_learner import SETTLED, batch, learner
from .toys import toy_model
from .trainings import train


def kinds(model):
    return {name: type(part) for name, part in model.named_modules()}


def test_layers_go_and_come_back_with_the_same_tensors():
    model = segzoo.Unet("resnet10t", classes=3).train()
    model.encoder.freeze(1)
    before, state = kinds(model), model.state_dict(keep_vars=True)
    modes = {name: part.training for name, part in model.named_modules()}
    synced = SyncedNorms(model)
    plain = [name for name, kind in before.items() if issubclass(kind, nn.BatchNorm2d)]
    assert len(synced) == len(plain) > 10
    assert all(isinstance(model.get_submodule(name), nn.SyncBatchNorm) for name in plain)
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(value is state[name] for name, value in model.state_dict(keep_vars=True).items())
    synced.undo()
    assert kinds(model) == before
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(value is state[name] for name, value in model.state_dict(keep_vars=True).items())


def test_what_is_derived_from_a_layer_stays():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Own(3), nn.BatchNorm2d(3))
    assert len(SyncedNorms(model)) == 1
    assert type(model[0]) is Own


class Two(Processes):
    """One process that is told that there is another."""

    def __init__(self):
        super().__init__("cpu")
        self.count = 2

    def check(self, recipe):
        """It pretends to have GPUs, too."""

    def wrap(self, model, *, unused):
        return model

    def largest(self, value):
        return value

    def gather(self, value):
        return [value, value]

    def from_first(self, make):
        return make()

    def copy_buffers(self, model):
        """There is nobody to give them to."""


def test_a_learner_has_them_while_it_learns():
    """Without a process group torch's layer computes what the plain one does."""
    recipe = segzoo.Recipe(precision="float32", sync_batch_norm=True)
    model, plain = toy_model(), learner()
    before = kinds(model)
    made = Learner(model, recipe, SETTLED, Two(), ignore_index=None)
    for frozen in (True, False):
        made.begin(frozen=frozen)
        assert any(issubclass(kind, nn.SyncBatchNorm) for kind in kinds(model).values())
        plain.begin(frozen=frozen)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = made.update([batch()], 1.0, 0.9)
            torch.manual_seed(0)
            assert torch.equal(loss, plain.update([batch()], 1.0, 0.9))
    made.release()
    assert kinds(model) == before
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("stopped", [False, True])
def test_a_training_leaves_the_model_with_its_own_layers(tmp_path, monkeypatch, stopped):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
    monkeypatch.setattr("segzoo.training.train.Processes", lambda device: Two())
    seen = []
    model = toy_model()
    before = kinds(model)

    def look(row):
        seen.append(set(kinds(model).values()))
        if stopped:
            raise KeyboardInterrupt

    recipe = segzoo.Recipe(epochs=1, batch_size=2, freeze_epochs=1, sync_batch_norm=True)
    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        train(tmp_path / "out", recipe, model=model, on_epoch=look)
    assert len(seen) == (1 if stopped else 2)
    assert all(nn.SyncBatchNorm in found for found in seen)
    assert kinds(model) == before
    assert nn.SyncBatchNorm not in kinds(segzoo.from_pretrained(tmp_path / "out")).values()


def test_looking_for_a_rate_leaves_plain_layers():
    recipe = segzoo.Recipe(precision="float32", sync_batch_norm=True)
    model = toy_model()
    before = kinds(model)
    find_learning_rate(model, recipe, SETTLED, Two(), iter([batch()] * 40), ignore_index=None)
    assert kinds(model) == before


def test_cpus_are_refused_and_one_process_needs_nothing():
    recipe = segzoo.Recipe(sync_batch_norm=True)
    Processes("cpu").check(recipe)
    with pytest.raises(ArgumentError, match=r"between GPUs only.*Leave it out"):
        Processes.check(Two(), recipe)


def test_parts_want_several_processes(monkeypatch):
    recipe = segzoo.Recipe(sharding="full")
    with pytest.raises(ArgumentError, match=r"there is one\. Start several \(torchrun"):
        Processes("cpu").check(recipe)
    monkeypatch.setattr("segzoo.training.processes.cpus_share", lambda: True)
    Processes.check(Two(), recipe)
    monkeypatch.setattr("segzoo.training.processes.cpus_share", lambda: False)
    with pytest.raises(ArgumentError, match=r"on GPUs only.*use a newer torch"):
        Processes.check(Two(), recipe)
