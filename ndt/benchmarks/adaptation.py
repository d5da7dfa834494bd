"""``ndt bench adaptation``: strategies of adapting to a simulated new day half of whose units changed, with labels and without."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ndt.benchmarks.studies import paired_row, pretrained_seeds, simulated
from ndt.config import FinetuneConfig, IngestConfig, SimulateConfig, StudyConfig
from ndt.train.studies import ASKED, finetuned, finish, run_all, sources

if TYPE_CHECKING:
    pass

__all__ = ["CHANGED", "adaptation"]

# So many electrodes that no new unit inherits a name; a seed on which nothing was ever chosen.
CHANGED = SimulateConfig(persistence=0.5, num_electrodes=256, seed=11)
DAY = "sub-simA_ses-04"  # which pretraining never sees
TARGET = "cursor_vel"
LABELLED = ("scratch", "full", "contexts", "probe")
UNLABELLED = ("unadapted", "unsupervised", "align")


class _Run(NamedTuple):
    """One run: what is done, with how many seconds, whether units go by new names, and its seed."""

    strategy: str
    seconds: float
    renamed: bool
    seed: int

    @property
    def name(self) -> str:
        """Of its row."""
        return f"adaptation.{self.strategy}.{self.seconds:g}s{'.renamed' if self.renamed else ''}"


def adaptation(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """A new simulated day is adapted to, each way from the last so many seconds of its training split.

    Eight sessions of two subjects (`CHANGED`); seven are pretrained on with their labels. Of the eighth's units half
    were there the day before. Ways that need labels have as many seconds of them; those that do not have the spikes of
    those seconds alone, and ``unadapted`` the mean rates. ``renamed`` is the same day with all its units under new
    names, as after sorting anew. Rows have the R² of the network alone on the test split, beside ridge's from as many
    seconds of labels; the labels of the validation split choose weights where labels are learned from, and penalties.

    Arguments:
        out: Folder of the study; what has ended there is not done again.
        seeds: Seeds of training; the sessions are the same.
        study: Settings; `pretrain`, `finetune`, `label_seconds` and `workers` are used.
    """
    from ndt.data.ingest import ingest

    study = study or StudyConfig()
    store = simulated(out / "data" / "changed", CHANGED, study.workers)
    source = Path(store.manifest["sessions"][DAY]["source"])
    renamed = IngestConfig(workers=1, unit_identity="session")
    stores = {False: store.root, True: ingest([source], out / "data" / "renamed", renamed, progress=False).root}
    home = out / "adaptation"
    first = replace(study.pretrain, target=TARGET, sessions=tuple(s for s in store.session_ids if s != DAY))
    bases = pretrained_seeds(store.root, home / "pretrain", first, seeds, study.workers)
    runs = list(_runs(sorted(study.label_seconds), seeds))
    jobs = [
        partial(_adapt, run, bases[run.seed], stores[run.renamed], home / run.name / f"seed{run.seed}", study.finetune)
        for run in runs
    ]
    metrics = dict(zip(runs, run_all(jobs, study.workers, "adapting"), strict=True))

    return _rows(metrics, seeds, f"{study.pretrain.train.steps} + {study.finetune.train.steps} steps")


def _runs(seconds: list[float], seeds: int) -> Iterator[_Run]:
    for t in seconds:
        for s in range(seeds):
            yield from (_Run(strategy, t, False, s) for strategy in (*LABELLED, *UNLABELLED))
            yield from (_Run(strategy, t, True, s) for strategy in ("full", *UNLABELLED))


def _adapt(run: _Run, base: Path, store: Path, folder: Path, config: FinetuneConfig) -> dict[str, Any]:
    """Returns what metrics.json says of one run."""
    from ndt.data.store import Store
    from ndt.model.architectures import load_model
    from ndt.reports.runs import read_json

    strategy = {"scratch": "full", "unadapted": "unsupervised"}.get(run.strategy, run.strategy)
    model = load_model(base)
    config = replace(config, label_seconds=run.seconds, seed=run.seed, strategy=strategy, bin_size=model.spec.bin_size)
    if run.strategy != "unadapted":
        return finetuned(folder, None if run.strategy == "scratch" else base, DAY, TARGET, store, config)
    asked = {"settings": asdict(config), "data": sources(Store(store), [DAY]), "base": read_json(base / ASKED)}

    return finish(folder, asked, partial(_leave, model, store, config))


def _leave(model: Any, store: Path, config: FinetuneConfig, *, out: Path, resume: bool) -> None:
    """Writes the scores of a model that learns only the mean rates of the session's units."""
    from ndt.data.store import Store
    from ndt.data.windows import BinnedSession
    from ndt.finetune.scoring import score_session
    from ndt.finetune.session_labels import kept_target, last_seconds
    from ndt.model.checkpoint import write_json

    del resume  # there is nothing to go on from
    session = Store(store).session(DAY)
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([session]))
    binned = BinnedSession(session, spec.bin_size, spec.bin_size * spec.window_bins)
    chosen = last_seconds(binned, config.label_seconds)
    model = model.extended(spec).eval().observe(session, binned.mean_counts(chosen))
    target = kept_target(spec.target, binned, TARGET)
    write_json(out / "metrics.json", score_session(model, binned, target, chosen, config).metrics)


def _rows(metrics: dict[_Run, dict[str, Any]], seeds: int, budget: str) -> list[dict[str, Any]]:
    rows = []
    for run in (run for run in metrics if run.seed == 0):
        each = [metrics[run._replace(seed=s)] for s in range(seeds)]
        ridge = [m["baselines"]["ridge"]["r2"] for m in each]
        row = paired_row(run.name, [m["network"]["r2"] for m in each], "R2", "ridge", ridge, budget)
        row["train_seconds"] = [m.get("train_seconds", 0.0) for m in each]
        matched = [m["alignment"]["matched"] for m in each if "alignment" in m]
        rows.append(row | ({"matched": matched} if matched else {}))

    return rows
