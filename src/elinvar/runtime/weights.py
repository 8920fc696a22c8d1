"""Load checkpoints without running anything that is in them.

``load`` reads safetensors files, sharded safetensors with an index, folders of either, and ``.pth``/``.pt``/``.th``
files through torch's restricted unpickler (``weights_only=True``). A pickle that names a function or class outside
torch's list is refused; names passed as ``inert`` become records that hold what was pickled and run no code.

elinvar downloads nothing. ``register`` describes where a user gets a checkpoint, under which licence, and its SHA-256;
``find`` looks in the folders of ``ELINVAR_WEIGHTS`` and in ``<cache>/weights``, and a missing one is an error that
says the three ways to supply it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch

from elinvar.errors import InputError, WeightsError

from ._safetensors import read_index, shards_of, stream_file
from .files import cache_dir

__all__ = [
    "Inert",
    "WeightsSpec",
    "check_keys",
    "find",
    "folders",
    "known",
    "load",
    "load_checkpoint",
    "register",
    "sha256_of",
    "stream",
]

_log = logging.getLogger("elinvar.weights")
_PICKLED = (".pth", ".pt", ".th", ".bin", ".ckpt")
_SHOWN = 5  # keys named in a message; the rest are counted
_unpickling = threading.Lock()  # torch's list of extra safe globals is one per process


# ------------------------------------------------------------------------------------------------ descriptions


@dataclasses.dataclass(frozen=True)
class WeightsSpec:
    """Where a checkpoint comes from and how to know it is the right one.

    Attributes
    ----------
    name
        What ``load`` and ``find`` take.
    file
        File or folder name to look for.
    where
        In words, where a user gets it: project, page, model name.
    sha256
        Hex digest; for a folder a mapping of its files' names to digests.
    licence
        As its publisher states it; shown whenever the weights are missing, and logged when they are loaded.
    size_bytes
        Size of the file, or of all a folder's files together.
    """

    name: str
    file: str
    where: str
    sha256: str | Mapping[str, str]
    licence: str
    size_bytes: int


_specs: dict[str, WeightsSpec] = {}


def register(spec: WeightsSpec) -> WeightsSpec:
    """Make a description known by its name; the same description twice is fine, another one is an InputError."""
    if Path(spec.file).name != spec.file or not spec.file:
        raise InputError(f"weights.register got file={spec.file!r}; give a plain file name without folders.")
    if _specs.setdefault(spec.name, spec) != spec:
        raise InputError(f"weights.register got a second, different description of {spec.name!r}; choose another name.")
    return spec


def known() -> tuple[WeightsSpec, ...]:
    """Return every registered description, by name."""
    return tuple(_specs[name] for name in sorted(_specs))


def folders() -> tuple[Path, ...]:
    """Return where weights are looked for: the folders of ``ELINVAR_WEIGHTS`` (a path list), then the cache's."""
    listed = os.environ.get("ELINVAR_WEIGHTS", "").split(os.pathsep)
    return (*(Path(folder).expanduser() for folder in listed if folder), cache_dir() / "weights")


def find(name: str) -> Path:
    """Return the path of registered weights in the first of ``folders()`` that has them.

    Raises
    ------
    WeightsError
        If the name is not registered, or the file is nowhere; the message says the three ways to supply it.
    """
    spec = _specs.get(name)
    if spec is None:
        names = ", ".join(sorted(_specs)) or "none"
        raise WeightsError(f"No weights are registered as {name!r}; known: {names}. A file is loaded by its path.")
    places = folders()
    for folder in places:
        for candidate in (folder / spec.file, folder / spec.name / spec.file):
            if candidate.exists():
                return candidate
    looked = ", ".join(str(folder) for folder in places)
    raise WeightsError(
        f"Weights {name!r} ({spec.file}, {spec.size_bytes / 1e6:.0f} MB, licence: {spec.licence}) are not in {looked}. "
        f"Three ways to supply them: download them ({spec.where}) into {places[-1]}; or set ELINVAR_WEIGHTS to a "
        f"folder that has them; or pass the path of the file itself."
    )


# ------------------------------------------------------------------------------------------------ digests


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as lower-case hex, reading it once in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, sha256: str | Mapping[str, str] | None) -> None:
    if sha256 is None:
        return
    if isinstance(sha256, str):
        if path.is_dir():
            raise InputError(f"{path} is a folder; its sha256 is a mapping of file names to digests, not one digest.")
        wanted = {path: sha256}
    else:
        base = path if path.is_dir() else path.parent
        wanted = {base / name: digest for name, digest in sha256.items()}
        unlisted = [file.name for file in _parts(path) if file.name not in sha256]
        if unlisted:
            raise WeightsError(f"{path} would be read from {unlisted[0]}, whose SHA-256 is not given; list every file.")
    for file, digest in wanted.items():
        if not file.is_file():
            raise WeightsError(f"{file} is missing; get the whole checkpoint again.")
        actual = sha256_of(file)
        if actual != digest.lower():
            raise WeightsError(
                f"{file} has SHA-256 {actual[:16]}…, expected {digest.lower()[:16]}…: it is damaged or another "
                "version; get it again."
            )


def _parts(path: Path) -> list[Path]:
    """Return every file that reading `path` opens."""
    file = _entry(path)
    return [file, *shards_of(file)] if _is_index(file) else [file]


def _is_index(path: Path) -> bool:
    return path.name.endswith(".safetensors.index.json")


def _entry(path: Path) -> Path:
    """Return the file to open for a path: itself, or the one checkpoint of a folder."""
    if not path.is_dir():
        return path
    found: list[Path] = []
    for pattern in ("*.safetensors.index.json", "*.safetensors", *(f"*{suffix}" for suffix in _PICKLED)):
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        if found:
            break
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(f"{path} holds no checkpoint; expected a .safetensors, {', '.join(_PICKLED)} or index file.")
    names = ", ".join(file.name for file in found[:_SHOWN])
    raise WeightsError(f"{path} holds {len(found)} checkpoints ({names}) and no index; pass the path of one of them.")


def _resolve(source: str | os.PathLike[str], sha256: str | Mapping[str, str] | None) -> Path:
    """Return the verified path of a checkpoint given by path or by registered name."""
    if isinstance(source, str) and source in _specs and not Path(source).exists():
        spec = _specs[source]
        path = find(source)
        _log.info("Loading weights %s from %s; licence: %s.", spec.name, path, spec.licence)
        size = sum(file.stat().st_size for file in _parts(path))
        if path.is_file() and size != spec.size_bytes:
            raise WeightsError(f"{path} has {size} of {spec.size_bytes} bytes; it is incomplete, get it again.")
        sha256 = spec.sha256 if sha256 is None else sha256
    else:
        path = Path(source).expanduser()
        if not path.exists():
            if isinstance(source, str) and path.name == source and not path.suffix:
                find(source)  # says which names are known
            raise WeightsError(f"{path} does not exist; pass an existing file, folder or registered name.")
    _verify(path, sha256)
    return _entry(path)


# ------------------------------------------------------------------------------------------------ pickles


class Inert:
    """What a pickled object of a class named in ``inert`` becomes: a record that runs nothing.

    Attributes
    ----------
    name
        The class or function the file named, as ``package.module.Name``.
    args, state
        What the file would have passed to its constructor and to ``__setstate__``.
    """

    name = ""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> Self:
        """Record the constructor's arguments."""
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args: Any) -> None:
        """Accept what ``__new__`` recorded."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<inert {self.name}>"


def _unpickle(path: Path, inert: Iterable[str]) -> Any:
    names = tuple(inert)
    if isinstance(inert, str) or not all(isinstance(name, str) and "." in name for name in names):
        raise InputError(f"inert={inert!r}; it takes full names such as ['package.module.Class'].")
    records = [(type("Inert", (Inert,), {"name": name}), name) for name in names]
    zipped = zipfile.is_zipfile(path)
    with _unpickling, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice about protocols; what it cannot read it raises
        with torch.serialization.safe_globals(cast("list[Any]", records)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)


def load_checkpoint(
    source: str | os.PathLike[str],
    *,
    sha256: str | Mapping[str, str] | None = None,
    inert: Iterable[str] = (),
) -> Any:
    """Return everything a pickled checkpoint holds: nested dicts, lists, numbers, strings, tensors on the CPU.

    Parameters
    ----------
    source
        A ``.pth``/``.pt``/``.th`` file, a folder with one, or a registered name.
    sha256
        Checked before anything is parsed.
    inert
        Full names of classes or functions the file mentions, to be replaced by `Inert` records. Nothing of them is
        imported or run, so any name is safe; torch still refuses those of os, sys, posix and nt.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, has another digest, or names code that is neither torch's nor `inert`.
    """
    path = _resolve(source, sha256)
    try:
        return _unpickle(path, inert)
    except (InputError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        if "TorchScript" in str(error):
            reason = "is a TorchScript program, not a checkpoint; get the state dict or safetensors version"
        else:
            reason = "is truncated or no torch checkpoint; get it again"
        raise WeightsError(f"{path} {reason}.") from error
    except Exception as error:
        # A forged or torn pickle can fail in any way; none of them is the caller's bug.
        raise WeightsError(f"{path} is damaged ({type(error).__name__} while reading it); get it again.") from error


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return f"{path} is no checkpoint that can be read without running it; get the safetensors version."
    name = found.group(1)
    if "blocked" in message:
        return f"{path} is unsafe: it asks to run {name}; do not use it, get the checkpoint from its publisher."
    return (
        f"{path} asks to run {name}, which is not plain tensor data; if it only describes the model, pass "
        f"inert=[{name!r}] to read it as an inert record, otherwise get the safetensors version."
    )


# ------------------------------------------------------------------------------------------------ state dicts


def stream(
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    sha256: str | Mapping[str, str] | None = None,
    inert: Iterable[str] = (),
    names: Iterable[str] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield ``(name, tensor)`` one at a time, memory-mapped where the format allows it.

    Parameters and errors are those of `load`. The file must stay as it is while its tensors are used. `names` picks
    some tensors: what a file maps counts as the process's memory until the last of its tensors is gone, so a large
    checkpoint is read in several calls.
    """
    path = _resolve(source, sha256)
    wanted = None if names is None else list(names)
    if _is_index(path):
        for shard, held in read_index(path).items():
            picked = held if wanted is None else [name for name in wanted if name in set(held)]
            if picked:
                yield from stream_file(shard, picked)
    elif path.suffix == ".safetensors":
        yield from stream_file(path, wanted)
    else:
        state = _state(path, load_checkpoint(path, inert=inert), key)
        yield from ((name, state[name]) for name in (state if wanted is None else wanted))


def load(
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    expect: Mapping[str, Any] | Iterable[str] | None = None,
    strict: bool = True,
    sha256: str | Mapping[str, str] | None = None,
    inert: Iterable[str] = (),
) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by name, on the CPU.

    Parameters
    ----------
    source
        A ``.safetensors`` file, a ``.safetensors.index.json``, a ``.pth``/``.pt``/``.th`` file, a folder that holds
        one of these, or a name given to `register` (whose digest and size are then checked).
    key
        Which entry of a pickled checkpoint is the state dict, e.g. ``"state_dict"``.
    expect, strict
        The names the model wants, checked by `check_keys`.
    sha256
        Hex digest checked before anything is parsed; for several files a mapping of file names to digests.
    inert
        See `load_checkpoint`.

    Raises
    ------
    WeightsError
        If the checkpoint is missing, damaged, unsafe, or does not fit `expect`.
    """
    state = dict(stream(source, key=key, sha256=sha256, inert=inert))
    if expect is not None:
        check_keys(expect, state, strict=strict, where=os.fspath(source))
    return state


def _state(path: Path, checkpoint: Any, key: str | None) -> dict[str, torch.Tensor]:
    """Return the state dict in a checkpoint."""
    if key is not None:
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            held = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
            raise WeightsError(f"{path} has no entry {key!r}; it holds {held}.")
        checkpoint = checkpoint[key]
    if isinstance(checkpoint, dict):
        state = {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}
        if len(state) == len(checkpoint):
            return {str(name): value.detach() for name, value in state.items()}
        inner = [name for name, value in checkpoint.items() if isinstance(value, dict)]
        if inner:
            choices = " or ".join(f"key={name!r}" for name in inner[:_SHOWN])
            raise WeightsError(f"{path} holds a checkpoint around the state dict; pass {choices}.")
        other = [name for name in checkpoint if name not in state]
        raise WeightsError(f"{path} holds entries that are no tensors: {_some(other)}; read it with load_checkpoint.")
    raise WeightsError(f"{path} holds a {type(checkpoint).__name__}, not a state dict; read it with load_checkpoint.")


def check_keys(
    expected: Mapping[str, Any] | Iterable[str],
    given: Mapping[str, Any] | Iterable[str],
    *,
    strict: bool = True,
    where: str = "The checkpoint",
) -> None:
    """Check that `given` has exactly the expected names, and the expected shapes where both sides have shapes.

    Parameters
    ----------
    expected, given
        Names, or mappings of names to anything with a ``shape``.
    strict
        False allows missing and unexpected names; a wrong shape is an error all the same.
    where
        How the message names the checkpoint.

    Raises
    ------
    WeightsError
        Naming the first five of each kind and how many there are.
    """
    wanted, found = dict.fromkeys(expected), dict.fromkeys(given)
    problems = []
    if strict:
        missing = [name for name in wanted if name not in found]
        unexpected = [name for name in found if name not in wanted]
        problems += [f"{len(missing)} missing: {_some(missing)}"] * bool(missing)
        problems += [f"{len(unexpected)} unexpected: {_some(unexpected)}"] * bool(unexpected)
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        shapes = []
        for name in wanted:
            with contextlib.suppress(AttributeError, KeyError):
                want, got = tuple(expected[name].shape), tuple(given[name].shape)
                if want != got:
                    shapes.append(f"{name} {got} instead of {want}")
        problems += [f"{len(shapes)} of another shape: {_some(shapes)}"] * bool(shapes)
    if problems:
        raise WeightsError(
            f"{where} does not fit the model: {'; '.join(problems)}. Get the checkpoint made for this model."
        )


def _some(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
