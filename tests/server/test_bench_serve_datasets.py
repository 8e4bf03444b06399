"""The prompts: their lengths, what they share, and the files they come from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jaxpaged_server.commands.bench_serve_load import samples_of
from jaxpaged_server.commands.bench_serve_options import DatasetOptions
from jaxpaged_server.load.datasets import OF_THE_FILE, Choice, custom_samples, sharegpt_samples
from jaxpaged_server.load.random_samples import RandomPrompts, RangeRatio, prefix_repetition_samples, random_samples
from jaxpaged_server.load.sample import Sample
from jaxpaged_server.load.server_facts import ServerFacts
from jaxpaged_server.load.vocabulary import Vocabulary, find_vocabulary, vocabulary_of_folder
from jaxpaged_server.settings import ServerConfig

from jaxpaged.errors import ConfigError
from jaxpaged.tiny import TINY_MODEL


@pytest.fixture(scope="module")
def tiny() -> Vocabulary:
    return vocabulary_of_folder(TINY_MODEL)


def prompts(vocabulary: Vocabulary | None, *, as_text: bool = False, words_per_token: float = 1.0) -> RandomPrompts:
    return RandomPrompts(vocabulary=vocabulary, random=Random(0), as_text=as_text, words_per_token=words_per_token)


def choice(count: int, **more: Any) -> Choice:
    return Choice(count=count, random=Random(0), **more)


def test_the_vocabulary_leaves_special_tokens_out(tiny: Vocabulary) -> None:
    assert 0 not in tiny.ids  # the end of text
    assert 4000 < len(tiny.ids) < 4096


def test_the_bundled_model_is_known_by_the_name_that_it_is_served_under() -> None:
    named = ServerConfig().model_names(str(TINY_MODEL))[0]
    found = find_vocabulary({"id": named, "root": named, "owned_by": "jaxpaged"}, {"vocab_size": 4096})
    assert found is not None
    assert found.source == str(TINY_MODEL)


def test_a_chat_is_sent_words_where_ids_are_known_and_texts_are_not() -> None:
    sizes = find_vocabulary({"id": "other"}, {"vocab_size": 4096})
    asked = DatasetOptions(random_input_len=20)
    (chat,) = samples_of(asked, 1, kind="chat", vocabulary=sizes, facts=ServerFacts())
    assert isinstance(chat.prompt, str)
    assert len(chat.prompt.split()) == 20
    (completion,) = samples_of(asked, 1, kind="completions", vocabulary=sizes, facts=ServerFacts())
    assert len(completion.prompt) == 20


def test_random_ids_have_the_lengths_that_were_asked(tiny: Vocabulary) -> None:
    made = random_samples(prompts(tiny), 20, input_len=30, output_len=7)
    assert {(len(sample.prompt), sample.num_prompt, sample.max_tokens) for sample in made} == {(30, 30, 7)}
    assert all(set(sample.prompt) <= set(tiny.ids) for sample in made)
    assert len({sample.prompt for sample in made}) == 20


def test_a_range_ratio_spreads_the_lengths_evenly(tiny: Vocabulary) -> None:
    made = random_samples(prompts(tiny), 2000, input_len=10, output_len=20, ratio=RangeRatio(input=0.2, output=0.5))
    inputs, outputs = Counter(sample.num_prompt for sample in made), Counter(sample.max_tokens for sample in made)
    assert set(inputs) == {8, 9, 10, 11, 12}
    assert min(inputs.values()) > 300
    assert set(outputs) == set(range(10, 31))


def test_a_prefix_is_shared_by_all(tiny: Vocabulary) -> None:
    made = random_samples(prompts(tiny), 5, input_len=4, output_len=1, prefix_len=6)
    assert {sample.num_prompt for sample in made} == {10}
    assert len({sample.prompt[:6] for sample in made}) == 1
    assert len({sample.prompt[6:] for sample in made}) == 5


def test_random_text_is_read_as_about_as_many_tokens(tiny: Vocabulary) -> None:
    made = random_samples(prompts(tiny, as_text=True), 20, input_len=40, output_len=1)
    assert all(isinstance(sample.prompt, str) for sample in made)
    assert all(sample.num_prompt == tiny.count(str(sample.prompt)) for sample in made)
    assert all(abs(sample.num_prompt - 40) <= 2 for sample in made)


def test_without_a_vocabulary_prompts_are_words() -> None:
    made = random_samples(prompts(None, words_per_token=0.5), 3, input_len=20, output_len=4)
    assert [len(str(sample.prompt).split()) for sample in made] == [10, 10, 10]
    assert [sample.num_prompt for sample in made] == [0, 0, 0]


def test_ids_without_texts_cannot_be_sent_as_text() -> None:
    vocabulary = Vocabulary(ids=(1, 2, 3), source="test")
    assert len(random_samples(prompts(vocabulary), 1, input_len=5, output_len=1)[0].prompt) == 5
    with pytest.raises(ConfigError, match="Name the model's folder"):
        random_samples(prompts(vocabulary, as_text=True), 1, input_len=5, output_len=1)


def test_prefix_repetition_uses_each_prefix_equally_often(tiny: Vocabulary) -> None:
    made = prefix_repetition_samples(prompts(tiny), 10, prefix_len=5, suffix_len=3, num_prefixes=3, output_len=2)
    assert sorted(Counter(sample.prompt[:5] for sample in made).values()) == [3, 3, 4]
    assert len({sample.prompt for sample in made}) == 10
    with pytest.raises(ConfigError, match="from 1 to the number of prompts"):
        prefix_repetition_samples(prompts(tiny), 2, prefix_len=5, suffix_len=3, num_prefixes=3, output_len=2)


@pytest.mark.parametrize(
    ("text", "ratio"), [("0.25", (0.25, 0.25)), ('{"input": 0.1, "output": 0.5}', (0.1, 0.5)), ("0", (0.0, 0.0))]
)
def test_range_ratios(text: str, ratio: tuple[float, float]) -> None:
    found = RangeRatio.parse(text)
    assert (found.input, found.output) == ratio


@pytest.mark.parametrize("text", ["1", "-0.1", "x", '{"in": 1}', "[1]", "nan"])
def test_range_ratios_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--random-range-ratio"):
        RangeRatio.parse(text)


def test_a_prompt_that_may_be_empty_is_refused(tiny: Vocabulary) -> None:
    with pytest.raises(ConfigError, match="a prompt may be empty"):
        random_samples(prompts(tiny), 1, input_len=1, output_len=1, ratio=RangeRatio(input=0.5))
    with pytest.raises(ConfigError, match="it must be at least 1 token"):
        Sample(prompt="a", max_tokens=0)


def conversation(prompt: str, answer: str, key: str = "conversations") -> dict[str, Any]:
    return {key: [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


def write_sharegpt(folder: Path, *entries: object) -> Path:
    file = folder / "sharegpt.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    return file


def test_sharegpt_takes_first_turns_and_the_lengths_of_answers(tmp_path: Path, tiny: Vocabulary) -> None:
    prompt, answer = "def add(a, b): return a + b", "import sys, os, json"
    file = write_sharegpt(
        tmp_path,
        conversation(prompt, answer),
        conversation("x", answer),  # too short a prompt
        conversation(prompt, "y"),  # too short an answer
        conversation("long " * 1200, answer),  # too long
        {"conversations": [{"value": prompt}]},
        {"other": 1},
        7,
    )
    made = sharegpt_samples(file, choice(1), vocabulary=tiny, output_len=None)
    assert made == [Sample(prompt=prompt, max_tokens=tiny.count(answer), num_prompt=tiny.count(prompt))]
    assert [each.max_tokens for each in sharegpt_samples(file, choice(2), vocabulary=tiny, output_len=9)] == [9, 9]


def test_sharegpt_repeats_a_short_file_unless_told_not_to(tmp_path: Path, tiny: Vocabulary) -> None:
    file = write_sharegpt(tmp_path, *(conversation(f"print the number {number}", "a b c d e f") for number in range(3)))
    assert len(sharegpt_samples(file, choice(10), vocabulary=tiny, output_len=None)) == 10
    assert len(sharegpt_samples(file, choice(10, oversample=False), vocabulary=tiny, output_len=None)) == 3
    in_order = sharegpt_samples(file, choice(3, shuffle=False), vocabulary=None, output_len=5)
    assert [str(sample.prompt)[-1] for sample in in_order] == ["0", "1", "2"]


def test_sharegpt_needs_a_way_to_count_answers(tmp_path: Path) -> None:
    file = write_sharegpt(tmp_path, conversation("some prompt of words", "an answer"))
    with pytest.raises(ConfigError, match="no tokenizer is known"):
        sharegpt_samples(file, choice(1), vocabulary=None, output_len=None)


@pytest.mark.parametrize(("content", "told"), [("{}", "no list of conversations"), ("[", "not what it should be")])
def test_a_file_that_is_no_sharegpt(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        sharegpt_samples(file, choice(1), vocabulary=None, output_len=5)


def test_files_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it cannot be read: No such file"):
        custom_samples(tmp_path / "none", choice(1), vocabulary=None, output_len=None)
    with pytest.raises(ConfigError, match="no entry of it can be used"):
        sharegpt_samples(write_sharegpt(tmp_path), choice(1), vocabulary=None, output_len=5)


def test_custom_lines_tell_their_own_lengths_where_they_do(tmp_path: Path, tiny: Vocabulary) -> None:
    file = tmp_path / "custom.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"prompt": "two", "output_tokens": 12}\n', encoding="utf-8")
    in_order = choice(2, shuffle=False)
    made = custom_samples(file, in_order, vocabulary=tiny, output_len=None)
    assert [(sample.prompt, sample.max_tokens) for sample in made] == [("one", 256), ("two", 12)]
    assert made[0].num_prompt == tiny.count("one")
    made = custom_samples(file, in_order, vocabulary=None, output_len=5, template=lambda text: f"<{text}>")
    assert [(sample.prompt, sample.max_tokens) for sample in made] == [("<one>", 5), ("<two>", 5)]
    with pytest.raises(ConfigError, match=r"custom\.jsonl:1 is .*--custom-output-len -1"):
        custom_samples(file, in_order, vocabulary=None, output_len=OF_THE_FILE)


@pytest.mark.parametrize("line", ["x", "[1]", '{"text": "a"}', '{"prompt": ""}', '{"prompt": "a", "output_tokens": 0}'])
def test_a_custom_line_that_is_wrong_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "custom.jsonl"
    file.write_text(f'{{"prompt": "one"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"custom\.jsonl:2 is"):
        custom_samples(file, choice(5, shuffle=False), vocabulary=None, output_len=None)


def test_where_a_vocabulary_is_found() -> None:
    assert (found := find_vocabulary({"id": str(TINY_MODEL)}, None)) is not None
    assert found.tokenizer is not None
    bundled = find_vocabulary({"id": "any/tiny", "owned_by": "jaxpaged"}, None)
    assert bundled is not None
    assert bundled.source == str(TINY_MODEL)
    special = {"3": {"content": "<s>", "special": True}, "1": {"content": "a", "special": False}}
    told = find_vocabulary({"id": "x"}, {"vocab_size": 5, "added_tokens_decoder": special})
    assert told is not None
    assert (told.ids, told.tokenizer) == ((0, 1, 2, 4), None)
    assert find_vocabulary({"id": "tiny", "owned_by": "other"}, None) is None
    assert find_vocabulary({}, {"vocab_size": "many"}) is None
