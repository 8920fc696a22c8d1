from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import audio
from elinvar.errors import InputError


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "boxcar", ("kaiser", 8.0), "flattop"])
def test_windows_are_scipys_periodic_ones(name: str) -> None:
    np.testing.assert_allclose(audio.window(name, 37), scipy.signal.get_window(name, 37), atol=1e-15)


def test_periodic_hann_and_hamming_add_up_exactly() -> None:
    for name in ("hann", "hamming"):
        for hop in (1024, 512):
            assert audio.cola_ripple(name, 2048, hop) < 5e-15
            assert audio.check_cola(name, 2048, hop)
    symmetric = scipy.signal.windows.hann(2048, sym=True)
    assert 5e-4 < audio.cola_ripple(symmetric, 2048, 1024) < 1e-3  # what a symmetric window costs
    assert not audio.check_cola("blackman", 2048, 1024)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(2, 80), part=st.floats(0.01, 1.0), name=st.sampled_from(["hann", "hamming", "blackman"]))
def test_nola_is_scipys(length: int, part: float, name: str) -> None:
    hop = max(1, int(length * part))
    want = scipy.signal.check_NOLA(name, length, length - hop)
    assert audio.check_nola(name, length, hop) == want


def test_bad_windows() -> None:
    with pytest.raises(InputError, match="not known"):
        audio.window("nonsense", 8)
    with pytest.raises(InputError, match="give 8 finite"):
        audio.window(np.ones(7), 8)
    with pytest.raises(InputError, match="length is 0"):
        audio.window("hann", 0)
