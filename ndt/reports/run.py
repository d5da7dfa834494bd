"""Writes the HTML report of a run of pretraining, fine-tuning, a label curve or the demo."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.parsing import read_embeddings, read_store, read_text
from ndt.reports import decoder as report_decoder
from ndt.reports import label_curve, plots, plots_decoder
from ndt.reports import rotation as report_rotation
from ndt.reports.decoder import series
from ndt.reports.names import DECODING, in_order, predictor_name
from ndt.reports.page import Drawing, Section, Table, fixed, render, versions, write_text
from ndt.reports.plots_recording import plain_text
from ndt.reports.run_files import Decoder, read_decoders, read_object, read_pretraining
from ndt.reports.run_metrics import DemoMetrics
from ndt.session import Covariate, Session

__all__ = ["Sessions", "run_store", "write_report"]

PACKAGES = ("ndt", "torch", "numpy", "h5py", "pynwb", "scipy", "accelerate")
LABELS = {  # of the axis of scores, by kind of target
    "continuous": "R² on test {rows} (variance-weighted)",
    "angle": "R² of cosine and sine on test {rows} (variance-weighted)",
    "class": "R² of class probabilities on test {rows} (Brier skill score)",
}


class Sessions(Protocol):
    """Recordings that a report draws: an opened `ndt.data.store.Store`."""

    manifest: dict[str, Any]

    def session(self, session_id: str) -> Session:
        """Returns a session of the manifest."""
        ...


def write_report(run: Path, store: Sessions | None = None) -> Path:
    """Writes ``report.html`` into a run directory and returns its path.

    Arguments:
        run: Directory of `ndt demo`, `pretrain`, `finetune` or a label curve; the page shows what it contains.
        store: Sessions for rasters and embeddings; without it the page has no raster.

    Raises:
        InputError: if the run has no results, or a file has another format.
    """
    run = Path(run)
    decoders, pretraining = list(read_decoders(run)), read_pretraining(run)
    curve = label_curve.read_curve(run)
    adapted = report_decoder.unscored(run)
    if not decoders and all(part is None for part in (pretraining, curve, adapted)):
        raise InputError(run, "metrics.json", "a run of pretrain, finetune or demo", "none that ended")

    with plain_text():
        sections = [
            _scores(decoders),
            None if curve is None else label_curve.section(curve),
            _recordings(store, decoders),
            _pretrain_section(pretraining),
            *(report_decoder.section(d) for d in decoders),
            adapted,
            *_embeddings(run, store, decoders),
            *report_rotation.section(run),
            _configuration(run),
            Section(title="Definitions", anchor="definitions", definitions=DECODING),
        ]
    shown = [section for section in sections if section is not None]
    title = _title(run, decoders, curve) if adapted is None else adapted.title
    # the run's name and not its path: pages are passed on
    subtitle = f"Run {run.resolve().name}, page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by ndt"
    path = run / "report.html"
    write_text(path, render(title, subtitle, shown, _tiles(decoders, pretraining)))

    return path


def run_store(run: Path) -> Path | None:
    """Returns the path of a demo's store, or of the store that a run was trained on; None if it is gone."""
    named = read_store(run)

    return next((path for path in (run / "store", *([named] if named else [])) if path.exists()), None)


def _session(store: Sessions | None, session_id: str) -> Session | None:
    return store.session(session_id) if store is not None and session_id in store.manifest["sessions"] else None


def _title(run: Path, decoders: list[Decoder], curve: label_curve.LabelCurve | None) -> str:
    if not decoders and curve is not None:
        return f"Decoding {curve.target} in {curve.session} from few labels"
    if not decoders:
        return f"Pretraining: {run.name}"
    where = decoders[0].session if len(decoders) == 1 else f"{len(decoders)} sessions"

    return f"Decoding {' and '.join(sorted(_targets(decoders)))} in {where}"


def _targets(decoders: list[Decoder]) -> dict[str, list[Decoder]]:
    """Returns all decoders of one target, by target."""
    found: dict[str, list[Decoder]] = {}
    for decoder in decoders:
        for one in decoder.by_target():
            found.setdefault(str(one.metrics["target"]), []).append(one)

    return found


def _tiles(decoders: list[Decoder], pretraining: tuple[dict[str, Any], Any] | None) -> list[tuple[str, str]]:
    targets = _targets(decoders)
    if decoders or pretraining is None:
        return [tile for name, members in targets.items() for tile in _score_tiles(name, members, len(targets) > 1)]
    metrics = pretraining[0]

    return [
        (fixed(metrics["valid"].get("bits_per_spike")), "bits per spike, validation"),
        (fixed(metrics["valid"].get("nll"), 4), "Poisson NLL, validation"),
        (fixed(metrics.get("num_parameters"), 0), "parameters"),
        (fixed(metrics.get("tokens_per_second"), 0), "tokens per second"),
    ]


def _score_tiles(target: str, members: list[Decoder], several: bool) -> list[tuple[str, str]]:
    """Returns R² or, for classes, balanced accuracy of the ensemble and its references; fewer with several targets."""
    measure, words = ("balanced_accuracy", "balanced accuracy") if members[0].kind == "class" else ("r2", "R²")
    scores = [d.scores(measure) for d in members]
    many = f", median of {len(members)} sessions" if len(members) > 1 else ""
    of = f" of {target}" if several else ""
    names = ("ensemble", "network", "ridge", "logistic") + (() if several else ("scratch", "oracle", "block_permuted"))
    tiles = []
    for name in names:
        if values := [s[name] for s in scores if name in s]:
            weight = members[0].weights.get(name) if len(members) == 1 else None
            share = f", weight {weight:.2f}" if weight is not None else ""
            tiles.append((fixed(float(np.median(values))), f"{words}{of}, {predictor_name(name)}{share}{many}"))
    if len(members) == 1 and measure == "r2" and (found := report_decoder.error(members[0])) is not None:
        tiles.insert(1, (found[0], f"{found[1]}{of}, ensemble"))

    return tiles


def _label(decoder: Decoder) -> str:
    return LABELS[decoder.kind].format(rows="trials" if "num_trials" in decoder.metrics["test"] else "bins")


def _scores(decoders: list[Decoder]) -> Section | None:
    if not decoders:
        return None
    section, targets = Section(title="Scores", anchor="scores"), _targets(decoders)
    for target, members in targets.items():
        first, name = members[0], f"{target}. " if len(targets) > 1 else ""
        if len(members) > 1:
            _many_scores(section, target, members)
        elif first.r2:
            low, high = first.metrics["test"].get("r2_interval_95") or (None, None)
            interval = None if low is None or high is None else (low, high)
            drawn = plots_decoder.scores(first.r2, interval, first.weights, _label(first))
            section.drawings.append(Drawing(drawn.svg, f"{name}{drawn.caption}"))

    return section


def _many_scores(section: Section, target: str, members: list[Decoder]) -> None:
    """Adds a figure of medians over sessions and a table of all sessions."""
    names = in_order(name for d in members for name in d.r2)
    medians = {name: float(np.median([d.r2[name] for d in members if name in d.r2])) for name in names}
    if not medians:
        return
    section.text.append(f"The figure shows medians over {len(members)} sessions; the table lists each session.")
    section.drawings.append(plots_decoder.scores(medians, label=_label(members[0])))
    rows = [[d.session, fixed(d.weights.get("network"), 2), *(fixed(d.r2.get(n)) for n in names)] for d in members]
    head = ["session", "weight of the network", *map(predictor_name, names)]
    caption = f"R² of {target} on test bins, and the network's ensemble weight"
    section.tables.append(Table(head=head, rows=rows, numeric=range(1, len(head)), caption=caption))


def _recordings(store: Sessions | None, decoders: list[Decoder], most: int = 16) -> Section | None:
    entries = dict(sorted(store.manifest["sessions"].items())) if store is not None else {}
    if not entries:
        return None
    rows = []
    for name, e in entries.items():
        covariates = ", ".join(str(c["name"]) for c in e.get("covariates", ()))
        counts = [fixed(e.get(key), 0) for key in ("units", "spikes", "observed_seconds", "segments")]
        rows.append([name, str(e.get("subject", "")), *counts, covariates])
    head = ["session", "subject", "units", "spikes", "observed (s)", "segments", "covariates"]
    section = Section(title="Recordings", anchor="recordings", dropped=_dropped(entries))
    section.tables.append(Table(head=head, rows=rows, numeric=range(2, 6)))
    if (session := _session(store, decoders[0].session if decoders else next(iter(entries)))) is not None:
        section.drawings.append(_raster(session, decoders))
        rates = {}
        for name in list(entries)[:most]:
            if (each := _session(store, name)) is not None:
                spikes = np.bincount(each.spikes.unit_index, minlength=each.num_units)
                rates[name] = spikes / max(each.observed.duration, 1e-9)  # without observed time, 0 spikes / 0 s
        section.drawings.append(plots.rates(rates))

    return section


def _dropped(entries: Mapping[str, Any], most: int = 12) -> dict[str, list[str]]:
    """Returns sentences about left-out data by session; sessions with the same sentences share an entry."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name, entry in entries.items():
        if entry.get("dropped"):
            grouped.setdefault(tuple(map(str, entry["dropped"])), []).append(name)
    found = {}
    for lost, names in grouped.items():
        more = [f"and {len(lost) - most} more, listed in the store's manifest.json"] if len(lost) > most else []
        key = "all sessions" if len(names) == len(entries) > 1 else ", ".join(names)
        found[key] = [*lost[:most], *more]

    return found


def _raster(session: Session, decoders: list[Decoder], seconds: float = 20.0) -> Drawing:
    """Draws the seconds of the decoder's traces; without a decoder, seconds from the middle."""
    observed = session.observed
    middle = observed.start[len(observed) // 2] if len(observed) > 1 else (observed.start[0] + observed.end[0]) / 2
    times = decoders[0].predictions.get("time", np.zeros(0)) if decoders else np.zeros(0)
    start = float(times[0] if len(times) else middle)
    drawing = plots.raster(session, (start, min(start + seconds, float(observed.end[-1]))))

    return Drawing(drawing.svg, f"{session.session_id}. {drawing.caption}")


def _pretrain_section(pretraining: tuple[dict[str, Any], list[dict[str, Any]]] | None) -> Section | None:
    if pretraining is None:
        return None
    metrics, log = pretraining
    valid = metrics["valid"]
    section = Section(title="Pretraining", anchor="pretraining")
    section.text.append(
        "The model predicts masked patches of spikes from the visible ones. It saw "
        f"{fixed(metrics.get('tokens_seen'), 0)} tokens in {fixed(metrics.get('train_seconds'), 0)} s "
        f"({fixed(metrics.get('tokens_per_second'), 0)} tokens/s) and has {fixed(metrics.get('num_parameters'), 0)} "
        "parameters."
    )
    bits = valid.get("bits_per_spike")
    section.text.append(
        "No session has a validation split, so that the last weights were kept."
        if bits is None
        else f"On the validation split it reaches {fixed(bits)} bits per spike over mean rates."
    )
    if valid.get("r2") is not None:
        section.text.append(
            "Targets were decoded from the labels of the training splits: "
            f"R² {fixed(valid['r2'])} on validation windows."
        )
    panels = {
        "bits per spike": {"validation": series(log, "valid", "bits_per_spike")},
        "training NLL (nats per spike)": {"training": series(log, "train", "nll")},
    }
    smoother = valid.get("bits_per_spike_smoother")
    null = {"smoother of own counts": float(smoother)} if smoother is not None else {}
    section.drawings = plots.curves(panels, null, "Masked prediction over pretraining, on masked patches.")

    return section


def _embeddings(run: Path, store: Sessions | None, decoders: list[Decoder]) -> Iterator[Section]:
    targets = {d.session: str(d.metrics["target"]) for d in decoders}
    section = Section(title="Embeddings", anchor="embeddings")
    for path in sorted((run / "embed").glob("*.npz")):
        arrays = read_embeddings(path)
        time, latents = arrays["time"], arrays["latents"].astype(np.float64)
        session, name = _session(store, path.stem), targets.get(path.stem)
        covariate = session.covariates.get(name) if session is not None and name is not None else None
        colour, label, cyclic = _colour(time, covariate)
        drawing = plots.embedding(latents, colour, label, cyclic=cyclic)
        section.drawings.append(Drawing(drawing.svg, f"{path.stem}. {drawing.caption}"))
    if section.drawings:
        yield section


def _colour(time: NDArray[np.float64], covariate: Covariate | None) -> tuple[NDArray[np.float64], str, bool]:
    """Returns each bin's colour, its label, and whether it is cyclic: the target's direction or value, or time."""
    if covariate is None or covariate.values.shape[1] > 2 or len(covariate.timestamps) < 2:
        return time.astype(np.float64), "time in the recording (s)", False
    near = np.searchsorted(covariate.timestamps, time).clip(1, len(covariate.timestamps) - 1)
    near -= time - covariate.timestamps[near - 1] < covariate.timestamps[near] - time
    values = covariate.values[near].astype(np.float64)
    values[np.abs(covariate.timestamps[near] - time) > 2 * covariate.interval] = np.nan
    if values.shape[1] == 1:
        if covariate.angular:
            return (np.degrees(values[:, 0]) + 180) % 360 - 180, f"{covariate.name} (°)", True
        return values[:, 0], f"{covariate.name} ({covariate.unit})", False
    size = np.linalg.norm(values, axis=1)
    angle = np.degrees(np.arctan2(values[:, 1], values[:, 0]))
    slow = size < 0.5 * np.nanmedian(size) if np.isfinite(size).any() else np.ones(len(size), bool)

    return np.where(slow, np.nan, angle), f"direction of {covariate.name} (°)", True


def _configuration(run: Path) -> Section:
    section = Section(title="Settings and versions", anchor="settings")
    for path in (run / "config.yaml", run / "pretrain/config.yaml", *sorted((run / "finetune").glob("*/config.yaml"))):
        if path.exists():
            section.sources[path.relative_to(run).as_posix()] = read_text(path, "settings").strip()
    section.tables.append(versions(PACKAGES))
    if seconds := read_object(run / "metrics.json", DemoMetrics).get("seconds"):
        spent = [[name, fixed(value, 1)] for name, value in seconds.items()]
        section.tables.append(Table(head=["step", "seconds"], rows=spent, numeric={1}))

    return section
