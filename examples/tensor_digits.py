"""Train a small network on handwritten digits with fused layers: at least 97 % on images it has not seen.

The loop is the ordinary one of PyTorch. What differs: every layer is one product with everything after it in one pass,
and temporaries come from a pool, which stops allocating after the second step.

Run it:  python examples/tensor_digits.py       (needs scikit-learn: pip install 'elinvar[tensor]')
"""

from __future__ import annotations

from elinvar.errors import MissingDependency
from elinvar.tensor import digits


def main() -> None:
    try:
        data = digits.load()
    except MissingDependency as missing:
        print(missing)
        return
    done = digits.train(data, epochs=30)
    for epoch in range(0, 30, 5):
        print(f"epoch {epoch + 1:2}: loss {done.losses[epoch]:.4f}, test accuracy {done.accuracies[epoch]:.3f}")
    print(f"after {len(done.losses)} epochs and {done.seconds:.1f} s: test accuracy {done.accuracies[-1]:.4f}")
    steps = len(done.allocations)
    print(f"{steps} steps: {done.allocations[1]} pool allocations by step 2, {done.allocations[-1]} in all")
    assert done.accuracies[-1] >= 0.97
    # Evaluation between epochs, on a larger batch, brings its own few buffers; training brings none after step 2.
    per_epoch = steps // 30
    assert done.allocations[per_epoch - 1] == done.allocations[1]
    assert done.allocations[-1] == done.allocations[per_epoch]


if __name__ == "__main__":
    main()
