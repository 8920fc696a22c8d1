"""What this machine can do at best: copy bandwidth, float32 and bfloat16 matrix products.

Every percentage in the other benchmarks is held against numbers like these, measured in their own process. Run this one
first on a machine you do not know: if the copy is far below the memory's data sheet, or two runs differ by more than
10 %, nothing else measured there means much.
"""

from __future__ import annotations

from elinvar.bench.suites.roofline import run

__all__ = ["run"]

if __name__ == "__main__":
    result = run(runs=31, warmup=3)
    result.write("roofline.json")
    print(result.extras["roofline"])
