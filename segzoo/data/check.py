"""Data looked at before anything is trained on them: what is wrong, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from .. import checks
from ..errors import ArgumentError, DataError
from .faults import counted
from .findings import ERROR, WARNING, Finding, find_all
from .inspect_pairs import PairFacts, inspect_splits
from .splits import DataSplits

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CheckReport:
    """What was found in data, and what they are like.

    Attributes:
        findings: Errors first.
        pairs: Split -> how many pairs it has.
        class_names: One for each class.
        shares: Split -> the share of its pixels that each class has, and void last; 0 to 1.
        sizes: Smallest, middle and largest number of pixels: heights and widths.
        in_channels: Bands of a picture.
        kinds: Kinds of the pictures' values -> how many have it.
    """

    findings: tuple[Finding, ...]
    pairs: dict[str, int]
    class_names: tuple[str, ...]
    shares: dict[str, tuple[float, ...]]
    sizes: tuple[tuple[int, int], ...]
    in_channels: int
    kinds: dict[str, int]

    @property
    def errors(self) -> tuple[str, ...]:
        """What stands in the way of training."""
        return tuple(found.message for found in self.findings if found.level == ERROR)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is worth a look."""
        return tuple(found.message for found in self.findings if found.level == WARNING)

    def raise_errors(self) -> None:
        """Raise where there are errors.

        Raises:
            DataError: All of them.
        """
        if self.errors:
            raise DataError("\n".join(self.errors))

    def to_json(self) -> dict[str, object]:
        """All of it as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def check_data(
    data: DataSplits, *, workers: int | None = None, progress: bool = False
) -> CheckReport:
    """Read every pair once and say what is wrong with the data.

    Errors are pairs that cannot be read or do not fit together, masks with values that are no
    class, pictures that are in two splits, and splits without a labelled pixel. Warnings are all
    else that usually is a mistake; `docs/data.md` has a table of both.

    Args:
        data: What :func:`segzoo.open_data` or :meth:`segzoo.DataSplits.of` gives.
        workers: Threads that read; None for one a processor, up to four. Datasets that are no
            files are read by one.
        progress: Show a bar on stderr.

    Raises:
        ArgumentError: No data, or another number of workers than 1 to 256.
    """
    if not isinstance(data, DataSplits):
        raise ArgumentError(
            "data must be what segzoo.open_data or segzoo.DataSplits.of gives, got "
            f"{checks.shown(data)}."
        )
    if workers is not None:
        checks.integer("workers", workers, minimum=1, maximum=256)
    facts = inspect_splits(data, workers=workers, progress=progress)
    good = [fact for fact in facts if fact.error is None]
    names = data.class_names or tuple(f"class {index}" for index in range(data.classes))
    shares = {
        split: _shares([fact for fact in good if fact.split == split], data.classes)
        for split in _SPLITS
        if any(fact.split == split for fact in facts)
    }
    return CheckReport(
        findings=find_all(facts, data, names=names, shares=shares),
        pairs=dict(Counter(fact.split for fact in facts)),
        class_names=names,
        shares=shares,
        sizes=_sizes(good),
        in_channels=data.in_channels,
        kinds=dict(Counter(fact.kind for fact in good)),
    )


def _shares(facts: Sequence[PairFacts], classes: int) -> tuple[float, ...]:
    counts = [sum(fact.pixels[index] for fact in facts) for index in range(classes)]
    counts.append(sum(fact.void for fact in facts))
    total = max(sum(counts), 1)
    return tuple(count / total for count in counts)


def _sizes(good: Sequence[PairFacts]) -> tuple[tuple[int, int], ...]:
    sizes = sorted((fact.size for fact in good), key=lambda size: size[0] * size[1])
    return (sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else ()


def _lines(report: CheckReport) -> Iterator[str]:
    yield "pairs     " + ", ".join(f"{count} in {split}" for split, count in report.pairs.items())
    if report.sizes:
        sizes = list(dict.fromkeys(f"{height}x{width}" for height, width in report.sizes))
        hint = " (smallest, middle, largest)" if len(sizes) > 1 else ""
        yield f"pixels    {', '.join(sizes)}{hint}"
        yield f"pictures  {counted(report.in_channels, 'band')}, {' and '.join(report.kinds)}"
        yield ""
        yield from _table(report)
    for level, found in (("error", report.errors), ("warning", report.warnings)):
        if found:
            yield ""
            yield from (f"{level}: {message}" for message in found)


def _table(report: CheckReport) -> Iterator[str]:
    names = [
        name if name == f"class {index}" else f"{index} {name}"
        for index, name in enumerate(report.class_names)
    ]
    width = max(map(len, [*names, "share of pixels"])) + 2
    yield "share of pixels".ljust(width) + "".join(f"{split:>9}" for split in report.shares)
    for index, name in enumerate([*names, "void"]):
        parts = [share[index] for share in report.shares.values()]
        if index < len(names) or any(parts):
            yield name.ljust(width) + "".join(f"{_percent(part):>9}" for part in parts)


def _percent(part: float) -> str:
    if part == 0:
        return "-"
    return f"{part:.1%}" if part >= 0.0005 else "<0.1%"
