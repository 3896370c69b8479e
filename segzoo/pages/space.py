"""A model's page as a Space of the Hugging Face Hub: static, so that nothing runs on the Hub."""

from __future__ import annotations

import html
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import checks
from .._version import __version__
from ..architectures.base import SegmentationModel
from ..errors import ArgumentError, HubError
from ..files import hub
from ..inference.export.exported import ExportedModel
from ..storage.card import is_unedited, marked, plain
from ..storage.hub_folder import made_repository, remote_card
from ..storage.model_folder import CARD
from .site import BROWSER_PIXELS, PAGE_JSON
from .write_page import MODEL_FILE, write_page

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Files of an earlier page, which this one may not need: they go in the commit that brings it. What
#: a person put into other folders stays.
_OURS = re.compile(
    rf"[^/]+\.(?:js|css)|index\.html|icon\.svg|{MODEL_FILE.pattern}|(?:runtime|examples)/.+"
)
#: How the page greets that the Hub puts into a new static Space, all that it says, and its style.
_GREETING = "Welcome to your static Space!"
_WELCOME = (
    f"My static Space {_GREETING} You can modify this app directly by editing index.html in the "
    "Files and versions tab. Also don't forget to check the Spaces documentation ."
)
_PAGE, _STYLE = "index.html", "style.css"
#: Bytes above which a page is not the Hub's.
_LARGEST_WELCOME = 16384
#: With these a browser lets the model use several threads.
_ISOLATED = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
#: The Hub's longest title of a Space is not told; cards have room for about this.
_SHORT_TITLE = 60


def push_space(
    model: SegmentationModel | ExportedModel,
    repo_id: str,
    *,
    title: str | None = None,
    examples: Iterable[str | os.PathLike[str]] = (),
    runtime: str | os.PathLike[str] | None = None,
    max_pixels: int = BROWSER_PIXELS,
    source: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish the page of :func:`segzoo.write_page` as a static Space, in one commit.

    The page is made and checked before the Hub is asked for anything. The Space is made where it is
    missing, and is gone again where the upload fails; of one that is there segzoo's page is
    replaced, or the one that the Hub welcomes with, and a ``README.md`` that a person wrote or
    edited is kept. A page that somebody else made is not replaced. Of an earlier page files go that
    this one has not: scripts, styles and the model beside ``index.html``, and what is in
    ``runtime`` and ``examples``.

    Args:
        model: See :func:`segzoo.write_page`.
        repo_id: ``user/name``.
        title: See :func:`segzoo.write_page`.
        examples: See :func:`segzoo.write_page`; they are published.
        runtime: See :func:`segzoo.write_page`.
        max_pixels: See :func:`segzoo.write_page`.
        source: The model's own repository on the Hub, which the Space then links to.
        private: Make the Space private, where it is made.
        token: Access token; None for the one that was logged in with.
        commit_message: First line of the commit.

    Returns:
        The address of the Space.

    Raises:
        ArgumentError: ``repo_id`` is none, or what :func:`segzoo.write_page` refuses.
        HubError: The Hub refused or could not be reached, or there is a Space of another kind, or
            with another page.
    """
    if not hub.is_repo_id(repo_id):
        raise ArgumentError(f"A Space has a name like user/name, got {checks.shown(repo_id)}.")
    if source is not None and not hub.is_repo_id(source):
        raise ArgumentError(f"source must be a model's user/name, got {checks.shown(source)}.")
    with tempfile.TemporaryDirectory(prefix="segzoo-space-") as folder:
        site = Path(folder) / "site"
        write_page(
            model, site, title=title, examples=examples, runtime=runtime, max_pixels=max_pixels
        )
        card = _card(title or repo_id.partition("/")[2], repo_id, source)
        (site / CARD).write_text(card, encoding="utf-8")
        return _upload(site, repo_id, private, token, commit_message)


def _upload(
    site: Path,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    commit_message: str | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="segzoo", library_version=__version__, token=token)
    with (
        hub.hub_errors(f"push to the Space {repo_id!r}"),
        made_repository(api, repo_id, private, space=True) as (name, made),
    ):
        existing = remote_card(name, None, token, space=True)
        _check_kind(existing, name)
        files = {path.relative_to(site).as_posix(): path for path in site.rglob("*")}
        files = {key: path for key, path in files.items() if path.is_file()}
        there = set(api.list_repo_files(name, repo_type="space"))
        earlier = {_PAGE, _STYLE} if made else _earlier(api, name, there)
        _check_others(there & files.keys() - earlier - {CARD}, name)
        if not (existing is None or is_unedited(existing) or _is_empty(existing)):
            del files[CARD]
        # By name, not by upload_folder, which may make several commits of many files.
        api.create_commit(
            name,
            [
                *(CommitOperationDelete(key) for key in sorted(there & earlier - files.keys())),
                *(CommitOperationAdd(key, path) for key, path in sorted(files.items())),
            ],
            repo_type="space",
            commit_message=commit_message or "Upload a page with segzoo",
        )
    return f"{api.endpoint}/spaces/{name}"


def _earlier(api: HfApi, repo_id: str, there: set[str]) -> set[str]:
    """The files of the page that is there, if that is one of segzoo's or the Hub's welcome."""
    if PAGE_JSON in there:
        return {PAGE_JSON, *filter(_OURS.fullmatch, there)}
    return {_PAGE, _STYLE} if _PAGE in there and _is_welcome(api, repo_id) else set()


def _is_empty(card: str) -> bool:
    """Whether a card is the one that the Hub makes for a new Space: metadata and its own link."""
    body = card.split("---", 2)[-1]
    return len(body.split()) <= 10 and "spaces-config-reference" in body


def _check_kind(card: str | None, repo_id: str) -> None:
    """Raise for a Space that runs something else: a page put into it would not be shown."""
    from huggingface_hub import SpaceCard

    try:
        sdk = getattr(SpaceCard(card or "").data, "sdk", None)
    except Exception:  # what a person wrote into it need not be YAML
        sdk = None
    if sdk not in (None, "static"):
        raise HubError(
            f"The Space {repo_id} runs {checks.shown(sdk)}, not a static page. Nothing was "
            "published: choose another name, or change its sdk to static first."
        )


def _check_others(replaced: set[str], repo_id: str) -> None:
    """Raise for a page that somebody else made: it would be gone, with its programs and styles."""
    if replaced:
        raise HubError(
            f"The Space {repo_id} has a page that segzoo did not make ({min(replaced)} without "
            f"{PAGE_JSON}). Nothing was published: choose another name, or remove that page first."
        )


def _is_welcome(api: HfApi, repo_id: str) -> bool:
    """Whether the page is the Hub's own: it says just what that does, or nobody has changed it."""
    with tempfile.TemporaryDirectory() as cache:
        access = hub.Access(token=api.token, cache_dir=cache, repo_type="space")
        found = hub.optional(repo_id, _PAGE, access, largest=_LARGEST_WELCOME)
        source = "" if found is None else found.read_text("utf-8", errors="replace")
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())
    if _GREETING not in text:
        return False
    return text == _WELCOME or len(api.list_repo_commits(repo_id, repo_type="space")) == 1


def _card(title: str, repo_id: str, source: str | None) -> str:
    """The card of the Space, with what the Hub has to know."""
    from huggingface_hub import SpaceCardData

    data = SpaceCardData(
        title=title[:_SHORT_TITLE],
        sdk="static",
        app_file=_PAGE,
        colorFrom="blue",
        colorTo="yellow",
        pinned=False,
        models=[source] if source else None,
        tags=["segzoo", "image-segmentation", "semantic-segmentation"],
        custom_headers=_ISOLATED,
    )
    of = f"[{source}](https://huggingface.co/{source})" if source else "a segmentation model"
    text = (
        f"---\n{str(data.to_yaml(line_break=chr(10))).strip()}\n---\n# {plain(title)}\n\n"
        f"A page on which {of} segments pictures. It computes in the browser of whoever opens it: "
        f"pictures are not sent anywhere. Made with segzoo (`segzoo space MODEL {repo_id}`).\n"
    )
    return marked(text)
