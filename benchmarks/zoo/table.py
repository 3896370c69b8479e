"""The table of reference models: a JSON file, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segzoo import ARCHITECTURES, Recipe, encoder_info
from segzoo.errors import ArgumentError, nearest
from segzoo.files import strict_json


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the models learn from.

    Args:
        name: What to call it.
        id: Its id on the Hub, or any short name.
        url: Where it comes from.
        classes: Their names, in order.
        ignore_index: What void is in its masks, or None.
        terms: A sentence on the owners and what is known of their terms.
    """

    name: str
    id: str
    url: str
    classes: tuple[str, ...]
    ignore_index: int | None = None
    terms: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model of the table.

    Args:
        name: Of its repository, without the account.
        architecture: One of ``segzoo.ARCHITECTURES``.
        encoder: One of timm's, with its tag where its weights are wanted.
        options: More arguments of the architecture, ``pretrained`` among them.
        recipe: How it is trained.
        license: Of its weights, where it is another than the table's.
    """

    name: str
    architecture: str
    encoder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe
    license: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """All reference models on one data set.

    Args:
        dataset: What they learn from.
        license: Of the weights, an id of the Hub.
        models: At least one.
    """

    dataset: Dataset
    license: str
    models: tuple[Reference, ...]


def read_table(path: Path) -> Table:
    """Read a table; a model's ``recipe`` changes single values of the table's.

    Raises:
        ArgumentError: A field that is unknown or missing, or a value that cannot be.
    """
    try:
        value = strict_json.parse(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path} is no table of models: {error}.") from error
    common = value.pop("recipe", {})
    dataset = value.get("dataset", {})
    dataset["classes"] = tuple(dataset.get("classes", ()))
    models = []
    for row in value.get("models", ()):
        found = made(
            Reference, {**row, "recipe": made(Recipe, {**common, **row.get("recipe", {})})}
        )
        if found.architecture not in ARCHITECTURES:
            raise ArgumentError(
                f"{found.name!r} has the unknown architecture {found.architecture!r}."
                + nearest(found.architecture, list(ARCHITECTURES))
            )
        check_license(found, found.license or str(value.get("license")))
        models.append(found)
    names = [model.name for model in models]
    if not names or len({*names}) < len(names):
        raise ArgumentError(f"{path} must name each of its models once, got {names}.")
    return made(Table, {**value, "dataset": made(Dataset, dataset), "models": tuple(models)})


def check_license(reference: Reference, wanted: str) -> None:
    """Refuse a licence that the weights which a model begins with do not have."""
    if not reference.options.get("pretrained"):
        return
    theirs = encoder_info(reference.encoder).license
    if theirs != wanted:
        raise ArgumentError(
            f"{reference.name!r} begins with weights of {reference.encoder} under "
            f"{theirs or 'a licence that timm does not say'}, and would be published under "
            f"{wanted}. Give it a 'license' that theirs allows, or other weights."
        )


def made(kind: Any, value: Mapping[str, Any]) -> Any:
    """A dataclass of values that have its fields, and no others."""
    known = [item.name for item in fields(kind)]
    for name in value:
        if name not in known:
            raise ArgumentError(f"{kind.__name__} has no field {name!r}." + nearest(name, known))
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})
    except TypeError as error:
        raise ArgumentError(f"{kind.__name__} of the table: {error}.") from error
