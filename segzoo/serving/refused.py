"""Requests that get no mask, with the status and the sentence that they get instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class RefusedError(Exception):
    """An answer without a mask.

    Args:
        status: Of HTTP.
        sentence: What came, what was expected and what to do.
        headers: Of the answer.
        unread: Whether more of the body is to come.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        unread: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers)
        self.unread = unread


class ClientGoneError(Exception):
    """The client has closed the connection: nobody waits for the answer."""
