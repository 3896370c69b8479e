"""The names of encoders, chosen by what is asked of each: the cheap questions first."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import checks
from ..errors import ArgumentError, UnknownNameError, nearest, warn
from . import timm_source
from .catalog import encoder_info
from .names import ENCODERS, all_names
from .sizes import SIZE_KINDS

#: More weights and more operations than any number that is no mistake.
_MOST = 1e15


def list_encoders(
    pattern: str = "*",
    *,
    pretrained: bool = False,
    license: str | None = None,
    min_parameters: float | None = None,
    max_parameters: float | None = None,
    strides: Sequence[int] | None = None,
    max_gflops: float | None = None,
    size_rule: str | None = None,
    progress: bool = False,
) -> list[str]:
    """Names of encoders, sorted: those that pass every filter that is given.

    Name, weights and licence are looked up. Parameters and strides take a few hundredths of a
    second for each encoder that is left by then, GFLOPs and size rule about a second.

    >>> segzoo.list_encoders("resnet1*", max_parameters=12e6, license="apache*")
    ['resnet10t', 'resnet14t', 'resnet18', 'resnet18d']

    Args:
        pattern: Shell-style: ``"resnet*"``, ``"*dinov2*"``.
        pretrained: Only those for which timm knows pretrained weights.
        license: Licence of the default weights, as timm states it: ``"mit"``, ``"cc-by-*"``.
            Shell-style; case does not matter. Encoders without weights, or of your own, have none.
        min_parameters: Number of weights, at least: ``5e6`` for five million.
        max_parameters: Number of weights, at most.
        strides: Stride of each map, finest first: ``(2, 4, 8, 16, 32)``.
        max_gflops: 10^9 operations for one image, counted as :func:`encoder_info` does.
        size_rule: ``"any"`` (an image of any size goes as it is, from a smallest one),
            ``"multiple"`` (it is padded to a multiple) or ``"fixed"`` (it is resized to one size).
        progress: Show a progress bar on stderr, where it takes more than a moment.

    Warns:
        UserWarning: Names those that are left out because a question could not be answered: timm
            cannot build them, or their operations cannot be counted.

    Raises:
        ArgumentError: A value that no encoder can have; a licence that timm states nowhere.
    """
    checks.text("pattern", pattern)
    checks.flag("pretrained", pretrained)
    wanted = _Wanted(
        license, min_parameters, max_parameters, _checked(strides), max_gflops, size_rule
    )
    names = sorted(fnmatch.filter(all_names(), pattern))
    if pretrained or license is not None:
        licenses = timm_source.default_licenses()
        right = licenses.keys() if license is None else _with_license(licenses, license)
        names = [name for name in names if name in right]
    unknown: list[str] = []
    if wanted.asks_for_an_outline:
        names = _kept(names, wanted.outline_fits, unknown, progress=progress)
    if wanted.asks_for_more:
        names = _kept(names, wanted.rest_fits, unknown, progress=progress)
    if unknown:
        warn(_left_out(unknown))
    return names


@dataclass(frozen=True)
class _Wanted:
    """What an encoder must have; None where it is all the same."""

    license: str | None
    min_parameters: float | None
    max_parameters: float | None
    strides: tuple[int, ...] | None
    max_gflops: float | None
    size_rule: str | None

    def __post_init__(self) -> None:
        least, most = self.min_parameters, self.max_parameters
        for name in ("min_parameters", "max_parameters", "max_gflops"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), minimum=0, maximum=_MOST)
        if least is not None and most is not None and least > most:
            raise ArgumentError(
                f"min_parameters={least:g} is above max_parameters={most:g}, which leaves no "
                "encoder."
            )
        if self.license is not None:
            checks.text("license", self.license)
        if self.size_rule is not None:
            checks.choice("size_rule", self.size_rule, SIZE_KINDS)

    @property
    def asks_for_an_outline(self) -> bool:
        """Whether each encoder has to be built."""
        return any(
            value is not None for value in (self.min_parameters, self.max_parameters, self.strides)
        )

    @property
    def asks_for_more(self) -> bool:
        """Whether each encoder has to be run."""
        return self.max_gflops is not None or self.size_rule is not None

    def outline_fits(self, name: str) -> bool:
        """Whether the number of weights and the strides are right."""
        strides, parameters = _outline(name)
        if self.min_parameters is not None and parameters < self.min_parameters:
            return False
        if self.max_parameters is not None and parameters > self.max_parameters:
            return False
        return self.strides in (None, strides)

    def rest_fits(self, name: str) -> bool | None:
        """Whether size rule and operations are right; None where these cannot be counted."""
        info = encoder_info(name)
        if self.size_rule not in (None, info.size_rule.kind):
            return False
        if self.max_gflops is None:
            return True
        return None if info.gflops is None else info.gflops <= self.max_gflops


def _checked(strides: Sequence[int] | None) -> tuple[int, ...] | None:
    if strides is None:
        return None
    checked = checks.sequence(
        "strides", strides, lambda name, item: checks.integer(name, item, minimum=1, maximum=4096)
    )
    if not checked or list(checked) != sorted(checked):
        raise ArgumentError(
            "strides are those of an encoder's maps, finest first, such as (4, 8, 16, 32); got "
            f"{checked}."
        )
    return checked


def _with_license(licenses: Mapping[str, str | None], wanted: str) -> set[str]:
    """The names whose licence matches; there must be one that does, or it is a mistake."""
    known = {license.lower() for license in licenses.values() if license}
    matching = set(fnmatch.filter(known, wanted.lower()))
    if not matching:
        raise UnknownNameError(
            f"There are no weights of the license {wanted!r}.{nearest(wanted.lower(), known)} timm "
            f"states: {', '.join(sorted(known))}."
        )
    return {name for name, license in licenses.items() if license and license.lower() in matching}


def _outline(name: str) -> tuple[tuple[int, ...], int]:
    """Strides and number of weights, from one build where that is enough."""
    if name in ENCODERS:
        info = encoder_info(name)
        return info.strides, info.parameters
    features, parameters = timm_source.outline(name)
    return tuple(feature.stride for feature in features), parameters


def _kept(
    names: Collection[str],
    passes: Callable[[str], bool | None],
    unknown: list[str],
    *,
    progress: bool,
) -> list[str]:
    """The names that pass; where it cannot be found out (None, or an error), in ``unknown``."""
    from tqdm import tqdm

    kept = []
    bar = tqdm(names, desc="asking", unit="encoder", disable=not progress, delay=1, leave=False)
    for name in bar:
        try:
            passed = passes(name)
        except Exception:  # a backbone may fail in any way, one of the user's most of all
            passed = None
        if passed:
            kept.append(name)
        elif passed is None:
            unknown.append(name)
    return kept


def _left_out(names: Iterable[str]) -> str:
    return (
        "Left out, because it could not be found out whether they pass: "
        f"{', '.join(sorted(names))}. segzoo.encoder_info(name) says more."
    )
