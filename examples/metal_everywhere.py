"""One Metal kernel on every device present: Apple GPU, NVIDIA GPU, and the CPU's emulator.

A histogram with one copy per threadgroup: threadgroup memory, barriers and atomics, the parts that usually have to be
written three times.

Run it:  python examples/metal_everywhere.py
"""

from __future__ import annotations

import torch

import elinvar
from elinvar import metal
from elinvar.errors import MetalError

HISTOGRAM = """
#include <metal_stdlib>
using namespace metal;

kernel void histogram(device const uchar* pixels [[buffer(0)]],
                      device atomic_uint* bins   [[buffer(1)]],
                      constant uint&      count  [[buffer(2)]],
                      uint i      [[thread_position_in_grid]],
                      uint stride [[threads_per_grid]],
                      uint local  [[thread_index_in_threadgroup]])
{
    threadgroup atomic_uint mine[BINS];
    for (uint b = local; b < BINS; b += GROUP) atomic_store_explicit(&mine[b], 0, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (uint k = i; k < count; k += stride)
        atomic_fetch_add_explicit(&mine[pixels[k] * BINS / 256], 1, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (uint b = local; b < BINS; b += GROUP)
        atomic_fetch_add_explicit(&bins[b], atomic_load_explicit(&mine[b], memory_order_relaxed), memory_order_relaxed);
}
"""
BINS, GROUP, GROUPS = 64, 128, 8


def histogram(pixels: torch.Tensor) -> torch.Tensor:
    """Count grey levels with the same kernel text wherever the pixels are."""
    lib = metal.compile(HISTOGRAM, pixels.device, defines={"BINS": BINS, "GROUP": GROUP})
    bins = torch.zeros(BINS, dtype=torch.int32, device=pixels.device)
    lib.histogram(pixels, bins, pixels.numel(), threads=GROUP * GROUPS, group_size=GROUP)
    return bins


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(100_003, generator=generator).mul(40).add(128).clamp(0, 255).to(torch.uint8)
    expected = torch.bincount(pixels.long() * BINS // 256, minlength=BINS)

    for device in elinvar.devices():
        try:
            found = histogram(pixels.to(device.torch)).cpu()
        except MetalError as error:
            print(f"{device}: {error}")
            continue
        same = "equal to" if found.equal(expected.int()) else "NOT equal to"
        print(f"{device} ({device.name}): {int(found.sum())} pixels counted, {same} torch.bincount")

    # The CPU can also tell whether the kernel is right for every order of threads, and free of races.
    try:
        lib = metal.compile(HISTOGRAM, "cpu", defines={"BINS": BINS, "GROUP": GROUP}, races=True, schedule="random")
    except MetalError:
        return
    bins = torch.zeros(BINS, dtype=torch.int32)
    lib.histogram(pixels[:5000], bins, 5000, threads=GROUP * 2, group_size=GROUP)
    print(f"race detector: silent; {int(bins.sum())} pixels counted in a random order of threads")


if __name__ == "__main__":
    main()
