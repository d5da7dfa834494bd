"""Several processes take the steps of one; killed and resumed, they equal an uninterrupted run. Each is a torchrun."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ndt.data.store import Store

pytestmark = pytest.mark.slow

WEIGHTS = 1e-4  # a tenth of one step: Adam takes steps of rounding errors where a gradient, as of some biases, is zero

RUN = """
import json, os, sys
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from ndt.model.checkpoint import save_weights
import ndt.model.identity
from ndt.config import MaskConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.errors import InputError
from ndt.train.parallel import whole
from ndt.pretrain.train import pretrain

store, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
rank, steps = os.environ.get("RANK", "0"), 0
out.mkdir(exist_ok=True)
(out / f"pid{rank}").write_text(str(os.getpid()))

def note(optimizer, *_):
    global steps
    steps += 1
    if steps == settings["train"]["steps"]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = whole({str(i): p.grad for i, p in enumerate(parameters) if p.grad is not None})
        if rank == "0":
            save_weights(gradients, out / "gradients.safetensors")

register_optimizer_step_pre_hook(note)
if poisoned := settings.get("poisoned"):
    from ndt.data.objective import MaskedModelling
    losses = MaskedModelling.losses
    def spoiled(self, model, batch, step):
        found = losses(self, model, batch, step)
        value, weight = found["nll"]
        bad = step == poisoned["step"] and rank == poisoned["rank"]
        return found | {"nll": (value * float("nan") if bad else value, weight)}
    MaskedModelling.losses = spoiled
dropout = settings.get("dropout", 0.0)  # each process draws it for itself
if not dropout:
    ndt.model.identity.KNOWN_DROPOUT = 0.0
model = ModelConfig(
    width=16, num_layers=3, num_heads=2, units_per_patch=16, unit_width=8, num_stem_layers=1,
    dropout=dropout, drop_path=dropout, count_dropout=dropout,
)
train = TrainConfig(valid_every=4, warmup_steps=3, learning_rate=1e-3, precision="fp32", **settings["train"])
try:
    mask = MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=0.75)
    config = PretrainConfig(
        model=model, train=train, mask=mask, target="cursor_vel", masked_weight=0.5, unit_dropout=0.5, window=1.0,
        residual_dropout=dropout,
    )
    pretrain(store, out, config, resume=settings.get("resume", False), progress=False)
except InputError as error:
    (out / f"told{rank}").write_text(str(error))
    sys.exit(2)
"""


TUNE = """
import json, os, sys
import ndt.model.identity
from ndt.config import FinetuneConfig, MaskConfig, TrainConfig
from ndt.finetune import adapt
from ndt.finetune.adapt import finetune

base, session, out, masked_weight = *sys.argv[1:4], float(sys.argv[4])
ndt.model.identity.KNOWN_DROPOUT = 0.0  # each process draws it for itself
write = adapt.write_json
def noted(path, found):
    with open(f"{out}.{path.name}.writers", "a") as file:
        file.write(os.environ.get("RANK", "0"))
    write(path, found)
adapt.write_json = noted
train = TrainConfig(steps=12, batch_size=5, valid_every=4, warmup_steps=3, learning_rate=3e-4, precision="fp32")
mask = MaskConfig(ratio=0.25, kinds=("random",), random_only_steps=0, share=0.75)
config = FinetuneConfig(
    train=train, mask=mask, freeze_steps=6, masked_weight=masked_weight, max_lag=0.2, auxiliary="auto",
    baselines=("ridge",), ensemble=("network", "ridge"),
)
finetune(base, session, "cursor_vel", out=out, config=config, progress=False)
"""


def start(store: Store, out: Path, num_processes: int, **settings) -> subprocess.Popen:
    out.parent.mkdir(exist_ok=True)
    script = out.parent / "run.py"
    script.write_text(RUN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    command = [sys.executable] if num_processes == 1 else torchrun
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*command, str(script), str(store.root), str(out), json.dumps(settings)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(run: subprocess.Popen) -> None:
    told = run.communicate(timeout=300)[1]
    assert run.returncode == 0, told[-3000:]


def losses(run: Path, split: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["nll"] for line in lines if line["split"] == split}


@pytest.fixture(scope="module")
def alone(sim_store, tmp_path_factory) -> Path:
    """Twenty steps of one process, of five windows each."""
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(start(sim_store, run, 1, train={"steps": 20, "batch_size": 5}))
    return run


@pytest.mark.parametrize(("sharding", "micro_batches"), [("none", 1), ("none", 2), ("fsdp", 1), ("fsdp", 2)])
def test_two_processes_take_the_steps_of_one(sim_store, tmp_path, alone, sharding, micro_batches) -> None:
    """Of a batch of five, one process takes two windows and one three; in micro-batches, of one and two."""
    train = {"steps": 20, "batch_size": 5, "sharding": sharding, "micro_batches": micro_batches}
    train["checkpoint_activations"] = micro_batches > 1
    finish(start(sim_store, tmp_path / "two", 2, train=train))
    for name, error in (("gradients.safetensors", 1e-5), ("model.safetensors", WEIGHTS)):
        found, expected = load_file(tmp_path / "two" / name), load_file(alone / name)
        assert any(v.abs().max() > 1e-3 for v in expected.values())
        torch.testing.assert_close(found, expected, rtol=0, atol=error)
    for split in ("train", "valid"):  # one process writes
        torch.testing.assert_close(losses(tmp_path / "two", split), losses(alone, split), rtol=0, atol=1e-5)
    assert list(losses(alone, "train")) == [10, 20]
    seen = [json.loads((run / "metrics.json").read_text())["tokens_seen"] for run in (tmp_path / "two", alone)]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("masked_weight", [0.5, 0.0])
def test_two_processes_fine_tune_as_one_and_one_writes(sim_base, sim_truth, tmp_path, masked_weight) -> None:
    """Through both stages; without a masked loss part of the model takes no gradient."""
    script = tmp_path / "tune.py"
    script.write_text(TUNE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, command in (("one", [sys.executable]), ("two", torchrun)):
        given = [script, sim_base, sim_truth[1].session_id, tmp_path / name, masked_weight]
        found = subprocess.run(
            [*command, *map(str, given)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr[-3000:]
        assert (tmp_path / f"{name}.metrics.json.writers").read_text() == "0"
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    torch.testing.assert_close(found, expected, rtol=0, atol=WEIGHTS)
    scores = [json.loads((tmp_path / name / "metrics.json").read_text())["network"]["r2"] for name in ("two", "one")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_killed_processes_that_are_resumed_are_the_unbroken_ones(sim_store, tmp_path, sharding) -> None:
    """To the bit, dropout included. torchrun gives its workers sessions of their own: each is killed by its id."""
    train = {"steps": 60, "batch_size": 5, "sharding": sharding}
    finish(start(sim_store, tmp_path / "whole", 2, train=train, dropout=0.1))
    killed = tmp_path / "killed"
    run = start(sim_store, killed, 2, train=train, dropout=0.1)
    least, end = random.randrange(4, 40), time.monotonic() + 120
    while not any(int(p.name[5:]) >= least for p in (killed / "checkpoints").glob("step_*")):
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.002)
    run.kill()
    for rank in range(2):
        os.kill(int((killed / f"pid{rank}").read_text()), signal.SIGKILL)
    run.communicate()
    assert not (killed / "metrics.json").exists()
    finish(start(sim_store, killed, 2, train=train, dropout=0.1, resume=True))
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for split in ("train", "valid"):
        assert losses(killed, split) == losses(tmp_path / "whole", split)


@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_a_sharded_run_goes_on_with_another_number_of_processes(sim_store, tmp_path, alone, order) -> None:
    train = {"batch_size": 5, "sharding": "fsdp", "steps": 20}
    finish(start(sim_store, tmp_path / "run", order[0], train=train))
    checkpoints = tmp_path / "run" / "checkpoints"
    names = {p.name for p in (checkpoints / "step_00000016").iterdir()}
    shares = {".metadata", "__0_0.distcp", "__1_0.distcp"}  # one process has nothing to share
    assert names == {"state.json"} | (shares if order[0] == 2 else {"state.safetensors"})
    shutil.rmtree(checkpoints / "step_00000020")  # back to step 16
    finish(start(sim_store, tmp_path / "run", order[1], train=train, resume=True))
    found, expected = (load_file(run / "model.safetensors") for run in (tmp_path / "run", alone))
    torch.testing.assert_close(found, expected, rtol=0, atol=WEIGHTS)


def test_a_loss_that_is_no_number_in_one_process_stops_all_with_its_sessions(sim_store, tmp_path) -> None:
    settings = {"train": {"steps": 20, "batch_size": 2}, "poisoned": {"step": 9, "rank": "1"}}
    run = start(sim_store, tmp_path / "run", 2, **settings)
    run.communicate(timeout=120)
    assert run.returncode != 0
    told = [(tmp_path / "run" / f"told{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "loss at step 9: expected a finite number" in told[0]
    assert "last good checkpoint: checkpoints/step_00000008" in told[0]
    assert sum(name in told[0] for name in sim_store.session_ids) == 1  # of one window there is one session
    assert max(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == "step_00000008"
