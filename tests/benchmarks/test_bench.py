"""Benchmarks: rows have their schema, and peers train on the same tokens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ndt import bench as bench_module
from ndt.bench import BENCHMARKS, bench
from ndt.benchmarks.attention import attention, list_backends
from ndt.benchmarks.decoding import demo
from ndt.benchmarks.padded import PaddedTransformer, padded, padded_loss
from ndt.benchmarks.ragged import masked_loss, preset, ragged
from ndt.benchmarks.timing import interleaved, row
from ndt.benchmarks.train import Step, train
from ndt.cli import main
from ndt.config import BenchConfig, PretrainConfig
from ndt.errors import InputError
from ndt.model.kernels import BACKENDS

SCHEMA = {"name", "value", "unit", "peer", "peer_value", "ratio", "spread", "values", "peer_values"}
SMALL = """model: {width: 64, num_layers: 2, num_decoder_layers: 1, num_heads: 4, units_per_patch: 4, unit_width: 8,
  num_stem_layers: 1, feedforward: 2, dropout: 0.0, drop_path: 0.0, count_dropout: 0.0}"""


@pytest.fixture
def config(tmp_path) -> BenchConfig:
    """A benchmark of a small model, of a second or so."""
    (tmp_path / "preset.yaml").write_text(SMALL)

    return BenchConfig(repeats=2, preset=str(tmp_path / "preset.yaml"))


def settings(config: BenchConfig) -> PretrainConfig:
    return preset(config.preset)


def check(rows: list[dict]) -> None:
    """Rows as documented: medians, their ratio, and the range of the values."""
    for r in rows:
        assert set(r) == SCHEMA
        np.testing.assert_allclose(r["value"], np.median(r["values"]))
        np.testing.assert_allclose(r["spread"], np.ptp(r["values"]), atol=1e-9)
        assert (r["peer"] is None) == (r["peer_value"] is None) == (r["ratio"] is None)
        if r["peer"] is not None:
            np.testing.assert_allclose(r["ratio"], r["value"] / r["peer_value"])
    json.dumps(rows, allow_nan=False)


def test_calls_are_timed_in_turns_without_the_warm_up() -> None:
    order, clock = [], iter(range(100))
    calls = {"a": lambda: order.append("a"), "b": lambda: [order.append("b"), next(clock), next(clock)]}
    seconds = interleaved(calls, 3, warmup=1, clock=lambda: next(clock))
    assert "".join(order) == "abababab"
    assert seconds == {"a": [1, 1, 1], "b": [3, 3, 3]}


def test_row_holds_medians_and_no_ratio_to_a_peer_below_zero() -> None:
    found = row("x", [3.0, 1.0, 8.0], "R2", "y", [2.0, 9.0, 1.0])
    expected = {"value": 3.0, "peer_value": 2.0, "ratio": 1.5, "spread": 7.0}
    assert {k: found[k] for k in expected} == expected
    assert row("x", [1.0], "R2", "y", [-0.1])["ratio"] is None
    check([found, row("x", [1.0, 2.0], "s")])


def test_sequences_have_different_lengths_and_half_of_their_patches_hidden() -> None:
    data = ragged(32)
    batch = data.batch
    lengths = torch.bincount(batch.window)
    assert len(lengths) == 30
    assert (int(lengths.min()), int(lengths.max())) == (51, 1504)  # whole bins of 3 and of 8 tokens
    np.testing.assert_allclose(30 * 1504 / len(batch.time), 2.8, atol=0.1)
    patches = [w.hidden[:, ::32].shape[1] for w in data.windows]
    assert set(patches) == {3, 4, 5, 6, 7, 8}
    assert max(len(w.counts) for w in data.windows) <= 200  # the longest window that a preset allows
    for w in data.windows:
        assert w.hidden[:, ::32].sum() == w.hidden[:, ::32].size // 2
        np.testing.assert_array_equal(w.hidden, np.repeat(w.hidden[:, ::32], 32, axis=1)[:, : w.hidden.shape[1]])
    assert len({w.unit.tobytes() for w in data.windows}) == 6
    np.testing.assert_allclose(float(batch.counts[batch.valid].double().mean()), 0.16, rtol=0.02)


@pytest.mark.parametrize("sequences", [2, 5])
def test_padded_sequences_hold_the_same_tokens(config, sequences) -> None:
    batch = ragged(4, sequences=5, shortest=6, longest=90).batch
    parts = padded(batch, sequences)
    assert [len(p.padding) for p in parts] == ([2, 2, 1] if sequences == 2 else [5])
    whole = {k: torch.cat([getattr(p, k) for p in parts]) for k in vars(parts[0])}
    there = ~whole["padding"]
    assert there.shape == (5, int(torch.bincount(batch.window).max()))
    torch.testing.assert_close(there.sum(1), torch.bincount(batch.window))
    torch.testing.assert_close(whole["time"][there], batch.time)
    torch.testing.assert_close(whole["counts"][there], torch.where(batch.valid, batch.counts, 0).long())
    torch.testing.assert_close(whole["predicted"][there], batch.hidden)
    assert not whole["predicted"][~there].any()
    assert int(whole["time"][~there].min()) > int(batch.time.max())


def test_padded_transformer_is_causal_ignores_padding_and_learns(config) -> None:
    model = settings(config).model
    batch = ragged(4, sequences=5, shortest=6, longest=90).batch
    whole = padded(batch, 5)[0]
    torch.manual_seed(0)
    peer = PaddedTransformer(replace(model, dropout=0.0), whole.padding.shape[1])
    assert len(peer.layers) == 3

    counts = torch.where(whole.padding[..., None], 100, whole.counts)
    before = peer(whole)
    torch.testing.assert_close(peer(replace(whole, counts=counts))[~whole.padding], before[~whole.padding])
    late = whole.time >= 3
    after = peer(replace(whole, counts=torch.where(late[..., None], whole.counts + 3, whole.counts)))
    torch.testing.assert_close(after[~late], before[~late])
    assert (after - before)[late & ~whole.padding & ~whole.hidden].abs().amax(-1).min() > 0

    step = Step(peer.train(), [whole], padded_loss)
    step.optimizer.param_groups[0]["lr"] = 1e-2
    losses = [step() for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(config) -> None:
    """Masks of all sequences at once would not fit into memory."""
    batch, gradients = ragged(4, sequences=5, shortest=6, longest=90).batch, []
    for sequences in (5, 2):
        torch.manual_seed(0)
        parts = padded(batch, sequences)
        peer = PaddedTransformer(settings(config).model, parts[0].padding.shape[1])
        Step(peer, parts, padded_loss)()
        gradients.append([p.grad for p in peer.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_a_packed_step_learns(config) -> None:
    data = ragged(4, sequences=5, shortest=6, longest=90)
    step = Step(data.model(settings(config)), [data.batch], masked_loss)
    step.optimizer.param_groups[0]["lr"] = 3e-3
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_train_rows(config, precision) -> None:
    rows = train(replace(config, precision=precision), sequences=5, longest=90)
    check(rows)
    names = [(r["name"], r["peer"]) for r in rows]
    assert names == [(f"train.packed.{precision}", "padded_sdpa"), ("train.padding", None)]
    assert all(r["value"] > 0 for r in rows)


def test_attention_rows(config) -> None:
    rows = attention(config, sequences=5, longest=90)
    check(rows)
    assert [(r["name"], r["peer"]) for r in rows] == [
        ("attention.axial.sdpa.fp32", "padded_sdpa"),
        ("attention.joint.sdpa.fp32", "padded_sdpa"),
    ]


def test_list_has_the_chosen_kernel_and_the_refusals_of_the_others(capsys) -> None:
    listed = list_backends()
    assert {(b["mask"], b["precision"]) for b in listed} == {
        (mask, precision) for mask in ("full", "causal", "time") for precision in ("fp32", "bf16")
    }
    for b in listed:
        assert b["chosen"] not in b["refusals"]
        earlier = list(BACKENDS)[: list(BACKENDS).index(b["chosen"])]
        assert set(earlier) <= set(b["refusals"])  # the first that can is taken
    assert main(["bench", "attention", "--list"]) == 0
    assert "xformers: xformers has kernels for CUDA only" in capsys.readouterr().out or torch.cuda.is_available()
    assert main(["bench", "train", "--list"]) == 2


def test_every_name_resolves_and_decoding_rows_keep_their_shape(monkeypatch) -> None:
    import importlib

    for target in BENCHMARKS.values():
        module, _, function = target.partition(".")
        assert callable(getattr(importlib.import_module(f"ndt.benchmarks.{module}"), function))

    scores = {
        "test": {"r2": 0.7},
        "network": {"r2": 0.6},
        "baselines": {"ridge": {"r2": 0.5}, "block_permuted": {"r2": -0.1}},
    }
    monkeypatch.setattr("ndt.demo.demo", lambda **_: {"sessions": {"s": scores}})
    rows = demo(BenchConfig(seeds=2))
    check([r for r in rows if r["peer"] == "ridge"])
    assert [(r["name"], r["peer"], r["ratio"]) for r in rows] == [
        ("demo.network", "ridge", 1.2),
        ("demo.network", "block_permuted", None),
        ("demo.ensemble", "ridge", 1.4),
    ]


def test_bad_names_and_options_are_input_errors(config, capsys) -> None:
    with pytest.raises(
        InputError, match=r"one of: attention, train, .*, curve, adaptation, transfer, .*dynamics, .*, found tain"
    ):
        bench("tain")
    for field in ("repeats", "seeds"):
        with pytest.raises(InputError, match=f"{field}: expected 1 to .*, found 0"):
            BenchConfig(**{field: 0})
    with pytest.raises(InputError, match="precision: expected fp32 or bf16, found fp16"):
        BenchConfig(precision="fp16")
    with pytest.raises(InputError, match=r"preset: expected a YAML file or one of: .*small, tiny, found tny"):
        bench("train", replace(config, preset="tny"))
    assert main(["bench", "tain"]) == 2
    assert capsys.readouterr().err.startswith("ndt bench: name: expected one of: attention,")


def test_the_command_line_prints_rows_and_lists_names(monkeypatch, capsys) -> None:
    monkeypatch.setitem(bench_module.BENCHMARKS, "train", "timing.fake")
    seen = []
    monkeypatch.setattr("ndt.benchmarks.timing.fake", lambda c: seen.append(c) or [row("x", [2.0], "s")], raising=False)
    assert main(["bench", "train", "--repeats", "7", "--precision", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["value"] == 2.0
    assert (seen[0].repeats, seen[0].precision) == (7, "bf16")
    assert main(["bench", "train"]) == 0
    assert "x" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert ", ".join(bench_module.BENCHMARKS) in " ".join(capsys.readouterr().out.split())
