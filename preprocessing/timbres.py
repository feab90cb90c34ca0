"""Sounds that music seldom isolates, for a codec to learn: noise, sweeps, clicks, vowels.

Each clip strings together short events with their own level, place between the channels and
envelope. Everything is a function of (seed, clip).

    python -m preprocessing.timbres --output_dir=music/timbres --num_clips=24
"""

import argparse
import pathlib
from collections.abc import Callable

import numpy as np
import scipy.signal
from tqdm import tqdm

from models.spec import LiveMusicSpec
from preprocessing import outputs
from preprocessing.audio import write_audio

# First four formants of five vowels in Hz, rounded averages of adult voices.
_VOWELS = (
  (730, 1090, 2440, 3400),
  (270, 2290, 3010, 3700),
  (300, 870, 2240, 3300),
  (530, 1840, 2480, 3500),
  (570, 840, 2410, 3300),
)

Sound = Callable[[np.random.Generator, int, int], np.ndarray]


def noise(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
  """Noise [samples] between white and brown, band-limited half of the time."""
  spectrum = np.fft.rfft(rng.standard_normal(samples))
  frequency = np.fft.rfftfreq(samples, 1 / sample_rate)
  spectrum *= np.maximum(frequency, 20.0) ** -rng.uniform(0.0, 1.0)
  if rng.random() < 0.5:
    low = np.exp(rng.uniform(np.log(50), np.log(8000)))
    spectrum *= (frequency > low) & (frequency < low * rng.uniform(1.5, 8.0))
  return np.fft.irfft(spectrum, samples)


def sweep(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
  """A sine, triangle or saw [samples] that glides exponentially between two frequencies."""
  start, end = np.exp(rng.uniform(np.log(30), np.log(16_000), 2))
  rate = start * (end / start) ** np.linspace(0, 1, samples)
  phase = 2 * np.pi * np.cumsum(rate) / sample_rate
  width = rng.choice([0.5, 1.0])
  return np.sin(phase) if rng.random() < 0.6 else scipy.signal.sawtooth(phase, width)


def clicks(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
  """Impulses [samples] at an even or random pace, each ringing in a resonance or not at all."""
  x = np.zeros(samples)
  count = max(1, int(rng.uniform(1, 30) * samples / sample_rate))
  even = np.linspace(0, samples - 1, count, endpoint=False).astype(int)
  places = even if rng.random() < 0.5 else rng.integers(samples, size=count)
  x[places] = rng.uniform(0.3, 1.0, count)
  if rng.random() < 0.7:
    frequency = np.exp(rng.uniform(np.log(80), np.log(9000)))
    x = _resonate(x, frequency, rng.uniform(20, 900), sample_rate)
  return x


def vowels(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
  """A voice-like line [samples]: pulses with vibrato and breath through moving formants."""
  pitch = rng.uniform(80, 400) * 2 ** (0.3 * np.cumsum(rng.standard_normal(samples)) / samples**0.5)
  pitch *= 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(4, 7) * np.arange(samples) / sample_rate)
  source = scipy.signal.sawtooth(2 * np.pi * np.cumsum(pitch) / sample_rate)
  source += rng.uniform(0, 0.3) * rng.standard_normal(samples)
  first, second = (np.array(_VOWELS[i]) for i in rng.integers(len(_VOWELS), size=2))
  scale, mix = rng.uniform(0.85, 1.2), np.linspace(0, 1, samples)
  voices = [
    sum(_resonate(source, scale * f, 60 + 0.05 * f, sample_rate) / (i + 1) for i, f in enumerate(v))
    for v in (first, second)
  ]
  return (1 - mix) * voices[0] + mix * voices[1]


def tones(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
  """A chord [samples] of harmonic or inharmonic partials with decays of their own."""
  time = np.arange(samples) / sample_rate
  x = np.zeros(samples)
  for _ in range(rng.integers(1, 5)):
    base = np.exp(rng.uniform(np.log(50), np.log(2000)))
    stretch, tilt = rng.uniform(0.98, 1.06), rng.uniform(0.3, 2.0)
    for partial in range(1, rng.integers(2, 20)):
      frequency = base * partial**stretch
      if frequency < 0.45 * sample_rate:
        decay = np.exp(-time * rng.uniform(0, 6))
        x += decay * partial**-tilt * np.sin(2 * np.pi * (frequency * time + rng.random()))
  return x


SOUNDS: tuple[Sound, ...] = (noise, sweep, clicks, vowels, tones)


def render_clip(seed: int, clip: int, secs: float, spec: LiveMusicSpec) -> np.ndarray:
  """Clip number `clip`: float32 [secs * sample_rate, 2] with peaks of at most 0.9."""
  rng = np.random.default_rng([seed, clip])
  total = round(secs * spec.sample_rate)
  x = np.zeros([total, spec.num_channels])
  start = 0
  while start < total:
    samples = min(int(rng.uniform(0.2, 2.0) * spec.sample_rate), total - start)
    event = SOUNDS[rng.integers(len(SOUNDS))](rng, samples, spec.sample_rate)
    event *= 10 ** (rng.uniform(-30, 0) / 20) / max(np.abs(event).max(), 1e-9)
    edge = min(samples // 2, int(rng.uniform(0.002, 0.1) * spec.sample_rate))
    event[:edge] *= np.linspace(0, 1, edge, endpoint=False)
    event[samples - edge :] *= np.linspace(1, 0, edge)
    x[start : start + samples] += _placed(rng, event)
    start += max(1, int(samples * rng.uniform(0.4, 1.1)))
  return (0.9 * x / max(np.abs(x).max(), 0.9)).astype(np.float32)


def write_timbres(
  directory: str | pathlib.Path,
  *,
  num_clips: int,
  secs_per_clip: float = 20.0,
  seed: int = 0,
  spec: LiveMusicSpec = LiveMusicSpec(),
) -> list[pathlib.Path]:
  """Writes FLAC files timbres-0000.flac, ... and gives their paths; those that exist are kept."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  paths = [directory / f'timbres-{clip:04d}.flac' for clip in range(num_clips)]
  for clip, path in enumerate(tqdm(paths, desc='timbres', unit='clip')):
    if not path.exists():
      write_audio(path, render_clip(seed, clip, secs_per_clip, spec), spec.sample_rate)
  return paths


def _placed(rng: np.random.Generator, event: np.ndarray) -> np.ndarray:
  """Mono to stereo by a level difference and a delay of up to 0.6 ms of one side."""
  angle = rng.uniform(0, np.pi / 2)
  late = np.roll(event, rng.integers(30))
  pair = [np.cos(angle) * event, np.sin(angle) * (late if rng.random() < 0.5 else event)]
  return np.stack(pair, axis=-1)


def _resonate(x: np.ndarray, frequency: float, bandwidth: float, sample_rate: int) -> np.ndarray:
  """A two-pole resonance with unit gain at its peak, roughly."""
  radius = np.exp(-np.pi * bandwidth / sample_rate)
  angle = 2 * np.pi * frequency / sample_rate
  return scipy.signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], x)


def main(argv: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', required=True)
  parser.add_argument('--num_clips', type=int, default=24)
  parser.add_argument('--secs_per_clip', type=float, default=20.0)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  if args.num_clips < 1 or not 1.0 <= args.secs_per_clip <= 3600.0 or args.seed < 0:
    parser.error('--num_clips is at least 1, --secs_per_clip 1 to 3600, --seed at least 0.')
  from pipelines import startup

  with startup.plain_errors('timbres', resumes=False):
    startup.begin()
    outputs.check_folder(args.output_dir)
    write_timbres(
      args.output_dir, num_clips=args.num_clips, secs_per_clip=args.secs_per_clip, seed=args.seed
    )


if __name__ == '__main__':
  from pipelines.startup import run_module

  run_module(main)
