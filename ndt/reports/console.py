"""Prints the results of the verbs as short tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.reports.names import DYNAMICS, in_order, predictor_name
from ndt.reports.page import fixed, many
from ndt.reports.run_files import Decoder, score_table
from ndt.text import escaped

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "show_bench", "show_curve", "show_demo", "show_dynamics", "show_embed", "show_evaluate", "show_finetune",
    "show_ingest", "show_inspect", "show_pretrain", "show_report", "show_simulate",
]  # fmt: skip


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> "Table":
    """Returns a table whose first column is text and whose others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=_plain(title) or None, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(_plain(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))

    return table


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own, and 80 columns break table cells
        console.width = max(console.width, 140)
    for part in parts:
        console.print(_plain(part), markup=False) if isinstance(part, str) else console.print(part)


def _plain(text: str) -> "Text":
    """Returns a text without markup (names may hold brackets) whose hidden characters are shown as escapes."""
    from rich.text import Text

    return Text(escaped(text, keep="\n"))


def show_simulate(result: dict[str, Any]) -> None:
    """Prints the files of ``ndt simulate``."""
    for r in result["recordings"]:
        _print(f"{r['path']}  {r['units']} units")


def _dropped(sentences: list[str], limit: int = 6) -> str:
    more = [f"… and {len(sentences) - limit} more"] if len(sentences) > limit else []

    return "\n".join(f"  dropped: {s}" for s in [*sentences[:limit], *more])


def _unverified(entry: dict[str, Any]) -> bool:
    """Whether a recording on DANDI was read without a comparison with its SHA-256."""
    return str(entry["source"]).startswith("dandi:") and not entry.get("sha256_verified", True)


def show_inspect(result: dict[str, Any]) -> None:
    """Prints the summaries of files, or the overlaps of sessions in a store."""
    if "recipes" in result:
        return _show_recipes(result["recipes"])
    if "overlaps" in result:
        return _show_overlaps(result)
    for f in result["files"]:
        if "error" not in f:
            _show_file(f)
    if result.get("page") and len(result["failed"]) < len(result["files"]):
        _print(f"pages: {result['page']}")


def _show_file(f: dict[str, Any]) -> None:
    _print(f"{f['session_id']}  subject {f['subject'] or 'unnamed'}")
    observed = f"{f['observed_seconds']:,.1f} s observed in {many(f['segments'], 'segment')}"
    counted = f", counted in bins of {1e3 * f['count_bin']:g} ms" if f.get("count_bin") else ""
    _print(f"  {f['units']} units, {f['spikes']:,} spikes{counted}, {observed}")
    if f.get("conventions"):
        _print(f"  conventions of {', '.join(f['conventions'])}")
    rows = [
        [f"  {c['name']}", ", ".join(c["dims"]), c["unit"], f"{c['rate']:.1f} Hz", f"{c['coverage']:.0%}", c["path"]]
        for c in f["covariates"]
    ]
    if rows:
        _print(_table(["  covariate", "dims", "unit", "rate", "of observed time", "path"], rows))
    for finding in f.get("findings", ()):
        if finding["grade"] != "note":
            _print(f"  {finding['grade']}: {finding['where']}: {finding['message']}")
    if _unverified(f):
        _print("  content not compared with the archive's SHA-256")
    if f["dropped"]:
        _print(_dropped(list(f["dropped"])))


def _show_overlaps(result: dict[str, Any]) -> None:
    if not result["overlaps"]:
        return _print(f"{result['store']}: no two sessions share their spikes")
    for o in result["overlaps"]:
        (a, b), (c, d) = o["first_time"], o["second_time"]
        what = f"{o['first']} and {o['second']}: {o['kind']}, {o['num_units']} units"
        when = f"{a:,.1f} to {b:,.1f} s of the first are {c:,.1f} to {d:,.1f} s of the second"
        leak = f"; {o['exposed_seconds']:,.1f} s are training data of one and validation or test data of the other"
        _print(f"{'error' if o['leak'] else 'warning'}: {what}; {when}{leak if o['leak'] else ''}")


def _show_recipes(recipes: list[dict[str, Any]]) -> None:
    rows = [[r["name"], r["title"], r["source"], r["licence"], "yes" if r["tried"] else "no"] for r in recipes]
    _print(_table(["recipe", "data", "source", "licence", "tried"], rows))


def show_ingest(result: dict[str, Any]) -> None:
    """Prints the sessions of a store."""
    if "recipes" in result:
        return _show_recipes(result["recipes"])
    rows = []
    for name, s in sorted(result["sessions"].items()):
        covariates = ", ".join(c["name"] for c in s.get("covariates", ())) or "none"
        counts = [fixed(s.get(key), 0) for key in ("units", "spikes", "observed_seconds", "segments")]
        rows.append([name, *counts[:2], f"{counts[2]} s", counts[3], covariates])
    _print(_table(["session", "units", "spikes", "observed", "segments", "covariates"], rows))
    for name, s in sorted(result["sessions"].items()):
        if s.get("dropped"):
            _print(name, _dropped(list(s["dropped"])))
    if unverified := sum(map(_unverified, result["sessions"].values())):
        _print(f"content of {many(unverified, 'session')} not compared with the archive's SHA-256 (manifest.json)")
    _print(f"store: {result['store']}")


def show_pretrain(result: dict[str, Any]) -> None:
    """Prints the validation scores of pretraining."""
    valid = result["valid"]
    if not valid:
        return _print(f"run: {result['run']} (no session has a validation split; the weights are the last)")
    rows = [
        ["Poisson NLL per bin and unit", fixed(valid["nll"], 4)],
        ["Poisson NLL of mean rates", fixed(valid["null_nll"], 4)],
        ["bits per spike", fixed(valid["bits_per_spike"])],
    ]
    _print(_table(["validation", "value"], rows), f"run: {result['run']}")


def _scores(sessions: list[dict[str, Any]]) -> "Table":
    """Returns a table of test R²: predictors in rows, sessions in columns."""
    found = [Decoder(metrics=s).r2 for s in sessions]
    shown = in_order(name for r2 in found for name in r2)
    head = ["", *(f"{s['session']}\n{s['target']}" for s in sessions)]
    rows = [[predictor_name(name), *(fixed(r2.get(name)) for r2 in found)] for name in shown]

    return _table(head, rows, "R² on test bins (variance-weighted)")


def show_finetune(result: dict[str, Any]) -> None:
    """Prints the scores of a decoder and its baselines, and the label curve if the run has one."""
    if "targets" in result:
        show_evaluate(result)
    show_curve(result)
    _print(f"run: {result['run']}")


def show_evaluate(result: dict[str, Any]) -> None:
    """Prints a table of scores for each target, or scores of the Neural Latents Benchmark."""
    if "nlb" in result:
        return _show_nlb(result)
    for name, part in result["targets"].items():
        units = "trials" if "num_trials" in part["test"] else "bins"
        title = f"{result['session']}, {name}: {result.get('split', 'test')} {units}; R² is variance-weighted"
        _print(_table(*score_table(part), title), *_uncertainty(part))
    if lost := result["input_drift"]["silent_units"]:
        _print(f"silent units: {', '.join(lost[:8])}{f' and {len(lost) - 8} more' if len(lost) > 8 else ''}")
    if missing := result.get("missing_units"):
        _print(f"{len(missing)} units of the decoder are not in this session")


def _show_nlb(result: dict[str, Any]) -> None:
    found = result["nlb"]
    scores = found.get("scores") or {}
    rows = [[name, fixed(value, 4)] for name, value in scores.get("nlb", {}).items()]
    if scores.get("co_bps_per_unit") is not None:
        rows.append(["co-bps, mean over units (not an NLB score)", fixed(scores["co_bps_per_unit"], 4)])
    _print(_table(["Neural Latents Benchmark", "score"], rows), *map(str, found.get("left_out") or ()))
    if result.get("path"):
        _print(f"submission: {result['path']}")


def _uncertainty(part: dict[str, Any]) -> list[str]:
    """Returns the ensemble's uncertainty, its gain over the reference, coverage of intervals, and drift."""
    t = part["test"]
    low, high = t.get("r2_interval_95") or (None, None)
    covered, error, adapted = (
        None if t.get(name) is None else 100 * t[name]
        for name in ("interval_coverage_90", "interval_coverage_90_error", "adaptive_coverage_90")
    )
    lines = [
        f"ensemble R² {fixed(t['r2'])}, 95 % interval {fixed(low)} to {fixed(high)}; "
        f"gain over {t.get('reference', 'ridge')} {fixed(t.get('over_reference'), signed=True)} ± "
        f"{fixed(t.get('over_reference_error'))}",
        f"90 % intervals contain the target in {fixed(covered, 1)} % ± {fixed(error, 1)}; "
        f"adaptive (online conformal) intervals {fixed(adapted, 1)} %",
    ]
    if t.get("out_of_distribution", 0) > 0:
        lines.append(
            f"input drift: {100 * t['out_of_distribution']:.1f} % of bins are out of the distribution of training"
        )

    return lines


def show_curve(result: dict[str, Any]) -> None:
    """Prints the label curve of a run directory, if it has one."""
    from ndt.reports.label_curve import read_curve, sentences, table

    if (curve := read_curve(Path(result["run"]))) is not None:
        title = f"{curve.session}, {curve.target}: medians over seeds"
        _print(_table(*table(curve), title), *sentences(curve))


def show_embed(result: dict[str, Any]) -> None:
    """Prints the file of ``ndt embed`` and its shape."""
    _print(f"{result['path']}: {result['num_bins']:,} bins × {result['num_dims']} dimensions")


def show_dynamics(result: dict[str, Any]) -> None:
    """Prints the scores of a fit, or the file of simulated trajectories."""
    if "summary" not in result:
        _print(f"{result['trajectories']} trajectories of {result['times']} times in {result['path']}")
        return
    first = next(iter(result["summary"].values()))
    keys = [k for k in ("w1", "w2", "sliced_w2", "mean_error", "cov_error", "energy_error") if k in first]
    rows = [
        [DYNAMICS.get(name, name), *(fixed(each.get(key)) for key in keys)] for name, each in result["summary"].items()
    ]
    _print(_table(["model", *(key.replace("_", " ") for key in keys)], rows))
    if fit := result.get("fit"):
        if fit.get("overfitted"):
            _print(f"over-fitted: the loss, {fit['loss']:.4g}, is below that of fresh nodes, {fit['fresh']:.4g}")
        if "friction" in fit:
            _print(f"friction {fit['friction']:.4g} per unit of time")
        _print(f"page: {Path(result['run']) / 'report.html'}")


def show_report(result: dict[str, Any]) -> None:
    """Prints the path of the report."""
    _print(f"report: {result['report']}")


def show_demo(result: dict[str, Any]) -> None:
    """Prints the demo's scores and the path of its report."""
    _print(_scores(list(result["sessions"].values())))
    if "report" in result:
        show_report(result)


def show_bench(result: dict[str, Any]) -> None:
    """Prints a benchmark's rows and their peers, or the attention kernels of this machine."""
    hardware = ", ".join(f"{k} {v}" for k, v in result["hardware"].items())
    if "backends" in result:
        kernels = result["backends"]
        rows = [[b["mask"], str(b["attention_window"] or "all"), b["precision"], b["chosen"]] for b in kernels]
        reasons = dict.fromkeys(f"{k}: {v}" for b in kernels for k, v in b["refusals"].items())
        return _print(_table(["mask", "attention window", "precision", "kernel"], rows), *reasons, hardware)
    studied = any("difference" in r for r in result["rows"])
    head = ["row", "value", "unit", "peer", "peer value", "ratio", "spread", *(["difference", "budget"] * studied)]
    rows = []
    for r in result["rows"]:
        value, *others = (fixed(r.get(k)) for k in ("value", "peer_value", "ratio", "spread"))
        cells = [r["name"], value, r.get("unit", ""), predictor_name(r.get("peer") or "–"), *others]
        rows.append([*cells, *([_difference(r), r.get("budget", "")] if studied else [])])
    _print(_table(head, rows), hardware)


def _difference(row: dict[str, Any]) -> str:
    """Returns the mean difference to the peer over paired seeds, and its standard error."""
    error = row["standard_error"] if row.get("difference") is not None else None

    return fixed(row.get("difference"), signed=True) + (f" ± {error:.3f}" if error is not None else "")
