"""Mutation testing for Metal kernels: break the source in small ways and see whether the tests notice.

Four kinds of mutant: two kernel arguments of equal type swapped, a barrier dropped, an accumulated term halved, a
comparison's bound moved by one either way. A mutant that survives is a test that is missing, or code that does
nothing (a barrier whose removal stays green is deleted). `survivors` runs every mutant in a process of its own, so
that one which loops for ever or corrupts memory is merely dead.
"""

from __future__ import annotations

import bisect
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_any
from multiprocessing.process import BaseProcess
from pathlib import Path

from elinvar.errors import InputError
from elinvar.metal.lexer import splice_includes

__all__ = ["Mutant", "mutate_metal", "survivors"]

_HIDDEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*', re.DOTALL | re.MULTILINE)
_KERNEL = re.compile(r"\bkernel\s+void\s+(\w+)\s*\(")
_BARRIER = re.compile(r"\b(?:metal::)?(?:threadgroup|simdgroup)_barrier\s*\(")
_ATTRIBUTE = re.compile(r"\[\[.*?\]\]", re.DOTALL)
_COMPARISON = re.compile(r"(?<![<>\-=])(<=|>=|<|>)(?![<>=])")
_TEMPLATE_NAME = re.compile(r"\btemplate\s*<[^{};]*?>\s*(?:\w+[\s*&]+)*?(?:struct|class)?\s*(\w+)\s*[({:;]")
_BUILTIN_TEMPLATES = {
    "array", "as_type", "atomic", "conditional", "conditional_t", "const_cast", "enable_if", "enable_if_t", "is_same",
    "make_signed", "make_unsigned", "matrix", "numeric_limits", "operator", "packed_vec", "reinterpret_cast",
    "remove_const", "static_cast", "template", "vec",
}  # fmt: skip
_OPPOSITE = {"<": ("<=", "-"), "<=": ("<", "+"), ">": (">=", "+"), ">=": (">", "-")}
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Mutant:
    """One small change to a Metal source.

    Attributes
    ----------
    kind
        ``"swap"``, ``"barrier"``, ``"halve"`` or ``"bound"``.
    description
        What was changed into what.
    line
        1-based line of the change.
    source
        The whole mutated source.
    code
        The unchanged line, without its indentation.
    """

    kind: str
    description: str
    line: int
    source: str
    code: str = ""

    @property
    def key(self) -> str:
        """Return what names this mutant however the lines above it move: ``code | description``."""
        return f"{self.code} | {self.description}"

    def __str__(self) -> str:
        return f"line {self.line}: {self.description}"


def mutate_metal(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a Metal source, in order of kind and position.

    Parameters
    ----------
    source
        The text of a ``.metal`` file. Comments, strings and preprocessor lines are left alone.

    Yields
    ------
    Mutant
    """
    text = _Text(source)
    for find in (_swaps, _barriers, _halvings, _bounds):
        yield from find(text)


class _Text:
    """A source with its comments, strings and directives blanked out, offsets unchanged."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.code = _HIDDEN.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)
        self._starts = [0, *(found.end() for found in re.finditer("\n", source))]

    def mutant(self, kind: str, description: str, edits: list[tuple[int, int, str]]) -> Mutant:
        """Apply (start, end, replacement) edits."""
        changed = self.source
        for start, end, replacement in sorted(edits, reverse=True):
            changed = changed[:start] + replacement + changed[end:]
        line = bisect.bisect_right(self._starts, min(edit[0] for edit in edits))
        code = self.source[self._starts[line - 1] :].partition("\n")[0].strip()
        return Mutant(kind, " ".join(description.split()), line, changed, code)

    def closing(self, opened: int) -> int:
        """Offset of the bracket that closes the one at `opened`, or the end of the text."""
        depth = 0
        for place in range(opened, len(self.code)):
            depth += (self.code[place] in _OPEN) - (self.code[place] in _CLOSE)
            if not depth:
                return place
        return len(self.code)

    def operand_end(self, start: int, stops: tuple[str, ...]) -> int:
        """Offset at which the expression starting at `start` ends: a stop, or a closing bracket, at depth 0."""
        depth = 0
        for place in range(start, len(self.code)):
            letter = self.code[place]
            if letter in _CLOSE and depth == 0:
                return place
            if depth == 0 and self.code.startswith(stops, place):
                return place
            depth += (letter in _OPEN) - (letter in _CLOSE)
        return len(self.code)

    def arguments(self, opened: int) -> list[tuple[int, int]]:
        """Spans of the comma-separated arguments inside the bracket at `opened`."""
        end, start, spans = self.closing(opened), opened + 1, []
        while start < end:
            stop = min(self.operand_end(start, (",",)), end)
            spans.append((start, stop))
            start = stop + 1
        return spans


def _swaps(text: _Text) -> Iterator[Mutant]:
    for found in _KERNEL.finditer(text.code):
        by_type: dict[str, list[tuple[int, int]]] = {}
        for start, stop in text.arguments(found.end() - 1):
            declared = _ATTRIBUTE.sub(lambda attribute: " " * len(attribute[0]), text.code[start:stop])
            name = re.search(r"(\w+)\s*$", declared)
            words = declared.split()
            if name is None or not {"device", "constant"} & set(words):
                continue
            key = re.sub(r"\s+", "", declared[: name.start(1)])
            by_type.setdefault(key, []).append((start + name.start(1), start + name.end(1)))
        for spans in by_type.values():
            for (a, a_end), (b, b_end) in itertools.pairwise(spans):
                one, two = text.source[a:a_end], text.source[b:b_end]
                yield text.mutant(
                    "swap", f"{found[1]}: swap arguments {one} and {two}", [(a, a_end, two), (b, b_end, one)]
                )


def _barriers(text: _Text) -> Iterator[Mutant]:
    for found in _BARRIER.finditer(text.code):
        end = text.closing(found.end() - 1) + 1
        yield text.mutant("barrier", f"drop {text.source[found.start() : end]}", [(found.start(), end, "((void)0)")])


def _halvings(text: _Text) -> Iterator[Mutant]:
    headers = [(found.end() - 1, text.closing(found.end() - 1)) for found in re.finditer(r"\bfor\s*\(", text.code)]

    def halve(start: int, stop: int) -> Iterator[Mutant]:
        term = text.source[start:stop].strip()
        if term and not any(opened < start < closed for opened, closed in headers):
            yield text.mutant("halve", f"halve the accumulated {term}", [(start, stop, f" ({term}) / 2")])

    for found in re.finditer(r"[+-]=", text.code):
        yield from halve(found.end(), text.operand_end(found.end(), (";", ",")))
    for found in re.finditer(r"([\w.]+(?:\[[^\]=;]*\])?)\s*=(?!=)\s*", text.code):
        target, after = re.sub(r"\s+", "", found[1]), found.end()
        fused = re.compile(r"(?:metal::)?(?:precise::|fast::)?fma\s*\(").match(text.code, after)
        if fused is not None:
            spans = text.arguments(fused.end() - 1)
            if len(spans) == 3 and re.sub(r"\s+", "", text.code[slice(*spans[2])]) == target:
                yield from halve(*spans[0])
        plain = re.compile(re.escape(found[1]) + r"\s*[+-](?![+\-=])").match(text.code, after)
        if plain is not None:
            yield from halve(plain.end(), text.operand_end(plain.end(), (";", ",")))
    for found in re.finditer(r"\batomic_fetch_(?:add|sub)_explicit\s*\(", text.code):
        spans = text.arguments(found.end() - 1)
        if len(spans) >= 2:
            yield from halve(*spans[1])


def _bounds(text: _Text) -> Iterator[Mutant]:
    templates = _template_brackets(text)
    stops = (";", ",", "&&", "||", "?", ":", "==", "!=")
    for found in _COMPARISON.finditer(text.code):
        if found.start() in templates:
            continue
        written = text.source[found.start() : text.operand_end(found.end(), stops)].strip()
        swapped, sign = _OPPOSITE[found[1]]
        yield text.mutant("bound", f"'{written}': {found[1]} becomes {swapped}", [(*found.span(), swapped)])
        stop = text.operand_end(found.end(), stops)
        bound = text.source[found.end() : stop].strip()
        yield text.mutant("bound", f"'{written}': bound {sign} 1", [(found.end(), stop, f" ({bound}) {sign} 1 ")])


def _template_brackets(text: _Text) -> set[int]:
    """Offsets of every ``<`` and ``>`` that delimits template arguments rather than compares."""
    names = _BUILTIN_TEMPLATES | {found[1] for found in _TEMPLATE_NAME.finditer(text.code)}
    brackets: set[int] = set()
    for found in re.finditer(r"(\w+)\s*<", text.code):
        opened = found.end() - 1
        if found[1] not in names or opened in brackets:
            continue
        depth = 0
        for place in range(opened, len(text.code)):
            letter = text.code[place]
            if letter in ";{}" or text.code.startswith(("&&", "||"), place):
                break
            if letter in "<>":
                depth += 1 if letter == "<" else -1
                brackets.add(place)
            if not depth:
                break
    return brackets


@dataclass
class _Trial:
    mutant: Mutant
    process: BaseProcess
    answer: Connection
    deadline: float


def _judge(
    check: Callable[[str], bool], source: str, environment: dict[str, str], timeout: float, answer: Connection
) -> None:
    """In the child: send True when the check notices nothing; an exception is as good as False and stays silent."""
    import torch

    if hasattr(signal, "setitimer"):  # a mutant that loops ends even when nobody is left to end it
        signal.setitimer(signal.ITIMER_REAL, timeout + 5.0)
    os.environ.update(environment)
    silence = os.open(os.devnull, os.O_WRONLY)  # what a broken kernel makes the C library say is of no interest
    for stream in (1, 2):
        os.dup2(silence, stream)
    torch.set_num_threads(1)
    try:
        answer.send(bool(check(source)))
    except BaseException:  # noqa: BLE001  (whatever a mutant provokes has been noticed)
        os._exit(1)
    os._exit(0)  # no interpreter shutdown: a mutant may have corrupted memory


def survivors(
    source: str | Path,
    check: Callable[[str], bool],
    *,
    jobs: int = 2,
    timeout: float = 60.0,
    equivalent: Mapping[str, str] | None = None,
    kinds: tuple[str, ...] = ("swap", "barrier", "halve", "bound"),
    environment: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Mutant]:
    """Return the mutants that `check` does not notice.

    Parameters
    ----------
    source
        A ``.metal`` file, with what it includes, or its text.
    check
        ``check(source) -> bool``: True when everything passes. It runs in forked processes, so it must be picklable:
        a module-level function, a `functools.partial` or an instance of a module-level class.
        Returning False, raising, crashing and hanging all mean that the mutant was noticed.
    jobs
        Processes at a time.
    timeout
        Seconds after which a mutant counts as hung.
    equivalent
        ``{mutant.key: proof}`` for mutants that cannot change any result; the proof is a sentence.
    kinds
        Which kinds of mutant to try.
    environment
        Environment variables for the processes that check.
    limit
        Try at most so many mutants, spread evenly over the source; all of them by default.

    Returns
    -------
    list of Mutant

    Raises
    ------
    InputError
        The check cannot be pickled, fails on the unmutated source, or `equivalent` has an empty proof or names no
        mutant of this source.
    """
    text = splice_includes(source.read_text("ascii"), source) if isinstance(source, Path) else source
    mutants = [mutant for mutant in mutate_metal(text) if mutant.kind in kinds]
    excused = dict(equivalent or {})
    unknown = [key for key, proof in excused.items() if not proof.strip() or key not in {m.key for m in mutants}]
    if unknown:
        raise InputError(f"[survivors] equivalent= has {unknown[0]!r}, which names no mutant here or has no proof")
    try:
        pickle.dumps(check)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"[survivors] the check {check!r} cannot be sent to a process: {error}") from error
    original = Mutant("original", "the source as it is", 1, text)
    given = dict(environment or {})
    if not _run([original], check, 1, timeout, given):
        raise InputError("[survivors] the check fails on the unmutated source, so it can judge no mutant")
    tried = [mutant for mutant in mutants if mutant.key not in excused]
    if limit is not None and limit < len(tried):
        tried = [tried[i * len(tried) // limit] for i in range(limit)]
    return _run(tried, check, jobs, timeout, given)


def _run(
    mutants: list[Mutant], check: Callable[[str], bool], jobs: int, timeout: float, environment: dict[str, str]
) -> list[Mutant]:
    """Run the check on every mutant, `jobs` at a time; return those on which it answered True."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__, type(check).__module__, getattr(check, "__module__", __name__)])
    waiting, running, alive = list(mutants), list[_Trial](), list[Mutant]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_judge, args=(check, mutant.source, environment, timeout, theirs), daemon=True
                )
                process.start()
                theirs.close()
                running.append(_Trial(mutant, process, ours, time.monotonic() + timeout))
            patience = max(0.0, min(trial.deadline for trial in running) - time.monotonic())
            ready = wait_any([trial.answer for trial in running], timeout=patience)
            for trial in list(running):
                if trial.answer in ready or time.monotonic() >= trial.deadline:
                    running.remove(trial)
                    if _survived(trial):
                        alive.append(trial.mutant)
    finally:
        for trial in running:
            _end(trial)
    return sorted(alive, key=mutants.index)


def _survived(trial: _Trial) -> bool:
    try:
        return trial.answer.poll() and trial.answer.recv() is True
    except EOFError:  # it raised, crashed or was killed: noticed
        return False
    finally:
        _end(trial)


def _end(trial: _Trial) -> None:
    trial.answer.close()
    trial.process.kill()
    trial.process.join()
    trial.process.close()
