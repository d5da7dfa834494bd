"""Ways to adapt: what learns in each and what stays to the bit, what needs no labels, and what each needs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, busy_model, permuted, recording, specification
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from ndt.config import STRATEGIES as NAMES
from ndt.config import FinetuneConfig, IngestConfig, ModelConfig, TrainConfig
from ndt.data.ingest import ingest
from ndt.data.store import Store
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.decoders.ridge import ALPHAS
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.adapt import finetune
from ndt.finetune.alignment import align, earlier_days
from ndt.finetune.decoding import decode
from ndt.finetune.probe import fit_classes, fit_probe
from ndt.finetune.strategies import STRATEGIES, choose_strategy, part_of
from ndt.model.checkpoint import TargetSpec
from ndt.model.inference import per_bin
from ndt.model.transformer import NDT, TABLES
from ndt.session import Session, Spikes, Units
from ndt.target import Part

TCN_LATENTS = replace(TINY, decoder="tcn_latents", tcn_width=8, num_tcn_layers=2)
SHORT = FinetuneConfig(
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, ema=0.0, warmup_steps=0, learning_rate=0.02),
    embedding_warmup_steps=1,
    freeze_steps=0,
    decoder_steps=2,
    max_lag=0.1,
    baselines=(),
    ensemble=("network", "ridge"),
)
NEW = "sub-a_ses-2"


def renamed(session: Session, names: list[str], **changes: object) -> Session:
    """The same recording under other names of its units."""
    return replace(session, units=Units(id=np.array(names)), **changes)


def first_day() -> Session:
    return recording(((0.0, 40.0),), num_units=6, name="sub-a_ses-1")


def second_day() -> Session:
    """Of whose six units two are called as on the first day."""
    session = recording(((0.0, 40.0),), num_units=6, name=NEW, seed=1)
    return renamed(session, ["a/0", "a/4", "b/0", "b/1", "b/2", "b/3"])


def stored(folder, *sessions: Session) -> Store:
    return ingest(list(sessions), folder, IngestConfig(workers=1), progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two days of a subject."""
    return stored(tmp_path_factory.mktemp("ways") / "store", first_day(), second_day())


def pretrained(store: Store, config: ModelConfig = TINY, dims: int = 2) -> NDT:
    """A model that says that it was trained on the first day, and decodes its target."""
    session = store.session("sub-a_ses-1")
    spec = specification([session], config=config, dims=dims)
    model = busy_model(replace(spec, data={session.session_id: str(session.source["sha256"])}))
    model.store = store.root
    return model


def adapted(base: NDT | None, strategy: str, out, store: Store | None = None, target: str | None = "vel", **options):
    config = replace(SHORT, strategy=strategy, **options)
    return finetune(base, NEW, target, out=out, config=config, store=store, progress=False)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of each way from a model with a decoder, made when first asked for."""
    made: dict[str, object] = {}

    def of(strategy: str):
        if strategy not in made:
            made[strategy] = adapted(pretrained(store, TCN_LATENTS), strategy, tmp_path_factory.mktemp(strategy))
        return made[strategy]

    return of


def test_every_strategy_of_the_settings_is_defined() -> None:
    assert STRATEGIES.keys() == set(NAMES)


def test_parts_of_a_model_by_their_names() -> None:
    assert {part_of(name) for name in TABLES} == {"embeddings"}
    assert part_of("embed.count.weight") == "input"
    assert part_of("encoder.0.attention.query.weight") == "backbone"
    assert part_of("decoder.readout.weight") == "backbone"
    assert part_of("decoder.readout.weight", ("decoder.",)) == "new"
    assert {part_of(name, ("",)) for name in ("unit", "embed.count.weight")} == {"embeddings", "new"}


MAY = {  # beginnings of names of what changes, where the decoder is kept and where it is new
    "full": (("",), ("",)),
    "contexts": ((*TABLES, "embed."), (*TABLES, "embed.", "decoder.")),
    "unsupervised": ((*TABLES,), None),
    "align": ((*TABLES,), None),
}


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        pytest.param(strategy, kept, marks=[] if kept else [pytest.mark.slow])
        for strategy in MAY
        for kept in (True, False)
        if MAY[strategy][not kept]
    ],
)
def test_each_strategy_changes_exactly_its_parts(strategy, kept, store, run, tmp_path) -> None:
    allowed = MAY[strategy][not kept]
    base = pretrained(store, TCN_LATENTS) if kept else pretrained(store, dims=0)
    done = run(strategy) if kept else adapted(base, strategy, tmp_path)
    found = done.model
    torch.manual_seed(SHORT.seed)
    start = base.extended(found.spec)
    moved = {n for n, p in found.named_parameters() if not torch.equal(p, start.get_parameter(n))}
    assert {n for n in moved if not n.startswith(allowed)} == set()
    whole = {name.partition(".")[0] for name in moved}
    assert whole >= {a.rstrip(".") for a in allowed if a} - {"readin", "unit_site"}
    assert found.state_dict().keys() == start.state_dict().keys()
    loaded = NDT.from_pretrained(done.run)
    torch.testing.assert_close(loaded.state_dict(), found.state_dict(), rtol=0, atol=0)


def test_metrics_name_the_strategy(run) -> None:
    for asked, strategy in (("auto", "full"), ("align", "align")):
        found = run(asked)
        assert found.metrics["strategy"] == strategy
        assert json.loads((found.run / "metrics.json").read_text())["strategy"] == strategy
    assert found.metrics["alignment"]["unknown"] == 4


def test_a_probe_is_ridge_on_latents_in_closed_form(store, run) -> None:
    """Solved here anew, for the number of bins and the penalty that validation likes best."""
    found = run("probe")
    model = NDT.from_pretrained(found.run)
    assert (model.config.decoder, model.decoder.bins) == ("linear", 5)
    session, spec = store.session(NEW), model.spec
    binned = BinnedSession(session, spec.bin_size, spec.bin_size * spec.window_bins)
    y = spec.target.standardise(build_targets(session, "vel", binned.start, binned.bin_size).values).astype(np.float64)
    train, valid = binned.split == TRAIN, binned.split == VALID

    def read(rows: np.ndarray) -> np.ndarray:
        windows = binned.cover(rows, spec.window_bins, model.vocabulary.rows(session))
        own = lambda batch: model.decoder.read(batch, model.latents(batch))
        return per_bin(model, windows, own, len(binned))[rows].astype(np.float64)

    x, asked, D, best = read(train), read(valid), spec.config.width, (-np.inf,)
    z, target = (x - x.mean(0)) / x.std(0), (y[train] - y[train].mean(0)) / y[train].std(0)
    for bins in (1, 2, 3, 5):
        some = z[:, : bins * D]
        for alpha in ALPHAS:
            w = np.linalg.solve(some.T @ some + alpha * np.eye(bins * D), some.T @ target)
            w = w / x.std(0)[: bins * D, None] * y[train].std(0)
            bias = y[train].mean(0) - x.mean(0)[: bins * D] @ w
            best = max(best, (r2(y[valid], asked[:, : bins * D] @ w + bias), w, bias), key=lambda b: b[0])
    weight = np.zeros((2, 5 * D))
    weight[:, : len(best[1])] = best[1].T
    np.testing.assert_allclose(model.decoder.readout.weight.detach(), weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.decoder.readout.bias.detach(), best[2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.metrics["valid"]["network"], best[0], rtol=1e-3)


def test_classes_use_logistic_regression_with_the_best_validation_penalty() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) * [1, 2, 5] + 1
    label = np.argmax(x @ rng.standard_normal((3, 3)) + rng.gumbel(size=(400, 3)), 1)
    y, train = np.eye(3)[label], np.arange(400) < 250
    weight, bias = fit_classes(x[train], y[train], x[~train], y[~train])
    z = (x - x[train].mean(0)) / x[train].std(0)
    best = (-np.inf, np.zeros((0, 0)))
    for alpha in ALPHAS:
        model = LogisticRegression(C=1 / alpha, tol=1e-8, max_iter=1000).fit(z[train], label[train])
        said = model.predict_proba(z)
        best = max(best, (r2(y[~train], said[~train]), said), key=lambda b: b[0])
    logits = x @ weight + bias
    said = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(said / said.sum(1, keepdims=True), best[1], atol=2e-3)


def test_two_classes_share_the_loss_and_an_unseen_class_is_never_predicted() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 2))
    y, train = np.eye(3)[2 * (x[:, 0] + 0.5 * rng.standard_normal(300) > 0)], np.arange(300) < 200
    weight, bias = fit_classes(x[train], y[train], x[~train], y[~train])
    p = softmax(x @ weight + bias, axis=1)
    assert p[:, 1].max() < 1e-6
    assert (p.argmax(1) == y.argmax(1)).mean() > 0.8
    z, std = (x - x[train].mean(0)) / x[train].std(0), x[train].std(0)
    # Where the loss is least, its slope is that of one of the penalties.
    slope, w = z[train].T @ (p - y)[train], weight * std[:, None]
    alpha = -np.sum(slope * w) / np.sum(w**2)
    np.testing.assert_allclose(ALPHAS[np.argmin(np.abs(np.log(ALPHAS) - np.log(alpha)))], alpha, rtol=0.02)
    np.testing.assert_allclose(fit_classes(x[:1], y[:1], x, y)[0], 0.0)


def test_a_probe_fits_each_part_to_its_own_labelled_bins() -> None:
    """How many spikes a bin has, and whether they are many: latents of random weights know both."""
    session = recording(((0.0, 60.0),), num_units=6)
    binned = BinnedSession(session, 0.05, 1.0)
    total = np.array(binned.all_counts(), np.float64).sum(1)
    many = total > np.median(total)
    targets = np.stack([total, ~many, many], 1).astype(np.float32)
    targets[:100, 0] = np.nan
    targets[200:300, 1:] = np.nan
    parts = Part(name="n", kind="continuous", dims=("n",)), Part(name="busy", kind="class", dims=("few", "many"))
    spec = TargetSpec(name="n,busy", dims=("n", "few", "many"), unit="", mean=(2.0, 0, 0), std=(3.0, 1, 1), parts=parts)
    model = busy_model(replace(specification([session]), target=spec))
    fit_probe(model, binned, targets, binned.split == TRAIN)
    test = binned.split == TEST
    said = decode(model, binned, test)[test]
    assert r2(targets[test, :1], said[:, :1]) > 0.8
    np.testing.assert_allclose(said[:, 1:].sum(1), 1.0, rtol=1e-5)
    assert ((said[:, 2] > 0.5) == many[test]).mean() > 0.8


@pytest.mark.parametrize("strategy", ["unsupervised", pytest.param("align", marks=pytest.mark.slow)])
def test_labels_leave_unsupervised_strategies_bit_equal(strategy, store, run, tmp_path) -> None:
    """Garbage in the place of labels, and none at all; without them there is nothing to be scored by."""
    session = store.session(NEW)
    series = session.covariates["vel"]
    garbage = np.random.default_rng(0).standard_normal(series.values.shape) * 100
    found = [run(strategy)]
    for name, covariates in (("garbage", {"vel": replace(series, values=garbage)}), ("none", {})):
        with pytest.MonkeyPatch.context() as patch:
            other = replace(session, covariates=covariates)
            inner = Store.session
            patch.setattr(Store, "session", lambda self, s, o=other, i=inner: o if s == NEW else i(self, s))
            target = "vel" if name == "garbage" else None
            found.append(adapted(pretrained(store, TCN_LATENTS), strategy, tmp_path / name, target=target))
    for other in found[1:]:
        torch.testing.assert_close(other.model.state_dict(), found[0].model.state_dict(), rtol=0, atol=0)
    assert found[0].metrics["network"]["r2"] != found[1].metrics["network"]["r2"]
    assert found[0].metrics["weights"]["network"] == 1.0
    assert "test" not in found[2].metrics
    assert found[2].metrics["strategy"] == strategy


def test_units_that_the_session_lacks_are_unobserved_and_unchanged(store, run) -> None:
    base, found = pretrained(store, TCN_LATENTS), run("full").model
    own = set(store.session(NEW).units.id)
    for row, unit in enumerate(base.vocabulary.units):
        assert torch.equal(found.unit[row], base.unit[row]) == (unit not in own)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "align"])
def test_unit_order_in_the_file_changes_nothing(strategy, store, run, tmp_path) -> None:
    order = np.random.default_rng(2).permutation(6)
    again = stored(tmp_path / "store", first_day(), permuted(second_day(), order))
    assert (again.session(NEW).units.id != store.session(NEW).units.id).any()
    one, other = run(strategy).model, adapted(pretrained(again, TCN_LATENTS), strategy, tmp_path / "run", again).model
    own = {u: one.unit[i] for i, u in enumerate(one.vocabulary.units)}
    for row, unit in enumerate(other.vocabulary.units):
        torch.testing.assert_close(other.unit[row], own[unit], rtol=1e-4, atol=1e-5)  # the norm sums in their order
    decoded = []
    for model, where in ((one, store), (other, again)):
        binned = BinnedSession(where.session(NEW), 0.05, 1.0)
        decoded.append(decode(model, binned, binned.split == TEST))
    np.testing.assert_allclose(decoded[0], decoded[1], rtol=1e-3, atol=1e-3)


def test_matched_units_get_the_old_embeddings_whatever_their_site_and_depth(store, monkeypatch) -> None:
    """The new day is the old one under other names; its units are said to lie elsewhere, and deeper."""
    old = store.session("sub-a_ses-1")
    names = [f"b/{n}" for n in range(6)]
    place = {"location": np.array(["PMd"] * 6), "depth": np.arange(6) * 100.0}
    new = replace(old, session_id=NEW, units=Units(id=np.array(names), columns=place))
    monkeypatch.setattr("ndt.finetune.alignment.match_units", lambda *_, **__: np.array([2, 0, -1, 1, 4, 5]))
    base = pretrained(store)
    spec = replace(base.spec, vocabulary=base.vocabulary.extend([new]))
    model, binned = base.extended(spec), BinnedSession(new, 0.05, 1.0)
    with torch.no_grad():
        model.unit_site += 0.1 * torch.randn(model.unit_site.shape, generator=torch.Generator().manual_seed(0))
    before = model.unit.detach().clone()
    said = align(model, base, [store], binned, binned.split == TRAIN)
    assert said == {"to": "sub-a_ses-1", "unknown": 6, "matched": 5}
    row = {u: i for i, u in enumerate(spec.vocabulary.units)}

    def vector(unit: str) -> torch.Tensor:
        i = row[unit]
        return model.unit[i] + model.unit_site[model.site_of_unit[i]].sum(0) + model.depth_of_unit[i] * model.depth

    for name, match in zip(names, [2, 0, -1, 1, 4, 5], strict=True):
        if match < 0:
            assert torch.equal(model.unit[row[name]], before[row[name]])
        else:
            torch.testing.assert_close(vector(name), vector(sorted(old.units.id)[match]))
    known = len(base.vocabulary.units)
    assert torch.equal(model.unit[:known], before[:known])


def test_the_earlier_day_is_the_last_that_the_model_was_trained_on(store) -> None:
    base, days = pretrained(store), ("1", "2", "3")
    made = {f"sub-a_ses-{d}": replace(first_day(), session_id=f"sub-a_ses-{d}") for d in days}
    made["sub-a_ses-1"] = replace(made["sub-a_ses-1"], recording_date="2024-02-01")
    made["sub-a_ses-3"] = replace(made["sub-a_ses-3"], recording_date="2024-01-01")
    made["sub-z_ses-1"] = replace(first_day(), session_id="sub-z_ses-1", subject="z")

    class Memory:
        session_ids = sorted(made)
        session = staticmethod(made.__getitem__)

    base.spec = replace(base.spec, data={s: "" for s in ("sub-a_ses-1", "sub-a_ses-3", "sub-z_ses-1", "gone")})
    assert list(earlier_days(base, [Memory()], made["sub-a_ses-2"])) == ["sub-a_ses-3", "sub-a_ses-1"]


def test_auto_chooses_the_strategy_by_labels_units_and_earlier_days(store) -> None:
    base, config = pretrained(store), FinetuneConfig()
    new, old = store.session(NEW), store.session("sub-a_ses-1")

    def chosen(session: Session, seconds: float, base: NDT | None = base, config=config) -> tuple[str, str]:
        found = choose_strategy(config, base, [store], session, seconds)
        return found.strategy, found.align_to

    assert chosen(new, 60.0, None) == ("full", "")
    for seconds, strategy in ((1.0, "full"), (600.0, "full"), (0.0, "align")):
        assert chosen(new, seconds) == (strategy, "sub-a_ses-1")  # four of six units are unknown
    other = replace(new, subject="b")  # of whom there is no earlier day
    assert chosen(other, 0.0) == ("unsupervised", "")
    assert chosen(other, 60.0) == ("full", "")
    same = replace(old, session_id="x")
    assert chosen(same, 0.0) == ("unsupervised", "")
    half = replace(new, units=Units(id=np.array(["a/0", "a/4", "a/1", "b/1", "b/2", "b/3"])))
    assert chosen(half, 0.0) == ("align", "")  # to the last day, as ever
    assert chosen(half, 60.0) == ("full", "")
    assert chosen(new, 0.0, config=replace(config, strategy="probe")) == ("probe", "")
    assert chosen(new, 60.0, config=replace(config, align_to="sub-a_ses-0")) == ("full", "sub-a_ses-0")


def test_a_strategy_without_its_requirements_is_refused(store, tmp_path) -> None:
    base = pretrained(store)
    for strategy in ("unsupervised", "align"):
        with pytest.raises(
            InputError, match=f"a base model with a decoder .*for {strategy}, found one without a decoder"
        ):
            adapted(pretrained(store, dims=0), strategy, tmp_path)
        with pytest.raises(InputError, match="target: expected one of: vel, found 'speed'"):
            adapted(base, strategy, tmp_path, target="speed")
    with pytest.raises(InputError, match="align_to: expected one of: sub-a_ses-1, found sub-a_ses-9"):
        adapted(base, "align", tmp_path, align_to="sub-a_ses-9")
    with pytest.raises(InputError, match=r"strategy: expected full.*for a model from scratch, found probe"):
        adapted(None, "probe", tmp_path, store=store, model=TINY, window=1.0)
    with pytest.raises(InputError, match="strategy: expected auto or full or contexts or probe or unsupervised"):
        FinetuneConfig(strategy="half")
    alone = stored(tmp_path / "alone", replace(second_day(), subject="b", session_id=NEW))
    with pytest.raises(InputError, match=r"a session of b that the model was trained on.*found none"):
        adapted(base, "align", tmp_path / "run", store=alone)


def test_unsupervised_strategies_refuse_a_target_in_another_unit(store, tmp_path) -> None:
    session = second_day()
    series = replace(session.covariates["vel"], unit="cm/s")
    other = stored(tmp_path / "store", first_day(), replace(session, covariates={"vel": series}))
    with pytest.raises(InputError, match=r"pretrained decoder \(vel: x, y in m/s\), found vel: x, y in cm/s"):
        adapted(pretrained(other), "unsupervised", tmp_path / "run")


@pytest.mark.parametrize("strategy", ["probe", "full"])
def test_later_spikes_leave_earlier_predictions_bit_equal(strategy, store, run) -> None:
    model = run(strategy).model
    session, at = store.session(NEW), 700
    binned = BinnedSession(session, 0.05, 1.0)
    late = session.spikes.timestamps >= binned.start[at]
    times = np.concatenate([session.spikes.timestamps[~late], np.arange(binned.start[at], 40.0, 0.01)])
    units = np.concatenate([session.spikes.unit_index[~late], np.arange(len(times) - (~late).sum()) % 6])
    changed = replace(session, spikes=Spikes(timestamps=times, unit_index=units))
    rows = np.arange(len(binned)) >= 660
    before, after = decode(model, binned, rows), decode(model, BinnedSession(changed, 0.05, 1.0), rows)
    np.testing.assert_array_equal(before[660:at], after[660:at])
    assert (before[at] != after[at]).all()
