"""One thing that is wrong with an environment."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Problem:
    """One thing that was found.

    Attributes:
        level: ``error``: something of segzoo does not work; or ``warning``: it works, but not as
            fast or not as completely as it could.
        message: What was found.
        remedy: What to do about it.
    """

    level: str
    message: str
    remedy: str
