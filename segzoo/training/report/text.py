"""Text of strangers on a page."""

from __future__ import annotations

import html

from ...checks import printable


def escape(text: str) -> str:
    """Text that is shown as it is: no HTML, and nothing that turns or hides what is around it."""
    return html.escape(printable(text))
