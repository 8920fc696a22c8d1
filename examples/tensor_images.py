"""The guide's image pipeline: stack images, normalise, run a model, cut the results apart; and one at a time.

Images of different sizes would be batched per size. Both ways give equal results; the batch is faster because a layer
over many rows uses the machine better, and because normalising and the first activation are one pass.

Run it:  python examples/tensor_images.py
"""

from __future__ import annotations

import time

import torch

from elinvar import Pool, tensor

N, SIDE, CHANNELS = 96, 32, 3


def main() -> None:
    make = torch.Generator().manual_seed(1)
    images = [torch.rand(CHANNELS, SIDE, SIDE, generator=make) for _ in range(N)]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    scale, shift = 1 / std, -mean / std
    torch.manual_seed(0)
    pool = Pool("cpu")
    model = tensor.FusedMLP([CHANNELS * SIDE * SIDE, 256, 10], "gelu", pool=pool)

    def features(batch: torch.Tensor) -> torch.Tensor:
        normalised = tensor.affine(batch, scale, shift, pool=pool)
        return model(normalised.flatten(1)).clone()  # what leaves the frame is ours

    @torch.no_grad()
    def together() -> list[torch.Tensor]:
        with pool.frame():
            return tensor.unbind(features(tensor.stack(images, pool=pool)))

    @torch.no_grad()
    def one_at_a_time() -> list[torch.Tensor]:
        results = []
        for image in images:
            with pool.frame():
                results.append(features(image[None])[0])
        return results

    seconds = {}
    for name, way in (("together", together), ("one at a time", one_at_a_time)):
        way()
        started = time.thread_time()
        results = way()
        seconds[name] = time.thread_time() - started
        if name == "together":
            expected = results
    for a, b in zip(expected, results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    # The same with the batch size left to elinvar: measured where `benchmarks/tensor.py --save` ran.
    with torch.no_grad():
        again = tensor.batched(features, images, pool=pool)
    torch.testing.assert_close(again[-1], expected[-1], rtol=1e-4, atol=1e-5)

    alone, batch = (1e3 * seconds[name] for name in ("one at a time", "together"))
    print(f"{N} images: {alone:.1f} ms one at a time, {batch:.1f} ms together")
    print(f"batched() chose {again.batch} images per call; pool reuse rate {pool.stats().reuse_rate:.2f}")


if __name__ == "__main__":
    main()
