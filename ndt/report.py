"""A run as one self-contained HTML page: nothing is fetched, nothing is executed, and it prints.

The module is also the verb ``ndt.report(run)``.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt import label_curve, plots
from ndt.errors import InputError
from ndt.glossary import DECODING
from ndt.page import Section, Table, render, versions
from ndt.runs import Decoder, read_decoders, read_json, read_pretraining
from ndt.session import Covariate, Session
from ndt.verbs import callable_module

__all__ = ["write_report"]

PACKAGES = ("ndt", "torch", "numpy", "h5py", "pynwb", "scipy", "accelerate")

callable_module(__name__)


def write_report(run: Path, store: Path | None = None) -> Path:
    """Writes ``report.html`` into a run directory and returns its path.

    Arguments:
        run: Directory of `ndt demo`, `pretrain`, `finetune` or `bench curve`; whatever of it is there is shown.
        store: Store of the sessions, for rasters and embeddings; by default the run's own.
    """
    run = Path(run)
    decoders, pretraining, curve = list(read_decoders(run)), read_pretraining(run), label_curve.read_curve(run)
    if not decoders and pretraining is None and curve is None:
        raise InputError(run, "metrics.json", "a run of pretrain, finetune or demo", "none that ended")
    manifest, sessions = _open_store(store or _own_store(run))

    sections = [
        _scores(decoders),
        _curve_section(curve),
        _recordings(manifest, sessions, decoders),
        _pretrain_section(pretraining),
        *(_decoder_section(d) for d in decoders),
        *_embeddings(run, sessions, decoders),
        _configuration(run),
        Section(title="What the numbers mean", anchor="definitions", definitions=DECODING),
    ]
    shown = [section for section in sections if section is not None]
    page = render(_title(run, decoders, curve), _subtitle(run), shown, _tiles(decoders, pretraining))
    path = run / "report.html"
    path.write_text(page, encoding="utf-8")

    return path


def _own_store(run: Path) -> Path | None:
    """Returns the store inside a demo's run, or the one that a run was trained on; None where it is gone."""
    named = read_json(run / "run.json").get("store")
    found = [path for path in (run / "store", *([Path(named)] if named else [])) if path.exists()]

    return found[0] if found else None


def _open_store(path: Path | None) -> tuple[dict[str, Any], "Callable[[str], Session | None]"]:
    """Returns the manifest and a function from session id to session; the one place where the page looks at a store."""
    if path is None:
        return {}, lambda session_id: None
    from ndt.data.store import Store

    store = Store(path)
    known = set(store.session_ids)

    return store.manifest, lambda session_id: store.session(session_id) if session_id in known else None


def _title(run: Path, decoders: list[Decoder], curve: label_curve.LabelCurve | None) -> str:
    if not decoders and curve is not None:
        return f"Decoding {curve.covariate} in {curve.session} from few labels"
    if not decoders:
        return f"Pretraining: {run.name}"
    covariates = sorted({str(d.metrics["covariate"]) for d in decoders})
    where = decoders[0].session if len(decoders) == 1 else f"{len(decoders)} sessions"

    return f"Decoding {' and '.join(covariates)} in {where}"


def _subtitle(run: Path) -> str:
    name = run.resolve().name  # not the path: pages are passed on

    return f"Run {name}, page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by ndt"


def _number(value: object, digits: int = 3) -> str:
    if not isinstance(value, int | float) or not np.isfinite(value):
        return "–"

    return f"{value:,.{digits}f}".replace("-", "−")


def _tiles(decoders: list[Decoder], pretraining: tuple[dict[str, Any], Any] | None) -> list[tuple[str, str]]:
    if decoders:
        many = f", median of {len(decoders)} sessions" if len(decoders) > 1 else ""
        tiles = []
        for name in ("delivered", "network", "scratch", "ridge", "oracle", "shuffled"):
            values = [d.r2[name] for d in decoders if name in d.r2]
            if values:
                tiles.append((_number(float(np.median(values))), f"R² {plots.NAMES[name]}{many}"))
        return tiles
    if pretraining is None:
        return []
    metrics = pretraining[0]
    shown = {
        "bits per spike, validation": _number(metrics["valid"].get("bits_per_spike")),
        "Poisson NLL, validation": _number(metrics["valid"].get("nll"), 4),
        "parameters": _number(metrics.get("num_parameters"), 0),
        "tokens per second": _number(metrics.get("tokens_per_second"), 0),
    }

    return [(value, label) for label, value in shown.items()]


def _scores(decoders: list[Decoder]) -> Section | None:
    if not decoders:
        return None
    section = Section(title="Scores", anchor="scores")
    if len(decoders) == 1:
        section.drawings.append(plots.scores(decoders[0].r2))
    else:
        names = [name for name in plots.NAMES if any(name in d.r2 for d in decoders)]
        medians = {name: float(np.median([d.r2[name] for d in decoders if name in d.r2])) for name in names}
        section.text.append(f"The figure shows medians over {len(decoders)} sessions; the table has each.")
        section.drawings.append(plots.scores(medians))
        rows = [[d.session, *(_number(d.r2.get(name)) for name in names)] for d in decoders]
        head = ["session", *(plots.NAMES[name] for name in names)]
        section.tables.append(Table(head=head, rows=rows, numeric=set(range(1, len(head))), caption="R² on test bins"))

    return section


def _curve_section(curve: label_curve.LabelCurve | None) -> Section | None:
    if curve is None:
        return None
    head, rows = label_curve.table(curve)
    caption = (
        "R² on test bins, medians over seeds; the difference is the mean over paired seeds, with its standard error"
    )
    section = Section(title="Few labels", anchor="labels", drawings=[label_curve.draw(curve)])
    section.tables.append(Table(head=head, rows=rows, numeric=set(range(len(head))), caption=caption))

    return section


def _recordings(
    manifest: Mapping[str, Any], sessions: Callable[[str], Session | None], decoders: list[Decoder]
) -> Section | None:
    entries = dict(sorted(manifest.get("sessions", {}).items()))
    if not entries:
        return None
    section = Section(title="Recordings", anchor="recordings")
    rows = []
    for name, e in entries.items():
        covariates = ", ".join(c if isinstance(c, str) else str(c["name"]) for c in e["covariates"])
        seconds = f"{e['observed_seconds']:,.0f}"
        rows.append(
            [name, str(e["subject"]), str(e["units"]), f"{e['spikes']:,}", seconds, str(e["pieces"]), covariates]
        )
    head = ["session", "subject", "units", "spikes", "observed (s)", "pieces", "covariates"]
    section.tables.append(Table(head=head, rows=rows, numeric={2, 3, 4, 5}))
    section.dropped = _dropped(entries)
    shown = decoders[0].session if decoders else next(iter(entries))
    session = sessions(shown)
    if session is not None:
        section.drawings += [_raster(session, decoders), _rates(entries, sessions)]

    return section


def _dropped(entries: Mapping[str, Any], most: int = 12) -> dict[str, list[str]]:
    """Returns what was left out by session; sessions that lost the same things share an entry."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, entry in entries.items():
        if entry.get("dropped"):
            together.setdefault(tuple(map(str, entry["dropped"])), []).append(name)

    return {
        ", ".join(names) if len(names) < len(entries) or len(names) == 1 else "all sessions": (
            [*lost[:most], f"and {len(lost) - most} more; the store's manifest.json has them all"]
            if len(lost) > most
            else list(lost)
        )
        for lost, names in together.items()
    }


def _raster(session: Session, decoders: list[Decoder], seconds: float = 20.0) -> plots.Drawing:
    """Draws the seconds in which the decoder's traces are shown, else some from the middle."""
    pieces = list(zip(session.observed.start.tolist(), session.observed.end.tolist(), strict=True))
    start = pieces[len(pieces) // 2][0] if len(pieces) > 1 else sum(pieces[0]) / 2
    if decoders and len(decoders[0].predictions.get("time", ())):
        start = float(decoders[0].predictions["time"][0])
    spikes = session.spikes
    end = min(start + seconds, pieces[-1][1])
    drawing = plots.raster(spikes.timestamps, spikes.unit_index, session.num_units, (start, end), pieces)

    return plots.Drawing(drawing.svg, f"{session.session_id}. {drawing.caption}")


def _rates(entries: Mapping[str, Any], sessions: Callable[[str], Session | None], most: int = 16) -> plots.Drawing:
    by_session = {}
    for name in list(entries)[:most]:
        if (session := sessions(name)) is not None:
            counts = np.bincount(session.spikes.unit_index, minlength=session.num_units)
            by_session[name] = counts / max(session.observed.duration, 1e-9)  # nothing observed, nothing counted

    return plots.rates(by_session)


def _series(log: list[dict[str, Any]], split: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = [(r["step"], r[key]) for r in log if r.get("split") == split and r.get(key) is not None]
    x, y = np.array(rows, np.float64).reshape(-1, 2).T

    return x, y


def _named(series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, Any]:
    """Returns the curves that have a point."""
    return {name: xy for name, xy in series.items() if len(xy[0])}


def _pretrain_section(pretraining: tuple[dict[str, Any], list[dict[str, Any]]] | None) -> Section | None:
    if pretraining is None:
        return None
    metrics, log = pretraining
    valid = metrics["valid"]
    section = Section(title="Pretraining", anchor="pretraining")
    spent = f"{_number(metrics.get('tokens_seen'), 0)} tokens in {_number(metrics.get('train_seconds'), 0)} s"
    section.text.append(
        "Masked patches of spikes were predicted from the visible ones. On validation bins the model reaches "
        f"{_number(valid.get('bits_per_spike'))} bits per spike over mean rates, after {spent} "
        f"({_number(metrics.get('tokens_per_second'), 0)} tokens/s), with {_number(metrics.get('num_parameters'), 0)} "
        "parameters."
    )
    if valid.get("r2") is not None:
        section.text.append(
            "Beside that a covariate was decoded from the labels of the training blocks: "
            f"R² {_number(valid['r2'])} on validation bins, with part of the population hidden."
        )
    nll = _named({"training": _series(log, "train", "nll"), "validation": _series(log, "valid", "nll")})
    bits = _named({"validation": _series(log, "valid", "bits_per_spike")})
    panels = [
        (label, named) for label, named in (("NLL (nats per bin and unit)", nll), ("bits per spike", bits)) if named
    ]
    if panels:
        null = {"mean rates": float(valid["null_nll"])} if nll and valid.get("null_nll") is not None else None
        section.drawings.append(plots.curves(panels, null, "Masked prediction over pretraining, on masked patches."))

    return section


def _decoder_section(decoder: Decoder) -> Section:
    m, p = decoder.metrics, decoder.predictions
    section = Section(title=f"Decoder: {decoder.session}", anchor=f"decoder-{decoder.session}")
    text = f"Covariate {m['covariate']}, {m['test'].get('num_bins', 0):,} test bins, seed {m.get('seed', 0)}."
    if m.get("blend_weight") is not None:
        text += (
            f" The delivered decoder weighs the network {m['blend_weight']:.2f} and ridge {1 - m['blend_weight']:.2f}."
        )
    if (coverage := m["test"].get("interval_coverage_90")) is not None:
        text += f" Its 90 % intervals hold {100 * coverage:.0f} % of the test samples."
    if m.get("calibration_seconds"):
        text += f" It was fitted on {m['calibration_seconds']:.0f} s of labelled training bins."
    section.text.append(text)
    if p and np.isfinite(p["true"]).any():
        section.drawings += _prediction_drawings(decoder)

    own = "pretrained" if decoder.scratch_log else "network"
    scratch = decoder.scratch_log
    r2 = _named({own: _series(decoder.log, "valid", "r2"), "from scratch": _series(scratch, "valid", "r2")})
    error = _named({own: _series(decoder.log, "train", "mse"), "from scratch": _series(scratch, "train", "mse")})
    panels = [
        (label, named)
        for label, named in (("validation R² of the network", r2), ("training error (standardised)", error))
        if named
    ]
    if panels:
        section.drawings.append(
            plots.curves(
                panels, None, f"Fine-tuning{', beside the same network without pretraining' if scratch else ''}."
            )
        )

    return section


def _prediction_drawings(decoder: Decoder) -> list[plots.Drawing]:
    m, p = decoder.metrics, decoder.predictions
    dims, unit = [str(d) for d in p["dims"]], str(p["unit"])
    shown = plots.first_seconds(p["time"])
    predicted: dict[str, NDArray[np.floating]] = {name: p[name][shown] for name in ("ridge", "delivered") if name in p}
    half = m["test"].get("interval_half_width")
    band = None if half is None else (p["delivered"][shown] - half, p["delivered"][shown] + half)
    seconds = np.ptp(p["time"][shown])
    caption = (
        f"Measured and decoded {m['covariate']} over the first {seconds:.0f} s of the test bins, not chosen for looks."
    )
    if band:
        caption += " The band is the delivered decoder's 90 % interval, from its residuals on validation bins."
    drawn = plots.traces(p["time"][shown], p["true"][shown], predicted, p["piece"][shown], dims, unit, band, caption)

    return [drawn, plots.scatter(p["true"], p["delivered"], dims, unit, m["test"].get("r2_per_dim", []))]


def _embeddings(run: Path, sessions: Callable[[str], Session | None], decoders: list[Decoder]) -> Iterator[Section]:
    covariates = {d.session: str(d.metrics["covariate"]) for d in decoders}
    section = Section(title="Embeddings", anchor="embeddings")
    for path in sorted((run / "embed").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            time, latents = file["time"], file["latents"].astype(np.float64)
        session, name = sessions(path.stem), covariates.get(path.stem)
        covariate = session.covariates.get(name) if session is not None and name is not None else None
        colour, label, cyclic = _colour(time, covariate)
        drawing = plots.embedding(latents, colour, label, cyclic=cyclic)
        section.drawings.append(plots.Drawing(drawing.svg, f"{path.stem}. {drawing.caption}"))
    if section.drawings:
        yield section


def _colour(time: NDArray[np.float64], covariate: Covariate | None) -> tuple[NDArray[np.float64], str, bool]:
    """Returns each bin's colour, its label, and whether that is cyclic: the covariate's direction or value, or time."""
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
    still = size < 0.5 * np.nanmedian(size) if np.isfinite(size).any() else np.ones(len(size), bool)

    return np.where(still, np.nan, angle), f"direction of {covariate.name} (°)", True


def _configuration(run: Path) -> Section:
    section = Section(title="Settings and versions", anchor="settings")
    for path in (run / "config.yaml", run / "pretrain/config.yaml", *sorted((run / "finetune").glob("*/config.yaml"))):
        if path.exists():
            section.sources[path.relative_to(run).as_posix()] = path.read_text().strip()
    section.tables.append(versions(PACKAGES))
    if seconds := read_json(run / "metrics.json").get("seconds"):
        spent = [[name, _number(value, 1)] for name, value in seconds.items()]
        section.tables.append(Table(head=["step", "seconds"], rows=spent, numeric={1}))

    return section
