"""The training loop that pretraining and fine-tuning share; they differ in their `Objective`.

Data and masks are functions of (seed, step, row of the global batch). Each process takes its slice of the global batch,
in one or more micro-batches. A loss is a sum over valid targets divided by their number in the global batch, which is
computed before the first backward pass. Hence the steps do not depend on the number of processes and micro-batches
(except for dropout, which each process draws for itself), and a resumed run equals an uninterrupted one.
"""

import copy
import hashlib
import json
import math
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor

from ndt.config import TrainConfig
from ndt.errors import InputError
from ndt.model.attention import using_backend
from ndt.model.tokens import Batch
from ndt.model.transformer import NDT, TABLES
from ndt.train.guard import FACTOR, DivergenceGuard
from ndt.train.logger import RunLogger
from ndt.train.memory import keep_freed_memory
from ndt.train.parallel import exchanging, local, recompute_blocks, release_blocks, shard, whole
from ndt.train.resume import Checkpoints, drop_later, part

__all__ = ["Objective", "Trainer", "fast_bf16"]

CLIP = 1.0  # largest norm of the gradient
ROWS = (*TABLES, "context_kind", "count.weight", "time.weight", "slot.weight")  # looked up by index
OUTPUTS = (
    *("log.jsonl", "metrics.json", "model.json", "model.safetensors", "predictions.npz", "report.html"),
    *("ensemble.json", "ensemble.safetensors"),
)
OUTPUT_FOLDERS = ("checkpoints", "tensorboard")


class Objective(Protocol):
    """Training data, loss and validation of a run."""

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these rows of the global batch of a step, as a function of step and rows alone."""
        ...

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of targets of each term of the loss, from the batch alone."""
        ...

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the sum over targets and the weight of each term of the loss, the terms of `targets`."""
        ...

    def rate(self, name: str, step: int) -> float:
        """Returns the factor of a parameter's learning rate: constant, or 0 at steps that freeze the parameter."""
        ...

    def validate(self, model: NDT) -> dict[str, float]:
        """Returns metrics on the validation split; ``score`` (higher is better) selects the weights, else the last."""
        ...


class Trainer:
    """Trains a model: AdamW, warm-up and cosine, clipping, averaged weights, validation, checkpoints, exact resumption.

    Arguments:
        model: The model; after `run` it has the weights with the best validation score, else the last.
        objective: Training data, loss and validation.
        config: Settings of the loop.
        out: Run directory, which gets log.jsonl, tensorboard/ and checkpoints/.
        seed: Seed of dropout.
        resume: Whether to continue from the last checkpoint in `out`.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if there is no checkpoint to resume from, or a process would have no window.
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
        keep_freed_memory()
        for name, parameter in model.named_parameters():  # parameters that stay frozen need no gradient
            parameter.requires_grad_(objective.rate(name, config.steps) > 0)
        self.accelerator = _accelerator(model, objective, config)
        parts = self.accelerator.num_processes * config.micro_batches
        if config.batch_size < parts:
            raise InputError("settings", "train.batch_size", f"a window for each of {parts} parts", config.batch_size)
        self.objective, self.config, self.out, self.seed = objective, config, out, seed
        self.step = self.tokens = self.waited = 0
        self.seconds, self.best_score = 0.0, -math.inf
        self.guard, self.checkpoints = DivergenceGuard(), Checkpoints(out, self.accelerator, config.sharding)
        out.mkdir(parents=True, exist_ok=True)

        self.model = model
        self._distribute()
        # On CPUs one call for all weights. None leaves the choice to torch, False would not.
        fused = True if self.accelerator.device.type == "cpu" and not self.checkpoints.sharded else None
        self.optimizer = torch.optim.AdamW(self._groups(), lr=config.learning_rate, betas=(0.9, 0.98), fused=fused)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        if resume:
            self._resume()
        elif self.accelerator.is_main_process:
            for name in OUTPUT_FOLDERS:
                shutil.rmtree(out / name, ignore_errors=True)
            for name in OUTPUTS:
                (out / name).unlink(missing_ok=True)
        quiet = not self.accelerator.is_main_process
        self.logger = RunLogger(out, self.step, steps=config.steps, bar=progress, quiet=quiet)

    def _distribute(self) -> None:
        """Makes `network`, which holds the weights in training, and `wrapped`, whose calls exchange gradients.

        A sharded network is a copy: `model` stays whole, for validation and the result.
        """
        if sharded := self.checkpoints.sharded:
            self.network = copy.deepcopy(self.model.to("cpu"))  # moved to its device shard by shard
        else:
            self.network = self.model.to(self.accelerator.device)
        if self.config.checkpoint_activations:
            recompute_blocks(self.network)
        if sharded:
            shard(self.network)
        self.wrapped: torch.nn.Module = self.network if sharded else self.accelerator.prepare(self.network)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups with equal rate and decay; only matrices that mix dimensions decay."""
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in _learning(self.network):
            decay = 0.0 if name.endswith(ROWS) or parameter.ndim < 2 else self.config.weight_decay
            groups.setdefault((self.objective.rate(name, self.config.steps), decay), []).append(parameter)

        return [{"params": p, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]

    def run(self) -> dict[str, float]:
        """Trains, loads the best weights into the model and returns counts of steps, tokens and seconds.

        Raises:
            InputError: if the loss is not finite, or diverges.
        """
        self.network.train()
        with using_backend(self.config.attention), self.logger:
            if self.step == 0:
                self._validate()  # so that a trained model is not worse on validation than the one that it started from
            while self.step < self.config.steps and not self._exhausted():
                begin, rate = time.perf_counter(), self._rate()
                terms = self._take_step()
                self.seconds += time.perf_counter() - begin
                if self.step % 10 == 0:
                    self.logger.write("train", self.step, self.seconds, terms, lr=rate, tokens_per_second=self._speed())
                if self.step % self.config.valid_every == 0 or self.step == self.config.steps:
                    self._validate()
                    self._checkpoint()
                self.logger.show(self.step, self._speed(), self.best_score)
        release_blocks(self.model)
        self.model.requires_grad_(True)
        self.model.to(self.accelerator.device).load_state_dict(whole(self.best))
        self.model.eval()

        return {
            "steps": self.step,
            "tokens_seen": self.tokens,
            "tokens_per_second": self._speed(),
            "train_seconds": self.seconds,
        }

    def _rate(self) -> float:
        return self.config.learning_rate * _schedule(self.step, self.config)

    def _exhausted(self) -> bool:
        return 0 < self.config.patience <= self.waited

    def _speed(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    def _take_step(self) -> dict[str, float]:
        step, device = self.step, self.accelerator.device
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed((self.seed * 1_000_003 + step) * ranks + rank)  # dropout has no generator argument
        batches = [self.objective.batch(step, rows).to(device) for rows in self._rows()]
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["rate"]

        numbers = [self.objective.targets(batch, step) for batch in batches]
        names = list(numbers[0])
        in_all = self._sum(sum(torch.stack([n[k] for k in names]) for n in numbers))
        divisors = dict(zip(names, in_all.clamp(min=1), strict=True))
        values = []
        for i, batch in enumerate(batches):
            with exchanging(self.wrapped, last=i == len(batches) - 1):
                values.append(self._backward(batch, divisors))
        total = self._sum(sum(torch.stack([v[k] for k in names]) for v in values))
        terms = {k: float(x / divisors[k]) for k, x in zip(names, total, strict=True)}
        for name, parameter in self.network.named_parameters():
            if not self.objective.rate(name, step):
                parameter.grad = None
        norm = whole({"": torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)})[""]
        self._check({k: terms[k] for k, n in zip(names, in_all, strict=True) if n}, norm, batches, numbers, values)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average()
        self.step += 1
        self.tokens += int(self._sum(torch.tensor(sum(len(b.time) for b in batches), device=device)))

        return terms

    def _rows(self) -> list[range]:
        """This process's rows of the global batch, one range for each micro-batch."""
        ranks, rank, parts = self.accelerator.num_processes, self.accelerator.process_index, self.config.micro_batches
        first, last = (r * self.config.batch_size // ranks for r in (rank, rank + 1))
        ends = [first + m * (last - first) // parts for m in range(parts + 1)]

        return [range(a, b) for a, b in pairwise(ends)]

    def _backward(self, batch: Batch, divisors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds a micro-batch's gradients and returns the sums over its targets."""
        total = torch.zeros((), device=self.accelerator.device)
        with self.accelerator.autocast():
            losses = self.objective.losses(self.wrapped, batch, self.step)
        for name, (value, weight) in losses.items():
            total = total + weight * value * self.accelerator.num_processes / divisors[name]  # ranks are averaged
        total.backward()

        return {name: value.detach() for name, (value, _) in losses.items()}

    def _check(
        self,
        terms: dict[str, float],
        norm: Tensor,
        batches: list[Batch],
        numbers: list[dict[str, Tensor]],
        values: list[dict[str, Tensor]],
    ) -> None:
        """Stops all processes before a step with a diverging loss or gradient, naming the sessions at fault."""
        found = self.guard.violations(terms)
        if not found and math.isfinite(float(norm)):
            return self.guard.update(terms)
        suspects, present = set(), set()
        for batch, number, value in zip(batches, numbers, values, strict=True):
            mean = {k: float(value[k] / number[k]) for k in number if number[k]}
            present |= set(batch.sessions)
            if self.guard.violations(mean):
                suspects |= set(batch.sessions)
        ranks = gather_object([(suspects, present)])
        sessions = set().union(*(r[0] for r in ranks)) or set().union(*(r[1] for r in ranks))
        self._stop("loss", ", ".join(found.values()) or f"a gradient of norm {float(norm)}", sessions)

    def _stop(self, what: str, found: str, sessions: set[str]) -> NoReturn:
        last = self.checkpoints.last()
        saved = f"last good checkpoint: {last.relative_to(self.out) if last else 'none yet'}"
        batch = f"; sessions in the batch: {', '.join(sorted(sessions))}" if sessions else ""
        expected = f"a finite number, at most {FACTOR} times its average; lower train.learning_rate"
        raise InputError(self.out, f"{what} at step {self.step}", expected, f"{found}{batch}; {saved}")

    def _sum(self, x: Any) -> Tensor:
        """Returns the sum over processes, without a gradient."""
        total: Any = self.accelerator.reduce(x.detach().clone(), "sum")

        return total

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # short at first, to forget the start
        state = self.network.state_dict()
        average, weights = [local(self.average[k]) for k in state], [local(v) for v in state.values()]
        # One call for all tensors has no public name; it takes half the time of one call each.
        torch._foreach_lerp_(average, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def _validate(self) -> None:
        state = self.network.state_dict()
        finite = torch.stack([local(v).isfinite().all() for v in state.values()]).all()
        if self._sum(1 - finite.long()):
            self._stop("weights", "others", set())
        kept = None if self.network is not self.model else {k: v.clone() for k, v in state.items()}
        self.model.to(self.accelerator.device).load_state_dict(whole(self.average))
        with self.accelerator.autocast():  # some kernels need half precision
            found = self.objective.validate(self.model)
        found = gather_object([found])[0]  # of one rank, since GPUs may differ in the last bits
        if kept is not None:
            self.model.load_state_dict(kept)
        else:
            self.model.to("cpu")
        self.network.train()
        self.logger.write("valid", self.step, self.seconds, {k: v for k, v in found.items() if k != "score"})
        score = found.get("score", -math.inf)
        if not found or score > self.best_score:  # the last weights are kept without a validation split
            self.best_score, self.waited = score, 0
            self.best = {k: v.clone() for k, v in self.average.items()}
        else:
            self.waited += 1

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{kind}/{k}": v for kind in ("average", "best") for k, v in getattr(self, kind).items()}
        tensors |= {f"model/{k}": v for k, v in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors |= {f"optimizer/{name}/{k}": v for k, v in self.optimizer.state.get(parameter, {}).items()}

        return tensors

    def _checkpoint(self) -> None:
        counters = {k: getattr(self, k) for k in ("step", "tokens", "waited", "seconds", "best_score")}
        counters |= {"averages": self.guard.averages, "identity": self._identity()}
        self.checkpoints.write(self.step, self._tensors(), counters)

    def _resume(self) -> None:
        like = self._tensors()
        for name, parameter in _learning(self.network) if self.config.sharding == "fsdp" else ():
            moments = {k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")}
            like |= {f"optimizer/{name}/{k}": v for k, v in ({"step": torch.zeros(())} | moments).items()}
        tensors, counters = self.checkpoints.read(self._identity(), like)
        self.guard.averages = counters.pop("averages", {})
        for name, value in counters.items():
            setattr(self, name, -math.inf if value is None else value)  # JSON has no infinity: no score yet
        self.network.load_state_dict(part(tensors, "model/"))
        device = self.accelerator.device
        averages = ({k: v.to(device) for k, v in part(tensors, kind).items()} for kind in ("average/", "best/"))
        self.average, self.best = averages
        for name, parameter in self.network.named_parameters():
            if state := part(tensors, f"optimizer/{name}/"):
                self.optimizer.state[parameter] = {k: v if k == "step" else v.to(device) for k, v in state.items()}
        if self.accelerator.is_main_process:
            drop_later(self.out / "log.jsonl", self.step)

    def _identity(self) -> str:
        """Hash of what must match on resumption: architecture, vocabulary, bins, data, batch size and seed."""
        found = {k: v for k, v in self.model.spec.to_json().items() if k != "versions"}

        return hashlib.sha256(json.dumps([found, self.seed, self.config.batch_size]).encode()).hexdigest()


def _accelerator(model: NDT, objective: Objective, config: TrainConfig) -> Accelerator:
    """Device, processes and precision. bf16 has the range of fp32, so that accelerate makes no loss scaler."""
    cuda = torch.cuda.is_available()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16())
    frozen = any(not objective.rate(name, 0) for name, _ in _learning(model))

    return Accelerator(
        cpu=not cuda,
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=frozen)],
    )


def fast_bf16() -> bool:
    """Whether matrix products in bf16 are faster than in fp32: on GPUs, and on CPUs with tiles (AMX)."""
    return torch.cuda.is_available() or bool(torch.cpu._is_amx_tile_supported())  # no public name


def _learning(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _schedule(step: int, config: TrainConfig) -> float:
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    done = min(1.0, step / max(config.steps, 1))

    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
