"""segzoo check: what it prints, and its exit code."""

from __future__ import annotations

import json

import pytest

from segzoo.cli import main
from segzoo.cli.in_options import in_options

from ..datasets.making import labels, make_pairs, picture, save


@pytest.fixture
def folders(tmp_path):
    return tuple(map(str, make_pairs(tmp_path)))


def test_good_data(folders, tmp_path, capsys):
    assert main(["check", *folders, "-o", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "pairs     5 in train, 1 in val" in out
    assert out.endswith("These data can be trained on.\n")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert main(["check", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == {"train": 5, "val": 1}


def test_errors_make_exit_code_1(folders, tmp_path, capsys):
    assert main(["check", *folders, "--classes", "2"]) == 1
    told = capsys.readouterr()
    assert "error: 6 of 6 pairs, the first" in told.out
    assert told.err == "segzoo: 1 error to mend before training.\n"
    (tmp_path / "masks" / "a.png").unlink()
    assert main(["check", *folders, "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["findings"][0]["message"].startswith("1 of 6 images has no mask")


def test_names_may_be_more_than_a_file_can_be_called(folders, capsys):
    names = [f"thing number {number}" for number in range(150)]
    assert main(["check", *folders, "--classes", ",".join(names), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_names"] == names


def test_strict_lets_no_warning_pass(folders, tmp_path, capsys):
    call = ["check", *folders, "--classes", "4"]
    assert main(call) == 0
    assert "no pixel in train: class 3" in capsys.readouterr().out
    assert main([*call, "--strict"]) == 1
    told = capsys.readouterr()
    assert "2 warnings, which --strict does not let pass" in told.err
    assert "can be trained on" not in told.out
    out = tmp_path / "model"
    call = ["train", *folders, "-o", str(out), "--classes", "4", "--strict", "--no-pretrained"]
    assert main(call) == 2
    assert "Nothing was trained" in capsys.readouterr().err
    assert not out.exists()


def test_remedies_name_the_options_of_the_command_line(folders, tmp_path, capsys):
    """Of Python the same messages name its keywords."""
    for path in (tmp_path / "masks").iterdir():
        save(path, labels(1, 3) + 9)
    for more in ((), ("--json",)):
        assert main(["check", *folders, "--classes", "9", *more]) == 1
        told = capsys.readouterr()
        assert "--classes 12" in told.out
        assert "--label-map old=new" in told.out
        assert "classes=" not in told.out
    assert main(["check", *folders]) == 1
    assert "--label-map 9=0,10=1,11=2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass ignore_index=11 if that is void", "pass --ignore-index 11 if that is void"),
        ("label_map={'sky': None, 3: 0}", "--label-map sky=void,3=0"),
        ("Pass value_range=(0, 4095).", "Pass --range 0 4095."),
        ("or pass bands=(1, 2, 3), the numbers", "or pass --bands 1,2,3, the numbers"),
        ("value_range=(LOW, HIGH), --range LOW HIGH.", "--range LOW HIGH."),
        ("on one side by group=.", "on one side by --group."),
        ("pass group='^(.*?)[0-9]+$' to", "pass --group '^(.*?)[0-9]+$' to"),
        ("Another seed=, or val= with names,", "Another --seed, or --val with names,"),
        ("val must be a share; 5 classes in test.", "val must be a share; 5 classes in test."),
    ],
)
def test_words_of_python_become_options(message, expected):
    assert in_options(message) == expected


def test_every_option_arrives(tmp_path, capsys):
    for seed, name in enumerate(["x_1", "x_2", "y_1", "y_2", "z_1", "z_2"]):
        save(tmp_path / "i" / f"{name}.png", picture(seed))
        save(tmp_path / "m" / f"{name}_gt.png", labels(seed, 4) * 50)
    options = "--mask-suffix _gt --classes sky,road --label-map 0=void,50=sky,100=road,150=1"
    options += " --ignore-index 9 --bands 3,1 --range 0 200 --val 0.3 --test 0.3 --group ^. --seed 4 --workers 1"
    folders = [str(tmp_path / "i"), str(tmp_path / "m")]
    assert main(["check", *folders, *options.split(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["class_names"] == ["sky", "road"]
    assert report["pairs"] == {"train": 2, "val": 2, "test": 2}
    assert report["in_channels"] == 2
    assert report["kinds"] == {"float32": 6}
    assert report["shares"]["train"][2] > 0.1
    (tmp_path / "val.txt").write_text("x_1\n")
    (tmp_path / "palette.txt").write_text("0 0 0 a\n50 50 50 b\n100 100 100 c\n150 150 150 d\n")
    options = f"--mask-suffix _gt --palette {tmp_path}/palette.txt --val {tmp_path}/val.txt --json"
    assert main(["check", *folders, *options.split()]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["class_names"] == ["a", "b", "c", "d"]
    assert report["pairs"]["val"] == 1
    assert (
        main(["check", *folders, "--mask-suffix", "_gt", "--classes", "151", "--tile", "16"]) == 0
    )
    assert (
        main(["check", *folders, "--mask-suffix", "_gt", "--classes", "151", "--tile", "16x99"])
        == 0
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label-map", "255"], "'255' is no old=new"),
        (["--label-map", "1=0,1=1"], "there twice"),
        (["--tile", "large"], "'large' is no size"),
        (["--tile", "4"], "between 16 and"),
        (["--tile", "9" * 5000], "is no size"),
        (["--classes", "9" * 5000], "cannot be read"),
        (["--label-map", f"1={'9' * 5000}"], "there is no class"),
        (["--bands", "red"], "no numbers of bands"),
        (["--range", "9", "1"], "low < high"),
        (["--bands", "0"], "no numbers of bands"),
        (["--ignore-index", "void"], "not a valid integer"),
        (["--group", "("], "no regular expression"),
        (["--palette", "nowhere.txt"], "cannot be read"),
        (["--val", "nowhere.txt"], "cannot be read"),
        (["--val", "1.5"], "val must be between"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0] + value[1][:20],
)
def test_options_that_cannot_work(folders, capsys, options, words):
    assert main(["check", *folders, *options]) in (1, 2)
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1
