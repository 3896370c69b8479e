"""docs/hub.md is the schema of what is saved: it names all of it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import segzoo
from segzoo.config import ModelConfig
from segzoo.storage.allowed_options import STORED_OPTIONS

from ..model_folders import small

TEXT = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()


def named(text: str) -> list[str]:
    """What stands in backticks, without values."""
    return re.findall(r"`(\w+)`", text)


def keys_of_table(before: str) -> list[str]:
    """The first column of the table behind a text."""
    table = TEXT.partition(before)[2].partition("\n\n")[2].partition("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in named(row.split("|")[1])]


def test_the_keys_of_a_config(tmp_path):
    small().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert keys_of_table("### config.json") == [*written]


def test_the_arguments_of_every_architecture():
    assert keys_of_table("`arguments` of every architecture:") == ModelConfig.saved()
    own = re.search(r"those of the architecture itself, for `unet`: (.*?)\(see", TEXT, re.DOTALL)
    assert own is not None
    saved = segzoo.Unet.config_class.saved()
    assert {*named(own[1])} == {*saved} - {*ModelConfig.saved()}


def test_the_options_of_an_encoder():
    listed = re.search(r"`encoder_options` of a saved model .*?: (.*?)\. With", TEXT, re.DOTALL)
    assert listed is not None
    assert named(listed[1]) == [*STORED_OPTIONS]
