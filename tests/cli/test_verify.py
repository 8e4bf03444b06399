"""`jaxpaged verify`: its arithmetic, its search, what it refuses. Whole runs are in families/test_certificate.py."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxpaged.commands import FAILED, guarded
from jaxpaged.commands.verify import main
from jaxpaged.errors import ConfigError, ModelError, UnsupportedModelError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.verify import figures, oracle
from jaxpaged.verify.certificate import Certificate, Comparison, Setting
from jaxpaged.verify.figures import compare
from jaxpaged.verify.greedy import Agreement, Difference, differences_of
from jaxpaged.verify.layers import Divergence, Residual, first_divergence
from jaxpaged.verify.sample_text import sample_text

SETTING = Setting(dtype="float32", quantization=None, kv_cache_dtype="float32", attention_backend="xla")
NOTHING = Agreement(tokens=0, differences=())


def test_figures_of_two_places() -> None:
    theirs = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32))
    ours = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], np.float32))
    found = compare(ours, theirs, np.array([0, 1]))
    assert found.places == 2
    assert found.max_error == pytest.approx(math.log(2), rel=1e-6)
    assert found.relative_error == pytest.approx(0.5, rel=1e-6)  # the largest logit is log 4, by size
    assert found.worst_place == 1
    assert found.mean_error == pytest.approx(1 / 6, rel=1e-6)  # two of six are off by half of the largest
    assert found.agreement == 0.5
    assert found.oracle_perplexity == pytest.approx(2.0)
    assert found.perplexity == pytest.approx(math.sqrt(8))
    assert found.mean_kl == pytest.approx(math.log(2) / 8)  # 0 and 1/4 log 1/2 + 1/2 log 2
    assert found.finite


def test_a_logit_that_is_no_number_is_the_largest_error() -> None:
    theirs = np.ones((3, 4), np.float32)
    ours = theirs.copy()
    ours[0, 0], ours[1, 2] = 5.0, np.nan
    found = compare(ours, theirs, np.zeros(3, np.int32))
    assert not found.finite
    assert found.worst_place == 1
    certificate = a_certificate(Comparison(setting=SETTING, figures=found, greedy=NOTHING, steps=STEPS))
    assert not certificate.passed
    assert "  NOT FINITE" in dict(certificate.as_rows())
    told = json.loads(json.dumps(certificate.as_json(), allow_nan=False))
    assert told["float32"]["max_logit_error"] is None


@pytest.mark.parametrize("size", [1, 24, 72, 10**6])
def test_slices_change_no_figure(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 10, 3)).astype(np.float32)
    whole = compare(ours, theirs, np.arange(10) % 3)
    monkeypatch.setattr(figures, "_SLICE_BYTES", size)
    assert compare(ours, theirs, np.arange(10) % 3) == whole


def test_a_tie_is_what_two_logits_may_be_off_by() -> None:
    logits = np.array([[1.0, 10.0, 9.9985], [10.0, 9.9, 0.0], [3.0, 2.0, 1.0]], np.float32)
    found = differences_of(7, [2, 1, 0], logits, tolerance=1e-4)
    assert [(one.answer, one.place, one.token, one.oracle_token, one.tie) for one in found] == [
        (7, 0, 2, 1, True),
        (7, 1, 1, 0, False),
    ]
    agreement = Agreement(tokens=3, differences=found)
    assert (agreement.equal, agreement.wrong) == (1, 1)


class FakeCut:
    """Residuals [[layers]] up to a layer, and off by one from then on."""

    def __init__(
        self, off_from: int, *, attention: bool, embedded: float = 0.0, normed: float = 0.0, logits: float = 0.0
    ) -> None:
        self.off_from, self.attention, self.embedded = off_from, attention, embedded
        self.normed, self.logits, self.asked = normed, logits, []

    def residual(self, layers: int, *, without: Any = None) -> Residual:
        self.asked.append(layers)
        off = layers >= self.off_from if without is None else not self.attention
        value = 1.0 + layers if without is None else 100.0
        ends = np.ones((1, 1), np.float32)
        return Residual(
            embedded=ends + self.embedded,
            stream=np.array([[value + off]], np.float32),
            normed=ends + self.normed,
            last_logits=ends[0] + self.logits,
        )


def search(cut: Any, layers: int) -> Divergence:
    def residuals(without: int | None) -> list[np.ndarray]:
        values = [1.0 + i if without is None else 100.0 for i in range(layers + 1)]
        return [np.array([[value]], np.float32) for value in [*values, 1.0]]

    return first_divergence(cut, layers, residuals, np.ones(1, np.float32), tolerance=1e-4)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("layer", [1, 2, 17, 30, 31])
def test_the_first_layer_is_found_by_halving(layer: int, attention: bool) -> None:
    cut = FakeCut(layer + 1, attention=attention)
    found = search(cut, 32)
    assert str(found) == f"layer {layer}, {'attention' if attention else 'feed-forward'}"
    assert len(cut.asked) <= 7
    assert found.errors[layer] == 0
    assert found.errors[layer + 1] > 0


@pytest.mark.parametrize(
    ("ends", "part"), [({"normed": 1.0}, "final norm"), ({"logits": 1.0}, "output head"), ({}, "steps")]
)
def test_what_follows_the_layers_is_told_apart(ends: dict[str, float], part: str) -> None:
    assert str(search(FakeCut(99, attention=False, **ends), 4)) == part


@pytest.mark.parametrize(("embedded", "part"), [(0.0, "layer 0, attention"), (1.0, "embedding")])
def test_the_embedding_is_looked_at_where_the_first_layer_is_off(embedded: float, part: str) -> None:
    assert str(search(FakeCut(1, attention=True, embedded=embedded), 8)) == part


def test_text_is_the_passage_a_file_or_random_ids(tmp_path: Path) -> None:
    passage = sample_text(str(TINY_MODEL), None, tokens=600, vocab=10**6)
    assert (passage.source, len(passage.ids)) == ("bundled passage", 600)
    assert [len(prompt) for prompt in passage.prompts()] == [24, 12, 6, 1]
    random = sample_text(str(tmp_path), None, tokens=50, vocab=7)
    assert len(random.ids) == 50
    assert set(random.ids) == set(range(7))
    short = tmp_path / "short.txt"
    short.write_text("a")
    with pytest.raises(ConfigError, match="at least 2 tokens"):
        sample_text(str(TINY_MODEL), short, tokens=50, vocab=10**6)
    with pytest.raises(ConfigError, match="past the model's vocabulary of 3"):
        sample_text(str(TINY_MODEL), None, tokens=50, vocab=3)
    with pytest.raises(ConfigError, match="--text"):
        sample_text(str(TINY_MODEL), tmp_path / "none.txt", tokens=50, vocab=10**6)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_the_oracles_packages_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = oracle.find_spec
    monkeypatch.setattr(oracle, "find_spec", lambda name: None if name == missing else there(name))
    assert guarded(lambda: main([str(TINY_MODEL), "--quiet"])) == FAILED
    told = capsys.readouterr().err
    assert told.startswith(f"error: {missing} is None: it is not installed")
    assert "pip install" in told


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        main([str(tmp_path / "none"), "--quiet"])
    with pytest.raises(ModelError, match=r"config\.json"):
        main([str(tmp_path), "--quiet"])


def test_code_of_a_folder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json that names code is refused before transformers sees it; and it would be told no."""
    config = json.loads((Path(TINY_MODEL) / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="auto_map"):
        main([str(tmp_path), "--quiet"])
    asked: dict[str, Any] = {}

    class Loader:
        @staticmethod
        def from_pretrained(folder: str, **options: Any) -> None:
            asked.update(options)
            raise ValueError("no\nmodel")

    quiet = SimpleNamespace(set_verbosity_error=lambda: None, disable_progress_bar=lambda: None)
    fakes = {
        "torch": SimpleNamespace(float32="float32"),
        "transformers": SimpleNamespace(AutoModelForCausalLM=Loader, utils=SimpleNamespace(logging=quiet)),
    }
    monkeypatch.setattr(oracle, "import_module", fakes.__getitem__)
    with pytest.raises(ModelError, match="transformers cannot load it: no model"):
        oracle.Oracle(tmp_path)
    assert (asked["trust_remote_code"], asked["use_safetensors"], asked["local_files_only"]) == (False, True, True)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--tokens", "1"], "--tokens"),
        (["--greedy", "0"], "--greedy"),
        (["--tolerance", "0"], "--tolerance"),
        (["--tolerance", "nan"], "--tolerance"),
        (["--model", "elsewhere"], "--model"),
        (["--bundle", "somewhere"], "--bundle"),
    ],
)
def test_options_that_say_nothing_are_refused(flags: list[str], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        main([str(TINY_MODEL), *flags])


def test_a_wrong_token_fails_and_a_tie_does_not() -> None:
    same = compare(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), np.zeros(3, np.int32))
    for tie in (True, False):
        difference = Difference(answer=0, place=4, token=1, oracle_token=2, gap=1e-5, tie=tie)
        agreement = Agreement(tokens=9, differences=(difference,))
        certificate = a_certificate(Comparison(setting=SETTING, figures=same, greedy=agreement, steps=STEPS))
        assert certificate.passed == tie
        greedy = certificate.as_json()["float32"]["greedy"]
        assert (greedy["tokens"], greedy["equal"], greedy["ties"], greedy["wrong"]) == (9, 8, int(tie), int(not tie))
        assert greedy["differences"] == [asdict(difference)]
        rows = dict(certificate.as_rows())
        assert rows["  greedy tokens"].startswith(f"8 of 9 as transformers, {int(tie)} ties: answer 0 token 4: 1 for 2")
        assert ("PASS" in rows) == tie


STEPS = {"chunks": 2, "single tokens": 1}


def a_certificate(comparison: Comparison) -> Certificate:
    return Certificate(
        model="m",
        architecture="LlamaForCausalLM",
        config_sha256="0" * 64,
        tolerance=1e-4,
        text={"source": "bundled passage", "tokens": 3, "context": 3},
        float32=comparison,
        serving=comparison,
        divergence=None,
        device="CPU",
        versions={},
    )
