"""A pickle read as data: nothing that it names is imported, called or built.

A pickle is a program. Those who run it (``pickle``, and ``torch.load`` even with a list of what it
may call) do as it says. Here its instructions are followed with values alone: a class or a function
is its name, what would have been called stays a record of name and arguments (:class:`Inert`), and
only a fixed few names (ordered dicts, sets, tensors) become the plain value that they stand for.
So what comes along in checkpoints, such as ``argparse.Namespace``, paths, NumPy's scalars and
classes that are not installed, is no reason to refuse one.

Every size is bounded: bytes, steps and containers.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .. import checks
from .inert import Inert, Name

#: Far above what a checkpoint of thousands of layers with its optimiser needs.
MAX_BYTES, MAX_STEPS, MAX_CONTAINERS = 32 * 2**20, 2_000_000, 500_000
#: Steps that a tuple costs as a key, numbers from which on several share a hash, and the longest
#: name of a class.
_KEY_STEPS, _KEY_NUMBER, _MAX_NAME = 200, 2**60, 1024


class NotReadError(ValueError):
    """A pickle that is damaged, too large, or would act on the machine where it is loaded."""


class Stream(Protocol):
    """Bytes in order."""

    def read(self, size: int = ..., /) -> bytes:
        """At most that many bytes."""

    def readline(self, size: int = ..., /) -> bytes:
        """Bytes up to the end of a line, at most that many."""


#: What damaged pickles raise; a warning (of escapes in texts) only where warnings are errors.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, Warning)
#: How a name with arguments becomes a value; None where it stays a record.
Build = Callable[[tuple[Any, ...]], Any]

#: Modules whose functions act on the machine. Nothing of them is called here, so safety does not
#: hang on this list: it is for people, who might load the file elsewhere.
_ACTING_MODULES = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy"),
        *("pty", "ctypes", "code", "codeop", "commands", "webbrowser", "pip", "ensurepip"),
        *("urllib", "http", "ftplib", "smtplib", "telnetlib", "requests", "multiprocessing"),
        *("pdb", "bdb", "timeit", "profile", "cProfile", "trace", "marshal", "asyncio", "signal"),
    )
)
_ACTING_BUILTINS = frozenset(
    ("eval", "exec", "execfile", "compile", "open", "input", "__import__", "breakpoint", "exit")
)


def read_pickle(
    stream: Stream,
    builders: Mapping[str, Build] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle describes; the stream is left behind its end.

    Args:
        stream: The pickle's bytes.
        builders: Full names -> what becomes of a call with its arguments.
        persistent: What becomes of the ids of things that are kept outside the pickle.

    Raises:
        NotReadError: It is damaged, too large, or names what acts on the machine.
    """
    machine = _Machine(builders or {}, persistent)
    bounded: Any = _Bounded(stream)
    try:
        for code, argument, _ in pickletools.genops(bounded):
            machine.step(code.name, argument)
        return machine.stack.pop()
    except NotReadError:
        raise
    except RecursionError as error:
        raise NotReadError("it nests too deep") from error
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise NotReadError(f"its pickle is damaged ({reason})") from error


class _Bounded:
    """A stream that ends with an error before it has taken too much memory."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._left = stream, MAX_BYTES

    def read(self, size: int) -> bytes:
        self._spend(size)
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._spend(len(line))
        return line

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise NotReadError(f"its pickle takes more than {MAX_BYTES >> 20} MiB")


#: Instructions that put their argument, or this value, on the stack.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    )
)
_CONTAINERS = frozenset(
    (
        *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT", "TUPLE", "FROZENSET"),
        *("TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"),
    )
)
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))


class _Machine:
    """The stack and the memory that a pickle's instructions work on."""

    def __init__(
        self, builders: Mapping[str, Build], persistent: Callable[[Any], Any] | None
    ) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}
        self._builders = {**self._plain(), **builders}
        self._persistent = persistent
        self._steps, self._containers = MAX_STEPS, MAX_CONTAINERS
        known = (code.name for code in pickletools.opcodes)
        self._methods: dict[str, Callable[[Any], None]] = {
            code: getattr(self, f"_{code.lower()}")
            for code in known
            if hasattr(self, f"_{code.lower()}")
        }

    def step(self, code: str, argument: Any) -> None:
        """Follow one instruction."""
        self._spend(1)
        if code in _CONTAINERS:
            self._containers -= 1
            if self._containers < 0:
                raise NotReadError(f"its pickle has more than {MAX_CONTAINERS} containers")
        if code in _VALUES:
            self.stack.append(argument)
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code not in _NOTHING:
            method = self._methods.get(code)
            if method is None:
                raise NotReadError(f"its pickle has the instruction {code}, which is not known")
            method(argument)

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise NotReadError(f"its pickle takes more than {MAX_STEPS} steps")

    def _key(self, key: Any) -> Any:
        """A key, unless hashing it, or telling it from others, could take forever."""
        if isinstance(key, (tuple, frozenset)):
            # Whoever writes them can have thousands of one hash, each compared with all others.
            self._spend(_KEY_STEPS + len(key))
        for item in key if isinstance(key, tuple) else (key,):
            if item is not key and isinstance(item, (tuple, frozenset)):
                raise NotReadError("its pickle has nested tuples as keys")
            if isinstance(item, int) and abs(item) >= _KEY_NUMBER:
                raise NotReadError("its pickle has a key that is a number of more than 60 bits")
        return key

    # The stack

    def _mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    # The memory

    def _put(self, argument: int) -> None:
        self._memo[argument] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _get(self, argument: int) -> None:
        self.stack.append(self._memo[argument])

    _binget = _long_binget = _get

    # Containers

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_set(self, _: Any) -> None:
        self.stack.append(set())

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def _tuple(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _frozenset(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(frozenset(map(self._key, items)))

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        keys = map(self._key, items[::2])
        self.stack.append(dict(zip(keys, items[1::2], strict=True)))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):  # a record takes no notice
            self.stack[-1].extend(items)

    def _additems(self, _: Any) -> None:
        items = self._since_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(map(self._key, items))

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _: Any) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        into = target.items if isinstance(target, Inert) else target
        for key, value in zip(items[::2], items[1::2], strict=True):
            into[self._key(key)] = value

    # Names and calls, which are not made

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._named(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise NotReadError("its pickle is damaged (a name that is no text)")
        self.stack.append(self._named(module, name))

    @staticmethod
    def _named(module: str, name: str) -> Name:
        if len(module) + len(name) > _MAX_NAME:
            raise NotReadError(f"its pickle names a class by {len(module) + len(name)} characters")
        acting = module.partition(".")[0] in _ACTING_MODULES
        if module in ("builtins", "__builtin__"):
            acting = name.partition(".")[0] in _ACTING_BUILTINS
        if acting:
            module, name = checks.shown(module)[1:-1], checks.shown(name)[1:-1]
            raise NotReadError(
                f"it would call {module}.{name} wherever it is loaded. Nothing was run, and "
                "weights need no such thing: do not trust the file, and get it from another place"
            )
        return Name(module, name)

    def _reduce(self, _: Any) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        items = self._since_mark()
        self._call(self._named(module, name), tuple(items))

    def _obj(self, _: Any) -> None:
        what, *items = self._since_mark()
        self._call(what, tuple(items))

    def _call(self, what: Any, arguments: Any) -> None:
        given = arguments if isinstance(arguments, tuple) else ()
        self.stack.append(self.built(what, given))

    def built(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        """The value that a name with arguments stands for, or a record of it."""
        build = self._builders.get(str(what)) if isinstance(what, Name) else None
        value = None if build is None else build(arguments)
        if value is not None:
            return value
        return Inert(what if isinstance(what, (Name, Inert)) else None, arguments)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        if self._persistent is None:
            raise NotReadError("its pickle refers to what lies outside it")
        self.stack.append(self._persistent(self.stack.pop()))

    # What becomes a plain value

    def _plain(self) -> dict[str, Build]:
        return {
            "collections.OrderedDict": self._pairs,
            "collections.Counter": self._pairs,
            "collections.defaultdict": lambda arguments: {},
            "builtins.set": self._a_set,
            "__builtin__.set": self._a_set,
            "builtins.frozenset": self._a_frozenset,
            "__builtin__.frozenset": self._a_frozenset,
            "_codecs.encode": self._encoded,
            "copyreg._reconstructor": self._reconstructed,
            "copy_reg._reconstructor": self._reconstructed,
        }

    def _pairs(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        given = arguments[0] if arguments else ()
        self._spend(len(given))  # a copy, which the same list could be asked for often
        pairs = given.items() if isinstance(given, dict) else given
        return {self._key(key): value for key, value in pairs}

    def _a_set(self, arguments: tuple[Any, ...]) -> set[Any]:
        given = arguments[0] if arguments else ()
        self._spend(len(given))
        return set(map(self._key, given))

    def _a_frozenset(self, arguments: tuple[Any, ...]) -> frozenset[Any]:
        return frozenset(self._a_set(arguments))

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes | None:
        if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
            return None
        self._spend(len(arguments[0]) // 16)
        return arguments[0].encode("latin1")

    @staticmethod
    def _reconstructed(arguments: tuple[Any, ...]) -> Inert:
        return Inert(arguments[0] if isinstance(arguments[0], Name) else None)
