from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from elinvar import audio
from elinvar.errors import InputError

TONE = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(8192) / 16000)).astype(np.float32)


def test_mel_filters_are_slaneys() -> None:
    filters = audio.mel_filters(16000, 512, 40)
    assert filters.shape == (40, 257)
    area = filters.sum(axis=1) * (16000 / 512)
    np.testing.assert_allclose(area[8:], 1.0, rtol=0.12)  # area 1, as far as bins resolve it
    peaks = np.fft.rfftfreq(512, 1 / 16000)[filters.argmax(axis=1)]
    assert np.all(np.diff(peaks) >= 0)
    np.testing.assert_allclose(np.diff(peaks[:10]), np.diff(peaks[:10]).mean(), atol=32)  # linear below 1 kHz
    assert audio.mel_filters(16000, 512, 40, normalized=False).max() <= 1.0
    assert not np.array_equal(audio.mel_filters(16000, 512, 40, htk=True), filters)


def test_librosa_agrees() -> None:
    librosa = pytest.importorskip("librosa")
    np.testing.assert_allclose(
        audio.mel_filters(16000, 512, 40), librosa.filters.mel(sr=16000, n_fft=512, n_mels=40), atol=1e-7
    )
    want = librosa.feature.mfcc(y=TONE, sr=16000, n_mfcc=13, n_fft=512, hop_length=128, pad_mode="reflect")
    found = audio.mfcc(TONE, 16000, 13, stft=audio.STFT(512, 128))
    np.testing.assert_allclose(found, want, atol=2e-3)


def test_a_tone_is_in_its_band() -> None:
    stft = audio.STFT(512, 128)
    bands = audio.mel_spectrogram(TONE, 16000, stft=stft, n_mels=40)
    assert bands.shape == (40, stft.frames(8192))
    loudest = int(bands[:, 20].argmax())
    assert audio.mel_filters(16000, 512, 40)[loudest, 32] > 0  # bin 32 is 1 kHz


def test_cepstrum_is_scipys_cosine_transform() -> None:
    bands = audio.db(audio.mel_spectrogram(TONE, 16000, n_mels=40), top=80.0)
    want = scipy.fft.dct(bands, type=2, norm="ortho", axis=-2)[:13]
    np.testing.assert_allclose(audio.mfcc(TONE, 16000, 13, n_mels=40), want, atol=1e-3)
    tensor = audio.mfcc(torch.from_numpy(TONE), 16000, 13, n_mels=40)
    np.testing.assert_allclose(tensor.numpy(), want, atol=1e-3)


def test_decibels() -> None:
    x = np.array([1.0, 0.1, 0.0], np.float32)
    np.testing.assert_allclose(audio.db(x), [0, -10, -100], atol=1e-5)
    np.testing.assert_allclose(audio.db(x, of="amplitude"), [0, -20, -100], atol=1e-5)
    np.testing.assert_allclose(audio.db(x, reference=0.1, top=30.0), [10, 0, -20], atol=1e-5)
    np.testing.assert_allclose(audio.db(torch.from_numpy(x), top=30.0).numpy(), [0, -10, -30], atol=1e-5)
    assert audio.db(x).dtype == np.float32
    spectrum = np.array([3 + 4j], np.complex64)
    assert audio.magnitude(spectrum)[0] == 5
    assert audio.power(spectrum)[0] == 25


def test_bad_input() -> None:
    with pytest.raises(InputError, match="n_mfcc is 50"):
        audio.mfcc(TONE, 16000, 50, n_mels=40)
    with pytest.raises(InputError, match="fmax"):
        audio.mel_filters(16000, 512, fmax=9000)
    with pytest.raises(InputError, match="of is"):
        audio.db(TONE, of="loudness")
    with pytest.raises(InputError, match="sample_rate"):
        audio.mel_filters(0, 512)
