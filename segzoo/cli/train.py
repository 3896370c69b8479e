"""``segzoo train``: from pictures and masks to a model in a folder."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files.local import as_typed
from .data_options import data_options, open_given_data, strict_option
from .output import (
    ARCHITECTURE_NAMES,
    device_option,
    json_option,
    print_json,
    show_progress,
)
from .paths import GivenPath

if TYPE_CHECKING:
    from ..data.splits import DataSplits
    from ..training.recipe import Recipe
    from ..training.train import TrainingResult

#: Options of the command that are fields of the recipe, by the option's name.
_FIELDS = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "learning_rate",
    "size": "size",
    "crop": "crop",
    "seed": "seed",
    "teacher": "teacher",
    "temperature": "temperature",
}


def _value(text: str) -> Any:
    """A value as JSON or Python has it, or a text: ``.1``, ``[2, 3]``, ``true``, ``balanced``."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(text)
    return text


def _settings(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> Any:
    """``vflip=true`` as a name and a value."""
    found = {}
    for setting in value:
        name, equals, text = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{setting!r} is no name=value; give vflip=true.")
        found[name.strip()] = _value(text.strip())
    return found


def _number_or_word(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    return None if value is None else _value(value)


@click.command("train")
@data_options
@click.option("--arch", default="unet", show_default=True, help=f"{ARCHITECTURE_NAMES}.")
@click.option("--encoder", default="resnet34", show_default=True, help="A name of segzoo list.")
@click.option(
    "--pretrained/--no-pretrained",
    default=True,
    show_default=True,
    help="Begin with weights that have learned on photographs (a download), or with random ones.",
)
@click.option("-o", "--out", required=True, type=GivenPath(), help="Folder for the model.")
@click.option("--epochs", type=int, help="How often every picture is seen; 30 if left.")
@click.option(
    "--batch-size",
    callback=_number_or_word,
    help="Pictures in each step of one device, or auto; 8 if left.",
)
@click.option("--lr", callback=_number_or_word, help="Learning rate, or find; 0.001 if left.")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Resize pictures to that.")
@click.option("--crop", nargs=2, type=int, metavar="H W", help="Learn from random pieces.")
@click.option("--seed", type=int, help="Of order, augmentation and first weights; 0 if left.")
@click.option(
    "--teacher",
    metavar="MODEL",
    help="A trained model, whose answers are learned beside the masks: a folder, or user/name.",
)
@click.option("--temperature", type=float, help="At which the teacher is learned from; 2 if left.")
@click.option(
    "--freeze-encoder", is_flag=True, help="Leave the encoder as it is; what follows it learns."
)
@click.option(
    "--feature-folder",
    type=GivenPath(),
    help="Where --set keep_features=true keeps the features of a frozen encoder; else in memory.",
)
@click.option(
    "--recipe",
    "recipe_file",
    type=GivenPath(),
    help="JSON of a segzoo.Recipe, such as training/recipe.json of another model.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    callback=_settings,
    help="Any field of the recipe: --set vflip=true --set class_weights=balanced.",
)
@device_option
@click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    help="Processes that read pictures; one a processor, up to 8, if left.",
)
@click.option(
    "--log-with",
    multiple=True,
    metavar="TRACKER",
    help="Tell scores to tensorboard, wandb, mlflow or another tracker of accelerate, too.",
)
@click.option("--restart", is_flag=True, help="Begin anew where OUT holds a training.")
@strict_option
@json_option
def train_command(
    arch: str,
    encoder: str,
    pretrained: bool,
    out: Path,
    freeze_encoder: bool,
    feature_folder: Path | None,
    recipe_file: Path | None,
    settings: Mapping[str, Any],
    device: str,
    workers: int | None,
    log_with: tuple[str, ...],
    restart: bool,
    strict: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model on the pictures in IMAGES and their masks in MASKS.

    The data are checked first, as segzoo check does. OUT gets the model that was best on the
    pictures kept apart (--val), and training/ with all that is known of it. The same line again
    goes on where a training was stopped, whatever stopped it.

    \b
    Example:
      segzoo train images/ masks/ --encoder resnet34 -o my-model
      torchrun --nproc_per_node=8 -m segzoo train images/ masks/ -o my-model
    """
    from ..training.folder import TrainingFolder
    from ..training.loaders import default_workers
    from ..training.processes import is_first
    from ..training.train import train

    fields = {field: given.pop(option) for option, field in _FIELDS.items()}
    recipe = _recipe(recipe_file, {**settings, **_given(fields)})
    progress = show_progress(as_json) and is_first()
    _refuse_early(arch, encoder, device)
    begun = TrainingFolder(out).look(restart=restart) is not None
    data = open_given_data(seed=recipe.seed, progress=progress, **given)
    if is_first() and not begun:
        _check(data, strict=strict, progress=progress)
    model = _model(arch, encoder, pretrained, data, recipe.seed)
    result = train(
        model.freeze_encoder() if freeze_encoder else model,
        data,
        out=out,
        recipe=recipe,
        device=device,
        workers=default_workers() if workers is None else workers,
        feature_folder=feature_folder,
        restart=restart,
        progress=progress,
        on_epoch=None if as_json else _print_epoch,
        log_with=log_with or None,
    )
    if is_first():
        _print(result, as_json)


def _refuse_early(arch: str, encoder: str, device: str) -> None:
    """Raise for what would be refused anyway, but after all pictures were read."""
    from ..architectures.base import create_model
    from ..devices import choose_device
    from ..encoders.probe import build_on_meta
    from ..training.figures import require_matplotlib
    from ..training.processes import launched

    with _without_remarks():
        build_on_meta(lambda: create_model(arch, encoder))  # how many classes is in the masks
    require_matplotlib()
    if launched() == 1:  # else each process finds its own
        choose_device(device)


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Meanwhile segzoo's log has errors only: the model is built twice, and they come once."""
    log = logging.getLogger("segzoo")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _recipe(path: Path | None, changes: Mapping[str, Any]) -> Recipe:
    from ..errors import StorageError
    from ..files.atomic import read_text
    from ..training.recipe import Recipe

    if path is None:
        return Recipe().changed(changes)
    try:
        text = read_text(path, largest=2**20)
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"The recipe {path} cannot be read: {error}.") from error
    return Recipe.from_json(text).changed(changes)


def _check(data: DataSplits, *, strict: bool, progress: bool) -> None:
    """Errors stop; warnings do where it is strict."""
    from ..data.check import check_data
    from ..data.faults import counted
    from ..errors import DataError

    report = check_data(data, progress=progress)
    for warning in report.warnings:
        click.echo(f"segzoo: warning: {warning}", err=True)
    report.raise_errors()
    if strict and report.warnings:
        warnings = counted(len(report.warnings), "warning")
        raise DataError(f"{warnings}, which --strict does not let pass. Nothing was trained.")


def _model(arch: str, encoder: str, pretrained: bool, data: DataSplits, seed: int) -> Any:
    """The model with its first weights, which the seed decides."""
    import torch

    from ..architectures.base import create_model
    from ..errors import HubError

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return create_model(
                arch,
                encoder,
                data.classes,
                in_channels=data.in_channels,
                class_names=data.class_names,
                pretrained=pretrained,
            )
        except HubError as error:
            raise HubError(f"{error} To begin with random weights: --no-pretrained.") from error


def _print_epoch(row: Mapping[str, Any]) -> None:
    """A line on stderr, above the bar where there is one."""
    from tqdm import tqdm

    miou = row["val"]["miou"]
    tqdm.write(
        f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  "
        f"mIoU {'-' if miou is None else f'{miou:.4f}'}  {row['seconds']:.0f} s",
        file=sys.stderr,
    )


def _print(result: TrainingResult, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "out": result.out,
                "epochs": result.epochs,
                "best_epoch": result.best_epoch,
                "was_finished": result.was_finished,
                "scores": result.scores.to_json(),
                "test": None if result.test is None else result.test.to_json(),
            }
        )
        return
    if result.was_finished:
        click.echo(f"{result.out} holds this training, finished; --restart begins it anew.\n")
    click.echo(str(result.scores))
    if result.test is not None:
        click.echo(f"\nOn the test pictures:\n{result.test}")
    click.echo(
        f"\n{result.out}: the model of epoch {result.best_epoch} of {result.epochs}. Try it:\n"
        f"  segzoo predict photo.jpg --model {as_typed(result.out)} -o predictions"
    )
