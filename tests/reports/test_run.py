"""The report: whole pages from a small run, read back as HTML; figures where their geometry can be known."""

import json
import re
import shutil
from pathlib import Path

import pytest
from fake_run import CURVE, SESSION, fake_run
from html_page import Page

from ndt.api import report
from ndt.errors import InputError
from ndt.reports.run import _pretrain_section, write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = fake_run(tmp_path_factory.mktemp("run") / "demo")
    report(folder)

    return folder


def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_page_holds_every_part_and_fetches_nothing(run):
    found = page(run)
    parts = ["scores", "labels", "recordings", "pretraining", f"decoder-{SESSION}", "embeddings"]
    assert found.ids == [*parts, "settings", "definitions"]
    assert found.tags.count("figure") == 10
    assert found.fetched == []
    assert "script" not in found.tags
    assert re.search(r"url\((?!#)|@import", (run / "report.html").read_text()) is None
    assert (run / "report.html").stat().st_size < 3e6


def test_numbers_are_those_of_the_metrics(run):
    metrics, text = json.loads((run / "finetune" / SESSION / "metrics.json").read_text()), page(run).text
    for r2 in (metrics["test"]["r2"], metrics["network"]["r2"], *(b["r2"] for b in metrics["baselines"].values())):
        assert text.count(f"{r2:.3f}".replace("-", "−")) >= 1
    assert "processing/behavior/eye: 1 sample, fewer than 2" in text
    assert "width: 96" in text
    assert "time in the recording (s)" in text
    assert "(cm/s)" in text


def test_missing_parts_are_left_out(run, tmp_path):
    thin = tmp_path / "demo"
    gone = ("store", "embed", "pretrain", "predictions.npz", "*.html", "curve.json")
    shutil.copytree(run, thin, ignore=shutil.ignore_patterns(*gone))
    write_report(thin)
    assert page(thin).ids == ["scores", f"decoder-{SESSION}", "settings", "definitions"]


def test_pretraining_and_finetuning_runs_have_pages_of_their_own(run, tmp_path):
    for name, parts in (
        ("pretrain", ["pretraining", "settings", "definitions"]),
        (f"finetune/{SESSION}", ["scores", f"decoder-{SESSION}", "settings", "definitions"]),
    ):
        shutil.copytree(run / name, tmp_path / name)
        write_report(tmp_path / name)
        assert page(tmp_path / name).ids == parts


def test_curve_alone_has_a_page_of_its_own(tmp_path):
    CURVE.save(tmp_path)
    write_report(tmp_path)
    found = page(tmp_path)
    assert found.ids == ["labels", "settings", "definitions"]
    assert found.tags.count("figure") == 1
    assert f"Decoding cursor_vel in {SESSION} from few labels" in found.text
    assert "Pretrained on the spikes of 40 simulated sessions" in found.text
    assert "network − scratch +0.330 +0.233 +0.090 +0.037 ± standard error 0.038" in found.text
    assert "paired seeds at no point." in found.text


def test_several_sessions_are_summed_up_by_medians(run, tmp_path):
    many = tmp_path / "demo"
    shutil.copytree(run, many, ignore=shutil.ignore_patterns("embed", "*.html"))
    for n, r2 in enumerate((0.1, 0.2)):
        folder = many / "finetune" / f"other{n}"
        folder.mkdir()
        metrics = {"session": f"other{n}", "target": "cursor_vel", "test": {"r2": r2}, "network": {"r2": None}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    report(many)
    text = page(many).text
    assert "Decoding cursor_vel in 3 sessions" in text
    assert "0.200 R², ensemble, median of 3 sessions" in text


def test_hostile_names_stay_text(run, tmp_path):
    odd = tmp_path / "finetune"
    shutil.copytree(run / "finetune" / SESSION, odd)
    metrics = json.loads((odd / "metrics.json").read_text()) | {"target": "<script>alert(1)</script>"}
    (odd / "metrics.json").write_text(json.dumps(metrics))
    write_report(odd)
    assert "script" not in page(odd).tags


def test_log_that_a_crash_cut_short_is_read_to_its_last_whole_line(run, tmp_path):
    cut = tmp_path / "pretrain"
    shutil.copytree(run / "pretrain", cut)
    (cut / "log.jsonl").write_text((cut / "log.jsonl").read_text()[:-20])
    write_report(cut)
    assert page(cut).tags.count("figure") == 1


def test_run_without_metrics_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.json: expected a run of pretrain, finetune or demo"):
        write_report(tmp_path)


def test_pretraining_with_labels_says_so() -> None:
    metrics = {"valid": {"nll": 0.6, "null_nll": 0.7, "bits_per_spike": 0.1}}
    plain = _pretrain_section((metrics, []))
    metrics["valid"]["r2"] = 0.4321
    labelled = _pretrain_section((metrics, []))
    assert len(plain.text) == 2
    assert "R² 0.432 on validation windows" in labelled.text[2]
    assert "No session has a validation split" in _pretrain_section(({"valid": {}}, [])).text[1]
