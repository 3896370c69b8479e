"""What people hold in memory opens as its file does; and what is read comes into memory."""

from __future__ import annotations

import pytest
import torch

from segzoo.errors import ConversionError
from segzoo.files.checkpoint import open_checkpoint

from .saved_models import MODEL, STATE, TYPICAL
from .test_what_people_save import OPENS, assert_state, saved, without_counters


@pytest.mark.parametrize("what", OPENS)
def test_it_opens_in_memory_too(what):
    found = open_checkpoint(OPENS[what](), typical=TYPICAL).read()
    assert found.pop("encoder.1.num_batches_tracked") == 0
    assert_state(found, without_counters())


def test_it_is_read_into_memory_whatever_the_default_device(tmp_path):
    saved(STATE, tmp_path / "a.pth")
    for source in (STATE, tmp_path / "a.pth", {"model": without_counters()}):
        with torch.device("meta"):  # as a GPU by torch.set_default_device
            found = open_checkpoint(source, typical=TYPICAL).read()
        assert {item.device.type for item in found.values()} == {"cpu"}


def test_one_model_of_which_a_state_dict_was_made_twice(tmp_path):
    twice = {"model": MODEL.state_dict(), "state_dict": MODEL.state_dict()}
    for source in (twice, {"net": MODEL, "best": MODEL}, saved(twice, tmp_path / "a.pth")):
        assert_state(open_checkpoint(source, typical=TYPICAL).read())
    copied = {name: value.clone() for name, value in STATE.items()}
    with pytest.raises(ConversionError, match="2 sets of weights: 'model', 'copy'"):
        open_checkpoint({"model": STATE, "copy": copied}, typical=TYPICAL)
