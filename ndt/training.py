"""The training loop that pretraining and fine-tuning share; they differ in their `Objective`.

Data and masks are functions of (seed, step, place in the global batch). A process takes its slice of the global batch,
and a loss is a sum over valid targets divided by their number over all processes. Hence any number of processes takes
the same steps, and a resumed run is the uninterrupted one.
"""

import hashlib
import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file
from torch import Tensor

from ndt.checkpoint import read_json, save_weights, write_json
from ndt.config import TrainConfig
from ndt.errors import InputError
from ndt.model import NDT
from ndt.tokens import Batch

__all__ = ["Objective", "Trainer"]

KEPT = 2  # checkpoints
TABLES = ("unit", "unit_place", "context", "context_kind")  # rows by name: decay leaves them alone
STALE = ("log.jsonl", "metrics.json", "model.json", "model.safetensors", "predictions.npz", "report.html")


class Objective(Protocol):
    """What a run trains on, for what, and how it is judged."""

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these rows of the global batch of a step."""
        ...

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, Tensor, float]]:
        """Returns the sum over targets, the number of targets and the weight of each term of the loss."""
        ...

    def learns(self, name: str, step: int) -> bool:
        """Returns whether a parameter changes at a step."""
        ...

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns measures on validation data; the one named ``score`` (higher is better) chooses the weights."""
        ...


class Trainer:
    """Trains a model: AdamW, warm-up and cosine, clipping, averaged weights, validation, checkpoints, exact resumption.

    Arguments:
        model: The model; after `run` it holds the weights that were best on validation.
        objective: What to train for.
        config: The loop.
        out: Run directory; log.jsonl, tensorboard/ and checkpoints/ are written there.
        seed: Seed of dropout.
        resume: Whether to go on from the last checkpoint in `out`.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        model: NDT,
        objective: Objective,
        config: TrainConfig,
        *,
        out: Path,
        seed: int,
        resume: bool,
        progress: bool,
    ) -> None:
        cuda = torch.cuda.is_available()
        bf16 = config.precision == "bf16" or (config.precision == "auto" and cuda)
        resting = any(not objective.learns(name, 0) for name, _ in model.named_parameters())
        self.accelerator = Accelerator(
            cpu=not cuda,
            mixed_precision="bf16" if bf16 else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=resting)],
        )
        self.objective, self.config, self.out, self.seed = objective, config, out, seed
        self.progress = progress and self.accelerator.is_main_process
        self.step = self.tokens = self.waited = 0
        self.seconds, self.best_score = 0.0, -math.inf
        out.mkdir(parents=True, exist_ok=True)

        self.model = model.to(self.accelerator.device)
        self.optimizer = torch.optim.AdamW(_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98))
        self.wrapped, self.stepper = self.accelerator.prepare(self.model, self.optimizer)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        if resume:
            self._resume()
        elif self.accelerator.is_main_process:
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(out / name, ignore_errors=True)
            for name in STALE:
                (out / name).unlink(missing_ok=True)
        self.board = self._board() if self.accelerator.is_main_process else None

    def run(self) -> dict[str, float]:
        """Trains to the end, puts the best weights into the model and returns what was counted on the way."""
        self.model.train()
        with self._display() as show:
            while self.step < self.config.steps and not self._exhausted():
                begin = time.perf_counter()
                terms = self._take_step()
                self.seconds += time.perf_counter() - begin
                if self.step % 10 == 0:
                    self._log("train", terms)
                if self.step % self.config.valid_every == 0 or self.step == self.config.steps:
                    self._validate()
                    self._checkpoint()
                show(self)
        if self.board is not None:
            self.board.close()
        self.model.load_state_dict(self.best)
        self.model.eval()

        return {
            "steps": self.step,
            "tokens_seen": self.tokens,
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "train_seconds": self.seconds,
        }

    def _exhausted(self) -> bool:
        return 0 < self.config.patience <= self.waited

    def _take_step(self) -> dict[str, float]:
        config, step, ranks = self.config, self.step, self.accelerator.num_processes
        rank = self.accelerator.process_index
        rows = range(rank * config.batch_size // ranks, (rank + 1) * config.batch_size // ranks)
        # Dropout takes no generator.
        torch.manual_seed((self.seed * 1_000_003 + step) * ranks + rank)
        batch = self.objective.batch(step, rows).to(self.accelerator.device)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)

        total, shown = torch.zeros((), device=self.accelerator.device), {}
        with self.accelerator.autocast():
            losses = self.objective.losses(self.wrapped, batch, step)
        for name, (value, number, weight) in losses.items():
            everywhere = self._sum(number).clamp(min=1)
            total = total + weight * value * ranks / everywhere  # DDP averages gradients over ranks
            shown[name] = float(self._sum(value) / everywhere)
        if not all(map(math.isfinite, shown.values())):
            raise InputError(self.out, f"loss at step {step}", "a finite number; lower train.learning_rate", shown)
        self.accelerator.backward(total)
        for name, parameter in self.model.named_parameters():
            if not self.objective.learns(name, step):
                parameter.grad = None
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        self.stepper.step()
        self.stepper.zero_grad()
        self._average()
        self.step += 1
        self.tokens += int(self._sum(torch.tensor(len(batch.time), device=self.accelerator.device)))

        return shown

    def _sum(self, x: Tensor) -> Tensor:
        """Sum over processes, without a gradient."""
        total: Any = self.accelerator.reduce(x.detach().clone(), "sum")

        return total

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # young averages forget their start
        state = self.model.state_dict()
        average = [self.average[k] for k in state]
        # One call for all tensors has no public name; it takes half the time of one call each.
        torch._foreach_lerp_(average, list(state.values()), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def _validate(self) -> None:
        kept = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        found = self.objective.validate(self.model)
        self.model.load_state_dict(kept)
        self.model.train()
        self._log("valid", found)
        if found["score"] > self.best_score:
            self.best_score, self.waited = found["score"], 0
            self.best = {k: v.clone() for k, v in self.average.items()}
        else:
            self.waited += 1

    def _log(self, split: str, found: dict[str, float]) -> None:
        if self.board is None:
            return
        line = {"step": self.step, "split": split, **{k: v for k, v in found.items() if k != "score"}}
        if split == "train":
            line["lr"] = self.optimizer.param_groups[0]["lr"]
            line["tokens_per_second"] = self.tokens / max(self.seconds, 1e-9)
        for name in found.keys() - {"score"}:
            self.board.add_scalar(f"{split}/{name}", found[name], self.step)
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line | {"seconds": round(self.seconds, 3)}) + "\n")

    def _checkpoint(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"{kind}/{k}": v for kind in ("average", "best") for k, v in getattr(self, kind).items()}
        tensors |= {f"model/{k}": v for k, v in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"optimizer/{name}/{k}": v for k, v in self.optimizer.state.get(parameter, {}).items()}
        folder = self.out / "checkpoints" / f"step_{self.step:08d}"
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        save_weights(tensors, temporary / "state.safetensors")
        counters = {k: getattr(self, k) for k in ("step", "tokens", "waited", "seconds", "best_score")}
        write_json(temporary / "state.json", {**counters, "identity": self._identity()})
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        for old in sorted(folder.parent.glob("step_*"))[:-KEPT]:
            shutil.rmtree(old)

    def _resume(self) -> None:
        found = sorted((self.out / "checkpoints").glob("step_*"))
        if not found:
            raise InputError(self.out, "checkpoints", "a checkpoint to resume from", "none")
        counters = read_json(found[-1] / "state.json")
        if counters.pop("identity", None) != self._identity():
            raise InputError(
                found[-1], "architecture, data and seed", "the checkpoint's own", "others; start a new run"
            )
        for name, value in counters.items():
            setattr(self, name, -math.inf if value is None else value)  # JSON has no infinity: no score yet
        tensors = load_file(found[-1] / "state.safetensors")
        own = {k: v.shape for k, v in self.model.state_dict().items()}
        if {k: v.shape for k, v in _part(tensors, "model/").items()} != own:
            raise InputError(found[-1], "architecture", "the checkpoint's own", "another; start a new run")
        self.model.load_state_dict(_part(tensors, "model/"))
        device = self.accelerator.device
        averages = ({k: v.to(device) for k, v in _part(tensors, kind).items()} for kind in ("average/", "best/"))
        self.average, self.best = averages
        for name, parameter in self.model.named_parameters():
            if state := _part(tensors, f"optimizer/{name}/"):
                self.optimizer.state[parameter] = {k: v if k == "step" else v.to(device) for k, v in state.items()}
        if not self.accelerator.is_main_process:
            return
        log = self.out / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("".join(x + "\n" for x in lines if _step_of(x) <= self.step))

    def _identity(self) -> str:
        """What a resumed run must share with its checkpoint: architecture, vocabulary, bins, data, batch and seed."""
        found = {k: v for k, v in self.model.spec.to_json().items() if k != "versions"}

        return hashlib.sha256(json.dumps([found, self.seed, self.config.batch_size]).encode()).hexdigest()

    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step + 1 if self.step else None)

    def _display(self) -> Any:
        return _bar(self.out.name, self.config.steps) if self.progress else nullcontext(lambda trainer: None)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # a line cut short by a kill
        return math.inf


def _groups(model: NDT, config: TrainConfig) -> list[dict[str, Any]]:
    """Decay shrinks matrices that mix dimensions; rows of tables, biases and gains are left alone."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        table = name in TABLES or name.endswith(("count.weight", "time.weight", "slot.weight"))
        (rest if parameter.ndim < 2 or table else matrices).append(parameter)

    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _schedule(step: int, config: TrainConfig) -> float:
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    done = min(1.0, step / max(config.steps, 1))

    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class _bar:
    """A progress bar with tokens a second and the best score so far."""

    def __init__(self, name: str, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self.bar = Progress(TextColumn("{task.description}"), *columns)
        self.task = self.bar.add_task(name, total=steps, note="")

    def __enter__(self) -> Any:
        self.bar.start()

        return self.show

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, trainer: Trainer) -> None:
        note = f"{trainer.tokens / max(trainer.seconds, 1e-9):,.0f} tokens/s"
        best = f"  best {trainer.best_score:.4f}" if trainer.best_score > -math.inf else ""
        self.bar.update(self.task, completed=trainer.step, note=note + best)
