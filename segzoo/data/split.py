"""A share of the pictures kept apart, the same one whenever it is asked for."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from ..errors import ArgumentError, DataError
from .pairs import composed


def groups_of(names: Sequence[str], group: str | None) -> tuple[str, ...]:
    """The group of each name: what a regular expression finds in it, its first group if it has one.

    Args:
        names: Of the pictures.
        group: A regular expression such as ``"^[^_]+"``; None for every picture on its own.

    Raises:
        ArgumentError: No regular expression, or one that finds nothing in a name.
    """
    if group is None:
        return tuple(names)
    if not isinstance(group, str):
        raise ArgumentError(f"group must be a regular expression, got {group!r}.")
    try:
        pattern = re.compile(composed(group))
    except (re.error, OverflowError, RecursionError) as error:
        raise ArgumentError(f"group={group!r} is no regular expression: {error}.") from error
    found = []
    for name in names:
        match = pattern.search(name)
        if match is None:
            raise ArgumentError(
                f"group={group!r} finds nothing in the name {name!r}; every picture needs a group."
            )
        found.append((match[1] if pattern.groups else match[0]) or "")
    return tuple(found)


def draw_share(
    groups: Sequence[str], share: float, *, seed: int, what: str = "val", of: int | None = None
) -> tuple[int, ...]:
    """The places of a share of the items, whole groups only.

    Groups are ordered by a hash of the seed and their name, and taken from the front as long as
    each brings the number of items nearer to the share. So the share is as exact as groups allow,
    which a threshold on the hash is not for a dozen pictures; and a picture that is added later
    moves at most a few others across the border, where a shuffled list would be another split.

    Args:
        groups: Group of each item.
        share: Above 0, below 1.
        seed: Another one gives another share.
        what: What the share is for, in messages.
        of: How many items the share is of, some of which may be drawn already; None for these.

    Returns:
        Places in ascending order; at least one group is in it, and one is not.

    Raises:
        DataError: Fewer than two groups.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    if len(members) < 2:
        kind = "picture" if len(groups) < 2 else "group of pictures"
        raise DataError(
            f"There is one {kind}, and a share is to be kept apart for {what}. Give more, or pass "
            f"{what}= with other pictures."
        )
    wanted = share * (len(groups) if of is None else of)
    chosen: list[str] = []
    taken = 0
    for group in sorted(members, key=lambda group: _hash(seed, group)):
        # Only where that comes nearer to the share; a large group may be passed over.
        if taken + len(members[group]) / 2 <= wanted and len(chosen) < len(members) - 1:
            chosen.append(group)
            taken += len(members[group])
    if not chosen:
        chosen = [min(members, key=lambda group: (len(members[group]), _hash(seed, group)))]
    return tuple(sorted(place for group in chosen for place in members[group]))


def _hash(seed: int, group: str) -> bytes:
    text = f"{seed}:{group}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()
