"""What the emulator found, said in the user's terms: kernel, threads, buffers, source lines."""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from elinvar.errors import MetalLaunchError

from .emulator_build import Build, shown, with_lines
from .language import Source
from .launch import Launch
from .signature import MAX_THREADGROUP_BYTES, Signature

__all__ = ["Place", "fault_error", "line_of", "user_line"]


@dataclass(frozen=True)
class Place:
    """The launch a report is about."""

    signature: Signature
    source: Source
    build: Build
    launch: Launch

    @property
    def files(self) -> set[str]:
        """Names under which the user's own text appears in debug information."""
        return {token.file or "source.metal" for token in self.source.tokens} | {self.source.file or "source.metal"}


@dataclass(frozen=True)
class _Site:
    thread: tuple[int, int, int]
    group: tuple[int, int, int]
    pc: int
    line: int
    what: str
    file: str

    def who(self, launch: Launch) -> str:
        rank = 3 if launch.threads[2] > 1 else 2 if launch.threads[1] > 1 else 1
        thread, group = (", ".join(str(n) for n in three[:rank]) for three in (self.thread, self.group))
        return f"thread ({thread}) of group ({group})"


def _site(line: str) -> _Site:
    counts, what, file = line.split("\t")
    n = [int(word) for word in counts.split()]
    return _Site((n[0], n[1], n[2]), (n[3], n[4], n[5]), n[6], n[7], what, file)


def user_line(place: Place, file: str, line: int) -> str:
    """Return ``file:line (its text)`` for a message."""
    text = _text_of(place, file, line)
    return f"{shown(file)}:{line}" + (f" `{text}`" if text else "")


def _text_of(place: Place, file: str, line: int) -> str:
    words = [
        t for t in place.source.tokens if t.line == line and (t.file or "source.metal") == (file or "source.metal")
    ]
    text = "".join((" " if t.spaced and i else "") + t.text for i, t in enumerate(words))
    return text if len(text) <= 80 else text[:77] + "..."


def line_of(place: Place, pc: int) -> tuple[str, int] | None:
    """Return the user's file and line of a return address in the compiled library; None when unknown.

    The innermost inlined frame that lies in the user's own text: the prelude's operators are inlined into it.
    """
    tool = shutil.which("addr2line")
    library = with_lines(place.source, place.build) if pc and tool else None
    if tool is None or library is None:
        return None
    command = [tool, "-i", "-e", str(library), hex(pc)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for frame in answer.splitlines():
        file, _, number = frame.split(" (")[0].rpartition(":")
        name = Path(file).name
        if name in {Path(f).name for f in place.files} and number.isdigit():
            return name, int(number)
    return None


def _where(place: Place, site: _Site) -> str:
    if site.line:
        return f" in {user_line(place, site.file, site.line)}"
    found = line_of(place, site.pc - 1 if site.pc else 0)  # a return address is one past the access
    return f" in {user_line(place, *found)}" if found else ""


def fault_error(text: str, place: Place) -> MetalLaunchError:
    """Return the error for what the runtime described.

    Parameters
    ----------
    text
        From ``elinvar_describe``.
    place
        The launch.
    """
    head, first, second = text.split("\n")[:3]
    kind, number, address = (int(word) for word in head.split())
    fault = _Fault(place, _site(first), _site(second), number, address)
    say = (str, _diverged, _race, _signal, _too_large, _bad_lane, _stack, _alone)[kind]
    return MetalLaunchError(f"[{place.signature.name}] {say(fault)}")


@dataclass(frozen=True)
class _Fault:
    place: Place
    a: _Site
    b: _Site
    number: int
    address: int

    @property
    def who(self) -> str:
        return self.a.who(self.place.launch)

    @property
    def where(self) -> str:
        return _where(self.place, self.a)


def _diverged(fault: _Fault) -> str:
    a, b = fault.a, fault.b
    unit = "threads of the group" if a.what == "threadgroup_barrier" else "threads of the simdgroup"
    elsewhere = "has finished" if b.what == "finished" else f"is at {b.what}{_where(fault.place, b)}"
    return (
        f"divergent {a.what}: {fault.who} waits at {a.what}{fault.where}, but {b.who(fault.place.launch)} {elsewhere}; "
        f"all {unit} must reach it"
    )


def _race(fault: _Fault) -> str:
    a, b, place = fault.a, fault.b, fault.place
    cure = "order them with a barrier whose mem_flags name this memory, or make both atomic"
    if a.group != b.group:
        cure = "groups of one launch have no order: make both atomic, or write in one launch and read in the next"
    return (
        f"race on {_memory(place, fault.address)}: {a.what} by {fault.who}{fault.where} and "
        f"{b.what} by {b.who(place.launch)}{_where(place, b)}; {cure}"
    )


def _memory(place: Place, address: int) -> str:
    for buffer, value in zip(place.signature.buffers, place.launch.values, strict=True):
        if isinstance(value, torch.Tensor):
            size = value.numel() * value.element_size()
            offset = address - value.data_ptr()
            if 0 <= offset < size:
                unit = buffer.type.size if buffer.type is not None else 1
                return f"{buffer.name}[{offset // unit}] (buffer {buffer.index})"
    return "threadgroup memory"


def _signal(fault: _Fault) -> str:
    if fault.number in (signal.SIGINT, signal.SIGALRM):
        return f"interrupted while {fault.who} was running"
    found = line_of(fault.place, fault.a.pc)
    where = f" in {user_line(fault.place, *found)}" if found else ""
    if fault.number == signal.SIGFPE:
        return f"integer division by zero, or of the smallest integer by -1, by {fault.who}{where}"
    return (
        f"access to memory that is not a buffer's (address {fault.address:#x}) by {fault.who}{where}; "
        "compile with sanitize=True to see which buffer it left"
    )


def _too_large(fault: _Fault) -> str:
    return f"{fault.number} bytes of threadgroup memory needed{fault.where}; Metal has {MAX_THREADGROUP_BYTES}"


def _bad_lane(fault: _Fault) -> str:
    return f"{fault.a.what} from lane {fault.number}, which does not exist, by {fault.who}{fault.where}"


def _stack(fault: _Fault) -> str:
    return f"the private arrays of {fault.who} exceed 256 KB; a GPU thread has far less"


def _alone(fault: _Fault) -> str:
    return (
        f"{fault.a.what}{fault.where} was not found when the kernel was read, so its threads run one by one; "
        "call it by its own name instead of through what hides it"
    )
