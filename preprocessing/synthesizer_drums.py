"""Drum kits of the built-in synthesizer: every stroke is sines, modes and filtered noise.

A stroke is a `Stroke`; a kit maps drum names (`scores.DRUM_KEYS`) to strokes and falls back on
`BASIC` for those that it does not change.
"""

import dataclasses

import numpy as np

from preprocessing import synthesizer_voices as voices


@dataclasses.dataclass(frozen=True)
class Stroke:
  """One drum or cymbal.

  Attributes:
    gain: peak level in the kit.
    pan: -1..1.
    secs: length.
    tone_hz, tone_bend, bend_secs: body: a sine that falls from tone_hz (1 + tone_bend) to tone_hz.
    tone_secs: decay of the body (time constant).
    partials: ratios of further modes of the body (or of the metal).
    noise: level of the noise against the body (1 where there is no body).
    noise_hz: its band.
    noise_secs: decay of the noise (time constant).
    attack: seconds that the noise takes to rise.
    bursts: how often the noise starts, 12 ms apart (hand clap).
    width: share of the noise that differs by side.
    drive: gain into a tanh (0: none).
    gate_secs: cut after this time (0: none).
  """

  gain: float
  pan: float = 0.0
  secs: float = 0.3
  tone_hz: float = 0.0
  tone_bend: float = 0.0
  bend_secs: float = 0.03
  tone_secs: float = 0.15
  partials: tuple[float, ...] = ()
  noise: float = 0.0
  noise_hz: tuple[float, float] = (1000.0, 12000.0)
  noise_secs: float = 0.1
  attack: float = 0.0
  bursts: int = 1
  width: float = 0.5
  drive: float = 0.0
  gate_secs: float = 0.0

  def render(self, tone: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One stroke at full force, float32 [2, n], peak `gain`."""
    n = int(self.secs * sample_rate)
    t = np.arange(n) / sample_rate
    out = np.zeros((2, n), np.float32)
    if self.tone_hz:
      bend = self.tone_bend * self.bend_secs * (1 - np.exp(-t / self.bend_secs))
      turns = self.tone_hz * tone * (t + bend)
      body = np.sin(2 * np.pi * turns) * np.exp(-t / self.tone_secs)
      for i, ratio in enumerate(self.partials):
        fall = np.exp(-t * (1 + 0.25 * i) / self.tone_secs)
        body += 0.7 * 0.9**i * np.sin(2 * np.pi * ratio * turns + i) * fall
      out += (body / np.abs(body).max()).astype(np.float32)
    if self.noise:
      hiss = voices.noise(n, *self.noise_hz, sample_rate, rng, width=self.width)
      shape = np.zeros(n)
      for i in range(self.bursts):
        start = int(0.012 * i * sample_rate)
        rest = t[: n - start]
        last = i == self.bursts - 1
        fall = np.exp(-rest / (self.noise_secs if last else 0.006))
        rise = np.minimum(rest / self.attack, 1.0) if self.attack else 1.0
        shape[start:] = np.maximum(shape[start:], fall * rise)
      out += (self.noise * 0.35 * hiss * shape).astype(np.float32)
    if self.drive:
      out = np.tanh(self.drive * out)
    hold = int((self.gate_secs or self.secs - 0.02) * sample_rate)
    out *= voices.envelope(n, hold, 16, 1, 1.0, min(int(0.02 * sample_rate), n - hold))
    angle = (1 + self.pan) * np.pi / 4
    out *= np.array([[np.cos(angle)], [np.sin(angle)]], np.float32) * np.float32(np.sqrt(2))
    return (self.gain * out / (np.abs(out).max() + 1e-9)).astype(np.float32)


_METAL = (1.34, 1.79, 2.27, 2.74, 3.41)

BASIC = {
  'kick': Stroke(1.0, 0, 0.35, 52, 2.6, 0.028, 0.12, noise=0.5, noise_hz=(1200, 6000),
                 noise_secs=0.006),
  'snare': Stroke(0.75, 0.08, 0.32, 186, 0.5, 0.02, 0.07, (1.78,), 1.3, (900, 14000), 0.085),
  'rim': Stroke(0.45, 0.25, 0.1, 820, 0.1, 0.01, 0.018, (2.1, 3.3), 0.4, (2000, 12000), 0.01),
  'clap': Stroke(0.6, -0.1, 0.3, noise=1, noise_hz=(900, 9000), noise_secs=0.08, bursts=3,
                 width=0.6),
  'hat': Stroke(0.3, 0.35, 0.12, 5100, 0, 0.01, 0.018, _METAL, 1.2, (6500, 18000), 0.028),
  'open hat': Stroke(0.32, 0.35, 0.5, 5100, 0, 0.01, 0.12, _METAL, 1.3, (6000, 18000), 0.16),
  'crash': Stroke(0.45, -0.4, 2.2, 3300, 0, 0.01, 0.4, _METAL, 1.5, (2500, 18000), 0.6, width=0.8),
  'ride': Stroke(0.28, -0.4, 0.9, 3900, 0, 0.01, 0.25, _METAL, 0.7, (5000, 17000), 0.2, width=0.7),
  'low tom': Stroke(0.7, -0.4, 0.5, 92, 0.7, 0.05, 0.16, (1.6,), 0.25, (600, 5000), 0.03),
  'mid tom': Stroke(0.65, 0.0, 0.45, 132, 0.7, 0.05, 0.14, (1.6,), 0.25, (600, 5000), 0.03),
  'high tom': Stroke(0.6, 0.4, 0.4, 178, 0.7, 0.05, 0.12, (1.6,), 0.25, (600, 5000), 0.03),
  'shaker': Stroke(0.2, -0.45, 0.12, noise=1, noise_hz=(5500, 17000), noise_secs=0.03, attack=0.02),
  'tambourine': Stroke(0.26, 0.5, 0.25, 6800, 0, 0.01, 0.06, (1.23, 1.51, 1.87), 1.0,
                       (5000, 18000), 0.06),
  'cowbell': Stroke(0.35, -0.3, 0.3, 562, 0, 0.01, 0.08, (1.5, 3.0, 4.5), drive=2.0),
  'low conga': Stroke(0.6, -0.35, 0.35, 196, 0.15, 0.02, 0.11, (1.55,), 0.3, (900, 7000), 0.012),
  'high conga': Stroke(0.55, -0.15, 0.28, 318, 0.12, 0.02, 0.07, (1.55,), 0.35, (1200, 8000),
                       0.012),
  'woodblock': Stroke(0.4, 0.3, 0.12, 980, 0.05, 0.01, 0.022, (1.47,), 0.3, (2000, 9000), 0.006),
}  # fmt: skip

KITS = {
  'rock drums': {
    'kick': Stroke(1.0, 0, 0.32, 58, 3.2, 0.02, 0.1, (1.5,), 0.9, (1800, 8000), 0.008, drive=1.6),
    'snare': Stroke(0.9, 0.05, 0.42, 196, 0.6, 0.02, 0.09, (1.66, 2.3), 1.8, (700, 15000), 0.12,
                    drive=1.4),
    'open hat': Stroke(0.4, 0.4, 0.7, 4600, 0, 0.01, 0.2, _METAL, 1.5, (4500, 18000), 0.28),
  },
  'jazz drums': {
    'kick': Stroke(0.6, 0, 0.4, 64, 1.2, 0.03, 0.14, (1.6,), 0.15, (800, 3000), 0.01),
    'ride': Stroke(0.4, -0.35, 1.3, 3150, 0, 0.01, 0.4, _METAL, 0.6, (4500, 17000), 0.25,
                   width=0.7),
    'snare': Stroke(0.5, 0.1, 0.3, 210, 0.3, 0.02, 0.06, (1.7,), 1.2, (1500, 14000), 0.09),
  },
  'brushed drums': {
    'kick': Stroke(0.55, 0, 0.4, 60, 1.0, 0.03, 0.14, (1.6,), 0.1, (800, 3000), 0.01),
    'snare': Stroke(0.4, 0.1, 0.4, noise=1, noise_hz=(1500, 13000), noise_secs=0.13, attack=0.03),
    'ride': Stroke(0.3, -0.35, 1.0, 2700, 0, 0.01, 0.3, _METAL, 0.9, (3500, 16000), 0.2, width=0.7),
  },
  'electronic drums': {
    'kick': Stroke(1.0, 0, 0.4, 48, 5.0, 0.022, 0.15, noise=0.7, noise_hz=(2000, 10000),
                   noise_secs=0.004, drive=1.8),
    'snare': Stroke(0.8, 0, 0.28, 220, 0.8, 0.015, 0.05, noise=1.8, noise_hz=(1200, 16000),
                    noise_secs=0.07),
    'hat': Stroke(0.34, 0.3, 0.09, noise=1, noise_hz=(7500, 19000), noise_secs=0.02),
    'open hat': Stroke(0.36, 0.3, 0.35, noise=1, noise_hz=(6500, 19000), noise_secs=0.12),
  },
  'drum machine': {
    'kick': Stroke(1.0, 0, 0.55, 44, 3.0, 0.03, 0.22, noise=0.3, noise_hz=(1500, 6000),
                   noise_secs=0.004),
    'snare': Stroke(0.75, 0, 0.25, 178, 0.2, 0.01, 0.06, (1.85,), 1.4, (2500, 15000), 0.06),
    'hat': Stroke(0.3, 0.25, 0.09, 8200, 0, 0.01, 0.02, (1.18, 1.41, 1.63), 0.6, (8000, 19000),
                  0.016),
    'clap': Stroke(0.7, 0, 0.35, noise=1, noise_hz=(1000, 7000), noise_secs=0.1, bursts=4,
                   width=0.7),
  },
  'gated drums': {
    'snare': Stroke(1.0, 0, 0.34, 172, 0.6, 0.03, 0.16, (1.6,), 2.4, (500, 15000), 0.4, width=0.8,
                    drive=1.5, gate_secs=0.24),
    'high tom': Stroke(0.8, 0.5, 0.4, 196, 0.9, 0.05, 0.2, (1.5,), 0.7, (500, 8000), 0.3,
                       gate_secs=0.3),
    'mid tom': Stroke(0.85, -0.5, 0.4, 140, 0.9, 0.05, 0.2, (1.5,), 0.7, (500, 8000), 0.3,
                      gate_secs=0.3),
  },
  'dry drums': {
    'kick': Stroke(1.0, 0, 0.25, 62, 1.6, 0.02, 0.08, noise=0.6, noise_hz=(1500, 7000),
                   noise_secs=0.006),
    'snare': Stroke(0.7, 0.05, 0.18, 232, 0.3, 0.015, 0.045, (1.7, 2.4), 1.2, (1500, 14000), 0.045),
  },
  'dusty drums': {
    'kick': Stroke(0.95, 0, 0.32, 56, 1.5, 0.03, 0.11, (1.5,), 0.4, (500, 3000), 0.01, drive=2.2),
    'snare': Stroke(0.7, 0.1, 0.26, 176, 0.4, 0.02, 0.06, (1.7,), 1.4, (600, 7000), 0.08,
                    drive=2.0),
    'hat': Stroke(0.22, 0.3, 0.1, noise=1, noise_hz=(4500, 11000), noise_secs=0.022),
  },
  'break drums': {
    'kick': Stroke(0.95, 0, 0.24, 66, 2.2, 0.02, 0.075, (1.5,), 0.8, (1500, 8000), 0.008,
                   drive=2.0),
    'snare': Stroke(0.95, 0.05, 0.24, 248, 0.5, 0.015, 0.055, (1.5, 2.2), 2.0, (900, 16000), 0.07,
                    drive=1.8),
    'hat': Stroke(0.3, 0.3, 0.1, 4700, 0, 0.01, 0.015, _METAL, 1.4, (5500, 18000), 0.03),
  },
  'chip drums': {
    'kick': Stroke(0.9, 0, 0.16, 70, 5.0, 0.02, 0.06, (3.0, 5.0)),
    'snare': Stroke(0.6, 0.1, 0.14, noise=1, noise_hz=(400, 12000), noise_secs=0.04, width=0.2),
    'hat': Stroke(0.25, -0.2, 0.05, noise=1, noise_hz=(5000, 18000), noise_secs=0.012, width=0.2),
  },
  'hand percussion': {'kick': Stroke(0.7, 0, 0.35, 78, 0.4, 0.03, 0.12, (1.5,), 0.2, (500, 3000),
                                     0.01)},
  'latin percussion': {'kick': Stroke(0.55, 0, 0.3, 62, 0.8, 0.03, 0.11, (1.5,), 0.1, (500, 3000),
                                      0.01)},
  'frame drum': {
    'low tom': Stroke(0.9, -0.15, 0.6, 74, 0.3, 0.03, 0.16, (1.59, 2.14, 2.65), 0.4, (700, 6000),
                      0.02),
    'rim': Stroke(0.5, 0.2, 0.14, 310, 0.1, 0.01, 0.03, (1.6, 2.7), 0.7, (1500, 9000), 0.015),
  },
  'kendang drums': {
    'low conga': Stroke(0.8, -0.25, 0.4, 128, 0.3, 0.03, 0.13, (1.6, 2.3), 0.35, (700, 6000),
                        0.015),
    'high conga': Stroke(0.6, 0.25, 0.22, 285, 0.2, 0.02, 0.05, (1.6, 2.3), 0.6, (1000, 9000),
                         0.015),
    'hat': Stroke(0.3, 0.4, 0.4, 2350, 0, 0.01, 0.1, _METAL, 0.8, (4000, 17000), 0.06),
  },
  'taiko': {
    'kick': Stroke(1.0, -0.2, 1.1, 49, 0.6, 0.05, 0.3, (1.6, 2.15, 2.9), 0.5, (200, 4000), 0.05),
    'low tom': Stroke(0.7, 0.3, 0.6, 118, 0.4, 0.03, 0.16, (1.6, 2.15), 0.5, (500, 6000), 0.03),
    'rim': Stroke(0.5, 0.1, 0.14, 640, 0.1, 0.01, 0.03, (1.7, 2.9), 0.6, (1500, 11000), 0.02),
  },
}  # fmt: skip


def stroke_of(kit: str, drum: str) -> Stroke:
  """The stroke that `kit` plays for `drum`; raises ValueError with the kits."""
  if kit not in KITS:
    raise ValueError(f'drum kit {kit!r} is not one of {", ".join(KITS)}.')
  return KITS[kit].get(drum, BASIC[drum])
