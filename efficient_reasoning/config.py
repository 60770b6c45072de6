"""Arguments of recipes and data tools: one dataclass, one YAML file, one command line, one validator.

1. A program declares its own fields in a torch-free dataclass and names the trainer's (`"trl:GRPOConfig"`) without
   importing them, so `--help` answers at once; `--help-all` pays for the import and adds the trainer's fields. Where a
   program has several trainers, the value of one of its own fields chooses.
2. The command line is more YAML: `--key value` means what `key: value` means in the file, and wins over it.
3. `TrlParser` checks neither types, choices, null nor NaN of a YAML file. Here every value, from either source, first
   has to fit the annotation of its field; one that does not is named with its file and line. What fits is handed to
   `TrlParser`, which builds the trainer's dataclass and judges annotations other than plain types and containers.

    arguments, trainer_config = parse(Arguments, trainer="trl:GRPOConfig", doc=__doc__)
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import importlib
import inspect
import json
import math
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from efficient_reasoning.errors import BadInput, near

_PACKAGE = Path(__file__).resolve().parent
_MOST_VALUES, _MOST_LEVELS = 100_000, 50  # of a key


def folder(kind: str) -> Path:
    """The folder `recipes`, `configs` or `data_tools`: inside an installed package, beside it in the source tree."""
    installed = _PACKAGE / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def programs(kind: str) -> dict[str, Path]:
    """The runnable programs of the folder `recipes` or `data_tools`, by name."""
    return {path.stem: path for path in sorted(folder(kind).glob("[!_]*.py"))}


def recipe_path(name: str, kind: str = "recipes") -> Path:
    """The program `name` of the folder `recipes` (or `data_tools`).

    Raises:
        BadInput: there is none of that name; the near ones are listed.
    """
    known = programs(kind)
    if name not in known:
        raise BadInput(f"{name!r} is not among the {kind.replace('_', ' ')}{near(name, known)}")
    return known[name]


def _own_configs() -> str:
    """The pattern of the running program's shipped configs: `RECIPE/*.yaml`, of a data tool `data/TOOL_*.yaml`."""
    program = Path(sys.argv[0]).resolve()
    return f"data/{program.stem}_*.yaml" if program.parent.name == "data_tools" else f"{program.stem}/*.yaml"


def find_config(name: str, own: str = "*") -> Path:
    """A configuration by path or, for those shipped with the toolkit, by name.

    `l1_tiny`, `rl_length/l1_tiny`, `rl_length/l1_tiny.yaml` and `configs/rl_length/l1_tiny.yaml` are all names of the
    same shipped file, from any directory. Of several with one name, the one that fits the pattern `own` is meant.

    Raises:
        BadInput: neither a file nor the name of exactly one shipped configuration.
    """
    if os.path.isfile(name):  # `Path.is_file` raises for names that are too long
        return Path(name)
    root = folder("configs")
    shipped = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.*")) if path.is_file()}
    wanted = name.removeprefix("configs/")
    found = [key for key in shipped if f"/{key}".endswith((f"/{wanted}", f"/{wanted}.yaml", f"/{wanted}.json"))]
    found = [key for key in found if Path(key).match(own)] or found
    if len(found) > 1:
        raise BadInput(f"{name!r} is the name of several shipped configs; write one of {', '.join(found)}.")
    if not found:
        known = {key if "/" in wanted else Path(key).name for key in shipped}
        raise BadInput(f"{name}: neither a file nor a shipped config{near(wanted, known)}")
    return shipped[found[0]]


def parse(
    own: type,
    trainer: str | Mapping[str, Mapping[object, str]] | None = None,
    argv: Sequence[str] | None = None,
    doc: str = "",
) -> typing.Any:
    """Read `--config FILE` and `--key value ...` into the program's dataclass and, if named, the trainer's.

    Args:
        own: dataclass whose fields carry `metadata={"help": ...}`; its docstring's first line heads them in the help.
        trainer: "module:Class" of a second dataclass, imported only when there is something to build. One that a
            field of `own` chooses is written `{field: {value: "module:Class", ...}}`.
        argv: command line without the program's name; `sys.argv[1:]` by default.
        doc: what `--help` prints first, usually the program's `__doc__`.

    Returns:
        an instance of `own`, or with `trainer` the pair of both instances.

    Raises:
        BadInput: a key or value cannot be used, in the file or on the command line.
        SystemExit: with code 0, after `--help` or `--help-all`.
    """
    options = _split(sys.argv[1:] if argv is None else argv)
    asked = [name for name in ("help", "help_all") if options.pop(name, None) is not None]
    words = options.pop("config", None)
    if words is not None and (len(words) != 1 or not words[0]):
        raise BadInput("--config needs one value: a YAML file, or the name of a shipped config.")
    path = find_config(words[0], _own_configs()) if words else None
    where = str(path or "command line")
    in_file = _read_yaml(path) if path else {}
    sources = (in_file, {key: _Given.from_words(words) for key, words in options.items()})
    trainer = _chosen(own, trainer, sources)
    if asked:
        print(_help(own, trainer, "help_all" in asked, doc))
        raise SystemExit(0)
    if "env" in in_file:
        # Set before torch is imported, since that is when most such variables are read.
        given = in_file.pop("env")
        variables = _fit_given("env", dict[str, str | int | float | bool], given)
        try:
            os.environ.update({name: str(value) for name, value in variables.items()})
        except (ValueError, OSError) as error:  # an equals sign in a name, a null byte, half of a surrogate pair
            raise BadInput(f"{given.place}: env holds what no environment can ({error}); correct it.") from None

    classes, values = [own], [_fit_fields(own, sources)]
    if trainer is not None:
        classes.append(_import(trainer))
        values.append(_fit_fields(classes[1], sources))
    _check_keys(classes, sources, where)
    try:
        arguments = own(**values[0])
        return (arguments, _build_trainer_config(classes[1], values[1])) if trainer else arguments
    except ValueError as error:  # what a dataclass refuses in its __post_init__
        raise BadInput(f"{where}: {' '.join(str(error).split())}") from error


def _chosen(
    own: type, trainer: str | Mapping[str, Mapping[object, str]] | None, sources: Sequence[Mapping[str, _Given]]
) -> str | None:
    """The one trainer that is meant: of several, that which the given or default value of the field names."""
    if trainer is None or isinstance(trainer, str):
        return trainer
    [(name, targets)] = trainer.items()
    given = _fit_fields(own, [{name: source[name]} for source in sources if name in source])
    return targets[given.get(name, getattr(own, name))]


def _build_trainer_config(cls: type, values: dict[str, object]) -> object:
    """As trl's own scripts build it, so that a key means here what it means to `trl sft` or `trl grpo`."""
    from trl import TrlParser

    if isinstance(values.get("deepspeed"), str):
        values["deepspeed"] = str(_deepspeed_file(values["deepspeed"]))
    parser = TrlParser(cls, add_help=False)
    parser.set_defaults_with_config(**values)
    parser.error = _refuse
    try:
        [config] = parser.parse_args_into_dataclasses(args=[], look_for_args_file=False)
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError) as error:
        # Each value fits its annotation, but not what others than us make of it.
        raise BadInput(f"{cls.__name__} cannot be made of these keys ({type(error).__name__}: {error}).") from error
    return config


def _refuse(message: str) -> typing.NoReturn:
    """In place of argparse's, which prints how to use a command line that nobody wrote."""
    raise ValueError(message)


def _deepspeed_file(name: str) -> Path:
    path = find_config(name)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}), dict):
        raise BadInput(f"{path}: no settings of DeepSpeed; begin with one of the shipped files, such as zero2.")
    return path


# ---- reading: what was given, and where ----


@dataclasses.dataclass(frozen=True)
class _Given:
    """One given key: its place ("l1_tiny.yaml, line 7") and what it may mean; the first reading that fits counts."""

    place: str
    readings: list[object]
    words: list[str] | None = None

    @classmethod
    def from_words(cls, words: list[str]) -> _Given:
        """Words of the command line mean what they mean in YAML where that fits, else they stand for themselves."""
        if not words:
            return cls("command line", [True], words)
        as_yaml = [_as_yaml(word) for word in words]
        with_none = [None if word.lower() == "none" else value for word, value in zip(words, as_yaml, strict=True)]
        lists = [as_yaml, words, with_none]
        return cls("command line", [one for one, *more in lists if not more] + lists, words)

    def found(self) -> str:
        if self.words is None:
            return _show(self.readings[0])
        return repr(" ".join(self.words)) if self.words else "no value"


def _split(argv: Sequence[str]) -> dict[str, list[str]]:
    """`--a 1 2 --b-c=x` -> {"a": ["1", "2"], "b_c": ["x"]}; of a key given twice the last counts."""
    options: dict[str, list[str]] = {}
    words: list[str] | None = None
    for token in argv:
        if token.startswith("--") or token == "-h":
            key, equals, word = ("--help" if token == "-h" else token)[2:].partition("=")
            words = options[key.replace("-", "_")] = [word] if equals else []
        elif words is None:
            raise BadInput(f"{token!r} stands before any option; write --config {token}, or --key value.")
        else:
            words.append(token)
    options.pop("local_rank", None)  # the deepspeed launcher appends it; the rank is read from the environment
    return options


@functools.cache
def _yaml_loader() -> type:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML without its traps: `1e-4` is a number, a key given twice is an error, and so is what is no value."""

        def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise self._refusal(key, f"key {key.value!r} is given twice")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
            return super().construct_mapping(node, deep)

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":  # of merged mappings: ten lines would mean 10^8 keys
                    raise self._refusal(key, "<< merges nothing here, write the keys themselves")
            super().flatten_mapping(node)

        def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
            try:
                return super().construct_object(node, deep)
            except (ValueError, LookupError, AttributeError):  # 2024-99-99, !!bool x, !!timestamp x
                raise self._refusal(node, f"{node.value!r:.40} is no {node.tag.rpartition(':')[2]}") from None

        def _refusal(self, node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
            return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)

    exponent = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    return Loader


def _as_yaml(word: str) -> object:
    import yaml

    try:
        value = yaml.load(word, Loader=_yaml_loader())
    except (yaml.YAMLError, RecursionError):
        return word
    return word if isinstance(value, str) or _is_endless(value) else value


def _read_yaml(path: Path) -> dict[str, _Given]:
    import yaml

    try:
        loader = _yaml_loader()(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise BadInput(f"{path}: not a YAML mapping; write one `key: value` a line.")
        lines = {key.value: key.start_mark.line + 1 for key, _ in root.value if isinstance(key, yaml.ScalarNode)}
        config = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"{path}, line {error.problem_mark.line + 1}: {error.problem}; correct the line.") from error
    except (yaml.reader.ReaderError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a text file in UTF-8 ({error.reason}).") from error
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply; write one `key: value` a line.") from None
    if not isinstance(config, dict):  # by its tag, such as !!set
        raise BadInput(f"{path}: not a YAML mapping; write one `key: value` a line.")
    given = {key: _Given(f"{path}, line {lines.get(key, '?')}", [value]) for key, value in config.items()}
    for key, value in config.items():
        if _is_endless(value):
            raise BadInput(f"{given[key].place}: {key} is nested too deeply, or means too many values; write less.")
    return given


def _is_endless(value: object) -> bool:
    """Whether anchors make it more than anybody would write, or it is nested deeper than the validator goes."""
    count, stack = 0, [(value, 0)]
    while stack:
        one, level = stack.pop()
        count += 1
        if count > _MOST_VALUES or level > _MOST_LEVELS:
            return True
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple, set)) else ()
        stack.extend((part, level + 1) for part in inner)
    return False


def split_parameters(spec: str) -> tuple[str, dict[str, str]]:
    """What stands behind a name as in a URL: "graph?rows=64&stride=8" -> graph, {rows: "64", stride: "8"}."""
    name, _, query = spec.partition("?")
    return name, dict(pair.partition("=")[::2] for pair in query.split("&") if pair)


def read_value(name: str, annotation: object, text: str) -> object:
    """One value that is written as a word, as its annotation wants it; between the parts of a tuple stands a |.

    Raises:
        BadInput: it does not fit.
    """
    if _origin(annotation) is tuple:
        return tuple(text.split("|"))
    return _fit_given(name, annotation, _Given.from_words([text]))


def _import(target: str) -> type:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


# ---- the validator: does a value fit an annotation? ----


class _Misfit(ValueError):
    """The value is not one that the annotation admits."""


def _check_keys(classes: Sequence[type], sources: Sequence[Mapping[str, _Given]], where: str) -> None:
    """Every given key is a field, and every field without a default is given."""
    fields = [field for cls in classes for field in dataclasses.fields(cls)]
    given = {key: value for source in sources for key, value in source.items()}
    names = {field.name for field in fields}
    for key in given:
        if key not in names:
            hint = near(str(key), names)
            hint = hint if "did you mean" in hint else "; --help lists the known ones."
            raise BadInput(f"{given[key].place}: unknown key {key!r}{hint}")
    for field in fields:
        if field.name not in given and field.default is field.default_factory:  # neither of the two is set
            raise BadInput(f"{where}: {field.name} is missing; set it in the config or with --{field.name}.")


def _fit_fields(cls: type, sources: Sequence[Mapping[str, _Given]]) -> dict[str, object]:
    """The values given for the fields of a dataclass, as its annotations want them; a later source wins."""
    return {
        name: _fit_given(name, annotation, source[name])
        for source in sources
        for name, annotation in typing.get_type_hints(cls).items()
        if name in source
    }


def _fit_given(name: str, annotation: object, given: _Given) -> object:
    for reading in given.readings:
        with contextlib.suppress(_Misfit):
            return _fit(annotation, reading)
    wanted, remedy = _describe(annotation), _remedy(annotation, given)
    raise BadInput(f"{given.place}: {name} must be {wanted}, found {given.found()}{remedy}.")


def _fit(annotation: object, value: object) -> object:
    """The value as the annotation wants it: unchanged, but for text that is a number where a float is wanted."""
    origin, inner = _origin(annotation), typing.get_args(annotation)
    if origin is typing.Union:
        for member in inner:
            with contextlib.suppress(_Misfit):
                return _fit(member, value)
        raise _Misfit
    if origin is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if origin is list and inner and isinstance(value, list):
        value = [_fit(inner[0], element) for element in value]
    if origin is dict and inner and isinstance(value, dict):
        value = {_fit(inner[0], key): _fit(inner[1], item) for key, item in value.items()}
    if origin in (bool, int, float, str, list, dict, types.NoneType):
        fits = type(value) is origin or (type(value), origin) == (int, float)
    elif origin is typing.Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in inner)
    elif isinstance(origin, enum.EnumMeta):
        fits = value in [member.value for member in origin]
    else:
        fits = True
    if not fits or not _is_finite(value):
        raise _Misfit
    return value


def _is_finite(value: object) -> bool:
    """Whether all of its numbers are, and its whole ones small enough for the floats and tensors they end in."""
    if isinstance(value, (list, dict)):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return value.bit_length() <= 64 if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)


def _origin(annotation: object) -> object:
    origin = typing.get_origin(annotation) or annotation
    return typing.Union if origin is types.UnionType else origin


# ---- the wording of errors and help ----


def _describe(annotation: object) -> str:
    """An annotation in words: "float or null", "one of cosine, linear", "list of int"."""
    origin, inner = _origin(annotation), typing.get_args(annotation)
    if origin is typing.Union:
        return " or ".join(map(_describe, inner))
    if origin is typing.Literal or isinstance(origin, enum.EnumMeta):
        choices = inner or [member.value for member in origin]
        return "one of " + ", ".join(choice if isinstance(choice, str) else _show(choice) for choice in choices)
    if origin is list and inner:
        return f"list of {_describe(inner[0])}"
    if origin is dict and inner:
        return f"mapping of {_describe(inner[0])} to {_describe(inner[1])}"
    names = {types.NoneType: "null", bool: "true or false"}
    return names.get(origin) or getattr(origin, "__name__", str(origin))


def _remedy(annotation: object, given: _Given) -> str:
    value = given.readings[0]
    parts = map(_origin, (annotation, *typing.get_args(annotation)))
    if value is None:
        return "; leave it out to keep the default"
    if not _is_finite(value):
        return "; whole numbers must be below 2^64" if type(value) is int else "; numbers must be finite"
    if given.words is None and type(value) in (bool, int, float) and {str, typing.Literal}.intersection(parts):
        return "; put text in quotes"  # YAML reads a bare no as false, a bare 1 as a number
    return ""


def _show(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except TypeError:  # keys that JSON has not, such as a list
        return str(value)


def _help(own: type, trainer: str | None, with_trainer: bool, doc: str) -> str:
    """Fields under the class that declares them, the program's own first; the trainer's only on demand."""
    shipped = ", ".join(sorted(path.stem for path in folder("configs").glob(_own_configs())))
    lines = [inspect.cleandoc(doc), "", f"usage: {Path(sys.argv[0]).name} [--config FILE] [--key value ...]", ""]
    lines += _help_line("config", "YAML file of these keys, or the name of a shipped one", shipped or "none shipped")
    if trainer is not None:
        lines += _help_line("help-all", "adds the trainer's keys to this list", trainer)
    shown: set[str] = set()
    for cls in own.__mro__:
        names = inspect.get_annotations(cls).keys() - shown
        lines += _help_group(cls, [field for field in dataclasses.fields(own) if field.name in names])
        shown |= names
    if trainer is not None and with_trainer:
        lines += _help_group(_import(trainer), dataclasses.fields(_import(trainer)))
    return "\n".join(lines)


def _help_group(cls: type, fields: Sequence[dataclasses.Field]) -> list[str]:
    if not fields:
        return []
    hints = typing.get_type_hints(cls)
    lines = ["", inspect.cleandoc(cls.__doc__).splitlines()[0]]
    for field in fields:
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        note = "required" if default is dataclasses.MISSING else f"default {_show(default)}"
        lines += _help_line(field.name, field.metadata["help"], f"{_describe(hints[field.name])}; {note}")
    return lines


def _help_line(name: str, text: str, note: str) -> list[str]:
    indent = " " * 30
    head = f"  --{name}".ljust(len(indent) - 1) + " "
    return textwrap.wrap(f"{text} ({note})", width=110, initial_indent=head, subsequent_indent=indent)
