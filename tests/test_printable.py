"""Names that strangers chose: refused where they turn text around, escaped where they are shown."""

import json

import pytest

import segzoo
from segzoo.checks import printable
from segzoo.cli.output import print_facts, print_json, print_table
from segzoo.data.classes import read_class_names, read_palette
from segzoo.errors import ArgumentError
from segzoo.storage.card import plain
from segzoo.training.report.text import escape

#: Embeddings, overrides and isolates of Unicode's bidirectional algorithm.
TURNING = [chr(code) for code in (0x202A, 0x202B, 0x202C, 0x202D, 0x202E, *range(0x2066, 0x206A))]


@pytest.mark.parametrize("character", TURNING, ids=ascii)
def test_names_of_classes_keep_their_direction(tmp_path, character):
    name = f"road{character}gnp"
    (tmp_path / "classes.txt").write_text(f"sky\n{name}\n", encoding="utf-8")
    (tmp_path / "palette.txt").write_text(f"0 0 0 sky\n1 1 1 {name}\n", encoding="utf-8")
    for give in (
        lambda: segzoo.Unet("test_resnet", classes=2, class_names=("sky", name)),
        lambda: read_class_names(tmp_path / "classes.txt"),
        lambda: read_palette(tmp_path / "palette.txt"),
    ):
        with pytest.raises(ArgumentError, match="in its own direction") as caught:
            give()
        assert str(caught.value).isprintable()


def test_names_in_scripts_from_right_to_left_are_names():
    names = ("שמיים", "طريق", "ש\u200cם", "\u200fdeg")
    assert segzoo.Unet("test_resnet", classes=4, class_names=names).class_names == names


def test_what_is_shown_is_escaped(capsys):
    name = "a\u202eb\x1b[31m\x9bc"
    shown = "a\\u202eb\\x1b[31m\\x9bc"
    assert printable(name) == shown
    assert escape(f"<{name}>") == f"&lt;{shown}&gt;"
    assert plain(name).replace("\\[", "[").replace("\\\\", "\\") == shown
    print_facts({"name": name})
    print_table([["x", name]])
    assert capsys.readouterr().out == f"name  {shown}\nx  {shown}\n"
    print_json({"name": name, "other": "ü"})
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert json.loads(text) == {"name": name, "other": "ü"}
    print_json({"other": "ü"})
    assert "ü" in capsys.readouterr().out
