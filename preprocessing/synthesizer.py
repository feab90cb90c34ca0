"""Renders a score to 48 kHz stereo with the built-in synthesizer: notes, echo, room, master.

Notes are rendered once per (instrument, tone, pitch, duration) and added into their part wherever
they occur; every random draw is keyed by what it draws for, so a score always sounds the same.
"""

import zlib

import numpy as np
from scipy import signal

from models import spec
from preprocessing import scores, synthesizer_drums, synthesizer_instruments, synthesizer_voices

_SAMPLE_RATE = spec.LiveMusicSpec().sample_rate
_NOTE_RMS = 0.1
_MIX_RMS = 0.16
_BASS_PITCH = 46
# (low Hz, high Hz, share of the reverberation time, share of the noise that differs by side).
_ROOM_BANDS = ((60.0, 500.0, 1.1, 0.2), (500.0, 4000.0, 1.0, 0.55), (4000.0, 16000.0, 0.45, 0.8))
_PEAK = 10 ** (-2.5 / 20)
_DRUM_NAMES = {key: name for name, key in scores.DRUM_KEYS.items()}


def render(score: scores.Score, sample_rate: int = _SAMPLE_RATE) -> np.ndarray:
  """Renders a score.

  Args:
    score: what to play.
    sample_rate: in Hz.

  Returns:
    float32 [round(score.secs * sample_rate), 2], peak -2.5 dBFS, faded out at the end.
  """
  num_samples = round(score.secs * sample_rate)
  dry = np.zeros((2, num_samples), np.float32)
  wet = np.zeros((2, num_samples), np.float32)
  for part in score.parts:
    sound = _render_part(part, score.bpm, num_samples, sample_rate)
    if part.echo:
      _add_echo(sound, part.echo, score.bpm, sample_rate)
    dry += sound
    wet += part.send * sound
  wet = signal.oaconvolve(wet, room_response(score.room_secs, sample_rate), axes=-1)
  dry += wet[:, :num_samples].astype(np.float32)
  return master(dry, sample_rate).T.copy()


def room_response(room_secs: float, sample_rate: int) -> np.ndarray:
  """Impulse response of a room: early reflections, then noise that decays faster at the top.

  Args:
    room_secs: reverberation time to -60 dB in the middle band.
    sample_rate: in Hz.

  Returns:
    float32 [2, n] of unit energy per side; the sides differ most at the top.
  """
  rng = np.random.default_rng(zlib.crc32(b'room'))
  n = int(max(room_secs, 0.15) * sample_rate)
  t = np.arange(n) / sample_rate
  out = np.zeros((2, n), np.float32)
  for low, high, share, width in _ROOM_BANDS:
    tail = synthesizer_voices.noise(n, low, high, sample_rate, rng, width=width)
    weight = np.sqrt(np.log2(high / low))
    out += (weight * tail * np.exp(-6.908 * t / (share * room_secs))).astype(np.float32)
  delay = int(min(0.006 + 0.006 * room_secs, 0.03) * sample_rate)
  out = np.pad(out, ((0, 0), (delay, 0)))[:, :n]
  scale = np.abs(out).max()
  for side in range(2):
    for place in rng.uniform(0.003, 0.04, 5):
      out[side, int(place * sample_rate)] += scale * rng.choice([-1.0, 1.0]) * (1 - 15 * place)
  return (out / np.sqrt(np.sum(out * out, axis=1, keepdims=True))).astype(np.float32)


def _render_part(part: scores.Part, bpm: float, num_samples: int, sample_rate: int) -> np.ndarray:
  """Adds up the notes of a part, panned and levelled: float32 [2, num_samples]."""
  out = np.zeros((2, num_samples), np.float32)
  cache: dict[tuple[int, int], np.ndarray] = {}
  for note in part.notes:
    start = round(note.start * 60 / bpm * sample_rate)
    if start >= num_samples:
      continue
    # Buckets of 10 ms: swung notes of one length share a sound.
    hundredths = 0 if part.is_drums else max(round(note.duration * 6000 / bpm), 3)
    key = (note.pitch, hundredths)
    if key not in cache:
      cache[key] = render_note(part, note.pitch, hundredths / 100, sample_rate)
    sound = cache[key][:, : num_samples - start]
    out[:, start : start + sound.shape[1]] += np.float32(note.velocity) * sound
  gain = 10 ** (part.gain_db / 20)
  angle = (1 + part.pan) * np.pi / 4
  sides = np.sqrt(2) * gain * np.array([[np.cos(angle)], [np.sin(angle)]])
  return out * sides.astype(np.float32)


def render_note(
  part: scores.Part, pitch: int, hold_secs: float, sample_rate: int = _SAMPLE_RATE
) -> np.ndarray:
  """One note or drum stroke at full velocity and 0 dB, float32 [2, n]."""
  rng = np.random.default_rng([zlib.crc32(part.instrument.encode()), pitch])
  if part.is_drums:
    stroke = synthesizer_drums.stroke_of(part.instrument, _DRUM_NAMES[pitch])
    return 0.55 * stroke.render(part.tone, sample_rate, rng)
  voice = synthesizer_instruments.voice_of(part.instrument)
  frequency = 440 * 2 ** ((pitch - 69) / 12)
  sound = voice.render(frequency, hold_secs, part.tone, sample_rate, rng)
  # Basses nearly mono, as on records; the rest half as wide as its detuned sides would be.
  middle, side = sound.mean(axis=0), (sound[0] - sound[1]) / 2
  side *= 0.15 if pitch < _BASS_PITCH else 0.5
  sound = np.stack([middle + side, middle - side])
  level = _NOTE_RMS * (0.75 if pitch < _BASS_PITCH else 1.0)
  return sound * np.float32(level / (_loudest_rms(sound, sample_rate) + 1e-9))


def _loudest_rms(x: np.ndarray, sample_rate: int) -> float:
  """RMS of the loudest 60 ms of x [2, n]."""
  size = int(0.06 * sample_rate)
  power = np.pad(np.mean(x * x, axis=0), (0, -x.shape[1] % size))
  return float(np.sqrt(power.reshape(-1, size).mean(axis=1).max()))


def _add_echo(x: np.ndarray, level: float, bpm: float, sample_rate: int) -> None:
  """Adds, in place, echoes of three quarters of a beat that fall off and change sides."""
  delay = round(0.75 * 60 / bpm * sample_rate)
  source = x.copy()
  for tap in range(1, 5):
    shift = tap * delay
    if shift >= x.shape[1]:
      return
    mono = source[:, :-shift].mean(axis=0)
    near, far = (0, 1) if tap % 2 else (1, 0)
    x[near, shift:] += level**tap * mono
    x[far, shift:] += 0.25 * level**tap * mono


def master(x: np.ndarray, sample_rate: int) -> np.ndarray:
  """Finishes a mix x [2, n]: no rumble, level, tanh over the peaks, fade, peak -2.5 dBFS."""
  rumble = synthesizer_voices.band_filter(25.0, 0.0, sample_rate)
  x = signal.sosfilt(rumble, x).astype(np.float32)
  x *= _MIX_RMS / (np.sqrt(np.mean(x * x)) + 1e-9)
  x = np.tanh(x)
  fade = min(int(1.5 * sample_rate), x.shape[1] // 8)
  x[:, -fade:] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
  return x * (_PEAK / (np.abs(x).max() + 1e-9))
