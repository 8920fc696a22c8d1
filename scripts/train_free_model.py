"""Train `elinvar_free`, the two-view network whose weights come with elinvar, on made-up rooms.

    python scripts/train_free_model.py FOLDER --seconds 1500 [--resume FOLDER/last.pt] [--until 1000]

Needs one CUDA GPU. The seconds are those spent in steps: it can be stopped, killed, resumed; the learning rate falls to
nearly nothing at their end, so let it get there. FOLDER/best.safetensors is the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from elinvar.vision.training import Recipe, Trainer

NAME = "elinvar_free"
SIZES = ((256, 192), (256, 192), (192, 256))
EARLY = ((192, 144), (192, 144), (144, 192))


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="Planned length of the whole training.")
    parser.add_argument("--until", type=float, default=None, help="Stop after so many seconds of this run.")
    parser.add_argument("--resume", type=Path, default=None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--eager", action="store_true", help="Do not compile.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = True
    recipe = Recipe(sizes=SIZES, early=EARLY, seconds=options.seconds, batch=options.batch, rate=options.rate)
    trainer = Trainer(NAME, recipe, device=device, seed=options.seed, compiled=not options.eager)
    if options.resume is not None and options.resume.is_file():
        trainer.resume(options.resume)
        print(f"resumed at step {trainer.step}, {trainer.spent:.0f} s", flush=True)
    trainer.run(options.folder, until=options.until, tell=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
