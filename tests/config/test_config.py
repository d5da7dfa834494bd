"""Settings files state departures from the defaults; each mistake raises a one-line error."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from ndt.config import FinetuneConfig, MaskConfig, ModelConfig, PretrainConfig, SimulateConfig, TrainConfig, load_config
from ndt.errors import InputError


def written(folder, text: str):
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_files_state_only_departures(tmp_path) -> None:
    path = written(tmp_path, "model:\n  width: 128\nwindow: 1\nsessions: [a, b]\n")
    default = PretrainConfig()
    expected = replace(default, model=replace(default.model, width=128), window=1.0, sessions=("a", "b"))
    found = load_config(PretrainConfig, path)
    assert found == expected
    assert isinstance(found.window, float)  # 1 is a width in seconds too


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig, SimulateConfig])
def test_an_empty_file_is_the_defaults(tmp_path, kind) -> None:
    assert load_config(kind, written(tmp_path, "# nothing\n")) == kind()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("widht: 3", "settings.widht: expected one of: model, train, .*, found an unknown setting"),
        ("model:\n  widht: 3", "settings.model.widht: expected one of: architecture, width, "),
        ("model: 3", "settings.model: expected settings: architecture, width, .*, found 3"),
        ("[1, 2]", "settings: expected settings: "),
        ("seed: one", "settings.seed: expected int, found 'one'"),
        ("seed: 1.5", "settings.seed: expected int, found 1.5"),
        ("seed: true", "settings.seed: expected int, found True"),
        ("window: true", "settings.window: expected float, found True"),
        ("window: ''", "settings.window: expected float, found ''"),
        ("seed:", "settings.seed: expected int, found None"),
        ("a: [", "expected a YAML file"),
        ("sessions: a", "settings.sessions: "),
        ("seed: [1, 2]", r"settings.seed: expected int, found \[1, 2\]"),
        ("sessions: [1, 2]", "settings.sessions: "),
    ],
)
def test_a_mistake_is_named_with_its_file_and_setting(tmp_path, text, told) -> None:
    with pytest.raises(InputError, match=told) as error:
        load_config(PretrainConfig, written(tmp_path, text))
    assert "settings.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_config(PretrainConfig, tmp_path / "absent.yaml")


def test_settings_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelConfig().width = 3


@pytest.mark.parametrize("kind", [ModelConfig, PretrainConfig, FinetuneConfig])
def test_defaults_are_of_the_type_they_state(kind) -> None:
    for field in fields(kind):
        value = getattr(kind(), field.name)
        assert is_dataclass(value) or type(value) in (int, float, str, bool, tuple)
        assert not (field.type in (float, "float") and type(value) is not float)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        (TrainConfig, "steps", 0),
        (TrainConfig, "batch_size", 0),
        (TrainConfig, "learning_rate", float("nan")),
        (TrainConfig, "precision", "fp8"),
        (TrainConfig, "micro_batches", 0),
        (TrainConfig, "micro_batches", 33),  # windows are 32
        (TrainConfig, "sharding", "zero"),
        (ModelConfig, "width", 97),
        (ModelConfig, "num_heads", 0),
        (ModelConfig, "architecture", "ndt3"),
        (ModelConfig, "attention_window", -1),
        (ModelConfig, "num_stem_layers", -1),
        (ModelConfig, "num_layers", 0),
        (ModelConfig, "unit_width", 0),
        (ModelConfig, "dropout", 1.0),
        (ModelConfig, "count_dropout", -0.1),
        (ModelConfig, "drop_path", 1.0),
        (MaskConfig, "ratio", 1.5),
        (TrainConfig, "attention", "flash"),
        (MaskConfig, "share", 1.5),
        (PretrainConfig, "masked_weight", -1.0),
        (PretrainConfig, "unit_dropout", 1.5),
        (PretrainConfig, "residual_dropout", -0.5),
        (PretrainConfig, "leaks", "ignore"),
        (PretrainConfig, "window", 0.0),
        (FinetuneConfig, "unit_dropout", -0.1),
        (FinetuneConfig, "strategy", "align"),
        (FinetuneConfig, "masked_weight", -0.1),
        (FinetuneConfig, "label_seconds", -1.0),
        (PretrainConfig, "embedding_lr_scale", 0.0),
        (FinetuneConfig, "embedding_lr_scale", 0.0),
        (FinetuneConfig, "backbone_lr_scale", -0.1),
        (FinetuneConfig, "freeze_steps", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind, setting, value):
    with pytest.raises(InputError, match=rf"{setting}: expected .*, found {value}"):
        kind(**{setting: value})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"architecture": "ndt2", "units_per_patch": 24},
            r"model.width: expected a multiple of .*\(24\).*, found 64",
        ),
        ({"architecture": "ndt2", "causal": False}, "model.causal: expected True in NDT2, found False"),
        ({"architecture": "ndt2_quirks", "attention_window": 5}, "model.attention_window: expected 0 in NDT2, found 5"),
        ({"width": 20, "num_heads": 2}, "model.width: expected a multiple of 8, found 20"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, told):
    base = {"width": 64, "num_heads": 2, "units_per_patch": 32}
    with pytest.raises(InputError, match=told):
        ModelConfig(**{**base, **settings})
