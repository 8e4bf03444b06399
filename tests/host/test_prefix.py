"""PrefixIndex: keys stand for whole histories, and hits are compared."""

from __future__ import annotations

import pytest

from jaxpaged.prefix import PrefixIndex, block_key, extend_keys, root_key


def keys_of(tokens: list[int], salt: str = "", dtype: str = "float32") -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, tokens, len(tokens) // 2, block_size=2, root=root_key(salt, dtype))
    return keys


def test_a_key_stands_for_the_whole_history() -> None:
    assert keys_of([1, 2, 3, 4]) == keys_of([1, 2, 3, 4])
    assert keys_of([1, 2, 3, 4])[0] == keys_of([1, 2, 9, 9])[0]
    assert keys_of([1, 2, 3, 4])[1] != keys_of([9, 2, 3, 4])[1]
    assert keys_of([1, 2, 3, 4])[0] != keys_of([1, 2, 3, 4], salt="a")[0]
    assert keys_of([1, 2, 3, 4])[1] != keys_of([1, 2, 3, 4], salt="a")[1]
    assert keys_of([1, 2, 3, 4])[1] != keys_of([1, 2, 3, 4], dtype="int8")[1]
    assert keys_of([1, 2, 1, 2])[0] != keys_of([1, 2, 1, 2])[1]
    assert len({len(key) for key in keys_of([1, 2, 3, 4])} | {32}) == 1


def test_keys_are_extended_not_made_anew() -> None:
    keys = keys_of([1, 2, 3, 4])
    extend_keys(keys, [1, 2, 3, 4, 5, 6], 3, block_size=2, root=root_key("", "float32"))
    assert keys == keys_of([1, 2, 3, 4, 5, 6])
    with pytest.raises(AssertionError, match="not full"):
        extend_keys(keys, [1, 2, 3, 4, 5, 6, 7], 4, block_size=2, root=root_key("", "float32"))


def test_find_compares_tokens_and_parent() -> None:
    index = PrefixIndex(2)
    root = root_key("", "float32")
    key = block_key(root, [1, 2])
    assert index.find(key, root, [1, 2]) is None
    assert index.add(7, key, root, [1, 2])
    assert index.find(key, root, [1, 2]) == 7
    assert index.find(key, root, [1, 3]) is None  # as if two contents had one key
    assert index.find(key, root_key("a", "float32"), [1, 2]) is None
    index.check()


def test_one_block_a_key_and_one_key_a_block() -> None:
    index = PrefixIndex(2)
    root = root_key("", "float32")
    key = block_key(root, [1, 2])
    assert index.add(7, key, root, [1, 2])
    assert not index.add(8, key, root, [1, 2])
    assert 7 in index
    assert 8 not in index
    with pytest.raises(AssertionError, match="known already"):
        index.add(7, block_key(root, [3, 4]), root, [3, 4])
    with pytest.raises(AssertionError, match="do not fill"):
        index.add(9, block_key(root, [3]), root, [3])
    index.forget(7)
    assert len(index) == 0
    assert index.add(8, key, root, [1, 2])


def test_a_salt_may_be_any_string() -> None:
    assert (
        len({root_key(salt, dtype) for dtype in ("float32", "int8") for salt in ("", "a", "\ud800", "é", "\0")}) == 10
    )
