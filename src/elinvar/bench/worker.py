"""One side of a base-against-head run, as its own process. Standard library only: it must run with any elinvar.

Started as ``python -P worker.py`` with PYTHONPATH naming the side's ``src``. Requests and answers are one JSON object
per line on stdin and stdout; whatever the benchmark prints goes to stderr.

``{"do": "load", "path": P}``            -> ``{"cases": [names], "library": file}`` or ``{"error": text}``
``{"do": "time", "case": N, "inner": K}`` -> ``{"seconds": wall seconds per call}``
``{"do": "usage"}``                      -> ``{"seconds": CPU seconds of this process}``
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _synchronizer(case: Any) -> Callable[[], object]:
    device = getattr(case, "device", None)
    if device in (None, "cpu"):
        return lambda: None
    import torch

    return torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None


def _load(path: Path, cases: dict[str, Any]) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"_elinvar_benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = {f"{path.stem} · {name}": case for name, case in module.ci_cases().items()}
    cases.update(found)
    import elinvar

    return {"cases": list(found), "library": elinvar.__file__}


def _time(case: Any, inner: int) -> dict[str, Any]:
    synchronize, fn = _synchronizer(case), case.fn
    gc.collect()
    gc.disable()
    try:
        synchronize()
        start = time.perf_counter()
        for _ in range(inner):
            fn()
        synchronize()
        return {"seconds": (time.perf_counter() - start) / inner}
    finally:
        gc.enable()


def _answer(request: dict[str, Any], cases: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        return _load(Path(request["path"]), cases)
    if request["do"] == "time":
        return _time(cases[request["case"]], request["inner"])
    return {"seconds": time.process_time()}


def main() -> None:
    """Answer requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a benchmark that prints must not break the protocol
    cases: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), cases)
        except Exception as error:  # noqa: BLE001  (whatever the benchmark raises is the answer)
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
