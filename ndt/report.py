"""A run as one self-contained HTML page: nothing is fetched, nothing is executed, and it prints.

The module is also the verb ``ndt.report(run)``.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt import label_curve, plots, plots_decoder, report_decoder, report_rotation, search_record
from ndt.decoded import by_covariate, kind_of, weights_of
from ndt.errors import InputError
from ndt.glossary import DECODING
from ndt.page import Section, Table, render, versions
from ndt.plots_recording import plain_text
from ndt.report_decoder import fixed, series
from ndt.runs import Decoder, read_decoders, read_json, read_pretraining
from ndt.session import Covariate, Session
from ndt.verbs import callable_module

__all__ = ["write_report"]

PACKAGES = ("ndt", "torch", "numpy", "h5py", "pynwb", "scipy", "accelerate")
SCORES = {  # by kind of what is decoded
    "continuous": "R² on test bins (variance-weighted)",
    "angle": "R² of cosine and sine on test bins (variance-weighted)",
    "class": "R² of the classes' probabilities on test bins (Brier skill score)",
}

callable_module(__name__, "ndt.api.report")


def write_report(run: Path, store: Path | None = None) -> Path:
    """Writes ``report.html`` into a run directory and returns its path.

    Arguments:
        run: Directory of `ndt demo`, `pretrain`, `finetune`, a curve or a search; whatever of it is there is shown.
        store: Store of the sessions, for rasters and embeddings; by default the run's own.

    Raises:
        InputError: if there is nothing to show, or a file is not what it should be.
    """
    run = Path(run)
    decoders, pretraining = list(read_decoders(run)), read_pretraining(run)
    curve, search = label_curve.read_curve(run), search_record.read_search(run)
    adapted = report_decoder.unscored(run)
    if not decoders and all(part is None for part in (pretraining, curve, search, adapted)):
        raise InputError(run, "metrics.json", "a run of pretrain, finetune or demo", "none that ended")
    manifest, sessions = _open_store(store or _own_store(run))

    with plain_text():
        sections = [
            _scores(decoders),
            None if curve is None else label_curve.section(curve),
            None if search is None else search_record.section(search),
            _recordings(manifest, sessions, decoders),
            _pretrain_section(pretraining),
            *(report_decoder.section(d) for d in decoders),
            adapted,
            *_embeddings(run, sessions, decoders),
            *report_rotation.section(run),
            _configuration(run),
            Section(title="What the numbers mean", anchor="definitions", definitions=DECODING),
        ]
    shown = [section for section in sections if section is not None]
    title = _title(run, decoders, curve, search) if adapted is None else adapted.title
    page = render(title, _subtitle(run), shown, _tiles(decoders, pretraining))
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


def _title(
    run: Path,
    decoders: list[Decoder],
    curve: label_curve.LabelCurve | None,
    search: search_record.SearchRecord | None,
) -> str:
    if not decoders and curve is not None:
        return f"Decoding {curve.covariate} in {curve.session} from few labels"
    if not decoders and search is not None:
        return f"Decoding {search.covariate} in {search.session}: search for settings"
    if not decoders:
        return f"Pretraining: {run.name}"
    covariates = sorted({str(one.metrics["covariate"]) for d in decoders for one in by_covariate(d)})
    where = decoders[0].session if len(decoders) == 1 else f"{len(decoders)} sessions"

    return f"Decoding {' and '.join(covariates)} in {where}"


def _subtitle(run: Path) -> str:
    name = run.resolve().name  # not the path: pages are passed on

    return f"Run {name}, page written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by ndt"


def _covariates(decoders: list[Decoder]) -> dict[str, list[Decoder]]:
    """Returns the decoders of each covariate, each of that one alone."""
    found: dict[str, list[Decoder]] = {}
    for decoder in decoders:
        for one in by_covariate(decoder):
            found.setdefault(str(one.metrics["covariate"]), []).append(one)

    return found


def _tiles(decoders: list[Decoder], pretraining: tuple[dict[str, Any], Any] | None) -> list[tuple[str, str]]:
    if decoders:
        covariates = _covariates(decoders)
        each = [_score_tiles(name, members, len(covariates) > 1) for name, members in covariates.items()]
        return [tile for tiles in each for tile in tiles]
    if pretraining is None:
        return []
    metrics = pretraining[0]
    shown = {
        "bits per spike, validation": fixed(metrics["valid"].get("bits_per_spike")),
        "Poisson NLL, validation": fixed(metrics["valid"].get("nll"), 4),
        "parameters": fixed(metrics.get("num_parameters"), 0),
        "tokens per second": fixed(metrics.get("tokens_per_second"), 0),
    }

    return [(value, label) for label, value in shown.items()]


def _score_tiles(covariate: str, members: list[Decoder], several: bool) -> list[tuple[str, str]]:
    """R² of the delivered decoder and of what to hold it against; of several covariates only what matters most."""
    many = f", median of {len(members)} sessions" if len(members) > 1 else ""
    of = f" of {covariate}" if several else ""
    names = ("delivered", "network", "ridge") if several else ("delivered", "network", "scratch", "ridge", "oracle")
    tiles = []
    for name in (*names, *(() if several else ("shuffled",))):
        values = [d.r2[name] for d in members if name in d.r2]
        shares = [weights_of(d).get(name) for d in members]
        if values:
            weight = f", weight {shares[0]:.2f}" if len(members) == 1 and shares[0] is not None else ""
            tiles.append((fixed(float(np.median(values))), f"R²{of}, {plots.NAMES[name]}{weight}{many}"))
    if len(members) == 1 and (found := report_decoder.error(members[0])) is not None:
        tiles.insert(1, (found[0], f"{found[1]}{of}, delivered decoder"))

    return tiles


def _scores(decoders: list[Decoder]) -> Section | None:
    if not decoders:
        return None
    section = Section(title="Scores", anchor="scores")
    covariates = _covariates(decoders)
    for covariate, members in covariates.items():
        if len(members) > 1:
            _many_scores(section, covariate, members)
        elif members[0].r2:
            drawn = _one_score(members[0])
            section.drawings.append(
                plots.Drawing(drawn.svg, f"{covariate}. {drawn.caption}" if len(covariates) > 1 else drawn.caption)
            )

    return section


def _one_score(decoder: Decoder) -> plots.Drawing:
    low, high = decoder.metrics["test"].get("r2_interval_95") or (None, None)
    interval = None if low is None or high is None else (float(low), float(high))

    return plots_decoder.scores(decoder.r2, interval, weights_of(decoder), SCORES[kind_of(decoder)])


def _many_scores(section: Section, covariate: str, members: list[Decoder]) -> None:
    """Adds medians over sessions as a figure, and a table of each."""
    names = [name for name in plots.NAMES if any(name in d.r2 for d in members)]
    medians = {name: float(np.median([d.r2[name] for d in members if name in d.r2])) for name in names}
    if not medians:
        return
    section.text.append(f"The figure shows medians over {len(members)} sessions; the table has each.")
    section.drawings.append(plots_decoder.scores(medians, label=SCORES[kind_of(members[0])]))
    rows = [[d.session, fixed(weights_of(d).get("network"), 2), *(fixed(d.r2.get(n)) for n in names)] for d in members]
    head = ["session", "weight of the network", *(plots.NAMES[name] for name in names)]
    caption = f"R² of {covariate} on test bins, and the network's weight in the delivered decoder"
    section.tables.append(
        Table(head=head, rows=rows, numeric=set(range(1, len(head))), caption=caption, dense=len(head) > 6)
    )


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


def _named(series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, Any]:
    """Returns the curves that have a point."""
    return {name: xy for name, xy in series.items() if len(xy[0])}


def _pretrain_section(pretraining: tuple[dict[str, Any], list[dict[str, Any]]] | None) -> Section | None:
    if pretraining is None:
        return None
    metrics, log = pretraining
    valid = metrics["valid"]
    section = Section(title="Pretraining", anchor="pretraining")
    spent = f"{fixed(metrics.get('tokens_seen'), 0)} tokens in {fixed(metrics.get('train_seconds'), 0)} s"
    section.text.append(
        "Masked patches of spikes were predicted from the visible ones. On validation bins the model reaches "
        f"{fixed(valid.get('bits_per_spike'))} bits per spike over mean rates, after {spent} "
        f"({fixed(metrics.get('tokens_per_second'), 0)} tokens/s), with {fixed(metrics.get('num_parameters'), 0)} "
        "parameters."
    )
    if valid.get("r2") is not None:
        section.text.append(
            "Beside that a covariate was decoded from the labels of the training blocks: "
            f"R² {fixed(valid['r2'])} on validation bins, with part of the population hidden."
        )
    nll = _named({"training": series(log, "train", "nll"), "validation": series(log, "valid", "nll")})
    bits = _named({"validation": series(log, "valid", "bits_per_spike")})
    panels = [
        (label, named) for label, named in (("NLL (nats per bin and unit)", nll), ("bits per spike", bits)) if named
    ]
    if panels:
        null = {"mean rates": float(valid["null_nll"])} if nll and valid.get("null_nll") is not None else None
        section.drawings.append(plots.curves(panels, null, "Masked prediction over pretraining, on masked patches."))

    return section


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
        spent = [[name, fixed(value, 1)] for name, value in seconds.items()]
        section.tables.append(Table(head=["step", "seconds"], rows=spent, numeric={1}))

    return section
