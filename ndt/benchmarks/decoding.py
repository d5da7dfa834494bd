"""How well a new simulated day is decoded beside its peers."""

from typing import Any

from ndt.benchmarks.timing import row, run_folder
from ndt.config import BenchConfig

__all__ = ["demo"]


def demo(config: BenchConfig) -> list[dict[str, Any]]:
    """Decodes a new simulated day from a minute of labels."""
    from ndt.demo import demo

    with run_folder(config.out) as out:
        runs = [demo(out=out / f"seed{s}", seed=s, progress=False) for s in range(config.seeds)]

    return _rows("demo", [next(iter(r["sessions"].values())) for r in runs])


def _rows(name: str, sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a peer: the network alone, then the delivered blend beside ridge."""
    scores = {peer: [s["baselines"][peer]["r2"] for s in sessions] for peer in sessions[0]["baselines"]}
    network = [s["network"]["r2"] for s in sessions]
    delivered = row(f"{name}.delivered", [s["test"]["r2"] for s in sessions], "R2", "ridge", scores["ridge"])

    return [*(row(f"{name}.network", network, "R2", peer, theirs) for peer, theirs in scores.items()), delivered]
