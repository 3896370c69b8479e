"""Names and what they stand for: an entry is never replaced, an unknown name gets a suggestion.

The architectures have their one table here: whatever lists, imports, registers or documents them
reads it. An architecture is imported when it is asked for, and only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from . import checks
from .errors import DuplicateNameError, UnknownNameError, nearest

if TYPE_CHECKING:
    from .config import ConfiguredModel, ModelConfig

T = TypeVar("T")
Architecture = TypeVar("Architecture", bound="type[ConfiguredModel]")

#: The architectures that come with segzoo: class -> the file of ``architectures/`` that defines it.
#: The file's name is also the name in a config and on the command line.
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "Unet": "unet",
        "DynamicUnet": "dynamic_unet",
        "UnetPlusPlus": "unetplusplus",
        "MAnet": "manet",
        "Linknet": "linknet",
        "FPN": "fpn",
        "UPerNet": "upernet",
        "Segformer": "segformer",
        "PSPNet": "pspnet",
        "DeepLabV3": "deeplabv3",
        "DeepLabV3Plus": "deeplabv3plus",
        "PAN": "pan",
        "DPT": "dpt",
        "EoMT": "eomt",
        "FCN": "fcn",
        "LRASPP": "lraspp",
        "LinearHead": "linear_head",
        "MultiHead": "multi_head",
    }
)


class Registry(Mapping[str, T], Generic[T]):
    """A mapping to which names can be added but in which none can be replaced.

    Args:
        kind: What the entries are, for the messages: ``"encoder"``, ``"architecture"``.
        modules: Names that are known before anything is imported -> the module that adds the
            entry of that name when it is imported.
    """

    def __init__(self, kind: str, modules: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._modules = dict(modules or {})
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register ``entry`` under ``name``.

        Raises:
            ArgumentError: It is no name.
            DuplicateNameError: The name is taken.
        """
        checks.text(f"The name of the {self.kind}", name)
        home = self._modules.get(name)
        if name in self._entries or (home is not None and home != getattr(entry, "__module__", "")):
            raise DuplicateNameError(
                f"The {self.kind} {name!r} is already registered, as {self[name]!r}. "
                "Choose another name."
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        checks.text(f"The name of the {self.kind}", name)
        if name not in self:
            raise UnknownNameError(
                f"There is no {self.kind} {name!r}.{nearest(name, self)} "
                f"Known: {', '.join(sorted(self)) or 'none'}."
            )
        if name not in self._entries:
            import_module(self._modules[name])
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._modules, *self._entries]))

    def __len__(self) -> int:
        return len(list(iter(self)))


#: Architectures by the name that stands in a config.
ARCHITECTURES: Registry[type[ConfiguredModel]] = Registry(
    "architecture", {name: f"{__package__}.architectures.{name}" for name in BUILT_IN.values()}
)


def register_architecture(name: str) -> Callable[[Architecture], Architecture]:
    """Make an architecture known by a name: all that saving, loading and the command line need.

    Raises:
        DuplicateNameError: The name is taken.
    """

    def register(architecture: Architecture) -> Architecture:
        ARCHITECTURES.add(name, architecture)
        architecture.architecture = name
        return architecture

    return register


def build(architecture: str, config: ModelConfig) -> ConfiguredModel:
    """A model with fresh weights: of the architecture of that name, whoever shares its config.

    Raises:
        UnknownNameError: There is no such architecture.
    """
    return ARCHITECTURES[architecture](**vars(config))
