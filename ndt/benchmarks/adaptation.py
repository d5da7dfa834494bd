"""``ndt bench adaptation``: fine-tuning strategies on a simulated new day on which half of the units changed."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ndt.benchmarks.studies import paired_row, pretrained_seeds, simulated
from ndt.benchmarks.transfer_rows import likelihood_rows
from ndt.config import FinetuneConfig, IngestConfig, SimulateConfig, StudyConfig
from ndt.data.activity import unit_activity
from ndt.data.store import Store
from ndt.data.stored_masks import session_likelihood
from ndt.data.windows import TRAIN, BinnedSession
from ndt.finetune.study_run import finetuned
from ndt.model.architectures import load_model
from ndt.train.studies import run_all

__all__ = ["CHANGED", "adaptation"]

# Enough electrodes that no new unit inherits a name; the seed was used for no choice of settings.
CHANGED = SimulateConfig(persistence=0.5, num_electrodes=256, seed=11)
DAY = "sub-simA_ses-04"  # not pretrained on
TARGET = "cursor_vel"
LABELLED = ("scratch", "full", "heads")
UNLABELLED = ("unlabelled", "none")


class _Run(NamedTuple):
    """One run: strategy, seconds of data, whether all units are renamed, and seed."""

    strategy: str
    seconds: float
    renamed: bool
    seed: int

    @property
    def name(self) -> str:
        """Name of its row."""
        return f"adaptation.{self.strategy}.{self.seconds:g}s{'.renamed' if self.renamed else ''}"


def adaptation(out: Path, seeds: int, study: StudyConfig) -> list[dict[str, Any]]:
    """Adapts a pretrained model to a new simulated day by each strategy, from the end of the day's training split.

    Eight sessions of two subjects are simulated (`CHANGED`). Seven are pretrained on whole, with labels; half of the
    eighth's units were recorded the day before. Strategies in `LABELLED` use N seconds of labelled data; ``none`` takes
    no step. All of them measure units' activity in the training split, without labels. ``renamed`` is the same day with
    new names for all units, as after spike sorting anew. Rows hold the R² of the network on the test split beside that
    of ridge from N seconds of labels. Labels of the validation split choose weights, if labels are used, and penalties.
    Further rows hold bits per spike in the day's test split without a step, beside a smoother and mean responses.

    Arguments:
        out: Folder of the study; completed runs are not repeated.
        seeds: Number of training seeds, on the same sessions.
        study: Settings; uses `pretrain`, `finetune`, `label_seconds` and `workers`.
    """
    from ndt.data.ingest import ingest

    store = simulated(out / "data" / "changed", CHANGED, study.workers)
    source = {name: Path(entry["source"]) for name, entry in store.manifest["sessions"].items()}
    renamed = IngestConfig(workers=1, unit_identity="session")
    stores = {
        False: store.root,
        True: ingest([source.pop(DAY)], out / "data" / "renamed", renamed, progress=False).root,
    }
    whole = IngestConfig(workers=study.workers, split="all")  # sessions that are not tested
    earlier = ingest(list(source.values()), out / "data" / "earlier", whole, progress=False)
    home, first = out / "adaptation", replace(study.pretrain, target=TARGET)
    bases = pretrained_seeds(earlier.root, home / "pretrain", first, seeds, study.workers)
    runs = list(_runs(sorted(study.label_seconds), seeds))
    jobs = [
        partial(_adapt, run, bases[run.seed], stores[run.renamed], home / run.name / f"seed{run.seed}", study.finetune)
        for run in runs
    ]
    metrics = dict(zip(runs, run_all(jobs, study.workers, "adapting"), strict=True))
    bits = run_all([partial(_likelihood, base, store.root) for base in bases], study.workers, "likelihoods")
    budget = f"{study.pretrain.train.steps} + {study.finetune.train.steps} steps"

    return _rows(metrics, seeds, budget) + likelihood_rows("adaptation", [[scores] for scores in bits])


def _runs(seconds: list[float], seeds: int) -> Iterator[_Run]:
    for t in seconds:
        for s in range(seeds):
            yield from (_Run(strategy, t, False, s) for strategy in (*LABELLED, *UNLABELLED))
            yield from (_Run(strategy, t, True, s) for strategy in ("full", *UNLABELLED))


def _adapt(run: _Run, base: Path, store: Path, folder: Path, config: FinetuneConfig) -> dict[str, Any]:
    """Returns the content of a run's metrics.json."""
    strategy, bin_size = "full" if run.strategy == "scratch" else run.strategy, load_model(base).spec.bin_size
    config = replace(config, label_seconds=run.seconds, seed=run.seed, strategy=strategy, bin_size=bin_size)

    return finetuned(folder, None if run.strategy == "scratch" else base, DAY, TARGET, store, config)


def _likelihood(base: Path, store: Path) -> dict[str, float]:
    """Returns bits per spike of hidden entries in the new day's test split, on which the model took no step."""
    model, session = load_model(base), Store(store).session(DAY)
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([session]))
    binned = BinnedSession(session, spec.bin_size, spec.window_bins * spec.bin_size)
    model = model.extended(spec).observe(session, unit_activity(binned, binned.split == TRAIN)).eval()

    return session_likelihood(model, binned)


def _rows(metrics: dict[_Run, dict[str, Any]], seeds: int, budget: str) -> list[dict[str, Any]]:
    rows = []
    for run in (run for run in metrics if run.seed == 0):
        each = [metrics[run._replace(seed=s)] for s in range(seeds)]
        ridge = [m["baselines"]["ridge"]["r2"] for m in each]
        row = paired_row(run.name, [m["network"]["r2"] for m in each], "R2", "ridge", ridge, budget)
        row["train_seconds"] = [m.get("train_seconds", 0.0) for m in each]
        rows.append(row)

    return rows
