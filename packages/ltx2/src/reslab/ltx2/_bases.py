"""The tables that a released vocoder stores as buffers: a windowed Fourier transform and a bank of mel filters.

Its bandwidth extension reads a spectrogram through them. No constructor computes them, so a model that was built
without a checkpoint has to be given them.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank


def fourier_basis(window: int) -> torch.Tensor:
    """Return the real and imaginary rows of a windowed Fourier transform, (window + 2, 1, window).

    Args:
        window: Samples in a window of the transform.
    """
    rows = np.fft.rfft(np.eye(window), axis=0) * np.hanning(window + 1)[:-1]
    return torch.from_numpy(np.concatenate([rows.real, rows.imag])[:, None]).float()


def mel_basis(bins: int, frequencies: int) -> torch.Tensor:
    """Return triangular filters from 0 to 8 kHz at 16 kHz, (bins, frequencies)."""
    bank = mel_filter_bank(
        num_frequency_bins=frequencies,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=16000,
    )
    return torch.from_numpy(bank.T).float()
