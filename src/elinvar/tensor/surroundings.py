"""What a function sees around it when another thread runs it: torch's modes, and a GPU's streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["modes_here", "on_streams", "stream_here"]

_KINDS = ("cpu", "cuda", "mps")


def modes_here() -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that makes a context with this thread's gradient, inference and autocast modes."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    casts = {kind: torch.get_autocast_dtype(kind) for kind in _KINDS if torch.is_autocast_enabled(kind)}

    def enter() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(grad))
        for kind, dtype in casts.items():
            stack.enter_context(torch.autocast(kind, dtype=dtype))
        return stack

    return enter


def stream_here(x: torch.Tensor) -> Any:
    """Return the stream this thread's work on a tensor's device goes to, None off CUDA."""
    return torch.cuda.current_stream(x.device) if x.is_cuda else None


@contextmanager
def on_streams(streams: Sequence[Any]) -> Iterator[Callable[[Any], None]]:
    """Run on the first of several streams, behind the work of all.

    Yields a function to be called with every result: where the streams differ, the work behind it has ended then, and
    its memory is not given away before all of them are done with it.
    """
    several = [s for s in dict.fromkeys(streams) if s is not None]
    if not several:
        yield lambda _result: None
        return
    with torch.cuda.stream(several[0]):
        for other in several[1:]:
            several[0].wait_stream(other)

        def deliver(result: Any) -> None:
            for part in result if isinstance(result, (tuple, list)) else (result,):
                for stream in several[1:]:
                    part.record_stream(stream)

        yield deliver
        if len(several) > 1:
            several[0].synchronize()
