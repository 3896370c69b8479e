"""Names and shapes that nobody saved: a model of the same bits, or a refusal before any memory."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import segzoo
from segzoo.convert import from_smp
from segzoo.errors import SegzooError

from ..fuzzing import fuzz
from .smp_models import theirs

#: What may stand in a name.
PIECES = st.one_of(
    st.sampled_from(["encoder.", "decoder.", "module.", "model.", "blocks.", "0", "9" * 40, "weight",
                     "bias", ".", "segmentation_head.0.", "\u202e", ""]),
    st.text(max_size=5),
)  # fmt: skip
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 64, 8192, 2**31, 2**40]), max_size=5)


def mutated(data: st.DataObject, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with other names, shapes and types in up to three places; none has values."""
    changed = dict(state)
    for _ in range(data.draw(st.integers(1, 3))):
        if not changed:
            break
        name = data.draw(st.sampled_from(sorted(changed)))
        kind = data.draw(st.sampled_from(["name", "shape", "type", "drop", "add", "prefix"]))
        if kind == "prefix":
            prefix = data.draw(PIECES)
            changed = {prefix + key: value for key, value in changed.items()}
        elif kind == "add":
            changed["".join(data.draw(st.lists(PIECES, max_size=6)))] = changed[name]
        elif kind == "drop":
            del changed[name]
        elif kind == "name":
            changed["".join(data.draw(st.lists(PIECES, max_size=6)))] = changed.pop(name)
        elif kind == "shape":
            try:  # a size of one that is repeated: no memory, whatever the shape claims
                changed[name] = torch.zeros(()).expand(data.draw(SHAPES))
            except RuntimeError:  # more bytes than there are addresses
                continue
        else:
            dtype = data.draw(
                st.sampled_from([torch.int64, torch.complex64, torch.bool, torch.half])
            )
            changed[name] = torch.zeros((), dtype=dtype).expand(changed[name].shape)
    return changed


#: What a config may have under the names that are read.
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 10**7), st.text(max_size=6),
    st.lists(st.integers(-1, 300), max_size=6), st.lists(st.text(max_size=4), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(0, 4), max_size=2),
)  # fmt: skip
CONFIGS = st.dictionaries(
    st.sampled_from(["_model_class", "encoder_name", "encoder_depth", "in_channels", "classes",
                     "decoder_channels", "decoder_use_norm", "decoder_interpolation", "aux_params",
                     "activation", "decoder_attention_type"]),
    VALUES,
    max_size=3,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_mutated_state_dicts_raise_nothing_but_our_errors():
    state = theirs().state_dict()

    def check(data: st.DataObject) -> None:
        config = data.draw(st.one_of(st.none(), CONFIGS))
        given = state if config and data.draw(st.booleans()) else mutated(data, state)
        with contextlib.suppress(SegzooError):
            assert isinstance(from_smp(given, config), segzoo.SegmentationModel)

    fuzz(check, examples=25)


@pytest.mark.parametrize("name", ["encoder_name", "decoder_channels", "_model_class"])
@pytest.mark.parametrize("value", [["resnet18"], {"a": 1}, [[1]]], ids=str)
def test_values_of_a_config_that_are_of_another_kind(name, value):
    with pytest.raises(SegzooError):
        from_smp(theirs().state_dict(), {"encoder_name": "tu-test_resnet", name: value})


def test_what_the_caller_gets_wrong_is_no_fault_of_the_checkpoint():
    with pytest.raises(TypeError, match="unexpected keyword argument 'encoder'"):
        from_smp(theirs().state_dict(), encoder="resnet18")
