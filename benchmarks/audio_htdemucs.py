"""HTDemucs beside the PyPI package `demucs` 4.1.0: one segment on one CPU thread, memory of long files, plans.

Rows
----
elinvar float32, demucs float32
    One 7.8 s segment (343,980 stereo samples) through the 4-stem network with random weights, the same in both.
elinvar bfloat16, demucs bfloat16
    The same with weights and activations in bfloat16; demucs under ``torch.autocast``.
elinvar preview
    The time branch alone.

CPU time of one thread, interleaved. `memory` separates a 20 s and a 600 s file (bfloat16, no overlap, FLAC out), each
in a process of its own, and compares their peaks of resident memory; `plan` compares what `plan_separation` said before
with what was measured. ``--device cuda`` instead times a whole 4-minute track, audio in to stems out, on that GPU.

demucs is not part of the development extra: ``pip install --no-deps demucs==4.1.0 einops julius`` and what it asks for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.audio.htdemucs import HTDemucs
from elinvar.bench import Result, Samples, Work, interleave
from elinvar.errors import BenchError
from elinvar.runtime.parallel import set_threads

RATE, SEGMENT = 44100, 343_980
SHORT, LONG, OVERLAP = 20, 600, 0.0
KWARGS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"], "samplerate": RATE, "segment": Fraction(39, 5), "channels": 48,
    "depth": 4, "nfft": 4096, "bottom_channels": 512, "t_layers": 5, "t_heads": 8, "t_hidden_scale": 4.0,
    "dconv_mode": 3, "dconv_comp": 8, "rescale": 0.1,
}  # fmt: skip


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gains and norms away from their initial values, so that every part of the network matters."""
    make = torch.Generator().manual_seed(0)
    state = {}
    for name, value in model.state_dict().items():
        z = torch.randn(value.shape, generator=make)
        if value.dim() == 1:
            state[name] = (0.25 if name.endswith("scale") else 1.0 if name.endswith("weight") else 0.0) + 0.05 * z
        else:
            fan = value.shape[0] * 2 if "conv_tr" in name else value[0].numel()
            state[name] = 0.1 * z if "freq_emb" in name else z / fan**0.5
    return state


def mix(seconds: float) -> torch.Tensor:
    """Tones, bursts and noise, stereo."""
    n = round(seconds * RATE)
    make = torch.Generator().manual_seed(1)
    t = torch.arange(n, dtype=torch.float64) / RATE
    tones = sum(a * torch.sin(2 * torch.pi * f * t) for f, a in ((110.0, 0.2), (440.5, 0.12), (3520.0, 0.05)))
    bursts = 0.2 * (torch.sin(4 * torch.pi * t) > 0.9) * torch.randn(2, n, generator=make)
    return (tones + bursts + 0.01 * torch.randn(2, n, generator=make)).float()


def snr(got: torch.Tensor, want: torch.Tensor) -> float:
    return float(10 * torch.log10(want.square().mean() / (got - want).square().mean()))


def models() -> tuple[HTDemucs, HTDemucs, HTDemucs, Any]:
    try:
        from demucs.htdemucs import HTDemucs as Peer
    except ImportError as error:
        raise BenchError(
            "audio_htdemucs compares with demucs 4.1.0, which is not installed; run: pip install --no-deps "
            f"demucs==4.1.0 einops julius ({error})"
        ) from error
    mine = HTDemucs()
    state = weights(mine)
    mine.load_state_dict(state)
    small, half = HTDemucs(), HTDemucs()
    for other in (small, half):
        other.load_state_dict(state)
    small.to_precision(storage=torch.bfloat16, compute=torch.bfloat16)
    half.to_precision(storage=torch.float16)
    peer = Peer(**KWARGS)
    peer.load_state_dict(state)
    return mine, small, half, peer.eval()


def segment_rows(runs: int, warmup: int) -> tuple[dict[str, Samples], dict[str, Any]]:
    mine, small, half, peer = models()
    x = mix(7.8)[None]

    def peer_bfloat16() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: torch.Tensor = peer(x)
        return out

    rows: dict[str, Callable[[], torch.Tensor]] = {
        "elinvar float32": lambda: mine(x),
        "demucs float32": lambda: peer(x),
        "elinvar bfloat16": lambda: small(x),
        "demucs bfloat16": peer_bfloat16,
        "elinvar preview": lambda: mine(x, "preview"),
    }
    before = torch.get_num_threads(), set_threads(1)
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            want = peer(x)
            single = mine(x)
            facts = {
                "relative rms to demucs, float32": float((single - want).norm() / want.norm()),
                "SNR of bfloat16, dB": snr(small(x), single),
                "SNR of demucs bfloat16, dB": snr(peer_bfloat16(), want),
                "SNR of half weight storage, dB": snr(half(x), single),
                "bytes of half weight storage": half.memory_bytes / mine.memory_bytes,
            }
            work = Work(items=7.8, unit="s of audio")
            samples = interleave(
                rows, runs=runs, warmup=warmup, work=dict.fromkeys(rows, work), clock="thread_cpu", inner=1
            )
    finally:
        torch.set_num_threads(before[0])
        set_threads(before[1])
    return samples, facts


def write_song(path: Path, seconds: int) -> None:
    import soundfile as sf

    piece = mix(10).T.numpy()
    with sf.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for _ in range(seconds // 10):
            file.write(piece)


def status_bytes(field: str) -> int:
    """From Linux; getrusage would tell the parent's peak when that was higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def separate_one(path: str, out: str) -> dict[str, Any]:
    """In a process of its own: plan, then separate; peak memory and CPU seconds."""
    from elinvar.audio._peak import trim
    from elinvar.audio.planning import plan_separation
    from elinvar.audio.separation_file import separate_file

    torch.set_num_threads(1)
    set_threads(1)
    import soundfile as sf

    model = HTDemucs()
    model.load_state_dict(weights(model))
    model.to_precision(storage=torch.bfloat16)
    duration = sf.info(path).duration
    how: dict[str, Any] = {"overlap": OVERLAP, "device": "cpu", "precision": "bf16"}
    plan = plan_separation(duration, model, file=path, format="flac16", **how)
    trim()
    base = status_bytes("VmRSS")
    wall, begin = time.perf_counter(), time.process_time()
    options = {"device": "cpu", "precision": "bf16", "format": "flac16", "overlap": OVERLAP}
    done = separate_file(path, out, model, **options)
    spent, wall = time.process_time() - begin, time.perf_counter() - wall
    assert not done.skipped
    return {
        "seconds of audio": duration,
        "cpu_s": spent,
        "wall_s": wall,
        "peak_rss_bytes": status_bytes("VmHWM"),
        "rss_before": base,
        "planned_wall_s": plan.seconds,
        "planned_cpu_s": plan.cpu_seconds,
        "planned_work_bytes": plan.work_bytes + plan.waiting_bytes,
        "runs": plan.runs,
    }


def memory() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (SHORT, LONG):
            song = Path(folder) / f"{seconds}.flac"
            write_song(song, seconds)
            command = [sys.executable, __file__, "--separate", str(song), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[f"{seconds} s"] = json.loads(done.stdout.splitlines()[-1])
    short, long = found[f"{SHORT} s"], found[f"{LONG} s"]
    found["growth_MiB"] = (long["peak_rss_bytes"] - short["peak_rss_bytes"]) / 2**20
    return found


def segments(runs: int, warmup: int) -> Result:
    samples, facts = segment_rows(runs, warmup)
    seconds = {name: row.median for name, row in samples.items()}
    facts["ratios"] = {
        "float32: demucs / elinvar": seconds["demucs float32"] / seconds["elinvar float32"],
        "bfloat16: demucs / elinvar": seconds["demucs bfloat16"] / seconds["elinvar bfloat16"],
        "demucs float32 / elinvar bfloat16": seconds["demucs float32"] / seconds["elinvar bfloat16"],
        "elinvar float32 / preview": seconds["elinvar float32"] / seconds["elinvar preview"],
    }
    return Result(name="audio_htdemucs", samples=samples, extras=facts)


def planned() -> dict[str, Any]:
    """What `plan_separation` says before over what the 20 s file takes, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.flac"
        write_song(song, SHORT)
        command = [sys.executable, __file__, "--separate", str(song), folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    taken = facts["peak_rss_bytes"] - facts["rss_before"]
    return {
        "memory to work in, planned / measured": facts["planned_work_bytes"] / taken,
        "CPU time, planned / measured": facts["planned_cpu_s"] / facts["cpu_s"],
        "time by the clock, planned / measured": facts["planned_wall_s"] / facts["wall_s"],
        **facts,
    }


def run(*, runs: int = 5, warmup: int = 1) -> Result:
    found = segments(runs, warmup)
    return dataclasses.replace(found, extras={**found.extras, "plan": planned(), "memory": memory()})


def gpu(spec: str, runs: int, save: Callable[[dict[str, Any]], object]) -> None:
    """A 4-minute track on a GPU, audio in to stems out on the host, in each precision; what was planned; SNR."""
    from elinvar.audio.planning import plan_separation
    from elinvar.audio.separation import separate
    from elinvar.bench import machine
    from elinvar.runtime.device import device

    place = device(spec)
    model = HTDemucs()
    model.load_state_dict(weights(model))
    song = mix(240.0)
    rows: dict[str, dict[str, Any]] = {}
    found = {"name": "audio_htdemucs_gpu", "machine": machine(), "device": place.name, "track_s": 240.0,
             "bar_x": 300, "demucs 4.1.0 measured there before, x real time": 88, "precisions": rows}  # fmt: skip
    for precision in ("fp16", "bf16", "fp32"):
        options: dict[str, Any] = {"device": place, "precision": precision}
        plan = plan_separation(240.0, model, **options)
        separate(song, RATE, model, **options)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        spent = []
        for _ in range(runs):
            place.synchronize()
            begin = time.perf_counter()
            separate(song, RATE, model, **options)
            place.synchronize()
            spent.append(time.perf_counter() - begin)
        rows[precision] = {
            "seconds": spent,
            "x real time": 240.0 / float(np.median(spent)),
            "seconds planned": plan.seconds,
            "GPU bytes planned": plan.work_bytes,
            "GPU bytes at the peak": torch.cuda.max_memory_allocated() - before,
        }
    save(found)
    short = song[:, : 12 * RATE]
    stems = {name: torch.stack(list(separate(short, RATE, model, device=place, precision=name).values()))
             for name in rows}  # fmt: skip
    exact = torch.stack(list(separate(short, RATE, model, device="cpu").values()))
    for name, row in rows.items():
        row["SNR to the CPU's float32, dB"] = snr(stems[name], exact)
    save(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--separate", nargs=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="with --device: write the result there too")
    given = parser.parse_args()
    if given.separate:
        print(json.dumps(separate_one(*given.separate)))
    elif given.device != "cpu":

        def save(found: dict[str, Any]) -> None:
            print(json.dumps(found, indent=1), flush=True)
            if given.json:
                Path(given.json).write_text(json.dumps(found, indent=1) + "\n")

        gpu(given.device, given.runs, save)
    else:
        path = Path(__file__).parent / "results" / "audio_htdemucs.json"
        result = segments(given.runs, 1)
        result.write(path)
        for name, row in result.samples.items():
            print(f"{name:20s} {row.median:7.3f} s  ({row.median / 7.8:.3f} CPU-s per s of audio)", flush=True)
        print(json.dumps(result.extras, indent=1), flush=True)
        result = dataclasses.replace(result, extras={**result.extras, "plan": planned(), "memory": memory()})
        result.write(path)
        print(json.dumps({name: result.extras[name] for name in ("plan", "memory")}, indent=1))
