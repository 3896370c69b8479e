import pytest

from segzoo.errors import ArgumentError, DuplicateNameError, UnknownNameError
from segzoo.registry import Registry


def test_names_are_added_once_and_found():
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    assert registry["one"] == 1
    assert list(registry) == ["one"]
    assert "two" not in registry
    with pytest.raises(DuplicateNameError, match="number 'one' is already registered, as 1"):
        registry.add("one", 2)
    assert registry["one"] == 1


def test_an_unknown_name_gets_the_nearest():
    registry: Registry[int] = Registry("number")
    with pytest.raises(UnknownNameError, match="Known: none"):
        registry["one"]
    registry.add("three", 3)
    with pytest.raises(UnknownNameError, match=r"no number 'thre'\. Did you mean three"):
        registry["thre"]


@pytest.mark.parametrize("name", [5, ["one"], "", "a\nb"])
def test_what_is_no_name_is_refused(name):
    registry: Registry[int] = Registry("number")
    with pytest.raises(ArgumentError, match="The name of the number must"):
        registry[name]
    with pytest.raises(ArgumentError, match="The name of the number must"):
        registry.add(name, 1)
    assert len(registry) == 0
