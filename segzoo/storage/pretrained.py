"""Models in folders and on the Hub: what a config says is built, what a file holds is put in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..config import ConfiguredModel
from ..encoders import Encoder
from ..encoders.pyramid import Pyramid
from ..errors import ConfigError, StorageError, WeightsError, warn
from ..features import FeatureSpec
from ..files import hub
from ..files.local import path_of
from ..nn.finite import first_infinite
from ..nn.unsaved import unsaved_buffers
from . import config_json, hub_folder, model_folder, rebuilding, safetensors_file
from .adapt import adapted
from .card import ModelCard, is_unedited, render
from .config_json import Description
from .rebuilding import on_meta, own_tensors

if TYPE_CHECKING:
    from typing_extensions import Self

#: Buffers that are computed, not saved, may take this part of the weights' size, and this much.
_BUFFER_SHARE, _BUFFER_BYTES = 0.25, 64 * 2**20
#: Bytes of the widest number that weights are stored in, and what weights may have beyond them.
_WIDEST, _SLACK = 8, 64 * 2**20
#: How often a model is read again when another process saves into its folder meanwhile.
_ATTEMPTS = 50


class StoredModel(ConfiguredModel):
    """The part of a model that knows how to leave and enter a folder or a repository.

    Attributes:
        encoder: What turns an image into maps.
        pyramid: What turns the encoder's maps into those that the decoder is given.
        features: The maps that the decoder is given, finest first.
    """

    encoder: Encoder
    pyramid: Pyramid
    features: tuple[FeatureSpec, ...]

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        card: ModelCard | None = None,
        check_finite: bool = True,
    ) -> Path:
        """Write the model into a folder, which is made where it is missing.

        A save that fails or is killed leaves the model that was there before.

        Args:
            folder: Gets ``config.json``, ``model.safetensors`` and ``README.md``.
            card: What to say on the card, ``README.md``. With None a card that is there already
                is kept; a card that a person wrote or edited is always kept.
            check_finite: Refuse weights that are NaN or infinite.

        Raises:
            StorageError: The folder cannot be written, or the model could not be loaded again
                (its encoder has no name to be found by, its layers or their types were changed by
                hand, or its weights are not finite).
        """
        return self._save(folder, card, None, check_finite)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Save the model and upload it to ``repo_id`` (``"user/name"``), made where it is missing.

        All files go up in one commit; where that fails nothing is changed, a repository or branch
        that was made for it is removed again, and the same call can be made again.

        Args:
            repo_id: ``"user/name"``.
            card: What to say on the card. With None a card that the repository has already is
                kept; a card that a person wrote or edited is always kept.
            private: Whether a repository that has to be made is private; None for your default.
            token: Access token with the right to write; None for the one you logged in with.
            revision: Branch to commit to, made where it is missing; None for the main branch.
            commit_message: First line of the commit.
            create_pr: Open a pull request instead of committing.

        Returns:
            The address of the commit or pull request.

        Raises:
            ArgumentError: ``repo_id`` is no text.
            HubError: The Hub refused, or could not be reached.
            StorageError: The model could not be loaded again.
        """
        hub.check_is_text(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self._save(folder, card, repo_id)
            return hub_folder.upload(
                folder,
                repo_id,
                may_replace=_keeper(card, repo_id),
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        classes: int | None = None,
        in_channels: int | None = None,
        check_finite: bool = True,
        mmap: bool = True,
    ) -> Self:
        """Load a model, in eval mode, from a folder or from the Hugging Face Hub.

        ``segzoo.from_pretrained`` loads any architecture, ``segzoo.Unet.from_pretrained`` a Unet.
        Nothing but the model's own two files is read; timm's weights are never fetched. Config and
        weights are of one commit. The weights are mapped from the file, not copied: segzoo itself
        never changes a file in place, but where another program may, pass ``mmap=False``.

        Args:
            folder_or_repo: A folder made by :meth:`save_pretrained`, or ``"user/name"`` on the
                Hub. A folder that exists goes first.
            revision: Branch, tag or commit of the repository.
            token: Access token for a private repository; True for the one that was logged in with.
            cache_dir: Where downloads are kept; None for the Hub's own cache.
            local_files_only: Do not touch the network, use what the cache has.
            classes: Another number of classes. What fits is kept, the rest begins anew, and one
                line in the log says what that is.
            in_channels: Another number of bands; the first convolution is adapted as timm does.
            check_finite: Refuse weights that are NaN or infinite.
            mmap: False copies the weights into memory, and the file is not needed any more.

        Raises:
            ArgumentError: ``folder_or_repo`` is neither a path nor a name.
            ConfigError: ``config.json`` is missing, not one of segzoo's, or of another
                architecture.
            WeightsError: ``model.safetensors`` is missing, damaged or of another model.
            HubError: The repository or the network could not be reached.
        """
        access = hub.Access(
            revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        files = hub.find_files(folder_or_repo, access, largest=largest_weights)
        model = _load(files, check_finite, mmap)
        if not isinstance(model, cls):
            raise ConfigError(
                f"{os.fspath(folder_or_repo)} holds a model of the architecture "
                f"{model.architecture!r}, not a {cls.__name__}; segzoo.from_pretrained loads any."
            )
        return adapted(model, classes=classes, in_channels=in_channels)

    def _save(
        self,
        folder: str | os.PathLike[str],
        card: ModelCard | None,
        repo_id: str | None,
        check_finite: bool = True,
    ) -> Path:
        folder = path_of("folder", folder)
        description = Description(self.architecture, self.config, self.base_model)
        text, tensors = description.to_json(), own_tensors(self)
        rebuilding.check_rebuilds(description, self)
        if check_finite and (name := first_infinite(tensors.items())) is not None:
            raise StorageError(
                f"The model was not saved: its weights are not finite, NaN or infinity in {name}. "
                "It gives useless results; what was saved before it diverged still stands. "
                "check_finite=False saves it anyway."
            )
        said = card or ModelCard()
        return model_folder.write_folder(
            folder,
            text,
            tensors,
            _rendered(self, said, repo_id),
            distinct=config_json.distinct,
            picture=None if said.picture is None else Path(said.picture),
            may_replace=_keeper(card, os.fspath(folder)),
        )


def write_card(model: StoredModel, folder: str | os.PathLike[str], card: ModelCard) -> Path:
    """Write the card of a model that is in a folder already; its other files stay as they are.

    A card that a person wrote or edited is kept, with a warning.

    Returns:
        The card's file.

    Raises:
        StorageError: It cannot be written.
    """
    return model_folder.write_card(
        folder,
        _rendered(model, card, None),
        picture=None if card.picture is None else Path(card.picture),
        may_replace=_keeper(card, os.fspath(folder)),
    )


def _rendered(model: StoredModel, card: ModelCard, repo_id: str | None) -> str:
    return render(
        card,
        model.config,
        architecture=model.architecture,
        title=f"{type(model).__name__} with {model.config.encoder}",
        base_model=model.base_model,
        repo_id=repo_id,
    )


def check_rebuilds(model: StoredModel) -> None:
    """Refuse a model that could be saved but not loaded, before work is put into it.

    Raises:
        StorageError: Its encoder has no name to be found by, or its layers or their types were
            changed by hand.
    """
    description = Description(model.architecture, model.config, model.base_model)
    description.to_json()
    rebuilding.check_rebuilds(description, model)


def check(files: hub.ModelFiles, *, check_finite: bool = False) -> Description:
    """Whether two files make a whole model, without building it.

    Args:
        files: The two.
        check_finite: Refuse weights that are NaN or infinite.

    Raises:
        ConfigError: The config is not valid.
        WeightsError: The weights are damaged, of another model, or not finite.
    """
    header, text, where = _read(files)
    description, _ = config_json.parse(text, where)
    meta = on_meta(description)
    safetensors_file.check_fits(header, meta.state_dict(), str(files.weights))
    safetensors_file.read_tensors(files.weights, header, check_finite=check_finite)
    return description


def config_text(files: hub.ModelFiles) -> str:
    """The text of the config that counts, of the two that a model may have.

    Raises:
        ConfigError: There is no valid config.
        WeightsError: There are no weights, or their header is not valid.
    """
    return _read(files)[1]


def largest_weights(config: Path) -> int:
    """The most bytes that the weights of a config's model may have, whatever their precision.

    Raises:
        ConfigError: The config is not valid.
    """
    description = config_json.find_config(config, {}, hub.WEIGHTS)
    numbers: int = sum(tensor.numel() for tensor in on_meta(description).state_dict().values())
    # The config in the header may be another one, of a few classes more.
    return _WIDEST * numbers + safetensors_file.MAX_HEADER_BYTES + _SLACK


def _load(files: hub.ModelFiles, check_finite: bool, mmap: bool) -> ConfiguredModel:
    """Build the model that a config describes and put the weights of a file into it."""
    for _ in range(_ATTEMPTS):
        header, text, where = _read(files)
        description, _ = config_json.parse(text, where)
        model = on_meta(description)
        safetensors_file.check_fits(header, model.state_dict(), str(files.weights))
        try:
            tensors = safetensors_file.read_tensors(
                files.weights, header, check_finite=check_finite, mmap=mmap
            )
        except safetensors_file.ReplacedError as error:
            replaced = error
            continue
        if _computed_buffers(model, files.weights, header.size):
            model = rebuilding.with_buffers(description, tensors)
        model.load_state_dict(tensors, assign=True)
        model.base_model = description.base_model
        return model.eval()
    raise replaced


def _read(files: hub.ModelFiles) -> tuple[safetensors_file.Header, str, str]:
    """The header of the weights, and the config that counts of its two copies: its text and place.

    Raises:
        ConfigError: There is no valid config.
        WeightsError: There are no weights, or their header is not valid.
    """
    if not os.path.lexists(files.weights):
        config_json.find_config(
            files.config, {}, str(files.weights)
        )  # a better message where it fails
    header = safetensors_file.read_header(files.weights)
    return header, *config_json.find_text(files.config, header.metadata, str(files.weights))


def _computed_buffers(model: nn.Module, path: Path, size: int) -> bool:
    """Whether the model has buffers that are not saved: only a real build gives their values.

    Args:
        model: On the meta device.
        path: The weights file, for the message.
        size: Its size in bytes.

    Raises:
        WeightsError: They would take more memory than such buffers do.
    """
    sizes = [buffer.nbytes for buffer in unsaved_buffers(model).values()]
    limit = _BUFFER_BYTES + _BUFFER_SHARE * size
    if sum(sizes) > limit:
        raise WeightsError(
            f"{path}: the model would compute {sum(sizes)} bytes of tables on top of its weights, "
            "more than any model of that size needs. Its image_size or window_size is too large."
        )
    return bool(sizes)


def _keeper(card: ModelCard | None, where: str) -> Any:
    """Whether a card that is there may be replaced: not without a new one, and not a person's."""

    def may_replace(existing: str) -> bool:
        if card is None:
            return False
        if not is_unedited(existing):
            warn(
                f"The model card of {where} was written or edited by hand and is kept; the card "
                "given was not used."
            )
            return False
        return True

    return may_replace
