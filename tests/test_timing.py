"""The clock: everyone's turns, ratios within a round, and no time for what is wrong."""

import math
import time

import torch

from segzoo.timing import Timing, in_turn, largest_difference, side_by_side


def test_each_call_has_its_turn_in_every_round():
    calls = []
    timings = in_turn({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=4, warmup=2)
    assert {name: len(timing.rounds) for name, timing in timings.items()} == dict.fromkeys("abc", 4)
    assert calls[:6] == list("aabbcc")
    rounds = [calls[i : i + 3] for i in range(6, 18, 3)]
    assert all(sorted(one) == list("abc") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1, "the order must change"


def test_a_short_call_is_repeated_and_the_mean_counts():
    calls = []
    timing = in_turn({"": lambda: calls.append(0)}, rounds=3, warmup=1, turn=0.001)[""]
    assert len(calls) > 30
    assert timing.median < 0.1


def test_the_limit_ends_rounds_but_leaves_the_fewest():
    def rounds(**more):
        return len(in_turn({"": lambda: None}, limit=0, **more)[""].rounds)

    assert rounds(rounds=1000) == 3
    assert rounds(rounds=1000, fewest=5) == 5
    assert rounds(rounds=1, fewest=5) == 1


def test_a_ratio_is_taken_within_each_round():
    ours, theirs = Timing((1.0, 10.0, 2.0)), Timing((2.0, 20.0, 8.0))
    assert ours.speed_up_over(theirs) == 2.0  # of the medians it would be 4
    assert ours.summary() == {"median": 2.0, "min": 1.0, "max": 10.0}


def test_the_difference_is_relative_to_the_largest_value_and_nan_is_kept():
    reference = torch.tensor([1.0, -8.0])
    assert largest_difference(torch.tensor([1.5, -8.0]), reference) == 0.5 / 8
    assert math.isnan(largest_difference(torch.tensor([math.nan, 0.0]), reference))


def test_what_is_wrong_or_fails_is_recorded_and_never_timed():
    truth = torch.tensor([1.0, 2.0])
    calls = dict.fromkeys(("right", "wrong", "nan"), 0)

    def build(name, output):
        def call():
            calls[name] += 1
            return output

        return lambda: call

    def broken():
        raise RuntimeError("no such \x1b[96mkernel\x1b[0m\nand a long explanation")

    found = side_by_side(
        {
            "right": build("right", truth + 1e-9),
            "wrong": build("wrong", truth + 0.1),
            "nan": build("nan", truth * math.nan),
            "broken": broken,
            "refused": build("refused", truth),
        },
        difference=lambda output: largest_difference(output, truth),
        allowed=1e-5,
        rounds=5,
        before=lambda name: "no time" if name == "refused" else None,
    )
    assert found["right"].reason is None
    assert len(found["right"].timing.rounds) == 5
    assert found["wrong"].reason == "wrong output: differs by 5.0e-02, allowed are 1.0e-05"
    assert found["nan"].reason.startswith("wrong output")
    assert found["broken"].reason == "RuntimeError: no such kernel"
    assert found["refused"].reason == "no time"
    assert [name for name, one in found.items() if one.timing] == ["right"]
    assert calls["wrong"] == calls["nan"] < calls["right"]


def test_a_candidate_that_fails_after_its_first_call_is_recorded():
    state = iter([torch.ones(1)])
    found = side_by_side({"late": lambda: lambda: next(state)}, difference=float, allowed=1.0)
    assert found["late"].reason == "StopIteration"


def test_time_of_ones_own_leaves_out_what_a_call_waits_for(monkeypatch):
    threads = 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    calls = {"waits": lambda: time.sleep(0.02)}
    assert in_turn(calls, rounds=3, own_time=True)["waits"].median < 10
    assert min(in_turn(calls, rounds=3)["waits"].rounds) > 19
    threads = 2  # the others' time would be missing
    assert min(in_turn(calls, rounds=3, own_time=True)["waits"].rounds) > 19


def test_what_it_takes_undisturbed_is_the_middle_of_the_faster_half():
    assert Timing((9.0, 1.0, 8.0, 2.0, 3.0)).undisturbed == 2.0
    assert Timing((4.0,)).undisturbed == 4.0
