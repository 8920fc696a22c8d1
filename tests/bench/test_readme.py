"""The example in benchmarks/README.md is a benchmark, and runs."""

from __future__ import annotations

import re
from pathlib import Path

from elinvar.bench import Result
from elinvar.bench import registry as registry_module

README = Path(__file__).parents[2] / "benchmarks" / "README.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "relu.py"
    path.write_text(code.replace("1 << 22", "1 << 10"), encoding="utf-8")
    module = registry_module.load(path)
    result = module.run(runs=2, warmup=0)
    assert isinstance(result, Result)
    assert set(result.samples) == {"two calls", "in place"}
    assert registry_module.offers_ci(path)
    for case in module.ci_cases().values():
        case.fn()
