"""Power spectra of films: how much fine detail there is, and whether a grid lies over it.

Upsampling leaves its traces at high frequencies, which a radially averaged spectrum shows (Durall et al. 2020, arXiv
2003.01826); but a grid is a few peaks on the axes or between them, which such an average hides. Every film is seen
without its mean and behind a Hann window: its borders, which do not meet, would leak into all frequencies.
"""

from collections.abc import Iterator

import numpy as np

CHUNK_PIXELS = 1 << 21  # transformed at once
FINEST = 1e-3  # grey levels squared, far below the 1/12 of rounding: a blank image has a spectrum too
# Cycles a pixel, down and across, of grids of four and of two pixels: what is left of the last two doublings.
GRIDS = tuple((y, x) for y in (0, 1 / 4, 1 / 2) for x in (0, 1 / 4, 1 / 2) if (y, x) != (0, 0))


def frequencies(side: int) -> np.ndarray:
    """(side / 2,) cycles a pixel, from 1 / side to 1 / 2."""
    return np.arange(1, side // 2 + 1) / side


def radial_power(images: np.ndarray) -> np.ndarray:
    """Decibels (N, S / 2) at the `frequencies` of images (N, S, S) uint8, averaged over all directions; S even.

    0 dB is the power of noise of one grey level.
    """
    side = images.shape[-1]
    away = np.fft.fftfreq(side) * side
    ring = np.hypot(away[:, None], away).round().astype(int).ravel()
    rows = [np.bincount(ring, one) for power in _power(images) for one in power.reshape(len(power), -1)]
    mean = np.stack(rows)[:, 1 : side // 2 + 1] / np.bincount(ring)[1 : side // 2 + 1]
    return 10 * np.log10(mean + FINEST)


def excess_power(real: np.ndarray, others: np.ndarray) -> float:
    """By how many decibels others (M, B) lie above real films (N, B), both `radial_power`, in the highest octave.

    That is, at details of two to four pixels. The mean distance of two lines on logarithmic axes: power falls so
    steeply that its sum would be that of the lowest frequencies alone. Below 0 the others are soft; above it they have
    noise or false detail.
    """
    octave = slice(real.shape[1] // 2, None)
    return float((others[:, octave].mean(0) - real[:, octave].mean(0)).mean())


def grid_peaks(images: np.ndarray) -> np.ndarray:
    """(N, 8): the amplitude of images (N, S, S) uint8 at each of GRIDS, over that around it; S a multiple of 4."""
    side = images.shape[-1]
    # The window spreads a single frequency over its direct neighbours: these are left out.
    around = [(y, x) for y in range(-3, 4) for x in range(-3, 4) if max(abs(y), abs(x)) > 1]
    parts = []
    for amplitude in (np.sqrt(power + FINEST) for power in _power(images)):
        peaks = []
        for row, column in ((round(y * side), round(x * side)) for y, x in GRIDS):
            near = [amplitude[:, (row + y) % side, (column + x) % side] for y, x in around]
            peaks.append(amplitude[:, row, column] / np.mean(near, axis=0))
        parts.append(np.stack(peaks, axis=1))
    return np.concatenate(parts)


def grid_power(real: np.ndarray, others: np.ndarray) -> float:
    """By how many decibels a grid stands out more in others (M, 8) than in real films (N, 8), both `grid_peaks`.

    Of the frequency where it does so most. The mean of amplitudes, not of powers: one film weighs less.
    """
    return float(20 * np.log10(others.mean(0) / real.mean(0)).max())


def _power(images: np.ndarray) -> Iterator[np.ndarray]:
    """Of some images at a time, (n, S, S): white noise has its variance, in grey levels squared, everywhere."""
    side = images.shape[-1]
    hann = np.hanning(side + 1)[:-1]
    window = np.outer(hann, hann)
    rows = max(1, CHUNK_PIXELS // side**2)
    for some in (images[k : k + rows] for k in range(0, len(images), rows)):
        mean = (some * window).sum((1, 2), keepdims=True) / window.sum()
        yield np.abs(np.fft.fft2((some - mean) * window)) ** 2 / (window**2).sum()
