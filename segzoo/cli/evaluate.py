"""``segzoo evaluate``: scores of a model on pictures whose masks are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import ArgumentError
from .data_options import pair_options
from .output import device_option, json_option, print_json, revision_option, show_progress


@click.command("evaluate")
@click.argument("model")
@pair_options
@click.option(
    "--size",
    nargs=2,
    type=int,
    metavar="H W",
    help="Size of pictures for the model: that of its training if left, else their own.",
)
@click.option("--batch-size", default=1, show_default=True, help="Pictures at a time.")
@click.option("--workers", default=0, show_default=True, help="Processes that read files.")
@click.option("--write-card", is_flag=True, help="Fill in the model's card with the scores.")
@click.option("--dataset", help="What the card calls the data; the folder's name if left.")
@revision_option
@device_option
@json_option
def evaluate_command(
    model: str,
    images: Path,
    masks: Path | None,
    size: tuple[int, int] | None,
    batch_size: int,
    workers: int,
    write_card: bool,
    dataset: str | None,
    revision: str | None,
    device: str,
    as_json: bool,
    **reading: Any,
) -> None:
    """Score MODEL, a folder or user/name on the Hub, on the pictures in IMAGES and MASKS.

    All pixels of all pictures are pooled: mean IoU, scores of each class, boundary F1, calibration,
    and 95 % intervals. Masks keep their size. Of folders with splits it is test, else val.

    \b
    Example:
      segzoo evaluate my-model test/images test/masks --ignore-index 255 --write-card
    """
    from ..architectures.base import from_pretrained
    from ..data.open_pairs import open_pairs
    from ..devices import choose_device
    from ..files.atomic import check_folder
    from ..files.hub import Access
    from ..training.card import find_records, trained_size
    from ..training.evaluate import measure, names_of_classes
    from ..training.figures import require_matplotlib
    from ..training.scores import ScoreMeter

    folder = Path(model)
    if write_card:
        if not folder.is_dir():
            raise ArgumentError(
                f"--write-card is for a folder, and {model!r} is none. Get the model with segzoo "
                "pull first."
            )
        require_matplotlib()
        check_folder(folder)
    access, known = Access(revision=revision), None
    if size is None:
        place, access = find_records(model, access)
        size = known = trained_size(place)
    network = from_pretrained(model, revision=access.revision).to(choose_device(device))
    if known is not None:
        click.echo(
            f"Pictures are resized to {known[0]}x{known[1]}, as in the model's training; --size H "
            "W says another.",
            err=True,
        )
    names = names_of_classes(network)
    pairs = open_pairs(
        images,
        masks,
        classes=names if names is not None else max(network.classes, 2),
        channels=network.in_channels,
        **reading,
    )
    meter = ScoreMeter(max(network.classes, 2), ignore_index=reading["ignore_index"])
    progress = show_progress(as_json)
    measure(
        network, pairs, meter, batch_size=batch_size, size=size, workers=workers, progress=progress
    )
    scores = meter.compute(names)
    if as_json:
        print_json(scores.to_json())
    else:
        click.echo(str(scores))
    if write_card:
        from ..training.results import write_evaluation

        card = write_evaluation(
            folder,
            network,
            pairs,
            scores=scores,
            image_miou=meter.image_miou(),
            dataset=dataset or None,
            source=images,
            size=size,
        )
        click.echo(f"{card}: the scores, class by class", err=as_json)
