"""Three processes that take a step in parts are one that takes it whole."""

from __future__ import annotations

import pytest
import torch

from segzoo.training.processes import Processes, cpus_share

from . import ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ranks.take_steps(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    """The same pictures as one batch of one process."""
    results = {}
    for name, values in ranks.TRIED.items():
        whole = {key: value for key, value in values.items() if key != "sharding"}
        made = ranks.learner(whole, Processes("cpu"))
        batch = ranks.images_and_masks()
        losses = [ranks.step(made, [batch], number) for number in range(1, ranks.STEPS + 1)]
        results[name] = (losses, made.state())
    return results


def holders(found, name):
    """Who has the whole state: of a model in parts the first process."""
    return found[:1] if "sharding" in ranks.TRIED[name] else found


@pytest.mark.parametrize("name", ranks.TRIED)
def test_accumulated_over_processes_and_batches_it_is_the_loss_of_the_whole(found, alone, name):
    """With void that lies unevenly, a batch of nothing else, and other first weights elsewhere."""
    losses, state = alone[name]
    for rank in found:
        assert rank[name]["losses"] == pytest.approx(losses, rel=1e-10)
        assert rank[name]["losses"] == found[0][name]["losses"]
    for rank in holders(found, name):
        for key, value in state["model"].items():
            torch.testing.assert_close(
                rank[name]["state"]["model"][key], value, rtol=1e-6, atol=1e-8
            )


@pytest.mark.parametrize("name", ranks.TRIED)
def test_what_is_saved_is_whole_and_goes_on_to_the_bit(found, alone, name):
    for rank in found:
        assert rank[name]["after"][0] == rank[name]["after"][1]
    for rank in holders(found, name):
        first, second = rank[name]["states"]
        for key, value in first["model"].items():
            assert torch.equal(value, second["model"][key]), key
        for index, moments in first["optimizer"]["state"].items():
            for key, value in moments.items():
                assert torch.equal(value, second["optimizer"]["state"][index][key]), key
                kept = alone[name][1]["optimizer"]["state"][index][key]
                assert value.shape == kept.shape


def test_large_tensors_go_to_all_one_at_a_time_or_not_at_all(found):
    expected = ranks.things(0)
    for index, rank in enumerate(found):
        spread = rank["spread"]
        assert spread["plain"] == expected["plain"]
        for value, other in zip(spread["tensors"], expected["tensors"], strict=True):
            assert torch.equal(value, other)
            assert (value.dtype, value.device) == (other.dtype, other.device)
        assert spread["tensors"][0].is_contiguous(memory_format=torch.channels_last)
        # Large fractions are weights; whole numbers are needed everywhere.
        large = [item.numel() > 30 and item.is_floating_point() for item in expected["tensors"]]
        assert any(large)
        assert not all(large)
        assert rank["hollow"] == ["meta" if index and one else "cpu" for one in large]
        assert "division" in rank["error"]


@pytest.mark.skipif(not cpus_share(), reason="the FSDP of this torch works on GPUs only")
def test_an_average_in_parts_is_what_is_judged(found, alone):
    average, kept = alone["parts"][1]["ema"], found[0]["parts"]
    for key, value in kept["state"]["ema"].items():
        torch.testing.assert_close(value, average[key], rtol=1e-6, atol=1e-8)
    for rank in found:
        for key, value in rank["parts"]["judged"].items():
            assert torch.equal(value, kept["states"][0]["ema"][key]), key
