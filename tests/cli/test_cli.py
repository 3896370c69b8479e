"""The command line: what it prints, what it writes, and how it refuses."""

import json
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import COMMANDS, main
from segzoo.data.pictures import read_mask, read_picture

GUIDE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A small model with uneven biases, so that masks show more than one class."""
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=3, depth=2, class_names=("sky", "road", "car"))
    return model.save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        picture(folder / f"{name}.png")
    return folder


def picture(path, shape=(33, 47, 3)):
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def run(capsys, *arguments):
    """Exit code, stdout, and the lines of stderr."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def refused(capsys, *arguments):
    """The one line on stderr of a call that is wrong."""
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err)) == (2, "", 1), err
    return err[0]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(capsys, command):
    code, out, err = run(capsys, command.name, "--help")
    assert code == 0
    assert not err
    assert f"Example:\n    segzoo {command.name}" in out
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"--{option.name} says nothing of itself"


def test_without_arguments_it_tells_what_there_is(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for command in COMMANDS:
        assert command.name in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"segzoo {segzoo.__version__}\n", [])


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from segzoo.cli import main; main(['predict', '--help']); "
        "print([m for m in ('torch', 'timm', 'numpy', 'PIL', 'tqdm') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_as_a_module():
    command = [sys.executable, "-m", "segzoo", "lst"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "segzoo: There is no command 'lst'. Did you mean list? See 'segzoo --help'."
    ]


#: A number of more digits than Python makes one from.
ENDLESS = "9" * 5000


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["list", "--jsn"], "--json"),
        (["list", "resnet"], '"*resnet*"'),
        (["list", "resnte34"], "Did you mean resnet34"),
        (["list", "--strides", "a"], "'a' are no strides, such as 2,4,8,16,32"),
        (["list", "--size-rule", "fix"], "Did you mean fixed"),
        (["list", "--license", "gpl"], "timm states: apache-2.0, "),
        (["info"], "Missing argument 'NAME'"),
        (["info", "resnet43"], "Did you mean resnet34"),
        (["info", "resnet34.nothing"], "It has: a1_in1k"),
        (["predict", "x.png", "-o", "out"], "Missing option '-m'"),
        (["predict", "missing.png", "-m", "m", "-o", "out"], "no file missing.png"),
        (["demo", "--image", "x.png"], "--image and --mask go together"),
        (["demo", "--steps", "many"], "'many' is not a valid integer"),
        (["bench", "resnet18", "--size", ENDLESS], "is no size: give 512"),
        (["check", "images", "masks", "--tile", ENDLESS], "is no size: give 512"),
        (["train", "x", "y", "-o", "out", "--classes", ENDLESS], "There is no folder x"),
        (["train", "x", "y", "-o", "out", "--label-map", f"1={ENDLESS}"], "There is no folder x"),
        (["predict", "x.png", "-m", "m", "-o", "out", "--rows", f"1/{ENDLESS}"], "is no part"),
        (["predict", "x.png", "-m", "m", "-o", "out", "--shard", "\N{SUPERSCRIPT TWO}/3"], "part"),
        (["train", "x", "y", "-o", "out", "--set", f"vflip={'[' * 99_999}"], "vflip must be True"),
    ],
    ids=lambda value: " ".join(value)[:70] if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(capsys, arguments, line):
    assert line in refused(capsys, *arguments)


def test_interruption_ends_with_130(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("segzoo.encoders.list_encoders", interrupt)
    code, out, err = run(capsys, "list")
    assert (code, out, "".join(err)) == (130, "", "")


def test_warnings_are_one_line(capsys, monkeypatch):
    def warn(*_, **__):
        warnings.warn("resized\nto fit", stacklevel=1)
        return ["resnet34"]

    monkeypatch.setattr("segzoo.encoders.list_encoders", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run(capsys, "list") == (0, "resnet34\n", ["segzoo: warning: resized to fit"])


def test_list(capsys):
    code, out, err = run(capsys, "list", "resnet1*", "--pretrained")
    assert (code, err) == (0, [])
    assert out.split() == segzoo.list_encoders("resnet1*", pretrained=True)
    _, out, _ = run(capsys, "list", "resnet1*", "--json")
    assert json.loads(out) == segzoo.list_encoders("resnet1*")


def test_list_filters(capsys):
    call = ("list", "resnet1*", "--licence", "APACHE*", "--min-parameters", "8.1e6")
    assert "'8.1e6' is no number of weights" in refused(capsys, *call)
    call = ("list", "resnet1*", "--licence", "APACHE*", "--min-parameters", "5000k")
    more = ("--max-parameters", ".012B", "--strides", "2,4,8,16,32", "--max-gflops", "4")
    code, out, err = run(capsys, *call, *more, "--size-rule", "any", "--json")
    assert (code, err, json.loads(out)) == (0, [], ["resnet14t", "resnet18"])
    line = refused(capsys, "list", "resnet18", "--max-parameters", "25", "--strides", "2,4")
    assert "Of the 1 encoders that match 'resnet18' none passes" in line
    assert "--max-parameters 25 --strides 2,4." in line


def test_list_long(capsys, monkeypatch):
    names = ["resnet18", "levit_128s"]
    monkeypatch.setattr("segzoo.encoders.list_encoders", lambda *_, **__: [*names, "broken"])
    infos = [segzoo.encoder_info(name) for name in names]

    def info(name):
        if name == "broken":
            raise segzoo.errors.EncoderError("no maps")
        return infos[names.index(name)]

    monkeypatch.setattr("segzoo.encoders.encoder_info", info)
    code, out, err = run(capsys, "list", "-l")
    assert (code, len(err)) == (1, 1)
    assert "1 of 3 encoders could not be described. broken: no maps" in err[0]
    head, *rows = [re.split("  +", line) for line in out.splitlines()]
    for row, name, item in zip(rows, names, infos, strict=True):
        facts = dict(zip(head, row, strict=True))
        assert facts["encoder"] == name
        assert facts["parameters"] == f"{item.parameters / 1e6:.2f} M"
        assert facts["GFLOPs"] == f"{item.gflops:.2f}"
        assert facts["strides"] == " ".join(map(str, item.strides))
        assert facts["image sizes"] == str(item.size_rule)
        assert facts["licence"] == item.license
    code, out, _ = run(capsys, "list", "-l", "--json")
    assert json.loads(out) == json.loads(json.dumps([asdict(item) for item in infos]))


def test_info(capsys):
    info = segzoo.encoder_info("resnet18")
    code, out, err = run(capsys, "info", "resnet18")
    assert (code, err) == (0, [])
    rows = {line[:11].strip(): line[11:].split() for line in out.splitlines()}
    assert rows["channels"] == [str(value) for value in info.channels]
    assert rows["stride"] == [str(value) for value in info.strides]
    assert rows["parameters"][0] == f"{info.parameters / 1e6:.2f}"
    assert rows["licence"] == [info.license]
    _, out, _ = run(capsys, "info", "resnet18", "--json")
    assert json.loads(out) == json.loads(json.dumps(asdict(info)))


def test_predict_gives_the_model_s_own_masks(capsys, model_folder, photos, tmp_path):
    out = tmp_path / "new" / "out"
    code, text, err = run(capsys, "predict", photos, "-m", model_folder, "-o", out)
    assert (code, err) == (0, [])
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.png", "a_overlay.png", "b.png", "b_overlay.png")
    ]
    model = segzoo.from_pretrained(model_folder)
    for name in ("a", "b"):
        mask = read_mask(out / f"{name}.png")
        assert torch.equal(mask, model.predict(read_picture(photos / f"{name}.png")))
        assert read_picture(out / f"{name}_overlay.png").shape == (3, 33, 47)
        assert f"{photos / name}.png -> {out / name}.png: " in text


def test_predict_json_has_the_facts(capsys, model_folder, photos, tmp_path):
    out = tmp_path / "out"
    code, text, err = run(capsys, "predict", photos, "-m", model_folder, "-o", out, "--json")
    facts = json.loads(text)
    assert (code, err, facts["failed"]) == (0, [], [])
    first = facts["predictions"][0]
    assert first["image"] == str(photos / "a.png")
    mask = read_mask(first["mask"])
    for index, name in enumerate(("sky", "road", "car")):
        share = (mask == index).float().mean().item()
        assert first["shares"].get(name, 0) == pytest.approx(share)


def test_grey_and_transparent_pictures_reach_a_model_of_three_bands(capsys, model_folder, tmp_path):
    grey = picture(tmp_path / "grey.png", (20, 30))
    alpha = picture(tmp_path / "alpha.png", (20, 30, 4))
    out = tmp_path / "out"
    assert run(capsys, "predict", grey, alpha, "-m", model_folder, "-o", out)[0] == 0
    model = segzoo.from_pretrained(model_folder)
    tripled = read_picture(grey).expand(3, -1, -1)
    assert torch.equal(read_mask(out / "grey.png"), model.predict(tripled))
    assert torch.equal(read_mask(out / "alpha.png"), model.predict(read_picture(alpha)[:3]))


def test_a_model_with_one_logit_gives_two_classes(capsys, photos, tmp_path):
    model = segzoo.Unet("resnet18", classes=1, depth=1, class_names=("road",))
    folder = model.save_pretrained(tmp_path / "model")
    code, text, _ = run(
        capsys, "predict", photos / "a.png", "-m", folder, "-o", tmp_path / "out", "--json"
    )
    assert code == 0
    assert set(json.loads(text)["predictions"][0]["shares"]) <= {"class 0", "class 1"}


def test_equal_names_do_not_overwrite_each_other(capsys, model_folder, photos, tmp_path):
    paths = [photos / "a.png", picture(tmp_path / "A.bmp"), picture(tmp_path / "a_overlay.png")]
    out = tmp_path / "out"
    code, text, _ = run(capsys, "predict", *paths, "-m", model_folder, "-o", out, "--json")
    assert code == 0
    written = [
        item[kind] for item in json.loads(text)["predictions"] for kind in ("mask", "overlay")
    ]
    assert len({name.lower() for name in written}) == 6
    model = segzoo.from_pretrained(model_folder)
    for item in json.loads(text)["predictions"]:
        assert torch.equal(read_mask(item["mask"]), model.predict(read_picture(item["image"])))


def test_results_are_replaced_only_when_told(capsys, model_folder, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b_overlay.png").write_text("mine")
    call = ("predict", photos, "-m", model_folder, "-o", out)
    assert "--overwrite" in refused(capsys, *call)
    assert [path.name for path in out.iterdir()] == ["b_overlay.png"]
    assert (out / "b_overlay.png").read_text() == "mine"
    assert run(capsys, *call, "--overwrite")[0] == 0
    assert read_picture(out / "b_overlay.png").shape == (3, 33, 47)


def test_a_picture_is_never_replaced_by_its_mask(capsys, model_folder, photos):
    before = (photos / "a.png").read_bytes()
    line = refused(capsys, "predict", photos, "-m", model_folder, "-o", photos, "--overwrite")
    assert "Choose another folder" in line
    assert (photos / "a.png").read_bytes() == before


def test_damaged_pictures_do_not_stop_the_others(capsys, model_folder, photos, tmp_path):
    whole = (photos / "a.png").read_bytes()
    (photos / "aa.png").write_bytes(whole[: len(whole) // 2])
    (photos / "ab.jpg").write_text("no picture")
    out = tmp_path / "out"
    code, text, err = run(capsys, "predict", photos, "-m", model_folder, "-o", out)
    assert code == 1
    assert len(text.splitlines()) == 2
    assert len(err) == 3
    assert "aa.png" in err[0]
    assert "ab.jpg" in err[1]
    assert "2 of 4 pictures" in err[2]
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.png", "a_overlay.png", "b.png", "b_overlay.png")
    ]


def test_a_single_picture_that_cannot_be_used_is_wrong_use(capsys, photos, tmp_path, model_folder):
    bands = segzoo.Unet("resnet18", classes=2, depth=1, in_channels=4)
    folder = bands.save_pretrained(tmp_path / "model")
    line = refused(capsys, "predict", photos / "a.png", "-m", folder, "-o", tmp_path / "out")
    assert "a.png" in line
    assert "3 bands and the model takes 4" in line
    (photos / "bad.png").write_text("no picture")
    call = ("predict", photos / "bad.png", "-m", model_folder, "-o", tmp_path / "out")
    assert "cannot be read as a picture" in refused(capsys, *call)


def test_models_and_devices_that_do_not_exist(capsys, photos, tmp_path, model_folder):
    call = ("predict", photos, "-o", tmp_path / "out", "-m")
    assert "no folder" in refused(capsys, *call, tmp_path / "missing")
    assert "no config.json" in refused(capsys, *call, photos)
    assert "'gpu9' cannot be used" in refused(capsys, *call, model_folder, "--device", "gpu9")
    assert "cannot be made" in refused(
        capsys, "predict", photos, "-m", model_folder, "-o", photos / "a.png" / "out"
    )
    assert not (tmp_path / "out").exists()


def test_the_guide_shows_what_the_commands_print(capsys):
    blocks = re.findall(r"^```console\n\$ segzoo (.*)\n([^`]*)^```", GUIDE, flags=re.MULTILINE)
    assert len(blocks) >= 3
    for command, shown in blocks:
        main(shlex.split(command))
        captured = capsys.readouterr()
        assert captured.out + captured.err == shown, command


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_guide_tells_of_every_option(command):
    assert f"## segzoo {command.name}" in GUIDE
    for option in command.params:
        if isinstance(option, click.Option):
            assert any(name in GUIDE for name in option.opts), f"docs/cli.md lacks {option.opts}"


@pytest.mark.parametrize(
    "call",
    [
        ("predict", "", "-m", "m", "-o", "o"),
        ("predict", "p.png", "-m", "m", "-o", ""),
        ("predict", "p.png", "-m", "m", "-o", "o", "--manifest", ""),
        ("predict", "p.png", "-m", "m", "-o", "o", "--manifest", "m", "--parquet", ""),
        ("check", ""),
        ("check", "data", ""),
        ("check", "data", "-o", ""),
        ("check", "data", "--classes", ""),
        ("check", "data", "--palette", ""),
        ("check", "data", "--val", ""),
        ("train", "data", "-o", ""),
        ("train", "data", "-o", "o", "--feature-folder", ""),
        ("report", ""),
        ("report", "m", "-o", ""),
        ("convert", "fastai", "", "o"),
        ("convert", "smp", "x.pth", ""),
        ("export", "m", "-o", ""),
        ("page", "m", "-o", ""),
        ("page", "m", "-o", "o", "--example", ""),
        ("push", "", "user/name"),
        ("pull", "user/name", ""),
        ("demo", "-o", ""),
    ],
    ids=" ".join,
)
def test_an_empty_text_is_no_path(capsys, tmp_path, monkeypatch, call):
    """It comes from a variable of the shell that is not set, and is not the folder one is in."""
    monkeypatch.chdir(tmp_path)
    for kind, values in (("images", (0, 90)), ("masks", (0, 1))):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for name in "abc":
            picture = Image.new("L", (4, 4), values[0])
            picture.putpixel((0, 0), values[1])
            picture.save(tmp_path / "data" / kind / f"{name}.png")
    before = sorted(tmp_path.rglob("*"))
    assert main(list(call)) in (1, 2)
    assert "empty text" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
