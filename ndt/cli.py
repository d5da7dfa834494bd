"""The command line. Each verb builds its parser, and imports what it runs, only when it is called."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndt.arguments import Verb, configured, flattened, parse
from ndt.bench import BENCHMARKS
from ndt.config import BenchConfig, FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig
from ndt.config.dynamics import DynamicsConfig
from ndt.errors import InputError
from ndt.text import escaped, escaped_within, warnings_in_a_line

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["VERBS", "main"]


def _simulate(args: "Namespace") -> dict[str, Any]:
    from ndt.data.simulate.recordings import simulate

    made = simulate(Path(args.out), configured(SimulateConfig, args))

    return {
        "recordings": [{"session_id": s.session_id, "path": str(s.path), "units": s.rates_hz.shape[1]} for s in made]
    }


def _recipe_defaults(parser: "ArgumentParser", argv: Sequence[str]) -> None:
    """Takes the defaults from a recipe; a settings file and options override them."""
    given = [b or a.partition("=")[2] for a, b in zip(argv, [*argv[1:], ""], strict=True) if a == "--recipe"]
    given += [a.partition("=")[2] for a in argv if a.startswith("--recipe=")]
    if given:
        from ndt.data.recipes import load_recipe

        parser.set_defaults(dict(flattened(asdict(load_recipe(given[-1]).ingest))))


def _files(args: "Namespace", verb: str) -> list[str]:
    """Returns the files of the command line, or the addresses of the recipe."""
    if args.files:
        return list(args.files)
    if args.recipe is None:
        raise InputError(f"ndt {verb}", "files", "at least one file", "none")
    from ndt.data.recipes import load_recipe

    recipe = load_recipe(args.recipe)
    if not recipe.addresses:
        raise InputError(f"ndt {verb}", "files", f"files downloaded from {recipe.source}", "none")

    return list(recipe.addresses)


def _recipes() -> dict[str, Any]:
    from ndt.data.recipes import recipes_table

    return {"recipes": recipes_table()}


def _inspect(args: "Namespace") -> dict[str, Any]:
    if args.recipes:
        return _recipes()
    files = _files(args, "inspect")
    if len(files) == 1 and (Path(files[0]) / "manifest.json").is_file():
        from ndt.data.leaks import report_leaks
        from ndt.data.store import Store

        return {"store": files[0], "overlaps": report_leaks(Store(files[0]))}
    from ndt.data.inspect import inspect

    config = configured(IngestConfig, args)
    entries = inspect(files, config, args.out, nwb_check=args.nwb_check, progress=not args.quiet and len(files) > 1)
    failed = [str(entry["error"]) for entry in entries if "error" in entry]

    return {"files": entries, "page": args.out and str(Path(args.out) / "index.html"), "failed": failed}


def _ingest(args: "Namespace") -> dict[str, Any]:
    if args.recipes:
        return _recipes()
    files = _files(args, "ingest")
    if args.out is None:
        raise InputError("ndt ingest", "--out", "a folder for the store", "nothing")
    from ndt.data.ingest import ingest

    store = ingest(files, Path(args.out), configured(IngestConfig, args), progress=not args.quiet)

    return {"store": str(store.root), "sessions": store.manifest["sessions"]}


def _pretrain(args: "Namespace") -> dict[str, Any]:
    from ndt.pretrain.train import pretrain

    out = Path(args.out)
    options = {"init": args.init, "resume": args.resume, "progress": not args.quiet}
    pretrain(Path(args.store), out, configured(PretrainConfig, args), **options)

    return {"run": str(out), **json.loads((out / "metrics.json").read_text())}


def _finetune(args: "Namespace") -> dict[str, Any]:
    from ndt.api import report
    from ndt.finetune.adapt import finetune
    from ndt.finetune.curve import SECONDS, label_curve

    if args.base == "scratch" and args.store is None:
        raise InputError("ndt finetune", "--store", "a store, because a model from scratch has none", "nothing")
    out, request = Path(args.out), (None if args.base == "scratch" else args.base, args.session, args.target)
    options = dict[str, Any](
        out=out, store=args.store, config=configured(FinetuneConfig, args), progress=not args.quiet
    )
    if args.curve is None:
        finetune(*request, resume=args.resume, **options)
        return {"run": args.out, **json.loads((out / "metrics.json").read_text())}
    if args.resume:
        raise InputError("ndt finetune", "--resume", "a single run; --curve resumes by itself", "both")
    label_curve(*request, seconds=tuple(args.curve or SECONDS), seeds=args.seeds, workers=args.workers, **options)
    report(out)

    return {"run": args.out, "curve": json.loads((out / "curve.json").read_text())}


def _evaluate(args: "Namespace") -> dict[str, Any]:
    if args.nlb is None:
        from ndt.finetune.scoring import evaluate

        return evaluate(args.run, args.session, store=args.store, split=args.split, mask=args.mask, out=args.out)
    from ndt.finetune.nlb_evaluation import evaluate_nlb

    if args.session is None:
        raise InputError("ndt evaluate", "--session", "the session of the benchmark's training trials", "nothing")
    options = {"dataset": args.nlb, "store": args.store, "test_session": args.nlb_test, "out": args.out}

    return {"nlb": evaluate_nlb(args.run, args.session, **options), "path": args.out}


def _embed(args: "Namespace") -> dict[str, Any]:
    from ndt.api import embed
    from ndt.data.read.file_probe import probe

    out = Path(args.out)
    if out.suffix not in (".npz", ".nwb"):
        raise InputError("ndt embed", "--out", "a file that ends in .npz or .nwb", out)
    latents = embed(args.base, args.session, store=args.store)
    if out.suffix == ".nwb":
        source = Path(args.nwb or latents.source)
        if source.is_file():
            probe(source)  # in a process of its own, which a damaged file may end
        latents.to_nwb(out, source=source)
    else:
        latents.to_npz(out)
    T, D = latents.latents.shape

    return {"path": str(out), "session": args.session, "num_bins": T, "num_dims": D}


def _dynamics(args: "Namespace") -> dict[str, Any]:
    from ndt.fit_dynamics import run_action

    given = {name: getattr(args, name) for name in ("out", "data", "times", "mu")}

    return run_action(args.action, args.source, configured(DynamicsConfig, args), **given, progress=not args.quiet)


def _report(args: "Namespace") -> dict[str, Any]:
    from ndt.api import report

    return {"report": str(report(args.run, args.store))}


def _demo(args: "Namespace") -> dict[str, Any]:
    from ndt.demo import demo

    return demo(args.data, Path(args.out), seed=args.seed, progress=not args.quiet, target=args.target)


def _bench(args: "Namespace") -> dict[str, Any]:
    from ndt.bench import backends, bench

    if args.list:
        return backends(args.name)

    return bench(args.name, configured(BenchConfig, args))


STORE = {"help": "store of the session (default: the store that the model was trained on)"}
SESSION = {"help": "session id in the store", "required": True}
RESUME = {"help": "continue from the run's last checkpoint", "action": "store_true"}
RECORDINGS = {
    "files": {"help": "NWB, brainsets .h5, .mat or .npz files, globs, dandi:ID@VERSION/GLOB", "nargs": "*"},
    "--recipe": {"help": "settings of a public data set: a name that --recipes lists, or a YAML file"},
    "--recipes": {"help": "list the known recipes and exit", "action": "store_true"},
}
TARGET = (
    "target to decode: a time series such as hand_vel, a column of a table such as trials/target, or an expression "
    "over columns of a table such as 'side=sign(contrast_left-contrast_right)', where 0 or missing means no label; "
    "several are separated by commas; class:NAME, angle:NAME or continuous:NAME sets its kind (default: a velocity or "
    "heading)"
)

VERBS = {
    "simulate": Verb(
        run=_simulate,
        summary="simulate a population with known latents, and write it as NWB recordings",
        usage="--out DIR [options]",
        options={"--out": {"help": "folder for the NWB files", "required": True}},
        config=SimulateConfig,
    ),
    "inspect": Verb(
        run=_inspect,
        summary="list what recordings contain and what ingest would drop, or find overlapping sessions of a store",
        usage="FILE... [--out DIR] [options], or STORE",
        options={
            **RECORDINGS,
            "--out": {"help": "folder for one HTML page per file, an index and inspect.json"},
            "--nwb_check": {"help": "also run NWB Inspector, if it is installed", "type": bool, "default": True},
        },
        config=IngestConfig,
        prepare=_recipe_defaults,
    ),
    "ingest": Verb(
        run=_ingest,
        summary="convert recordings to a store, the format that training reads",
        usage="FILE... --out STORE [options]",
        options={**RECORDINGS, "--out": {"help": "folder of the store; created if missing"}},
        config=IngestConfig,
        prepare=_recipe_defaults,
    ),
    "pretrain": Verb(
        run=_pretrain,
        summary="pretrain a model on the sessions of a store, by masked modelling and on labels",
        usage="STORE --out RUN [--init BASE] [options]",
        options={
            "store": {"help": "store that `ndt ingest` wrote"},
            "--init": {
                "help": "run directory of a model to continue with, or hf:ORG/NAME on the Hub (default: a new model)"
            },
            "--out": {"help": "run directory", "required": True},
            "--resume": RESUME,
        },
        config=PretrainConfig,
    ),
    "finetune": Verb(
        run=_finetune,
        summary="train a decoder of one target for one session, from a pretrained model or from scratch",
        usage="BASE --session ID [--target NAME] --out RUN [--curve] [options]",
        options={
            "base": {"help": "run directory of `ndt pretrain`, or hf:ORG/NAME on the Hub; or scratch, for a new model"},
            "--session": SESSION,
            "--target": {"help": TARGET},
            "--out": {"help": "run directory", "required": True},
            "--store": STORE,
            "--resume": RESUME,
            "--curve": {
                "help": "instead, measure R² against these seconds of labelled data (default: 15 30 60 120 300)",
                "type": float,
                "nargs": "*",
            },
            "--seeds": {"help": "number of seeds of --curve", "type": int, "default": 3},
            "--workers": {"help": "number of parallel runs of --curve", "type": int, "default": 1},
        },
        config=FinetuneConfig,
    ),
    "evaluate": Verb(
        run=_evaluate,
        summary="score a decoder on any session, or a model on the Neural Latents Benchmark",
        usage="RUN [--session ID] [--mask TABLE] [--nlb DATASET --out FILE.h5] [options]",
        options={
            "run": {"help": "run directory of `ndt finetune`; with --nlb, of `ndt pretrain`"},
            "--session": {"help": "session id (default: the session that the decoder was trained on)"},
            "--store": STORE,
            "--split": {"help": "train, valid, test or all (default: test for RUN's own session, else all)"},
            "--mask": {"help": "table of intervals within which bins are scored (FALCON: eval_mask)", "default": ""},
            "--nlb": {"help": "data set of the Neural Latents Benchmark: mc_maze, mc_rtt, area2_bump, …"},
            "--nlb_test": {"help": "session id of the benchmark's test trials"},
            "--out": {"help": "JSON file for the scores; with --nlb, .h5 file for the submission"},
        },
    ),
    "embed": Verb(
        run=_embed,
        summary="write the latents of a session as NPZ, or into a copy of its NWB file",
        usage="BASE --session ID --out FILE [options]",
        options={
            "base": {"help": "run directory of `ndt pretrain` or `ndt finetune`, or hf:ORG/NAME on the Hub"},
            "--session": SESSION,
            "--out": {"help": "file to write, .npz or .nwb", "required": True},
            "--store": STORE,
            "--nwb": {"help": "for .nwb: recording to copy (default: the ingested file)"},
        },
    ),
    "dynamics": Verb(
        run=_dynamics,
        summary="fit, simulate and score models of population dynamics (HOAM, WLM) on snapshots",
        usage="fit SOURCE --out RUN, simulate RUN --data FILE --out FILE, or score RUN --data FILE [options]",
        options={
            "action": {"help": "one of: fit, simulate, score"},
            "source": {"help": "fit: .npz file of snapshots or embeddings, or a test system; else: run directory"},
            "--out": {"help": "fit: run directory; simulate: .npz file to write"},
            "--data": {"help": "simulate, score: .npz file of snapshots; simulation starts from the first"},
            "--times": {
                "help": "simulate: times to return (default: those of --data)",
                "type": float,
                "nargs": "+",
                "default": [],
            },
            "--mu": {"help": "simulate: parameter values (default: those of --data)", "type": float, "nargs": "+"},
        },
        config=DynamicsConfig,
    ),
    "report": Verb(
        run=_report,
        summary="write the report of a run, one self-contained HTML page",
        usage="RUN [options]",
        options={
            "run": {"help": "run directory of `ndt demo`, `ndt pretrain` or `ndt finetune`"},
            "--store": {"help": "store of the sessions, for rasters (default: RUN/store)"},
        },
    ),
    "demo": Verb(
        run=_demo,
        summary="run all steps on simulated or given recordings: ingest, pretrain, finetune, report",
        usage="[--data FILE...] [options]",
        options={
            "--data": {"help": "NWB files or globs (default: simulated recordings)", "nargs": "*", "default": []},
            "--target": {"help": "target to decode (default: a velocity or heading)"},
            "--out": {"help": "run directory", "default": "runs/demo"},
            "--seed": {"help": "seed of simulation, training and baselines", "type": int, "default": 0},
        },
    ),
    "bench": Verb(
        run=_bench,
        summary="run a benchmark against its reference method",
        usage="NAME [options]",
        options={
            "name": {"help": f"one of: {', '.join(BENCHMARKS)}"},
            "--list": {"help": "attention: list the kernels, and which is used for what", "action": "store_true"},
        },
        config=BenchConfig,
    ),
}


def _overview() -> str:
    """Returns what ``ndt --help`` prints."""
    verbs = "\n".join(f"  {name:<10}{verb.summary}" for name, verb in VERBS.items())

    return (
        f"usage: ndt VERB [options]\n\nDecoders, embeddings and dynamics from NWB recordings.\n\n{verbs}\n\n"
        "`ndt VERB --help` lists the options of a verb. Settings are given by --config FILE.yaml, or one by one, as\n"
        "--model.width 256 or model.width=256. --json prints the result as one JSON object; --quiet hides progress."
    )


def _call(name: str, argv: Sequence[str]) -> int:
    """Parses, runs, prints the result and what failed, and returns the exit code."""
    args = parse(name, VERBS[name], argv)
    with redirect_stdout(sys.stderr):  # standard output holds only the result, whatever libraries print
        result = VERBS[name].run(args)

    failed = result.get("failed") or []
    if args.json and len(failed) < len(result.get("files", [""])):
        print(json.dumps(result, default=str))
    elif not args.json:
        from ndt.reports import console as tables

        shown = {key: value if key == "run" else escaped_within(value) for key, value in result.items()}
        getattr(tables, f"show_{name}")(shown)
    for line in failed:
        print(escaped(line), file=sys.stderr)

    return 2 if failed else 0


@warnings_in_a_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``ndt`` and returns its exit code: 0, 2 if the input is wrong, 130 if the user stops it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0

    try:
        if argv[0] not in VERBS:
            raise InputError("ndt", "verb", f"one of {', '.join(VERBS)}", argv[0])
        return _call(argv[0], argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (FileExistsError, NotADirectoryError) as error:
        print(InputError(error.filename, "path", "a folder, or a path within folders", "a file"), file=sys.stderr)
        return 2
    except MemoryError as error:
        print(InputError(f"ndt {argv[0]}", "memory", "enough for these data", error or "less"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `ndt inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return 0
