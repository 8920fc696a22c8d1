"""Job files: YAML to :class:`~elinvar.seismic.config.JobConfig` and back, and what is wrong as one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from elinvar.errors import ConfigError
from elinvar.runtime.files import write_text

from ._check import optional_library
from .config import JobConfig, plain

__all__ = ["changed", "parse", "read", "render", "write"]

_COMMENT = 38  # column where comments begin, when the value leaves room
_HEAD = """\
# A prestack time migration. Check it with `elinvar seismic validate FILE`, run it with `elinvar seismic run FILE`.
# Metres, milliseconds, m/s, degrees clockwise from north; paths are relative to this file; null means: not set.
"""


def read(path: str | os.PathLike[str]) -> JobConfig:
    """Read and check a job file.

    Raises
    ------
    ConfigError
        It is missing, not YAML, or an option is unknown or wrong; one sentence names the option and what is accepted.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no job file {place}; `elinvar seismic create-config -o {place.name}` makes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: the job file cannot be read ({error}).") from error
    return parse(text, place.name)


def parse(text: str, name: str = "job file") -> JobConfig:
    """Return the job that a YAML text describes; see :func:`read`."""
    yaml = optional_library("yaml", "job files")
    try:
        data = yaml.load(text, _loader(yaml))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{name}: {what}{where}; write `name: value`, indented by two blanks per level.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: a job file has sections {', '.join(JobConfig.model_fields)}; this has none.")
    return _validated(data, name)


def changed(config: JobConfig, name: str, section: str, **options: Any) -> JobConfig:
    """Return a job with other values in one section, checked like a file that says so."""
    data = plain(config)
    data[section] |= options
    return _validated(data, name)


def _validated(data: Any, name: str) -> JobConfig:
    try:
        return JobConfig.model_validate(data)
    except ValidationError as error:
        problems = [_sentence(item) for item in error.errors()]
        if len(problems) == 1:
            raise ConfigError(f"{name}: {problems[0]}.") from None
        listed = "; ".join(f"({i}) {text}" for i, text in enumerate(problems, 1))
        raise ConfigError(f"{name} has {len(problems)} problems: {listed}.") from None


def _loader(yaml: Any) -> Any:
    """Return PyYAML's safe loader, but the second of two equal names is an error."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = loader.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
            seen.add(name)
        return dict(loader.construct_mapping(node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


# -------------------------------------------------------------------- what is wrong


def _members(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections an annotation stands for."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _members(part)]


def _at(loc: tuple[Any, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow a location: the names as written in the file, and the sections it may be in."""
    names: list[str] = []
    models: list[type[BaseModel]] = [JobConfig]
    for part in loc:
        tagged = [model for model in models if _tag(model) == part]
        if tagged:  # pydantic names the member of a union by its type
            models = tagged
            continue
        names.append(f"[{part}]" if isinstance(part, int) else str(part))
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [member for field in fields for member in _members(field.annotation)]
    return names, models


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return field.default if field is not None else None


def _everywhere(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        yield here
        for member in _members(field.annotation):
            yield from _everywhere(member, here)


def _sentence(problem: Any) -> str:
    """Say what is wrong with one option, without a full stop."""
    names, _ = _at(problem["loc"])
    where = ".".join(names).replace(".[", "[")
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        _, models = _at(problem["loc"][:-1])
        known = list(dict.fromkeys(name for model in models for name in model.model_fields))
        return f"{where} is no option; {_nearest(names, known)}"
    if kind == "missing":
        return f"{where} is missing; it has no default"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        _, models = _at(problem["loc"])
        known = [str(_tag(model)) for model in models]
        got = given.get("type") if isinstance(given, dict) else given
        return f"{where}.type is {got!r}; choose one of {', '.join(known)}"
    text = str(problem["msg"]).removeprefix("Value error, ")
    text = text.replace("Input should be", "it should be").replace("valid dictionary or instance of ", "section: ")
    if kind in {"tuple_type", "list_type"}:
        text = "it should be a list in brackets, such as [25, 25]"
    if kind == "value_error":
        return f"{where}: {text}" if where else text
    return f"{where} is {_shown(given)}; {text}"


def _nearest(names: list[str], known: list[str]) -> str:
    """Return the advice for an unknown option."""
    close = difflib.get_close_matches(names[-1], known, 1, 0.6)
    if close:
        return f"did you mean {'.'.join([*names[:-1], close[0]])}"
    elsewhere = sorted({path for path in _everywhere(JobConfig) if path.rpartition(".")[2] == names[-1]})
    if elsewhere:
        return f"it belongs in {' or '.join(elsewhere)}"
    far = sorted({path.rpartition(".")[2]: path for path in _everywhere(JobConfig)}.items())
    similar = difflib.get_close_matches(names[-1], [name for name, _ in far], 1, 0.75)
    if similar:
        return f"did you mean {dict(far)[similar[0]]}"
    return f"here are {', '.join(known)}" if known else "nothing can be given here"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -------------------------------------------------------------------- writing


def write(config: JobConfig, path: str | os.PathLike[str]) -> None:
    """Write a job file, whole or not at all; reading it gives the same configuration."""
    write_text(path, render(config))


def render(config: JobConfig) -> str:
    """Return a job file with every option and its unit in a comment."""
    yaml = optional_library("yaml", "job files")

    def scalar(value: Any) -> str:
        text: str = yaml.safe_dump(plain(value), default_flow_style=True, width=10**6, allow_unicode=True)
        return text.removesuffix("\n").removesuffix("\n...")

    lines = _HEAD.splitlines()
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            lines += ["", *_section(name, value, field.annotation, 0, scalar)]
        else:
            lines.append(_line(name, scalar(value), field.description, 0))
    return "\n".join(lines) + "\n"


def _section(name: str, value: BaseModel, annotation: Any, depth: int, scalar: Any) -> list[str]:
    blanks = "  " * depth
    about = (type(value).__doc__ or "").splitlines()[0].rstrip(".")
    others = _members(annotation)
    lines = [f"{blanks}{name}:".ljust(_COMMENT) + f"# {about}"]
    if len(others) > 1:
        lines.append(f"{blanks}  # type: one of {', '.join(str(_tag(m)) for m in others)}; besides what has a default")
        lines += [f"{blanks}  #   {_tag(m)} has {', '.join(_own(m))}" for m in others if _own(m)]
    fields = type(value).model_fields
    for inner in sorted(fields, key=lambda key: (key != "type", not fields[key].is_required())):
        item = getattr(value, inner)
        if isinstance(item, BaseModel):
            lines += _section(inner, item, fields[inner].annotation, depth + 1, scalar)
        else:
            lines.append(_line(inner, scalar(item), fields[inner].description, depth + 1))
    return lines


def _own(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if name != "type" and field.is_required()]


def _line(name: str, value: str, about: str | None, depth: int) -> str:
    text = f"{'  ' * depth}{name}: {value}"
    return f"{text.ljust(_COMMENT)}{'' if len(text) < _COMMENT else '  '}# {about}" if about else text
