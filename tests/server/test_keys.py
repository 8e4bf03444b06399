"""API keys: from the file, from the command line, from the environment; and what is never kept or shown."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.access.key_file import MAX_BYTES, KeyEntry
from jaxpaged_server.access.keys import ANONYMOUS, MAX_KEYS, Key, KeyLimits, Keys

from jaxpaged.errors import ConfigError

SECRET = "sk-do-not-show-this"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_every_field_of_the_file_is_read(file: Path) -> None:
    write(
        file,
        f"""
        keys:
          - name: search
            key: {SECRET}
            max_concurrency: 16
            requests_per_minute: 600
            tokens_per_minute: 1000000
            weight: 2
            cache_salt: team-a
            admin: true
          - name: batch
            sha256: "{sha256(b"other").hexdigest().upper()}"
        """,
    )
    keys = Keys(file=file)
    assert keys.required
    search, batch = keys.keys
    assert search == Key(
        name="search",
        weight=2.0,
        limits=KeyLimits(max_concurrency=16, requests_per_minute=600, tokens_per_minute=1e6),
        salt=search.salt,
        admin=True,
    )
    assert batch == Key(name="batch", weight=1.0, limits=KeyLimits(), salt=batch.salt)
    assert (keys.sees_all(search), keys.sees_all(batch)) == (True, False)
    assert keys.find(SECRET) is search
    assert keys.find("other") is batch
    for wrong in ("", SECRET.upper(), SECRET + " ", SECRET[:-1], sha256(b"other").hexdigest(), "\udcff", "ü"):
        assert keys.find(wrong) is None


def test_json_is_read_too(tmp_path: Path) -> None:
    entries = {"keys": [{"name": "a", "key": SECRET}]}
    file = write(tmp_path / "keys.json", json.dumps(entries, indent="\t"))
    assert [key.name for key in Keys(file=file).keys] == ["a"]


def test_without_keys_everybody_is_anonymous() -> None:
    keys = Keys()
    assert not keys.required
    assert keys.keys == (ANONYMOUS,)
    assert keys.find("anything") is None


def test_the_flag_may_be_given_again_and_beside_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXPAGED_API_KEY", "env")  # stands for the flag where options are read, and nowhere else
    assert not Keys().required
    write(file, f"keys: [{{name: a, key: {SECRET}}}]")
    keys = Keys(file=file, plain=["one", "two"])
    assert [key.name for key in keys.keys] == ["a", "api-key-1", "api-key-2"]
    assert keys.find("env") is None
    assert (key := keys.find("two")) is not None
    assert key.name == "api-key-2"


def test_prefixes_are_private_to_a_key_unless_it_names_a_salt(file: Path) -> None:
    write(
        file,
        """
        keys:
          - {name: a, key: aaa}
          - {name: b, key: bbb}
          - {name: c, key: ccc, cache_salt: team}
          - {name: d, key: ddd, cache_salt: team}
          - {name: e, key: eee, cache_salt: other}
        """,
    )
    a, b, c, d, e = (key.salt for key in Keys(file=file).keys)
    assert c == d
    assert len({a, b, c, e, ""}) == 5
    assert all(len(salt) == 32 for salt in (a, b, c, e))
    assert a not in sha256(b"aaa").hexdigest(), "the salt would tell a part of the digest"
    again = Keys(plain=["aaa"]).keys[0]
    assert again.salt == a, "a key finds its prefixes again, however it is given"


@given(st.lists(st.sampled_from(["", "a", "b", "/"]) | st.none(), min_size=2, max_size=2))
def test_a_requests_salt_never_leaves_its_keys_namespace(salts: list[str | None]) -> None:
    first, second = Keys(plain=["one", "two"]).keys
    assert first.namespace(salts[0]) != second.namespace(salts[1])
    assert (first.namespace(salts[0]) == first.namespace(salts[1])) == (salts[0] == salts[1])
    assert first.namespace() == first.salt


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666, 0o660, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    write(file, f"keys: [{{name: a, key: {SECRET}}}]", mode)
    with pytest.raises(ConfigError, match=rf"mode is {mode:04o}.*chmod 600") as caught:
        Keys(file=file)
    assert caught.value.name == "--api-key-file"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o440])
def test_a_closed_file_is_read_also_through_a_link(tmp_path: Path, file: Path, mode: int) -> None:
    write(file, f"keys: [{{name: a, key: {SECRET}}}]", mode)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert Keys(file=link).find(SECRET) is not None


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, file: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="No such file"):
        Keys(file=file)
    with pytest.raises(ConfigError, match="not a regular file"):
        Keys(file=pipe)
    with pytest.raises(ConfigError, match="Is a directory"):
        Keys(file=tmp_path)


ENTRY = f"name: a, key: {SECRET}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("keys: []", "it has no key"),
        ("[]", "Expected `object`"),
        (f"keys: [{{{ENTRY}}}]\nother: 1", "unknown field `other`"),
        (f"keys: [{{{ENTRY}, colour: red}}]", "unknown field `colour`"),
        (f"keys: [{{key: {SECRET}}}]", "required field `name`"),
        ("keys: [{name: a}]", "either 'key' or 'sha256'"),
        (f"keys: [{{{ENTRY}, sha256: '{'0' * 64}'}}]", "either 'key' or 'sha256'"),
        ("keys: [{name: a, sha256: '0123'}]", "64 hex digits"),
        (f"keys: [{{name: a, sha256: '{'g' * 64}'}}]", "64 hex digits"),
        ("keys: [{name: a, key: 12345}]", "needs quotes"),
        ("keys: [{name: a, key: ''}]", "1 to 512 printable"),
        ("keys: [{name: a, key: 'two words'}]", "1 to 512 printable"),
        ("keys: [{name: a, key: 'schlüssel'}]", "1 to 512 printable"),
        (f"keys: [{{name: a, key: {'k' * 513}}}]", "1 to 512 printable"),
        (f"keys: [{{name: '', key: {SECRET}}}]", "a name has 1 to 64"),
        (f"keys: [{{name: {'n' * 65}, key: {SECRET}}}]", "a name has 1 to 64"),
        (f'keys: [{{name: "a\\nb", key: {SECRET}}}]', "a name has 1 to 64"),
        (f"keys: [{{{ENTRY}, weight: 0}}]", "0.001 to 1000"),
        (f"keys: [{{{ENTRY}, weight: .nan}}]", "0.001 to 1000"),
        (f"keys: [{{{ENTRY}, weight: .inf}}]", "0.001 to 1000"),
        (f"keys: [{{{ENTRY}, max_concurrency: 0}}]", "above 0"),
        (f"keys: [{{{ENTRY}, max_concurrency: 1.5}}]", "Expected `int | null`"),
        (f"keys: [{{{ENTRY}, tokens_per_minute: -1}}]", "above 0"),
        (f"keys: [{{{ENTRY}, requests_per_minute: .inf}}]", "above 0"),
        (f"keys: [{{{ENTRY}, requests_per_minute: true}}]", "Expected `float | null`"),
        (f"keys: [{{{ENTRY}, cache_salt: ''}}]", "1 to 128 bytes"),
        (f"keys: [{{{ENTRY}, cache_salt: {'s' * 129}}}]", "1 to 128 bytes"),
        (f'keys: [{{{ENTRY}, cache_salt: "a\\0b"}}]', "1 to 128 bytes"),
        (f"keys: [{{{ENTRY}}}, {{name: a, key: other}}]", "two keys have it"),
        (f"keys: [{{{ENTRY}}}, {{name: b, key: {SECRET}}}]", "the same key"),
        (f"keys: [{{{ENTRY}}}, {{name: b, sha256: '{sha256(SECRET.encode()).hexdigest()}'}}]", "the same key"),
        (f"keys: [{{{ENTRY}, key: other}}]", "line 1: a field comes twice"),
        (f"keys: [{{{ENTRY}, ? [1] : other}}]", "line 1: a field comes twice"),
        (f"keys:\n- &x {{{ENTRY}}}\n- *x", "line 2: anchors"),
        (f"keys: &x [{{{ENTRY}}}, *x]", "line 1: anchors"),
        (f"keys: [{{{ENTRY}, weight: !!python/name:os.system ''}}]", "no YAML from line 1"),
        (f"keys:\n - {{{ENTRY}\n - ]", "no YAML from line"),
        ("keys: " + "[" * 1000, "nested too deeply"),
        (b"keys: \xff", "not UTF-8"),
        ("keys: \0", "no YAML"),
        ("#" * (MAX_BYTES + 1), "more than 262144 bytes"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_a_key(file: Path, text: str | bytes, says: str) -> None:
    write(file, text)
    with pytest.raises(ConfigError) as caught:
        Keys(file=file)
    message = str(caught.value)
    assert says in message
    assert SECRET not in message
    assert "schlüssel" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "a traceback would quote the file"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"keys": [{"name": "a", "key": "k"}', "no JSON from line 1"),
        ('{"keys": [{"name": "a", "key": "k", "key": "l"}]}', "the key 'key' is there twice"),
        ('{"keys": [{"name": "a", "key": "k", "weight": NaN}]}', "0.001 to 1000"),
        ('{"keys": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_json_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Keys(file=write(tmp_path / "keys.json", text))


def test_a_wrong_key_of_the_flag_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="not shown") as caught:
        Keys(plain=[f"{SECRET} and more"])
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="the same key"):
        Keys(plain=["one", "one"])


def test_there_are_at_most_so_many_keys() -> None:
    plain = [f"key-number-{number}" for number in range(MAX_KEYS + 1)]
    assert len(Keys(plain=plain[:-1]).keys) == 1024
    with pytest.raises(ConfigError, match="1025: at most 1024"):
        Keys(plain=plain)


def test_reload_takes_over_the_new_file(file: Path) -> None:
    write(file, "keys: [{name: a, key: aaa}]")
    keys = Keys(file=file, plain=["flag"])
    write(file, "keys: [{name: a, key: new, weight: 3}, {name: b, key: bbb}]")
    assert keys.find("new") is None, "nothing is read before it is asked for"
    keys.reload()
    assert [(key.name, key.weight) for key in keys.keys] == [("a", 3.0), ("b", 1.0), ("api-key-1", 1.0)]
    assert keys.find("aaa") is None
    assert keys.find("new") is keys.keys[0]


@pytest.mark.parametrize(
    ("text", "mode"), [("keys: []", 0o600), ("keys: [", 0o600), ("keys: [{name: b, key: bbb}]", 0o644)]
)
def test_a_broken_file_leaves_the_old_keys_in_force_and_says_so(file: Path, text: str, mode: int) -> None:
    write(file, "keys: [{name: a, key: aaa}]")
    keys = Keys(file=file)
    write(file, text, mode)
    with pytest.raises(ConfigError, match="Until then the keys read before stay in force"):
        keys.reload()
    assert keys.find("aaa") is keys.keys[0]
    file.unlink()
    with pytest.raises(ConfigError, match="stay in force"):
        keys.reload()
    assert keys.required


def test_no_key_is_kept_or_shown(file: Path) -> None:
    secret = "sk-" + os.urandom(16).hex()
    write(file, f"keys: [{{name: a, key: {secret}}}]")
    keys = Keys(file=file, plain=[secret + "x"])
    assert secret not in repr(keys) + repr(keys.keys) + repr(vars(keys))
    assert repr(KeyEntry(name="a", key=secret)) == "KeyEntry(name='a')"
    assert set(vars(keys)) == {"_file", "_plain", "_table"}
    digests = {digest for _, digest in keys._table}
    assert digests == {sha256(secret.encode()).digest(), sha256((secret + "x").encode()).digest()}
