"""The same numbers as segmentation_models_pytorch, on the same weights."""

import pytest

from benchmarks.parity.smp import CASES, eval_difference, make_pair, step_difference


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_logits_are_equal_to_the_bit(arguments):
    # Two sizes here; benchmarks/parity/smp.py takes three, with the reference encoder.
    pair = make_pair(arguments, "resnet18")
    for size in ((65, 97), (33, 160)):
        assert eval_difference(*pair, size) == 0.0


@pytest.mark.parametrize(
    "arguments", [{}, {"attention": "scse"}, {"interpolation": "bilinear"}], ids=str
)
def test_a_training_step_gives_the_same_gradients_and_statistics(arguments):
    pair = make_pair(arguments, "resnet18")
    for size in ((65, 49), (64, 96)):  # at an even size the decoder computes in another form
        assert step_difference(*pair, size) < 1e-9


def test_the_reference_encoder_is_equal_to_the_bit():
    pair = make_pair({}, "resnet34")
    for size in ((256, 256), (65, 97), (33, 500)):
        assert eval_difference(*pair, size) == 0.0
