"""CamVid, where the environment says where it is."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

import segzoo
from segzoo.data.findings import find_all
from segzoo.data.mask_coding import MaskCoding

CAMVID = os.environ.get("SEGZOO_CAMVID")


@pytest.mark.skipif(CAMVID is None, reason="SEGZOO_CAMVID is not set")
def test_camvid_is_opened_and_without_a_finding():
    data = segzoo.open_data(CAMVID, ignore_index=11)
    assert (data.classes, data.in_channels) == (11, 3)
    assert (len(data.train), len(data.val)) == (367, 101)
    small = segzoo.DataSplits(
        train=segzoo.PairDataset(data.train.pairs[::8], data.train.coding, channels=3),
        val=segzoo.PairDataset(data.val.pairs[::8], data.val.coding, channels=3),
        test=None,
        classes=11,
        class_names=None,
        in_channels=3,
        ignore_index=11,
    )
    report = segzoo.check_data(small)
    assert not report.errors
    assert report.sizes == ((360, 480),) * 3
    wrong = replace(small, train=replace(small.train, coding=MaskCoding(11)))
    assert (
        "Pass ignore_index=11 if that is void, or classes=12." in segzoo.check_data(wrong).errors[0]
    )
    drawn = segzoo.open_data(f"{CAMVID}/train", classes=11, ignore_index=11)
    (warning,) = find_all([], drawn, names=[], shares={})
    assert "3 series" in warning.message
