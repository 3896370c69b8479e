"""``segzoo convert``: checkpoints of other libraries into model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConversionError
from ..files import leftovers
from ..files.atomic import check_folder
from ..files.local import exists, is_folder, listed
from .output import Command
from .paths import GivenPath

if TYPE_CHECKING:
    from ..architectures.base import SegmentationModel


def weights_option(command: Command) -> Command:
    """``--weights``, for a file with several sets of weights."""
    return click.option(
        "--weights", help="Which set of weights to take, where there are several: model_ema."
    )(command)


def _rates(
    ctx: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Numbers with commas between them."""
    try:
        return None if value is None else tuple(map(int, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} are no rates, such as 12,24,36") from None


@click.group("convert", invoke_without_command=True)
@click.pass_context
def convert_command(ctx: click.Context) -> None:
    """Bring over a checkpoint of another library, exactly or not at all.

    \b
    Example:
      segzoo convert smp checkpoint.pth my-model
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@convert_command.command("smp")
@click.argument("checkpoint")
@click.argument("out", type=GivenPath())
@click.option("--encoder", help="smp's encoder_name, where the checkpoint does not tell it.")
@click.option(
    "--interpolation",
    help="smp's decoder_interpolation, where it was not the default of its class.",
)
@click.option(
    "--config",
    "config_file",
    type=GivenPath(exists=True, dir_okay=False),
    help="A JSON file of smp's arguments that tensors do not tell: encoder_output_stride ...",
)
@click.option("--revision", help="Branch, tag or commit, where CHECKPOINT is a repository.")
@weights_option
def smp_command(
    checkpoint: str,
    out: Path,
    encoder: str | None,
    interpolation: str | None,
    config_file: Path | None,
    revision: str | None,
    weights: str | None,
) -> None:
    """Convert CHECKPOINT of segmentation_models_pytorch into the folder OUT.

    CHECKPOINT is a file (of torch.save, a training loop, safetensors), a folder or a repository
    (user/name) that save_pretrained wrote. The converted model has the same weights to the last
    bit. What tensors do not tell is smp's default, which is told, unless an option, the file of
    --config or smp's config.json beside CHECKPOINT says it, in this order.

    \b
    Example:
      segzoo convert smp checkpoint.pth my-model --encoder tu-convnext_tiny
    """
    from ..convert import from_smp
    from ..files.checkpoint import read_json

    _check(out)
    given: dict[str, Any] = {"encoder_name": encoder, "decoder_interpolation": interpolation}
    config = {} if config_file is None else read_json(config_file)
    config |= {name: value for name, value in given.items() if value is not None}
    _save(from_smp(checkpoint, config, weights=weights, revision=revision), out)


@convert_command.command("fastai")
@click.argument("checkpoint", type=GivenPath())
@click.argument("out", type=GivenPath())
@click.option("--encoder", help="Name of the encoder, only to be checked.")
@click.option("--blur", is_flag=True, help="unet_learner was called with blur=True.")
@click.option("--no-blur-final", is_flag=True, help="... and with blur_final=False.")
@click.option("--y-range", nargs=2, type=float, help="The y_range of unet_learner, if any.")
@click.option("--act", default="relu", show_default=True, help="Its act_cls: relu, mish ...")
@weights_option
def fastai_command(
    checkpoint: Path,
    out: Path,
    encoder: str | None,
    blur: bool,
    no_blur_final: bool,
    y_range: tuple[float, float] | None,
    act: str,
    weights: str | None,
) -> None:
    """Convert CHECKPOINT of a fastai unet_learner into the folder OUT.

    CHECKPOINT is what learn.save or learn.export wrote, or a state dict of learn.model. Its
    encoder, classes and most options are found from the tensors; blur, y_range and act leave no
    trace in them and have to be said.

    \b
    Example:
      segzoo convert fastai models/stage-2.pth my-model
    """
    from ..convert import from_fastai

    _check(out)
    model = from_fastai(
        checkpoint,
        encoder,
        blur=blur,
        blur_final=not no_blur_final,
        y_range=y_range,
        act=act,
        weights=weights,
    )
    _save(model, out)


@convert_command.command("torchvision")
@click.argument("checkpoint", type=GivenPath())
@click.argument("out", type=GivenPath())
@click.option(
    "--atrous-rates",
    callback=_rates,
    help="Of DeepLabV3's head, where they were not torchvision's: 12,24,36.",
)
@weights_option
def torchvision_command(
    checkpoint: Path, out: Path, atrous_rates: tuple[int, ...] | None, weights: str | None
) -> None:
    """Convert CHECKPOINT of one of torchvision's segmentation models into the folder OUT.

    CHECKPOINT is a file that torchvision downloaded, or the saved state dict of such a model:
    deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, fcn_resnet50,
    fcn_resnet101 or lraspp_mobilenet_v3_large. Which one it is, classes and auxiliary classifier
    are found from the tensors.

    \b
    Example:
      segzoo convert torchvision deeplabv3_resnet50_coco.pth my-model
    """
    from ..convert import from_torchvision

    _check(out)
    _save(from_torchvision(checkpoint, atrous_rates=atrous_rates, weights=weights), out)


@convert_command.command("transformers")
@click.argument("checkpoint")
@click.argument("out", type=GivenPath())
@click.option("--revision", help="Branch, tag or commit, where CHECKPOINT is a repository.")
@weights_option
def transformers_command(
    checkpoint: str, out: Path, revision: str | None, weights: str | None
) -> None:
    """Convert CHECKPOINT of a segmentation model of transformers into the folder OUT.

    CHECKPOINT is a folder or a repository (user/name) that save_pretrained wrote, or one of its
    weight files with config.json beside it: of SegformerForSemanticSegmentation,
    UperNetForSemanticSegmentation (ConvNeXt, Swin), DPTForSemanticSegmentation,
    EomtForUniversalSegmentation or EomtDinov3ForUniversalSegmentation. Names of classes and the
    normalisation of pixels come along.

    \b
    Example:
      segzoo convert transformers nvidia/segformer-b0-finetuned-ade-512-512 my-model
    """
    from ..convert import from_transformers

    _check(out)
    _save(from_transformers(checkpoint, weights=weights, revision=revision), out)


def _check(out: Path) -> None:
    """Raise before anything is converted where it could not be saved."""
    leftovers.sweep(out)  # of a run that was killed
    if exists(out) and (not is_folder(out) or listed(out)):
        raise ConversionError(f"{out} exists and is not an empty folder; give a new one.")
    check_folder(out)


def _save(model: SegmentationModel, out: Path) -> None:
    model.save_pretrained(out)
    click.echo(f"{out}: {type(model).__name__} with {model.config.encoder}")
