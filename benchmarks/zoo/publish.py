"""Train, score and push a table of reference models.

    python -m benchmarks.zoo.publish TABLE.json --data FOLDER --account NAME
    python -m benchmarks.zoo.publish benchmarks/zoo/camvid.json --data FOLDER --loopback

Each model is trained with several seeds by ``segzoo.train``. The one whose mean IoU is the median
is pushed with a card that states the scores of all seeds, the data, its terms and the licence. Then
it is pulled again: its weights must be those that were trained, bit by bit. A second call goes on
where the first one was stopped; trainings that are finished are not begun again. What was found is
printed; with ``--loopback`` the Hub is one of this process, and what was found becomes a record.

``FOLDER`` has ``train`` and ``val``, and ``test`` where there is one, each with ``images`` and
``masks``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import segzoo

    from .table import Dataset, Reference, Table


@dataclass(frozen=True)
class Trained:
    """A training that is finished.

    Args:
        seed: Of its recipe.
        folder: Of its model.
        scores: On ``split``.
        split: ``test`` where the data has one, else ``validation``.
    """

    seed: int
    folder: Path
    scores: segzoo.Scores
    split: str

    @property
    def miou(self) -> float:
        """The mean IoU."""
        return self.scores.miou or 0.0


def train(
    reference: Reference,
    data: segzoo.DataSplits,
    *,
    seed: int,
    work: Path,
    device: str,
    workers: int,
) -> Trained:
    """``segzoo.train`` as anybody calls it; goes on where it was stopped."""
    import torch

    import segzoo
    from segzoo.architectures.base import create_model

    torch.manual_seed(seed)
    options = {"class_names": data.class_names, "in_channels": data.in_channels}
    model = create_model(
        reference.architecture,
        reference.encoder,
        data.classes,
        **{**options, **reference.options},
    )
    folder = work / reference.name / f"seed-{seed}"
    found = segzoo.train(
        model,
        data,
        out=folder,
        recipe=replace(reference.recipe, seed=seed),
        device=device,
        workers=workers,
        progress=True,
    )
    scores, split = (found.scores, "validation") if found.test is None else (found.test, "test")
    return Trained(seed, folder, scores, split)


def description(reference: Reference, dataset: Dataset, runs: Sequence[Trained]) -> str:
    """What the card says above everything else."""
    values = [run.miou for run in runs]
    scores = ", ".join(f"{run.miou:.4f} (seed {run.seed})" for run in runs)
    start = "pretrained" if reference.options.get("pretrained") else "random"
    return (
        f"Trained on [{dataset.name}]({dataset.url}) from {start} weights. {dataset.terms}\n\n"
        f"Mean IoU on the {runs[0].split} images of {len(runs)} trainings that differ by their "
        f"seeds: {scores}; mean {statistics.mean(values):.4f}. The weights here are the median's."
    )


def median(runs: Sequence[Trained]) -> Trained:
    """The run in the middle, the lower one of two."""
    return sorted(runs, key=lambda run: run.miou)[(len(runs) - 1) // 2]


def write_card(table: Table, reference: Reference, runs: Sequence[Trained]) -> Trained:
    """Write the card of the median's folder."""
    import segzoo
    from segzoo.storage.model_folder import PICTURE_NAMES
    from segzoo.storage.pretrained import write_card
    from segzoo.training.card import filled_card, read_records

    chosen, dataset = median(runs), table.dataset
    for name in PICTURE_NAMES.values():  # a picture of the data is its owners'
        (chosen.folder / name).unlink(missing_ok=True)
    card = filled_card(
        chosen.scores,
        read_records(chosen.folder),
        dataset=dataset.name,
        split=chosen.split,
        license=reference.license or table.license,
    )
    card = replace(
        card,
        datasets=(dataset.id,),
        description=description(reference, dataset, runs),
    )
    write_card(segzoo.from_pretrained(chosen.folder), chosen.folder, card)
    return chosen


def check_pulled(repo_id: str, chosen: Trained, data: segzoo.DataSplits, size: Any) -> float:
    """Pull a model again: its mean IoU, once its weights are known to be those that were pushed."""
    import torch

    import segzoo
    from segzoo.storage.transfer import pull

    with tempfile.TemporaryDirectory() as place:
        folder = pull(repo_id, Path(place) / "model", cache_dir=Path(place) / "cache")
        model = segzoo.from_pretrained(folder, mmap=False)
    ours = segzoo.from_pretrained(chosen.folder).state_dict()
    theirs = model.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        raise SystemExit(f"{repo_id} has other weights than {chosen.folder}.")
    scores = segzoo.evaluate(model, data, size=size)
    return scores.miou or 0.0


def publish(
    table: Table, reference: Reference, data: segzoo.DataSplits, given: Any
) -> dict[str, Any]:
    """A row: one model with all its seeds, trained, pushed and pulled."""
    import segzoo
    from segzoo.storage.transfer import push

    runs = [
        train(
            reference,
            data,
            seed=seed,
            work=given.work,
            device=given.device,
            workers=given.workers,
        )
        for seed in range(given.seeds)
    ]
    chosen = write_card(table, reference, runs)
    values = [run.miou for run in runs]
    row = {
        "model": reference.name,
        "architecture": reference.architecture,
        "encoder": reference.encoder,
        "parameters": sum(
            weight.numel() for weight in segzoo.from_pretrained(chosen.folder).parameters()
        ),
        "split": chosen.split,
        "seeds": len(runs),
        "miou_mean": round(statistics.mean(values), 4),
        "miou_least": round(min(values), 4),
        "miou_greatest": round(max(values), 4),
        "miou_pushed": round(chosen.miou, 4),
    }
    if given.dry_run:
        return row
    repo_id = f"{given.account}/{reference.name}"
    push(chosen.folder, repo_id, private=given.private or None, commit_message="A reference model")
    return {
        **row,
        "miou_pulled": round(check_pulled(repo_id, chosen, data, reference.recipe.size), 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, push, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table", type=Path, help="as benchmarks/zoo/camvid.json")
    parser.add_argument("--data", type=Path, required=True, help="train, val and perhaps test")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--account", help="of the Hub; log in with `hf auth login` first")
    where.add_argument(
        "--loopback", action="store_true", help="a Hub of this process, and a record"
    )
    where.add_argument("--dry-run", action="store_true", help="train and write cards, push nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models of the table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(".zoo"), help="where trainings are kept")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        if given.loopback:  # before the Hub's client reads its environment
            from tests import hub_server

            given.account = "reference"
            os.environ.update(hub_server.start().environment, HF_HOME=home, HF_TOKEN="loopback")
        rows = all_rows(given)
    for row in rows:
        print(row)
    if given.loopback and not given.only:
        from benchmarks.common import write_result

        write_result("zoo", {"table": given.table.name, "seeds": given.seeds}, rows=rows)


def all_rows(given: Any) -> list[dict[str, Any]]:
    """Every model of the table, one after the other."""
    import segzoo
    from segzoo.errors import nearest

    from .table import read_table

    table = read_table(given.table)
    names = [reference.name for reference in table.models]
    for name in given.only or ():
        if name not in names:
            raise SystemExit(f"The table has no model {name!r}.{nearest(name, names)}")
    data = segzoo.open_data(
        given.data, classes=list(table.dataset.classes), ignore_index=table.dataset.ignore_index
    )
    return [
        publish(table, reference, data, given)
        for reference in table.models
        if given.only is None or reference.name in given.only
    ]


if __name__ == "__main__":
    main()
