"""Voices of the built-in synthesizer: how one note of each family of sound is made.

Every voice is a frozen dataclass with `render(frequency, hold_secs, tone, sample_rate, rng)`, which
returns float32 [2, n]: left and right differ by detuning, phase or noise. `tone` (about 0.75..1.3)
scales brightness. The voices are textbook ones: band-limited wavetables, damped modes (additive
synthesis), frequency modulation (Chowning 1973), plucked strings (Karplus and Strong 1983) and
filtered noise.
"""

import dataclasses
import functools

import numpy as np
from scipy import signal

_TABLE_SIZE = 4096


def envelope(
  num_samples: int, hold: int, attack: int, decay: int, sustain: float, release: int
) -> np.ndarray:
  """Attack, exponential decay to `sustain`, raised-cosine release from sample `hold` on.

  Returns:
    float32 [num_samples].
  """
  t = np.arange(num_samples, dtype=np.float32)
  level = sustain + (1 - sustain) * np.exp(-np.maximum(t - attack, 0) / max(decay, 1))
  rise = np.minimum(t / max(attack, 1), 1.0)
  rise = rise * rise * (3 - 2 * rise)
  fall = np.clip((t - hold) / max(release, 1), 0.0, 1.0)
  return (level * rise * (0.5 + 0.5 * np.cos(np.pi * fall))).astype(np.float32)


@functools.lru_cache(maxsize=64)
def band_filter(low_hz: float, high_hz: float, sample_rate: int, order: int = 2) -> np.ndarray:
  """Second-order sections of a Butterworth filter; 0 leaves that side open."""
  nyquist = sample_rate / 2
  if low_hz and high_hz and high_hz < 0.97 * nyquist:
    return signal.butter(order, (low_hz, high_hz), 'bandpass', fs=sample_rate, output='sos')
  if low_hz:
    return signal.butter(order, low_hz, 'highpass', fs=sample_rate, output='sos')
  return signal.butter(order, min(high_hz, 0.97 * nyquist), 'lowpass', fs=sample_rate, output='sos')


def noise(
  num_samples: int, low_hz: float, high_hz: float, sample_rate: int, rng: np.random.Generator,
  width: float = 0.6,
) -> np.ndarray:  # fmt: skip
  """Band-limited noise of unit RMS, float32 [2, n]; `width` is the share that differs by side."""
  x = rng.standard_normal((3, num_samples), dtype=np.float32)
  x = np.sqrt(1 - width) * x[:1] + np.sqrt(width) * x[1:]
  y = signal.sosfilt(band_filter(low_hz, high_hz, sample_rate), x).astype(np.float32)
  return y / (np.sqrt(np.mean(y * y)) + 1e-9)


def modes(
  frequencies: np.ndarray, amplitudes: np.ndarray, decays_secs: np.ndarray, phases: np.ndarray,
  num_samples: int, sample_rate: int,
) -> np.ndarray:  # fmt: skip
  """Sum of exponentially damped sines, float32 [num_samples].

  z^(aM + b) = z^(aM) z^b makes the sum over modes one small matrix product.

  Args:
    frequencies, amplitudes, decays_secs, phases: [modes]; decay to -60 dB; sine phases in radians.
    num_samples: length.
    sample_rate: in Hz.
  """
  block = 256
  z = (-6.908 / decays_secs + 2j * np.pi * frequencies) / sample_rate
  coarse = np.exp(np.outer(np.arange(-(-num_samples // block)) * block, z))
  fine = np.exp(np.outer(z, np.arange(block)))
  coarse = coarse * (amplitudes * np.exp(1j * (phases - np.pi / 2)))
  left = np.concatenate([coarse.real, -coarse.imag], axis=1).astype(np.float32)
  right = np.concatenate([fine.real, fine.imag], axis=0).astype(np.float32)
  return (left @ right).reshape(-1)[:num_samples]


@dataclasses.dataclass(frozen=True)
class Wave:
  """Wavetable voices: strings, organs, winds, brass, analog leads, pads and basses.

  Attributes:
    harmonics: amplitudes of the first harmonics; empty: 1 / k^slope.
    slope: exponent of the harmonic series.
    even: gain of the even harmonics (0: square-like).
    dark_hz, bright_hz: corner of a second-order lowpass on the table, at rest and at the attack;
      the sound falls from bright to dark with time constant `sweep_secs` (0: rests at dark).
    formants: (centre Hz, width Hz, gain) peaks on the spectrum.
    voices, detune_cents: copies per side and the range over which they spread.
    vibrato_hz, vibrato_cents: vibrato, which sets in after 0.25 s.
    attack, decay, release: in seconds; sustain: level 0..1.
    breath, breath_hz: noise level against the tone and its band.
    drive: gain into a tanh (0: none), followed by a loudspeaker's band.
  """

  harmonics: tuple[float, ...] = ()
  slope: float = 1.0
  even: float = 1.0
  dark_hz: float = 3000.0
  bright_hz: float = 3000.0
  sweep_secs: float = 0.0
  formants: tuple[tuple[float, float, float], ...] = ()
  voices: int = 1
  detune_cents: float = 3.0
  vibrato_hz: float = 5.2
  vibrato_cents: float = 0.0
  attack: float = 0.01
  decay: float = 0.3
  sustain: float = 0.8
  release: float = 0.12
  breath: float = 0.0
  breath_hz: tuple[float, float] = (2000.0, 12000.0)
  drive: float = 0.0

  def _table(
    self, frequency: float, corner_hz: float, sample_rate: int, rng: np.random.Generator
  ) -> np.ndarray:
    """One period, band-limited for `frequency`, with an extra sample to interpolate to."""
    count = int(np.clip(0.42 * sample_rate / frequency, 1, _TABLE_SIZE // 2 - 1))
    k = np.arange(1, count + 1)
    amplitudes = k**-self.slope
    if self.harmonics:
      amplitudes = np.zeros(count)
      given = self.harmonics[:count]
      amplitudes[: len(given)] = given
    amplitudes = np.where(k % 2 == 0, self.even, 1.0) * amplitudes
    hz = k * frequency
    amplitudes = amplitudes / (1 + (hz / corner_hz) ** 2)
    if self.formants:
      shape = 0.08 + sum(g * np.exp(-(((hz - c) / w) ** 2)) for c, w, g in self.formants)
      amplitudes = amplitudes * shape
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, dtype=np.complex128)
    spectrum[1 : count + 1] = amplitudes * np.exp(1j * rng.uniform(-0.7, 0.7, count))
    table = np.fft.irfft(spectrum) * _TABLE_SIZE
    return np.append(table, table[0]).astype(np.float32)

  def render(
    self, frequency: float, hold_secs: float, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """One note, float32 [2, n]."""
    hold = int(hold_secs * sample_rate)
    n = hold + int(self.release * sample_rate)
    t = np.arange(n) / sample_rate
    shape = envelope(
      n, hold, int(self.attack * sample_rate), int(self.decay * sample_rate), self.sustain,
      int(self.release * sample_rate),
    )  # fmt: skip
    dark = self._table(frequency, self.dark_hz * tone, sample_rate, np.random.default_rng(7))
    bright = self._table(frequency, self.bright_hz * tone, sample_rate, np.random.default_rng(7))
    sweep = np.exp(-t / self.sweep_secs).astype(np.float32) if self.sweep_secs else None
    phase = frequency * t
    if self.vibrato_cents:
      depth = (2 ** (self.vibrato_cents / 1200) - 1) * np.clip((t - 0.25) / 0.3, 0, 1)
      turns = self.vibrato_hz * t
      phase = phase - frequency * depth * np.cos(2 * np.pi * turns) / (2 * np.pi * self.vibrato_hz)
    spread = np.linspace(-1, 1, 2 * self.voices) * self.detune_cents
    starts = rng.random(2 * self.voices)
    if self.voices == 1:
      starts[1] = starts[0] + 0.06
    out = np.zeros((2, n), np.float32)
    for i in range(2 * self.voices):
      place = (phase * 2 ** (spread[i] / 1200) + starts[i]) % 1.0 * _TABLE_SIZE
      index = place.astype(np.int32)
      part = (place - index).astype(np.float32)
      y = dark[index]
      y += part * (dark[index + 1] - y)
      if sweep is not None:
        high = bright[index]
        high += part * (bright[index + 1] - high)
        y += sweep * (high - y)
      out[i % 2] += y
    return self._finish(out, shape, tone, sample_rate, rng)

  def _finish(
    self, out: np.ndarray, shape: np.ndarray, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """Adds breath, applies the envelope, overdrives."""
    out /= np.sqrt(np.mean(out * out)) + 1e-9
    if self.breath:
      out += self.breath * noise(out.shape[1], *self.breath_hz, sample_rate, rng)
    if self.drive:
      out = np.tanh(self.drive * out * np.sqrt(shape)).astype(np.float32)
      out = signal.sosfilt(band_filter(90.0, 5200.0 * tone, sample_rate), out).astype(np.float32)
    return out * shape


@dataclasses.dataclass(frozen=True)
class Modal:
  """Struck things: bells, bars, piano strings. Sums of damped modes.

  Attributes:
    ratios: mode frequencies over the note's; empty: `partials` stretched string partials.
    amplitudes: one each (shorter: 0.8^k after the last).
    partials, stretch: number of string partials and their inharmonicity B in k sqrt(1 + B k^2).
    decay: seconds to -60 dB of the first mode at 440 Hz; falls with sqrt(frequency).
    damping: how much faster higher modes fall: decay / (1 + damping k).
    detune_cents: between the sides.
    beat_hz: paired tuning (gamelan): a second set of modes that much higher.
    strike, strike_hz: level and band of the noise of the blow.
    rings: whether the note rings out rather than stops at its end.
    tremolo_hz: of the level, opposite on the two sides.
    release: seconds, for notes that stop.
  """

  ratios: tuple[float, ...] = ()
  amplitudes: tuple[float, ...] = (1.0,)
  partials: int = 0
  stretch: float = 0.0004
  decay: float = 1.5
  damping: float = 0.6
  detune_cents: float = 1.5
  beat_hz: float = 0.0
  strike: float = 0.1
  strike_hz: tuple[float, float] = (1500.0, 10000.0)
  rings: bool = True
  tremolo_hz: float = 0.0
  release: float = 0.1

  def render(
    self, frequency: float, hold_secs: float, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """One note, float32 [2, n]."""
    k = np.arange(self.partials)
    if self.ratios:
      ratios = np.array(self.ratios)
    else:
      ratios = (k + 1) * np.sqrt(1 + self.stretch * (k + 1) ** 2)
    k = np.arange(len(ratios))
    amplitudes = np.array([
      self.amplitudes[i] if i < len(self.amplitudes)
      else self.amplitudes[-1] * 0.8 ** (i - len(self.amplitudes) + 1) for i in k
    ]) * tone ** (1.5 * np.minimum(k, 4))  # fmt: skip
    audible = ratios * frequency < 0.45 * sample_rate
    ratios, amplitudes, k = ratios[audible], amplitudes[audible], k[audible]
    decays = self.decay * (440 / frequency) ** 0.5 / (1 + self.damping * k)
    length = max(decays[0] * 0.8, 0.05) if self.rings else hold_secs + self.release
    n = int(min(length, hold_secs + 3.0, 5.0) * sample_rate)
    out = np.zeros((2, n), np.float32)
    phases = rng.uniform(0, 2 * np.pi, len(k))
    for side, cents in enumerate((-self.detune_cents, self.detune_cents)):
      hz = ratios * frequency * 2 ** (cents / 2400)
      lean = 1 + 0.35 * (1 - 2 * side) * np.where(k % 2 == 0, 1, -1)
      pair = amplitudes * lean
      if self.beat_hz:
        hz, pair = np.concatenate([hz, hz + self.beat_hz]), np.concatenate([pair, pair * 0.8])
      times = np.resize(decays, len(hz))
      out[side] = modes(hz, pair, times, np.resize(phases, len(hz)), n, sample_rate)
    t = np.arange(n, dtype=np.float32) / sample_rate
    if self.tremolo_hz:
      wave = 0.3 * np.sin(2 * np.pi * self.tremolo_hz * t)
      out *= np.stack([1 + wave, 1 - wave])
    blow = int(min(0.03, n / sample_rate) * sample_rate)
    fade = np.exp(-t[:blow] / 0.005)
    level = self.strike * np.abs(out).max()
    out[:, :blow] += level * fade * noise(blow, *self.strike_hz, sample_rate, rng)
    hold = n - int(0.05 * sample_rate) if self.rings else int(hold_secs * sample_rate)
    return out * envelope(n, hold, int(0.001 * sample_rate), 1, 1.0, n - hold)


@dataclasses.dataclass(frozen=True)
class FM:
  """Frequency modulation, one or two stacked pairs of sines (electric piano, bells, basses).

  Attributes:
    pairs: (carrier ratio, modulator ratio, index, index decay in seconds, level) each.
    decay, sustain, attack, release: of the level; seconds, sustain 0..1.
    detune_cents: between the sides.
    tremolo_hz: level, opposite on the two sides.
  """

  pairs: tuple[tuple[float, float, float, float, float], ...]
  attack: float = 0.003
  decay: float = 0.8
  sustain: float = 0.0
  release: float = 0.15
  detune_cents: float = 3.0
  tremolo_hz: float = 0.0

  def render(
    self, frequency: float, hold_secs: float, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """One note, float32 [2, n]."""
    del rng
    hold = int(hold_secs * sample_rate)
    n = hold + int(self.release * sample_rate)
    t = np.arange(n) / sample_rate
    # Higher notes get a smaller index, so that the sidebands stay below the Nyquist frequency.
    scale = tone * min(1.0, (500 / frequency) ** 0.5)
    out = np.zeros((2, n), np.float32)
    for side, cents in enumerate((-self.detune_cents / 2, self.detune_cents / 2)):
      f = frequency * 2 ** (cents / 1200)
      for carrier, modulator, index, index_secs, level in self.pairs:
        turn = (2 * np.pi * ((modulator * f * t) % 1.0)).astype(np.float32)
        bend = index * scale * np.exp(-t / index_secs).astype(np.float32) * np.sin(turn)
        turn = (2 * np.pi * ((carrier * f * t + 0.13 * side) % 1.0)).astype(np.float32)
        out[side] += level * np.sin(turn + bend)
    if self.tremolo_hz:
      wave = 0.25 * np.sin(2 * np.pi * self.tremolo_hz * t).astype(np.float32)
      out *= np.stack([1 + wave, 1 - wave])
    return out * envelope(
      n, hold, int(self.attack * sample_rate), int(self.decay * sample_rate), self.sustain,
      int(self.release * sample_rate),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pluck:
  """Plucked strings: a burst of noise in a delay loop with a damping filter (Karplus-Strong).

  Attributes:
    decay: seconds to -60 dB at 220 Hz; falls with sqrt(frequency).
    damping: weight of the loop's symmetric smoothing filter, 0 (bright) to 0.33.
    pick: place of the pick along the string (a comb on the burst).
    burst_hz: lowpass corner of the burst.
    width: share of the burst that differs by side.
    release: seconds of damping after the note's end.
    drive: gain into a tanh with a loudspeaker's band after it (0: none).
    snap: level of the noise of the pick.
  """

  decay: float = 3.0
  damping: float = 0.12
  pick: float = 0.18
  burst_hz: float = 8000.0
  width: float = 0.3
  release: float = 0.08
  drive: float = 0.0
  snap: float = 0.0

  def render(
    self, frequency: float, hold_secs: float, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """One note, float32 [2, n]."""
    decay = self.decay * (220 / frequency) ** 0.5
    hold_secs = min(hold_secs, 1.1 * decay)
    hold = int(hold_secs * sample_rate)
    n = hold + int(self.release * sample_rate)
    period = sample_rate / frequency
    size = int(period - 1)  # the smoothing filter delays by one sample
    part = period - 1 - size
    burst = rng.standard_normal((3, size), dtype=np.float32)
    burst = np.sqrt(1 - self.width) * burst[:1] + np.sqrt(self.width) * burst[1:]
    # Around the loop, so that the corner holds for the shortest strings as well.
    spectrum = np.fft.rfft(burst - np.roll(burst, max(1, int(self.pick * size)), axis=-1))
    hz = np.arange(spectrum.shape[-1]) * frequency
    spectrum = spectrum / (1 + (hz / (self.burst_hz * tone)) ** 2)
    spectrum[:, 0] = 0
    taps = np.convolve([1 - part, part], [self.damping, 1 - 2 * self.damping, self.damping])
    taps = (taps * 10 ** (-3 / (decay * frequency))).astype(np.float32)
    out = np.zeros((2, n + size), np.float32)
    out[:, :size] = np.fft.irfft(spectrum, size)[:, :size]
    for start in range(size, n, size):
      stop = min(start + size, n)
      seg = out[:, start:stop]
      for tap, weight in enumerate(taps):
        first = start - size - tap
        if first >= 0:
          seg += weight * out[:, first : first + stop - start]
        else:
          seg[:, -first:] += weight * out[:, : first + stop - start]
    out = out[:, :n]
    out /= np.sqrt(np.mean(out[:, : 4 * size] ** 2)) + 1e-9
    if self.snap:
      blow = min(n, int(0.02 * sample_rate))
      fade = np.exp(-np.arange(blow) / (0.003 * sample_rate)).astype(np.float32)
      out[:, :blow] += self.snap * fade * noise(blow, 2500.0, 14000.0, sample_rate, rng)
    if self.drive:
      out = np.tanh(self.drive * out).astype(np.float32)
      out = signal.sosfilt(band_filter(80.0, 5000.0 * tone, sample_rate), out).astype(np.float32)
    return out * envelope(n, hold, 8, 1, 1.0, n - hold)


@dataclasses.dataclass(frozen=True)
class Texture:
  """Sustained noise: wind, or the crackle and hiss of a record.

  Attributes:
    low_hz, high_hz: band.
    crackles: clicks per second.
    attack, release: in seconds.
  """

  low_hz: float = 400.0
  high_hz: float = 14000.0
  crackles: float = 0.0
  attack: float = 0.6
  release: float = 0.8

  def render(
    self, frequency: float, hold_secs: float, tone: float, sample_rate: int,
    rng: np.random.Generator,
  ) -> np.ndarray:  # fmt: skip
    """One note, float32 [2, n]; the pitch has no part in it."""
    del frequency
    hold = int(hold_secs * sample_rate)
    n = hold + int(self.release * sample_rate)
    out = noise(n, self.low_hz, self.high_hz * tone, sample_rate, rng, width=0.9)
    # Falls by 6 dB per octave, as wind and surface noise do.
    out = signal.lfilter([0.25], [1, -0.75], out).astype(np.float32)
    if self.crackles:
      count = int(self.crackles * n / sample_rate)
      places = rng.integers(0, n, count)
      clicks = np.zeros((2, n), np.float32)
      clicks[rng.integers(0, 2, count), places] = rng.exponential(6.0, count)
      out = 0.3 * out + signal.sosfilt(band_filter(1000.0, 12000.0, sample_rate), clicks).astype(
        np.float32
      )
    return out * envelope(
      n, hold, int(self.attack * sample_rate), 1, 1.0, int(self.release * sample_rate)
    )


Voice = Wave | Modal | FM | Pluck | Texture
