"""HTDemucs: a mix becomes drums, bass, other, vocals (and guitar, piano).

A clean-room implementation of the network of Rouard, Massa and Défossez, "Hybrid Transformers for Music Source
Separation" (2023), with the parameter names and shapes of the published checkpoints, which `load_state_dict` takes
as they are. Audio is float32 ``[batch, 2, time]``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from fractions import Fraction
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from elinvar.audio.htdemucs_layers import Decoder, Encoder, Shape
from elinvar.audio.htdemucs_ops import analyse, as_compute, project, resynthesise
from elinvar.audio.htdemucs_transformer import CrossTransformer
from elinvar.errors import InputError

__all__ = ["MODES", "HTDemucs", "HTDemucsConfig", "Network"]

MODES = ("full", "preview")
_FOUR = ("drums", "bass", "other", "vocals")
_LONGEST = 600  # seconds of a segment; the published ones have 7.8


@dataclasses.dataclass(frozen=True)
class HTDemucsConfig:
    """Sizes of the network; the defaults are those of the published 4-stem model.

    Attributes
    ----------
    sources
        Names of the stems.
    channels, growth, depth
        Channels of the first level, their growth per level, levels.
    n_fft
        Window of the frequency branch; the hop is a quarter of it.
    bottom_channels
        Width of the transformer; 0 keeps that of the last level.
    segment
        Length of what the network sees at once, in seconds.
    """

    sources: tuple[str, ...] = _FOUR
    audio_channels: int = 2
    sample_rate: int = 44100
    channels: int = 48
    growth: int = 2
    depth: int = 4
    n_fft: int = 4096
    bottom_channels: int = 512
    layers: int = 5
    heads: int = 8
    hidden_scale: float = 4.0
    max_period: float = 10000.0
    frequency_embedding: float = 0.2
    embedding_scale: float = 10.0
    segment: Fraction = Fraction(39, 5)
    shape: Shape = dataclasses.field(default_factory=Shape)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segment", Fraction(self.segment).limit_denominator(1_000_000))
        self._check_names()
        for name, value in (("sample_rate", self.sample_rate), ("heads", self.heads), ("stride", self.shape.stride)):
            if value < 1:
                raise InputError(f"HTDemucsConfig: {name}={value!r}; choose a whole number from 1.")
        if self.channels < self.shape.compression:
            raise InputError(
                f"HTDemucsConfig: channels={self.channels} leave nothing when divided by {self.shape.compression}; "
                "choose at least as many."
            )
        if not 0 < self.segment <= _LONGEST:
            raise InputError(
                f"HTDemucsConfig: segment={float(self.segment):g} s; choose more than 0, at most {_LONGEST}."
            )
        if self.depth < 1 or (self.n_fft // 2) % self.shape.stride**self.depth:
            raise InputError(
                f"HTDemucsConfig: n_fft={self.n_fft} has {self.n_fft // 2} bins, which depth={self.depth} cannot "
                f"divide by {self.shape.stride} that often; choose a larger n_fft or a smaller depth."
            )
        if self.width % (4 * self.heads):
            raise InputError(
                f"HTDemucsConfig: a transformer of {self.width} channels does not fit heads={self.heads} and its "
                f"positions; choose a multiple of {4 * self.heads}."
            )

    def _check_names(self) -> None:
        """Stems become files: a checkpoint must not choose where they are written."""
        plain = all(isinstance(name, str) and re.fullmatch(r"\w[\w .+()-]{0,63}", name) for name in self.sources)
        if not self.sources or len(set(self.sources)) != len(self.sources) or not plain:
            raise InputError(
                f"HTDemucsConfig: sources={self.sources!r}; choose different names of up to 64 letters, digits, spaces "
                "and .+()-_."
            )

    @property
    def last_channels(self) -> int:
        """Channels of the innermost level."""
        return int(self.channels * self.growth ** (self.depth - 1))

    @property
    def width(self) -> int:
        """Channels of the transformer."""
        return self.bottom_channels or self.last_channels

    @property
    def hop(self) -> int:
        """Samples between frames of the frequency branch."""
        return self.n_fft // 4

    @property
    def length(self) -> int:
        """Samples in a segment."""
        return int(self.segment * self.sample_rate)


CONFIGS = {
    "htdemucs": HTDemucsConfig(),
    "htdemucs_6s": HTDemucsConfig(sources=(*_FOUR, "guitar", "piano"), bottom_channels=0),
}


class Network(nn.Module):
    """What a network and a bag of them say of themselves.

    Attributes
    ----------
    config
        The `HTDemucsConfig`, in a bag the one its networks share.
    """

    config: HTDemucsConfig

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the output."""
        return self.config.sources

    @property
    def sample_rate(self) -> int:
        """Samples per second of its input and output."""
        return self.config.sample_rate

    @property
    def length(self) -> int:
        """Samples of a full segment; shorter input is padded with zeros, longer input is refused."""
        return self.config.length

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters as they are stored now."""
        return sum(p.numel() * p.element_size() for p in self.parameters())


class HTDemucs(Network):
    """The network, with random weights until `load_state_dict` or `elinvar.audio.load_model`.

    Parameters
    ----------
    name
        ``"htdemucs"`` (4 stems) or ``"htdemucs_6s"`` (6 stems).
    config
        Other sizes, instead of a name's.

    Attributes
    ----------
    config
        Its `HTDemucsConfig`.
    sources
        Names of the stems, in the order of the output.
    compute
        torch dtype of the network's activations; see `to_precision`.
    """

    def __init__(self, name: str = "htdemucs", *, config: HTDemucsConfig | None = None) -> None:
        super().__init__()
        if config is None and name not in CONFIGS:
            raise InputError(f"HTDemucs: there is no model {name!r}; choose {' or '.join(CONFIGS)}, or pass config=.")
        self.name = name
        self.config = c = config or CONFIGS[name]
        self.compute = torch.float32
        self._print: tuple[Any, str] = (None, "")
        n = len(c.sources)
        widths = [c.channels * c.growth**i for i in range(c.depth)]
        inward = list(zip([0, *widths[:-1]], widths, strict=True))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.tencoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        for i, (before, width) in enumerate(inward):
            spectral = before or 2 * c.audio_channels
            self.encoder.append(Encoder(spectral, width, c.shape, frequency=True))
            self.tencoder.append(Encoder(before or c.audio_channels, width, c.shape, frequency=False))
            out, out_t = before or 2 * c.audio_channels * n, before or c.audio_channels * n
            self.decoder.insert(0, Decoder(width, out, c.shape, frequency=True, last=i == 0))
            self.tdecoder.insert(0, Decoder(width, out_t, c.shape, frequency=False, last=i == 0))
        self.freq_emb = nn.ModuleDict({"embedding": nn.Embedding(c.n_fft // 2 // c.shape.stride, c.channels)})
        if c.bottom_channels:
            for suffix in ("", "_t"):
                setattr(self, f"channel_upsampler{suffix}", nn.Conv1d(c.last_channels, c.width, 1))
                setattr(self, f"channel_downsampler{suffix}", nn.Conv1d(c.width, c.last_channels, 1))
        self.crosstransformer = CrossTransformer(c.width, c.layers, c.heads, c.hidden_scale, c.max_period)
        self.float().eval()  # whatever torch's default dtype is
        self.requires_grad_(False)

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others: 16 hex digits, computed anew after they change."""
        state = tuple((p.data_ptr(), p._version, p.dtype) for p in self.parameters())  # noqa: SLF001
        if self._print[0] != state:
            digest = hashlib.sha256(repr(self.config).encode())
            for p in self.parameters():
                flat = p.detach().cpu().contiguous().view(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
            self._print = (state, digest.hexdigest()[:16])
        return self._print[1]

    def to_precision(self, *, storage: torch.dtype | None = None, compute: torch.dtype | None = None) -> Self:
        """Choose the number formats; returns the model itself.

        Parameters
        ----------
        storage
            float32, float16 or bfloat16 for the weights in memory: the two halves need 0.5 times the bytes. Rounding
            the weights to float16 costs about 6e-4 of the result (64 dB below it).
        compute
            float32, bfloat16 or float16 for activations and products; float16 on GPUs only. Sums, norms' statistics
            and the transforms stay float32.
        """
        accepted = (torch.float32, torch.float16, torch.bfloat16)
        for name, dtype in (("storage", storage), ("compute", compute)):
            if dtype is not None and dtype not in accepted:
                raise InputError(f"HTDemucs.to_precision: {name}={dtype} is not float32, float16 or bfloat16.")
        if storage is not None:
            self.to(storage)
        if compute is not None:
            self.compute = compute
        self._lay_out()
        return self

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load official weights; 16-bit ones are widened to the model's own storage."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._lay_out()
        return result

    def _lay_out(self) -> None:
        """Keep convolution weights channels-last in memory, so that oneDNN need not turn them in every call."""
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            elif parameter.dim() == 3:
                parameter.data = parameter.data.permute(0, 2, 1).contiguous().permute(0, 2, 1)

    # -- what it does ------------------------------------------------------------------------------------------------

    def forward(self, mix: Tensor, mode: str = "full", compute: torch.dtype | None = None) -> Tensor:
        """Separate one segment.

        Parameters
        ----------
        mix
            float32 ``[batch, 2, time]``, time at most `length`.
        mode
            ``"full"``, or ``"preview"``: the time branch alone, some 13 times cheaper and only a rough idea of the
            stems (it is half of a sum whose other half is missing).
        compute
            Another format than `compute` for this call.

        Returns
        -------
        Tensor
            float32 ``[batch, stem, 2, time]``.

        Raises
        ------
        InputError
            The shape does not fit, the segment is too long, or the mode is unknown.
        """
        c = self.config
        if mode not in MODES:
            raise InputError(f"HTDemucs: mode={mode!r} is unknown; choose full or preview.")
        if mix.dim() != 3 or mix.shape[1] != c.audio_channels or mix.shape[2] < 1:
            raise InputError(
                f"HTDemucs: mix has shape {tuple(mix.shape)}; give [batch, {c.audio_channels}, time >= 1]."
            )
        if mix.shape[2] > c.length:
            raise InputError(
                f"HTDemucs: {mix.shape[2]} samples are more than a segment of {c.length}; use elinvar.audio.separate, "
                "which cuts long audio into overlapping segments."
            )
        length, compute = mix.shape[2], compute or self.compute
        x = functional.pad(mix.float(), (0, c.length - length))
        xt, scale_t = _standardise(x.transpose(1, 2)[:, None])
        if mode == "preview":
            return self._stems_t(self._time_only(xt.to(compute)), scale_t)[..., :length]
        z = self._spectrum(x)
        xf, scale_f = _standardise(z)
        yf, yt = self._both(xf.to(compute), xt.to(compute))
        out = self._stems_f(yf, scale_f) + self._stems_t(yt, scale_t)
        return out[..., :length]

    def _both(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Run encoders, transformer and decoders on ``[batch, frequency, time, channels]``."""
        skips, skips_t, sizes, sizes_t = [], [], [], []
        for i, (encode, encode_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            sizes.append(x.shape[1])
            sizes_t.append(xt.shape[2])
            xt = encode_t(xt)
            x = encode(x)
            if i == 0:
                x = x + self._embedding(x)
            skips.append(x)
            skips_t.append(xt)
        if self.config.bottom_channels:
            x, xt = self._resample(x, "channel_upsampler"), self._resample(xt, "channel_upsampler_t")
        x, xt = self.crosstransformer(x, xt)
        if self.config.bottom_channels:
            x, xt = self._resample(x, "channel_downsampler"), self._resample(xt, "channel_downsampler_t")
        for decode, decode_t in zip(self.decoder, self.tdecoder, strict=True):
            x = decode(x, skips.pop(), sizes.pop())
            xt = decode_t(xt, skips_t.pop(), sizes_t.pop())
        return x, xt

    def _time_only(self, xt: Tensor) -> Tensor:
        skips, sizes = [], []
        for encode in self.tencoder:
            sizes.append(xt.shape[2])
            xt = encode(xt)
            skips.append(xt)
        for decode in self.tdecoder:
            xt = decode(xt, skips.pop(), sizes.pop())
        return xt

    def _embedding(self, x: Tensor) -> Tensor:
        """What tells the frequency branch how high a bin is: ``[f, 1, channels]``."""
        weight = as_compute(self.freq_emb["embedding"].weight, x)  # type: ignore[arg-type]
        return self.config.frequency_embedding * (self.config.embedding_scale * weight)[:, None]

    def _resample(self, x: Tensor, name: str) -> Tensor:
        layer = getattr(self, name)
        return project(x, layer.weight, layer.bias)

    # -- between audio and activations -------------------------------------------------------------------------------

    def _spectrum(self, x: Tensor) -> Tensor:
        """Return ``[batch, bins, frames, 2 * channels]``: real and imaginary parts, channel by channel."""
        n, hop = self.config.n_fft, self.config.hop
        frames = math.ceil(x.shape[-1] / hop)
        pad = hop // 2 * 3
        right = pad + frames * hop - x.shape[-1]
        short = max(pad, right) + 1 - x.shape[-1]
        padded = functional.pad(x, (0, max(0, short)))
        padded = functional.pad(padded, (pad, right - max(0, short)), mode="reflect")
        return analyse(padded.contiguous(), n)

    def _stems_f(self, y: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
        """Turn ``[batch, bins, frames, stems * 2 * channels]`` into ``[batch, stem, channel, length]``."""
        c = self.config
        mean, std = scale
        x = resynthesise(y.contiguous(), std.flatten(), mean.flatten())
        pad = c.hop // 2 * 3
        return x.reshape(len(y), len(c.sources), c.audio_channels, -1)[..., pad : pad + c.length]

    def _stems_t(self, y: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
        """Turn ``[batch, 1, length, stems * channels]`` into ``[batch, stem, channel, length]``."""
        c = self.config
        mean, std = scale
        x = y.float().squeeze(1).transpose(1, 2)
        return torch.addcmul(mean[:, 0], x, std[:, 0]).reshape(y.shape[0], len(c.sources), c.audio_channels, -1)


def _standardise(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return ``(x - mean) / (1e-5 + std)`` over all but the batch, and what undoes it; std is unbiased."""
    axes = (1, 2, 3)
    if x.device.type != "cpu":
        std, mean = torch.std_mean(x, dim=axes, keepdim=True)
        return (x - mean) / (1e-5 + std), (mean, std)
    mean = x.mean(dim=axes, keepdim=True)
    centred = x - mean
    # Sums of torch are pairwise; its std, one value after the other, takes five times as long on a CPU.
    squares = centred.square().sum(dim=axes, keepdim=True)
    std = torch.sqrt(squares / (x[0].numel() - 1))
    return centred / (1e-5 + std), (mean, std)
