"""Parses the command line: builds options from settings, and reports errors in one line."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ndt.errors import InputError
from ndt.parsing import read_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["Verb", "configured", "fields_of", "flattened", "parse"]

C = TypeVar("C")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Arguments:
        summary: One line for the overview.
        usage: Arguments in the usage line.
        options: Arguments by name, with keywords of argparse; text unless a type or an action is given.
        run: Returns the result, serialisable as JSON; ``show_VERB`` of `ndt.reports.console` prints it.
        config: Settings, filled by ``--config`` and dotted options; None for none.
        prepare: Sets defaults of the parser from the command line, before it is parsed.
    """

    summary: str
    usage: str
    options: Mapping[str, dict[str, Any]]
    run: "Callable[[Namespace], dict[str, Any]]"
    config: type | None = None
    prepare: "Callable[[ArgumentParser, Sequence[str]], None] | None" = None


def _described(cls: type) -> dict[str, str]:
    """Returns the description of each field in the class's docstring, for ``--help``."""
    section = (cls.__doc__ or "").partition("Arguments:")[2].partition("\n\n")[0]
    entries = re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)", section, re.MULTILINE)

    return {name: " ".join(text.replace("`", "").replace("%", "%%").split()) for name, text in entries}


def fields_of(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted name and the description of every setting."""
    hints, described = get_type_hints(cls), _described(cls)
    for f in dataclasses.fields(cls):
        yield prefix + f.name, described.get(f.name, "")
        if dataclasses.is_dataclass(hints[f.name]):
            yield from fields_of(hints[f.name], f"{prefix}{f.name}.")


def configured(cls: type[C], values: "Namespace") -> C:
    """Returns the parsed settings, without the verb's other arguments."""
    hints, kwargs = get_type_hints(cls), {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        nested = dataclasses.is_dataclass(hints[f.name])
        kwargs[f.name] = configured(hints[f.name], values[f.name]) if nested else values[f.name]

    try:
        return cls(**kwargs)
    except InputError:
        raise
    except ValueError as error:
        raise InputError("settings", cls.__name__, "values that fit together", error) from error


def _parser(name: str, verb: Verb) -> "ArgumentParser":
    """Returns the parser of one verb."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"ndt {name}", usage=f"ndt {name} {verb.usage}", description=verb.summary, exit_on_error=False
    )
    for option, given in verb.options.items():
        keywords: dict[str, Any] = given if "action" in given else {"type": str} | given
        parser.add_argument(option, **keywords)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    if verb.config is not None:
        parser.add_argument("--config", action="config", help="YAML file with settings; options override it")
        parser.add_class_arguments(verb.config)
        for dotted, text in fields_of(verb.config):
            parser._option_string_actions[f"--{dotted}"].help = text or None
        for title, group in (parser.groups or {}).items():
            group.title = f"settings: {title}"

    return parser


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields nested settings by their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_file(path: str, known: Sequence[str]) -> None:
    """Refuses a settings file that is missing, is not YAML, or has an unknown setting."""
    values = read_yaml(path, "--config", "a YAML file of settings")
    if not isinstance(values or {}, Mapping):
        raise InputError(path, "--config", "settings and their values", type(values).__name__)
    for key, value in flattened(values or {}):
        if key not in known:
            raise InputError(path, key, f"one of {', '.join(known)}", "an unknown setting")
        if any(name.startswith(f"{key}.") for name in known):  # a group; a text would be taken for another file
            raise InputError(path, key, "settings and their values", repr(value))


def _normalise(name: str, verb: Verb, argv: Sequence[str], parser: "ArgumentParser") -> list[str]:
    """Returns the arguments with ``a.b=1`` written as ``--a.b=1``; refuses unknown options and lists the valid ones."""
    config = verb.config
    known = [dotted for dotted, _ in fields_of(config)] if config else []
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


def parse(name: str, verb: Verb, argv: Sequence[str]) -> "Namespace":
    """Returns the parsed arguments of a verb; any error is an `InputError`."""
    from argparse import ArgumentError

    parser = _parser(name, verb)
    arguments = _normalise(name, verb, argv, parser)
    if verb.prepare is not None:
        verb.prepare(parser, arguments)
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        message = " ".join(str(error.message).split())
        wrong = re.match(r"Parser key \"(?P<key>[^\"]+)\": (?P<expected>.*?)\. Got value: (?P<found>.*)", message)
        if wrong is None:
            raise InputError(f"ndt {name}", "arguments", f"`ndt {name} {verb.usage}`", message) from error
        expected = re.sub(r"^Expected an? |<class '|'>", "", wrong["expected"])
        raise InputError(f"ndt {name}", f"--{wrong['key']}", expected, wrong["found"]) from error
