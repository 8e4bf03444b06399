"""Sampling defaults: whose word counts, what is refused by name, and what is told though it is not done."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, ModelError
from jaxpaged.generation_config import file_value
from jaxpaged.request import SamplingParams
from jaxpaged.sampling_defaults import SamplingDefaults, sampling_defaults

FILE = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": None,
    "repetition_penalty": 1.05,
    "max_new_tokens": 100,
    "eos_token_id": [1, 2],
    "do_sample": True,
    "transformers_version": "5.0.0",
}


def folder_with(path: Path, told: Any) -> str:
    path.mkdir(exist_ok=True)
    (path / "generation_config.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return folder_with(tmp_path / "model", FILE)


def found(model: str, **options: Any) -> SamplingDefaults:
    return sampling_defaults(EngineConfig(model=model, **options))


def test_the_models_file_gives_the_defaults(model: str) -> None:
    defaults = found(model)
    values = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05, "max_tokens": 100}
    assert defaults.values == values
    assert type(defaults.values["top_k"]) is int
    assert set(defaults.sources.values()) == {"generation_config.json"}
    assert (defaults.max_tokens_limit, defaults.not_implemented) == (None, ())
    assert defaults.fill(SamplingParams()) == SamplingParams(**values)
    assert defaults.fill(SamplingParams(top_k=3), said=("top_k",)) == SamplingParams(**{**values, "top_k": 3})
    assert defaults.describe() == (
        "repetition_penalty 1.05, temperature 0.6, top_k 20, top_p 0.95, max_tokens 100 by generation_config.json"
    )


def test_the_api_has_defaults_of_its_own(model: str, tmp_path: Path) -> None:
    for nothing in (found(model, generation_config="vllm"), found(str(tmp_path))):
        assert nothing == SamplingDefaults()
        assert nothing.fill(SamplingParams()) == SamplingParams()
        assert nothing.describe() == "the API's"
    assert sampling_defaults(EngineConfig(model=model), has_folder=False) == SamplingDefaults()


def test_an_override_comes_before_the_file(model: str) -> None:
    defaults = found(model, override_generation_config={"temperature": 0, "top_p": None, "min_p": 0.1})
    assert defaults.values == {
        **{"temperature": 0.0, "top_k": 20, "min_p": 0.1},
        **{"repetition_penalty": 1.05, "max_tokens": 100},
    }
    assert defaults.sources["temperature"] == defaults.sources["min_p"] == "override_generation_config"
    alone = found(model, generation_config="vllm", override_generation_config='{"top_k": -1, "temperature": 2}')
    assert alone.values == {"top_k": 0, "temperature": 2.0}
    assert alone.describe() == "temperature 2.0, top_k 0 by override_generation_config"


def test_a_folder_counts_in_place_of_the_models(model: str, tmp_path: Path) -> None:
    other = folder_with(tmp_path / "other", {"temperature": 0.3})
    assert found(model, generation_config=Path(other)).values == {"temperature": 0.3}
    with pytest.raises(ConfigError, match=r"generation_config is '.*empty': it has no generation_config\.json"):
        found(model, generation_config=str(tmp_path / "empty"))
    for wrong in ("", " ", 3, None):
        with pytest.raises(ConfigError, match="it must be auto, vllm or a folder"):
            EngineConfig(generation_config=wrong)  # pyright: ignore[reportArgumentType]


def test_the_models_file_sets_a_default_length_and_whoever_runs_the_server_a_limit(model: str) -> None:
    by_file, other = found(model), found(model, generation_config=model)
    over = found(model, override_generation_config={"max_new_tokens": 7})
    assert [one.max_tokens(None) for one in (by_file, other, over, SamplingDefaults())] == [100, 100, 7, None]
    assert [one.max_tokens(500) for one in (by_file, other, over, SamplingDefaults())] == [500, 100, 7, 500]
    assert [one.max_tokens(3) for one in (by_file, other, over)] == [3, 3, 3]
    assert over.describe().endswith("max_tokens 7 by override_generation_config; at most 7 tokens an answer")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"temprature": 1}, r"temprature is 1: there is no such default.* Did you mean temperature\?"),
        ({"max_tokens": 5}, r"max_tokens is 5: .*Did you mean max_new_tokens\?"),
        ({"num_beams": 4}, "num_beams is 4: there is no such default; there are repetition_penalty, temperature"),
        ({"temperature": -0.1}, r"temperature is -0\.1: it must be a number from 0 to 100\. Use 0 for greedy"),
        ({"top_p": "0.5"}, r"top_p is '0\.5': it must be a number above 0 and at most 1"),
        ({"top_k": 1.5}, r"top_k is 1\.5: it must be a whole number"),
        ({"min_p": True}, "min_p is True"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it must be a whole number from 1"),
        ('{"top_p": NaN}', "top_p is nan"),
        ('{"top_p": 0.5, "top_p": 0.6}', "the key 'top_p' is there twice"),
        ("temperature=1", "it is not JSON"),
        ([1], "it must be a JSON object"),
    ],
)
def test_an_override_that_cannot_be_is_refused_by_its_key(override: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        EngineConfig(override_generation_config=override)
    assert caught.value.name.startswith("override_generation_config")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"top_p": 1.5}, r"top_p of generation_config\.json is 1\.5: .*override_generation_config"),
        ({"max_new_tokens": "many"}, "max_new_tokens of generation_config"),
        ("[]", "it holds a list"),
        ('{"top_p": 0.5', "it is not valid JSON"),
        ('{"top_p": 0.5, "top_p": 0.6}', "'top_p' is there twice"),
    ],
)
def test_a_file_that_cannot_be_is_refused_where_it_counts(tmp_path: Path, file: Any, told: str) -> None:
    model = folder_with(tmp_path, file)
    with pytest.raises(ModelError, match=told):
        found(model)
    assert found(model, generation_config="vllm") == SamplingDefaults()
    if isinstance(file, dict):
        assert found(model, override_generation_config=dict.fromkeys(file, 1)).values.keys() <= {"top_p", "max_tokens"}


def test_what_is_not_implemented_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asks = {"num_beams": 4, "no_repeat_ngram_size": 3, "do_sample": False, "suppress_tokens": [7], "novelty": 0.5}
    nothing = {"num_beams": 1, "typical_p": 1.0, "do_sample": True, "bad_words_ids": None, "token_healing": False}
    harmless = {"pad_token_id": 0, "use_cache": True, "length_penalty": 2.0, "stop_strings": []}
    with caplog.at_level(logging.WARNING):
        found(folder_with(tmp_path / "b", nothing | harmless)).warn()
        assert not caplog.records
        defaults = found(folder_with(tmp_path / "a", {**FILE, **asks}))
        defaults.warn()
    assert defaults.not_implemented == (
        *("do_sample=False", "num_beams=4", "no_repeat_ngram_size=3", "suppress_tokens=[7]", "novelty=0.5"),
    )
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("jaxpaged.sampling_defaults", "WARNING")
    assert "num_beams=4, no_repeat_ngram_size=3, suppress_tokens=[7], novelty=0.5" in record.getMessage()
    assert "not implemented: do_sample=False" in defaults.describe()
    long = found(folder_with(tmp_path / "c", {"bad_words_ids": [[i] for i in range(1000)]}))
    assert len(long.describe()) < 200


def test_a_number_that_no_float_holds_is_refused() -> None:
    with pytest.raises(ModelError, match=r"temperature of generation_config\.json is 1000"):
        file_value("temperature", 10**400)
