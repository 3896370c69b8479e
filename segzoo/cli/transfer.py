"""``segzoo push`` and ``segzoo pull``: model folders to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from .paths import GivenPath


@click.command("push")
@click.argument("folder", type=GivenPath())
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository private, where it is made.")
@click.option("--revision", help="Branch to commit to, made where it is missing.")
@click.option("--message", help="First line of the commit.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
def push_command(
    folder: Path,
    repo: str,
    private: bool,
    revision: str | None,
    message: str | None,
    create_pr: bool,
) -> None:
    """Upload the model in FOLDER to the repository REPO (user/name).

    The repository is made where it is missing. The model is checked first, a card that a person
    wrote in the repository is kept, and all files go up in one commit. The token is the one you
    logged in with, or that of the variable HF_TOKEN.

    \b
    Example:
      segzoo push my-model user/name
    """
    from ..storage.transfer import push

    address = push(
        folder,
        repo,
        private=private or None,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
    )
    click.echo(address)


@click.command("pull")
@click.argument("repo")
@click.argument("folder", type=GivenPath())
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--offline", is_flag=True, help="Only from the cache, without the network.")
def pull_command(repo: str, folder: Path, revision: str | None, offline: bool) -> None:
    """Download the model of the repository REPO (user/name) into FOLDER.

    Only the model's own files are taken, and FOLDER changes only once they were found to be a
    whole model.

    \b
    Example:
      segzoo pull user/name my-model
    """
    from ..storage.transfer import pull

    click.echo(str(pull(repo, folder, revision=revision, local_files_only=offline)))
