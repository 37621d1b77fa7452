"""What is read from a `config.json`; what is refused names the field, its value and a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from models.config import FAMILIES, DecoderConfig
from models.config_reader import parse_config, read_config
from models.errors import ModelDirectoryError
from tests.models.families import LLAMA3, TINY, VARIANTS, YARN


def parse(family: str, **changes: Any) -> DecoderConfig:
    return parse_config(TINY | {"model_type": family} | changes, source="config.json")


@pytest.mark.parametrize("name", VARIANTS)
def test_what_transformers_writes_comes_back_as_it_was(name: str) -> None:
    family, changes = VARIANTS[name]
    config = parse_config(AutoConfig.for_model(family, **TINY, **_new(changes)).to_dict(), name)
    again = parse_config(config.to_hugging_face(), name)
    assert again == config
    assert AutoConfig.for_model(**config.to_hugging_face()).head_dim == config.head_dim


def _new(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key not in TINY}


def test_an_absent_head_width_is_the_share_of_a_head() -> None:
    assert parse("llama").head_dim == 16
    assert parse("llama", head_dim=None).head_dim == 16
    assert parse("qwen3").head_dim == AutoConfig.for_model("qwen3").head_dim


def test_theta_is_found_in_either_place() -> None:
    assert parse("llama", rope_theta=5e5).rope_theta == 5e5
    assert parse("llama", rope_parameters={"rope_theta": 5e5}, rope_theta=1.0).rope_theta == 5e5
    assert parse("llama").rope_theta == 1e4


def test_the_older_way_to_say_rope_means_the_same() -> None:
    old = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert parse("qwen2", rope_scaling=old) == parse("qwen2", rope_parameters=YARN)
    assert parse("qwen2", rope_scaling=None).rope_scaling.kind == "default"


def test_the_trained_context_outside_of_rope_wins() -> None:
    inside = parse("llama", rope_parameters=LLAMA3)
    outside = parse("llama", rope_parameters=LLAMA3, original_max_position_embeddings=32)
    assert inside.rope_scaling.original_max_position_embeddings == 64
    assert outside.rope_scaling.original_max_position_embeddings == 32


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("mistral", {}, 4096),
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 64}, None),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, None),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, None),
        ("llama", {"sliding_window": 64}, None),
        (
            "qwen3",
            {
                "sliding_window": 64,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            64,
        ),
    ],
)
def test_a_window_counts_where_a_layer_has_it(
    family: str, changes: dict[str, Any], window: int | None
) -> None:
    config = parse(family, **changes)
    assert config.sliding_window == window
    assert config.max_tokens == min(window or 512, 512)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"model_type": "qwen3_moe"}, "model_type", "'qwen3_moe'"),
        ({"model_type": None}, "model_type", "None"),
        ({"model_type": ["llama"]}, "model_type", "['llama']"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers", "1024"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings", "16777216"),
        ({"rope_theta": 10**400}, "rope_theta", "1000"),
        (
            {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}},
            "rope_parameters.high_freq_factor",
            "1.0",
        ),
        ({"rope_parameters": YARN | {"rope_theta": 1.0}}, "rope_parameters.rope_theta", "1.0"),
        ({"model_type": "qwen2", "max_window_layers": "1"}, "max_window_layers", "'1'"),
        ({"hidden_act": "gelu"}, "hidden_act", "'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quant_method", "None"),
        ({"architectures": ["LlamaModel"]}, "architectures", "LlamaModel"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling.rope_type", "'longrope'"),
        ({"rope_scaling": "yarn"}, "rope_scaling", "'yarn'"),
        ({"rope_parameters": {"mrope_section": [1]}}, "rope_parameters.mrope_section", "1"),
        ({"rope_parameters": YARN | {"factor": -1.0}}, "rope_parameters.factor", "-1.0"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor", "missing"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "0.5"),
        ({"rope_theta": float("nan")}, "rope_theta", "nan"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "3"),
        ({"num_attention_heads": 0}, "num_attention_heads", "0"),
        ({"num_attention_heads": 5}, "hidden_size", "64"),
        ({"head_dim": 15}, "head_dim", "15"),
        ({"vocab_size": None}, "vocab_size", "missing"),
        ({"vocab_size": "400"}, "vocab_size", "'400'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings", "1"),
    ],
)
def test_what_is_not_served_is_named(changes: dict[str, Any], field: str, value: str) -> None:
    raw = {"model_type": "llama"} | changes
    with pytest.raises(ModelDirectoryError) as caught:
        parse_config(TINY | raw, source="config.json")
    message = str(caught.value)
    assert message.startswith(f"config.json: {field} is ")
    assert value in message
    assert "; " in message


def test_a_mixed_window_that_is_switched_off_is_refused() -> None:
    with pytest.raises(ModelDirectoryError, match="use_sliding_window is False"):
        parse("qwen2", layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(ModelDirectoryError, match=r"layer_types is .*chunked"):
        parse("qwen2", layer_types=["chunked_attention", "full_attention"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_says_how_many_labels_it_has(family: str) -> None:
    name = [f"{FAMILIES[family]}ForSequenceClassification"]
    assert parse(family, architectures=name).num_labels == 2
    assert parse(family, architectures=name, id2label={"0": "a"}).num_labels == 1
    assert parse(family, architectures=name, num_labels=5).num_labels == 5
    assert parse(family).num_labels == 0


@pytest.mark.parametrize("content", ["", "[]", "null", "7", "[" * 100_000])
def test_a_config_that_is_no_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelDirectoryError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_config_of_the_default_family_is_written_as_ever(tiny_config: DecoderConfig) -> None:
    written = json.dumps(tiny_config.to_hugging_face())
    assert list(tiny_config.to_hugging_face())[-3:] == [
        "rope_parameters",
        "max_position_embeddings",
        "tie_word_embeddings",
    ]
    assert '"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}' in written
