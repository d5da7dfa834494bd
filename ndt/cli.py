"""The command line. A verb's parser is built, and what it runs is imported, only when that verb is called."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ndt.config import BenchConfig, FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig
from ndt.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["VERBS", "Verb", "main"]

C = TypeVar("C")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Arguments:
        summary: One line for the overview.
        usage: What follows the verb in its usage line.
        arguments: Adds the verb's own arguments to a parser.
        run: Does the work and returns a result that JSON can hold.
        show: Name of the function of `ndt.tables` that prints the result for people.
        config: Settings that ``--config`` and dotted options fill; None where there are none.
    """

    summary: str
    usage: str
    arguments: "Callable[[ArgumentParser], None]"
    run: "Callable[[Namespace], dict[str, Any]]"
    show: str
    config: type | None = None


def _simulate_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--out", type=str, required=True, help="folder for the NWB files")


def _simulate(args: "Namespace") -> dict[str, Any]:
    from ndt.data.synthetic import simulate

    made = simulate(Path(args.out), _config(SimulateConfig, args))

    return {
        "recordings": [{"session_id": s.session_id, "path": str(s.path), "units": s.rates_hz.shape[1]} for s in made]
    }


def _inspect_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("files", nargs="+", help="NWB files; globs are expanded")


def _inspect(args: "Namespace") -> dict[str, Any]:
    from ndt.data.inspect import inspect

    return {"files": inspect(args.files)}


def _ingest_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("files", nargs="+", help="NWB files; globs are expanded")
    parser.add_argument("--out", type=str, required=True, help="folder of the store; made where there is none")


def _ingest(args: "Namespace") -> dict[str, Any]:
    from ndt.data.ingest import ingest

    store = ingest(args.files, Path(args.out), _config(IngestConfig, args), progress=not args.quiet)

    return {"store": str(store.root), "sessions": store.manifest["sessions"]}


def _pretrain_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("store", type=str, help="store that `ndt ingest` wrote")
    parser.add_argument("--out", type=str, required=True, help="run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")


def _pretrain(args: "Namespace") -> dict[str, Any]:
    from ndt.pretrain.train import pretrain

    out = Path(args.out)
    pretrain(Path(args.store), out, _config(PretrainConfig, args), resume=args.resume, progress=not args.quiet)

    return {"run": str(out), **json.loads((out / "metrics.json").read_text())}


def _finetune_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("base", type=str, help="run directory of `ndt pretrain`, or the word scratch")
    parser.add_argument("--session", type=str, required=True, help="session of the store")
    parser.add_argument("--covariate", type=str, default=None, help="what to decode; by default a velocity or heading")
    parser.add_argument("--out", type=str, required=True, help="run directory")
    parser.add_argument("--store", type=str, default=None, help="store; by default the one that BASE was trained on")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")


def _finetune(args: "Namespace") -> dict[str, Any]:
    from ndt.finetune.adapt import finetune

    scratch, out = args.base == "scratch", Path(args.out)
    if scratch and args.store is None:
        raise InputError("ndt finetune", "--store", "a store, since scratch has none of its own", "nothing")
    finetune(
        None if scratch else args.base, args.session, args.covariate,
        out=out, config=_config(FinetuneConfig, args), store=args.store, resume=args.resume, progress=not args.quiet,
    )  # fmt: skip

    return {"run": str(out), **json.loads((out / "metrics.json").read_text())}


def _embed_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("base", type=str, help="run directory of `ndt pretrain` or `ndt finetune`")
    parser.add_argument("--session", type=str, required=True, help="session of the store")
    parser.add_argument("--out", type=str, required=True, help="file to write, .npz or .nwb")
    parser.add_argument("--store", type=str, default=None, help="store; by default the one that BASE was trained on")
    parser.add_argument("--nwb", type=str, default=None, help="recording to copy for .nwb; by default the ingested one")


def _embed(args: "Namespace") -> dict[str, Any]:
    from ndt.api import embed

    out = Path(args.out)
    if out.suffix not in (".npz", ".nwb"):
        raise InputError("ndt embed", "--out", "a file that ends in .npz or .nwb", out)
    latents = embed(args.base, args.session, store=args.store)
    if out.suffix == ".nwb":
        latents.to_nwb(out, source=args.nwb and Path(args.nwb))
    else:
        latents.to_npz(out)
    T, D = latents.latents.shape

    return {"path": str(out), "session": args.session, "num_bins": T, "num_dims": D}


def _report_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("run", type=str, help="run directory of `ndt demo`, `ndt pretrain` or `ndt finetune`")
    parser.add_argument("--store", type=str, default=None, help="store, for rasters; by default RUN/store")


def _report(args: "Namespace") -> dict[str, Any]:
    from ndt.report import write_report

    return {"report": str(write_report(Path(args.run), args.store and Path(args.store)))}


def _demo_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--data", nargs="*", default=[], help="NWB files or globs; by default recordings are simulated")
    parser.add_argument("--covariate", type=str, default=None, help="what to decode; by default a velocity or heading")
    parser.add_argument("--out", type=str, default="runs/demo", help="run directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")


def _demo(args: "Namespace") -> dict[str, Any]:
    from ndt.demo import demo

    return demo(args.data, Path(args.out), seed=args.seed, progress=not args.quiet, covariate=args.covariate)


def _bench_arguments(parser: "ArgumentParser") -> None:
    from ndt.bench import BENCHMARKS

    parser.add_argument("name", type=str, help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--list", action="store_true", help="attention: say which kernel is used for what, and why")


def _bench(args: "Namespace") -> dict[str, Any]:
    from ndt.bench import backends, bench

    if args.list:
        return backends(args.name)

    return bench(args.name, _config(BenchConfig, args))


VERBS = {
    "simulate": Verb(
        summary="write NWB recordings of a simulated population whose truth is known",
        usage="--out DIR [options]",
        arguments=_simulate_arguments, run=_simulate, show="recordings", config=SimulateConfig,
    ),
    "inspect": Verb(
        summary="say what NWB files hold, what would be kept, and why not the rest",
        usage="FILE... [options]",
        arguments=_inspect_arguments, run=_inspect, show="files",
    ),
    "ingest": Verb(
        summary="turn NWB files into a store",
        usage="FILE... --out STORE [options]",
        arguments=_ingest_arguments, run=_ingest, show="store", config=IngestConfig,
    ),
    "pretrain": Verb(
        summary="train a model on the spikes of all sessions of a store",
        usage="STORE --out RUN [options]",
        arguments=_pretrain_arguments, run=_pretrain, show="pretraining", config=PretrainConfig,
    ),
    "finetune": Verb(
        summary="fit a decoder for one session and one covariate",
        usage="BASE --session ID --covariate NAME --out RUN [options]",
        arguments=_finetune_arguments, run=_finetune, show="finetuning", config=FinetuneConfig,
    ),
    "embed": Verb(
        summary="write a session's latents as NPZ, or into a copy of its NWB file",
        usage="BASE --session ID --out FILE [options]",
        arguments=_embed_arguments, run=_embed, show="embedding",
    ),
    "report": Verb(
        summary="write a run as one self-contained HTML page",
        usage="RUN [options]",
        arguments=_report_arguments, run=_report, show="report",
    ),
    "demo": Verb(
        summary="all of it: recordings to decoder, scores and report",
        usage="[--data FILE...] [options]",
        arguments=_demo_arguments, run=_demo, show="demo",
    ),
    "bench": Verb(
        summary="measure beside a peer, in the same run",
        usage="NAME [options]",
        arguments=_bench_arguments, run=_bench, show="bench", config=BenchConfig,
    ),
}  # fmt: skip


def _overview() -> str:
    """Returns what ``ndt --help`` prints."""
    verbs = "\n".join(f"  {name:<10}{verb.summary}" for name, verb in VERBS.items())

    return (
        f"usage: ndt VERB [options]\n\nDecoders, embeddings and dynamics from NWB recordings.\n\n{verbs}\n\n"
        "`ndt VERB --help` lists the options of one. All take --config FILE.yaml where they have settings, dotted\n"
        "overrides such as --model.width 256 or model.width=256, --json for one JSON object, and --quiet."
    )


def _described(cls: type) -> dict[str, str]:
    """Returns what the class's docstring says of each field, for ``--help``."""
    section = (cls.__doc__ or "").partition("Arguments:")[2].partition("\n\n")[0]
    entries = re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)", section, re.MULTILINE)

    return {name: " ".join(text.replace("`", "").replace("%", "%%").split()) for name, text in entries}


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted name and the description of every setting."""
    hints, described = get_type_hints(cls), _described(cls)
    for f in dataclasses.fields(cls):
        yield prefix + f.name, described.get(f.name, "")
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _fields(hints[f.name], f"{prefix}{f.name}.")


def _config(cls: type[C], values: "Namespace") -> C:
    """Returns the settings that were parsed; other arguments of the verb are left aside."""
    hints, kwargs = get_type_hints(cls), {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        nested = dataclasses.is_dataclass(hints[f.name])
        kwargs[f.name] = _config(hints[f.name], values[f.name]) if nested else values[f.name]

    try:
        return cls(**kwargs)
    except InputError:
        raise
    except ValueError as error:
        raise InputError("settings", cls.__name__, "values that fit together", error) from error


def _parser(name: str) -> "ArgumentParser":
    """Returns the parser of one verb."""
    from jsonargparse import ArgumentParser

    verb = VERBS[name]
    parser = ArgumentParser(
        prog=f"ndt {name}", usage=f"ndt {name} {verb.usage}", description=verb.summary, exit_on_error=False
    )
    verb.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    if verb.config is not None:
        parser.add_argument("--config", action="config", help="YAML file with settings; options override it")
        parser.add_class_arguments(verb.config)
        for dotted, text in _fields(verb.config):
            parser._option_string_actions[f"--{dotted}"].help = text or None
        for title, group in (parser.groups or {}).items():
            group.title = f"settings: {title}"

    return parser


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_file(path: str, known: Sequence[str]) -> None:
    """Refuses a settings file that is not there, is not YAML, or names an unknown setting."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(path, "--config", "a file that can be read", error.strerror) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, "--config", "YAML", error) from error
    if not isinstance(values or {}, Mapping):
        raise InputError(path, "--config", "settings and their values", type(values).__name__)
    for key in _flatten(values or {}):
        if key not in known:
            raise InputError(path, key, f"one of {', '.join(known)}", "an unknown setting")


def _normalise(name: str, argv: Sequence[str], parser: "ArgumentParser") -> list[str]:
    """Returns the arguments with ``a.b=1`` written as ``--a.b=1``; refuses unknown options and lists the valid ones."""
    config = VERBS[name].config
    known = [dotted for dotted, _ in _fields(config)] if config else []
    tops = {dotted.split(".")[0] for dotted in known}
    out = []
    for token in argv:
        key = re.match(r"([A-Za-z_]\w*)((?:\.\w+)*)=", token)
        dotted = key is not None and (key[1] in tops or bool(known and key[2])) and not Path(token).exists()
        out.append(f"--{token}" if dotted else token)
    for i, token in enumerate(out):
        option, _, value = token.partition("=")
        if option.startswith("--") and option != "--" and option not in parser._option_string_actions:
            listed = sorted(o for o in parser._option_string_actions if o.startswith("--"))
            raise InputError(f"ndt {name}", option, f"one of {', '.join(listed)}", "an unknown option")
        if option == "--config" and config:
            _check_file(value or "".join(out[i + 1 : i + 2]), known)

    return out


def _parse(name: str, argv: Sequence[str]) -> "Namespace":
    """Returns the parsed arguments of a verb; whatever is wrong with them is an `InputError`."""
    from argparse import ArgumentError

    parser = _parser(name)
    arguments = _normalise(name, argv, parser)
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        told = " ".join(str(error.message).split())
        wrong = re.match(r"Parser key \"(?P<key>[^\"]+)\": (?P<expected>.*?)\. Got value: (?P<found>.*)", told)
        if wrong is None:
            raise InputError(f"ndt {name}", "arguments", f"`ndt {name} {VERBS[name].usage}`", told) from error
        expected = re.sub(r"^Expected an? |<class '|'>", "", wrong["expected"])
        raise InputError(f"ndt {name}", f"--{wrong['key']}", expected, wrong["found"]) from error


def _call(name: str, argv: Sequence[str]) -> None:
    """Parses, runs, and prints the result."""
    args = _parse(name, argv)
    with redirect_stdout(sys.stderr):  # whatever a library prints, standard output holds the result and nothing else
        result = VERBS[name].run(args)

    if args.json:
        print(json.dumps(result, default=str))
    else:
        from ndt import tables

        getattr(tables, f"show_{VERBS[name].show}")(result)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``ndt`` and returns its exit code: 0, 2 where the input was wrong, 130 where the user stopped it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0

    try:
        if argv[0] not in VERBS:
            raise InputError("ndt", "verb", f"one of {', '.join(VERBS)}", argv[0])
        _call(argv[0], argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (FileExistsError, NotADirectoryError) as error:
        print(InputError(error.filename, "path", "a place under folders", "a file in the way"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `ndt inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return 0


if __name__ == "__main__":
    sys.exit(main())
