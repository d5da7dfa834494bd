"""Fine-tuning strategies: what learns in each and what stays to the bit, what needs no labels, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, busy_model, permuted, recording, specification
from stores import last_weights, tuned_recording

from ndt.config import STRATEGIES, FinetuneConfig, IngestConfig, MaskConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.data.activity import unit_activity
from ndt.data.ingest import ingest
from ndt.data.store import Store
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.adapt import Decoder, finetune
from ndt.finetune.decoding import Decoding, decode
from ndt.finetune.strategies import PARTS, UNLABELLED, Stage, choose_strategy, part_of, stages
from ndt.intervals import Intervals
from ndt.model.transformer import NDT, TABLES
from ndt.pretrain.train import pretrain
from ndt.reports.names import STRATEGIES as NAMES
from ndt.session import Session, Spikes, Units
from ndt.target import Part

SHORT = FinetuneConfig(
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, ema=0.0, warmup_steps=0, learning_rate=0.02),
    mask=MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=0.5),
    masked_weight=0.2,
    freeze_steps=0,
    backbone_lr_scale=0.5,
    embedding_lr_scale=5.0,
    unit_dropout=0.0,
    max_lag=0.1,
    auxiliary="",
    baselines=(),
    ensemble=("network", "ridge"),
)
OLD, NEW = "sub-a_ses-1", "sub-a_ses-2"


def renamed(session: Session, names: list[str], **changes: object) -> Session:
    """The same recording under other names of its units."""
    return replace(session, units=Units(id=np.array(names)), **changes)


def first_day() -> Session:
    return recording(((0.0, 40.0),), num_units=6, name=OLD)


def second_day(names: str = "aabbbb") -> Session:
    """Of whose six units two are called as on the first day, or as many as these letters say."""
    session = recording(((0.0, 40.0),), num_units=6, name=NEW, seed=1)
    return renamed(session, [f"{letter}/{n}" for letter, n in zip(names, (0, 4, 1, 2, 3, 5), strict=True)])


def stored(folder, *sessions: Session) -> Store:
    return ingest(list(sessions), folder, IngestConfig(workers=1), progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two days of a subject."""
    return stored(tmp_path_factory.mktemp("strategies") / "store", first_day(), second_day())


def pretrained(store: Store, config: ModelConfig = TINY, dims: int = 2) -> NDT:
    """A model that says that it was trained on the first day, and decodes its target."""
    session = store.session(OLD)
    spec = specification([session], config=config, dims=dims)
    model = busy_model(replace(spec, data={session.session_id: str(session.source["sha256"])}))
    model.store = store.root
    return model


def adapted(base: NDT | None, strategy: str, out, store: Store | None = None, target: str | None = "vel", **options):
    config = replace(SHORT, strategy=strategy, **options)
    return finetune(base, NEW, target, out=out, config=config, store=store, progress=False)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of each strategy from a model with a decoder, made when first asked for."""
    made: dict[str, Decoder] = {}

    def of(strategy: str) -> Decoder:
        if strategy not in made:
            made[strategy] = adapted(pretrained(store), strategy, tmp_path_factory.mktemp(strategy))
        return made[strategy]

    return of


# Stages


def test_parts_of_a_model_by_their_names() -> None:
    assert {part_of(name) for name in TABLES} == {"embeddings"}
    assert {part_of(name) for name in ("heads.0.linear.weight", "decoder.readout.bias")} == {"heads"}
    backbone = ("stem.linear.weight", "encoder.0.attention.out.weight", "identity.inner.weight", "identity.depth")
    assert {part_of(name) for name in (*backbone, "rates.unit.weight", "context_kind")} == {"backbone"}


@pytest.mark.parametrize(
    ("strategy", "freeze", "pretrained", "expected"),
    [
        ("full", 0, False, [(10, PARTS)]),
        ("full", 4, False, [(10, PARTS)]),  # of a new model nothing is worth freezing
        ("full", 0, True, [(10, PARTS)]),
        ("full", 4, True, [(4, ("embeddings", "heads")), (6, PARTS)]),
        ("full", 99, True, [(10, ("embeddings", "heads"))]),
        ("heads", 4, True, [(10, ("embeddings", "heads"))]),
        ("unlabelled", 4, True, [(10, ("embeddings",))]),
        ("none", 4, True, []),
    ],
)
def test_stages_add_up_to_the_steps_of_the_run(strategy, freeze, pretrained, expected) -> None:
    config = replace(SHORT, strategy=strategy, freeze_steps=freeze, train=replace(SHORT.train, steps=10))
    found = stages(config, pretrained)
    assert list(found) == [Stage(*x) for x in expected]


def test_every_strategy_has_a_name_in_reports() -> None:
    assert NAMES.keys() == set(STRATEGIES)


# What learns

LEARNS = {"full": PARTS, "heads": ("embeddings", "heads"), "unlabelled": ("embeddings",), "none": ()}


@pytest.mark.parametrize(
    ("strategy", "kept"), [*((strategy, True) for strategy in LEARNS), ("full", False), ("heads", False)]
)
def test_each_strategy_changes_exactly_its_parts(strategy, kept, store, tmp_path) -> None:
    """Whether the base decodes the target already, or has no target."""
    base = pretrained(store, dims=2 if kept else 0)
    with last_weights():
        done = adapted(pretrained(store, dims=2 if kept else 0), strategy, tmp_path)
    found = done.model
    torch.manual_seed(SHORT.seed)
    start = base.extended(found.spec)
    if kept:
        torch.testing.assert_close(start.heads.state_dict(), base.heads.state_dict(), rtol=0, atol=0)
    moved = {n for n, p in found.named_parameters() if not torch.equal(p, start.get_parameter(n))}
    assert {part_of(n) for n in moved} == set(LEARNS[strategy])
    idle = {"identity.depth"}  # no unit's depth is known
    assert {n for n, _ in found.named_parameters() if part_of(n) in LEARNS[strategy]} - moved <= idle
    loaded = NDT.from_pretrained(done.run)
    torch.testing.assert_close(loaded.state_dict(), found.state_dict(), rtol=0, atol=0)


def test_the_first_steps_of_full_leave_the_backbone_bit_equal(store, tmp_path) -> None:
    options = {"freeze_steps": 2, "train": replace(SHORT.train, steps=2)}
    with last_weights():
        found = adapted(pretrained(store), "full", tmp_path / "still", **options).model
    base = pretrained(store)
    for name, parameter in found.named_parameters():
        if part_of(name) == "backbone":
            assert torch.equal(parameter, base.get_parameter(name)), name
    options["train"] = replace(SHORT.train, steps=3)
    with last_weights():
        found = adapted(pretrained(store), "full", tmp_path / "later", **options).model
    assert not torch.equal(found.stem.linear.weight, base.stem.linear.weight)


def test_metrics_name_the_strategy(run) -> None:
    for asked, strategy in (("auto", "full"), ("heads", "heads"), ("unlabelled", "unlabelled"), ("none", "none")):
        found = run(asked)
        assert found.metrics["strategy"] == strategy
        assert json.loads((found.run / "metrics.json").read_text())["strategy"] == strategy


def test_units_that_the_session_lacks_are_unchanged(store, tmp_path) -> None:
    base = pretrained(store)
    with last_weights():
        found = adapted(pretrained(store), "full", tmp_path).model
    own = set(store.session(NEW).units.id)
    for row, unit in enumerate(base.vocabulary.units):
        assert torch.equal(found.identity.residual[row], base.identity.residual[row]) == (unit not in own)
        same = torch.equal(found.identity.activity[row], base.identity.activity[row])
        assert same == (unit not in own)


@pytest.mark.parametrize("strategy", ["full", "none"])
def test_unit_order_in_the_file_changes_nothing(strategy, store, run, tmp_path) -> None:
    order = np.random.default_rng(2).permutation(6)
    again = stored(tmp_path / "store", first_day(), permuted(second_day(), order))
    assert (again.session(NEW).units.id != store.session(NEW).units.id).any()
    one, other = run(strategy).model, adapted(pretrained(again), strategy, tmp_path / "run", again).model
    own = {u: one.identity.residual[i] for i, u in enumerate(one.vocabulary.units)}
    for row, unit in enumerate(other.vocabulary.units):
        torch.testing.assert_close(other.identity.residual[row], own[unit], rtol=1e-4, atol=1e-5)
    decoded = []
    for model, where in ((one, store), (other, again)):
        binned = BinnedSession(where.session(NEW), 0.05, 1.0)
        decoded.append(decode(model, binned, binned.split == TEST))
    np.testing.assert_allclose(decoded[0], decoded[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strategy", ["none", "unlabelled", "heads", "full"])
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


# Without labels


def test_none_takes_no_step_and_decodes_units_that_are_all_unknown(store, tmp_path, monkeypatch) -> None:
    """Their residuals are zero: a unit is known by its activity, which is that of the new session alone."""
    monkeypatch.setattr(Decoding, "batch", lambda *_: 1 / 0)
    unknown = stored(tmp_path / "store", first_day(), second_day("cccccc"))
    base = pretrained(unknown)
    found = adapted(base, "none", tmp_path / "run", unknown)
    model, binned = found.model, BinnedSession(unknown.session(NEW), 0.05, 1.0)
    new = [i for i, u in enumerate(model.vocabulary.units) if u.startswith("c/")]
    assert len(new) == 6
    assert (model.identity.residual[new] == 0).all()
    activity = unit_activity(binned, binned.split == TRAIN)[np.argsort(binned.session.units.id)]
    np.testing.assert_allclose(model.identity.activity[new].numpy(), activity, rtol=1e-6)
    for name, parameter in base.named_parameters():
        own = model.get_parameter(name)
        assert torch.equal(own[: len(parameter)] if name in TABLES else own, parameter), name
    metrics = found.metrics
    assert not metrics.keys() & {"steps", "train_seconds"}
    assert metrics["weights"] == {"network": 1.0}
    rows = binned.split == TEST
    true = build_targets(binned.session, "vel", binned.start, 0.05).values[rows]
    decoded = decode(model, binned, rows)[rows]
    assert np.isfinite(decoded).all()
    assert decoded.std(0).min() > 0
    np.testing.assert_allclose(metrics["network"]["r2"], r2(true, decoded), rtol=1e-5)
    assert not (found.run / "log.jsonl").exists()


@pytest.mark.parametrize("strategy", UNLABELLED)
def test_labels_leave_strategies_without_labels_bit_equal(strategy, store, run, tmp_path) -> None:
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
            found.append(adapted(pretrained(store), strategy, tmp_path / name, target=target))
    for other in found[1:]:
        torch.testing.assert_close(other.model.state_dict(), found[0].model.state_dict(), rtol=0, atol=0)
    assert found[0].metrics["network"]["r2"] != found[1].metrics["network"]["r2"]
    assert found[0].metrics["weights"]["network"] == 1.0
    assert "test" not in found[2].metrics
    assert found[2].metrics["strategy"] == strategy


def test_a_session_without_labels_is_decoded_by_default(store, tmp_path) -> None:
    """`auto` then learns embeddings from spikes alone."""
    bare = stored(tmp_path / "store", first_day(), replace(second_day(), covariates={}))
    found = adapted(pretrained(bare), "auto", tmp_path / "run", bare, target=None)
    assert found.metrics["strategy"] == "unlabelled"
    assert found.metrics["steps"] == SHORT.train.steps
    assert "test" not in found.metrics
    binned = BinnedSession(bare.session(NEW), 0.05, 1.0)
    rows = binned.split == TEST
    assert np.isfinite(decode(NDT.from_pretrained(found.run), binned, rows)[rows]).all()


def test_classes_that_a_session_lacks_stay_known(tmp_path) -> None:
    """The base knows three cues, the new session has two of them: the head keeps its three columns."""

    def with_cues(session: Session, cues: list[str]) -> Session:
        start = np.arange(0.0, 40.0, 0.5)
        table = Intervals(start, start + 0.4, {"cue": np.resize(cues, 80)})
        return replace(session, intervals={"trials": table})

    store = stored(
        tmp_path / "store",
        with_cues(first_day(), ["left", "right", "up"]),
        with_cues(second_day(), ["up", "left"]),
    )
    part = Part(name="trials/cue", kind="class", dims=("left", "right", "up"), per="trials")
    base = pretrained(store)
    known = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "dims": part.dims, "parts": (part,)}
    target = replace(base.spec.target, name="trials/cue", unit="", **known)
    base = busy_model(replace(base.spec, target=target))
    for strategy in ("none", "unlabelled", "heads"):
        found = adapted(base, strategy, tmp_path / strategy, store, target="cue")
        assert found.model.spec.target.parts == (part,)
        assert np.isfinite(found.metrics["network"]["r2"])
    assert found.model.heads[0].linear.weight.shape == base.heads[0].linear.weight.shape
    torch.testing.assert_close(  # the class without a label learns only not to be said
        found.model.heads[0].linear.weight[1], base.heads[0].linear.weight[1], rtol=0, atol=0.1
    )


# Choice and requirements


def test_auto_chooses_the_strategy_by_labels(store) -> None:
    base, config = pretrained(store), replace(SHORT, strategy="auto")
    for seconds, expected in ((1.0, "full"), (600.0, "full"), (0.0, "unlabelled")):
        assert choose_strategy(config, base, seconds).strategy == expected
        assert choose_strategy(config, None, seconds).strategy == "full"
    for strategy in STRATEGIES:
        found = choose_strategy(replace(config, strategy=strategy), base, 60.0)
        assert found.strategy == strategy
        bare = strategy in UNLABELLED  # without labels there are no weights to fit, and masks alone to learn from
        assert found.ensemble == (("network",) if bare else SHORT.ensemble)
        assert found.mask == (replace(SHORT.mask, share=1.0) if bare else SHORT.mask)


@pytest.mark.parametrize(
    ("strategy", "dims", "told"),
    [
        ("heads", None, "strategy: expected full, for a model from scratch, found heads"),
        ("none", None, "strategy: expected full, for a model from scratch, found none"),
        ("none", 0, r"strategy: expected a base model with a target .*, for none, found one without a target"),
        ("unlabelled", 0, r"strategy: expected a base model with a target .*, for unlabelled, found one without"),
    ],
)
def test_a_strategy_without_its_requirements_is_refused(strategy, dims, told, store, tmp_path) -> None:
    base = None if dims is None else pretrained(store, dims=dims)
    with pytest.raises(InputError, match=told):
        adapted(base, strategy, tmp_path / "run", store, window=1.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", UNLABELLED)
def test_without_labels_a_target_in_another_unit_is_refused(strategy, store, tmp_path) -> None:
    session = second_day()
    series = replace(session.covariates["vel"], unit="cm/s")
    other = stored(tmp_path / "store", first_day(), replace(session, covariates={"vel": series}))
    with pytest.raises(InputError, match=r"pretrained decoder \(vel: x, y in m/s\), found vel: x, y in cm/s"):
        adapted(pretrained(other), strategy, tmp_path / "run")


# Learning


@pytest.mark.slow
def test_a_new_session_of_unknown_units_is_decoded_without_labels(tmp_path) -> None:
    """The units of the first day fire in the same way under other names: their activity alone tells which is which."""
    first = tuned_recording()
    names = [f"b/{n}" for n in np.random.default_rng(0).permutation(24)]
    second = renamed(tuned_recording(), names, session_id=NEW, subject="b")
    store = stored(tmp_path / "store", first, second)
    config = PretrainConfig(
        model=replace(TINY, width=32, units_per_patch=24),
        train=TrainConfig(steps=200, batch_size=16, valid_every=100, warmup_steps=10, learning_rate=5e-3, ema=0.9),
        mask=MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=0.5),
        masked_weight=0.2,
        unit_dropout=0.2,
        residual_dropout=0.5,
        bin_size=0.05,
        window=1.0,
        target="speed",
        sessions=(OLD,),
    )
    base = pretrain(store, tmp_path / "base", config, progress=False)
    found = adapted(base, "none", tmp_path / "run", store, target="speed", leaks="warn")
    assert found.metrics["network"]["r2"] > 0.6
