"""Sound: what the built-in synthesizer and the MIDI writer make of scores and notes."""

import dataclasses
import functools
import shutil
import struct

import numpy as np
import pytest

from preprocessing import composer, scores, synthesizer, synthesizer_drums, synthesizer_midi
from preprocessing import synthesizer_instruments as instruments
from preprocessing import synthesizer_voices as voices

RATE = 48_000


@functools.lru_cache(maxsize=4)
def _rendered(style: str, seed: int = 1, secs: float = 8.0) -> np.ndarray:
  return synthesizer.render(composer.compose(style, seed, secs))


def _spectrum(x):
  x = x.mean(axis=1) if x.ndim == 2 else x
  power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
  return np.fft.rfftfreq(len(x), 1 / RATE), power


def test_rendering_twice_gives_equal_samples():
  score = composer.compose('reggae', 8, 4.0)
  np.testing.assert_array_equal(synthesizer.render(score), synthesizer.render(score))


@pytest.mark.parametrize('style', ['ambient', 'rock', 'jazz swing', 'chiptune', 'koto'])
def test_level_sides_and_no_gaps(style):
  x = _rendered(style)
  assert x.dtype == np.float32
  assert x.shape == (8 * RATE, 2)
  assert np.all(np.isfinite(x))
  assert 20 * np.log10(np.abs(x).max()) == pytest.approx(-2.5, abs=0.01)
  assert -22 < 20 * np.log10(np.sqrt(np.mean(x * x))) < -12
  assert abs(x.mean()) < 1e-3
  middle, side = x.sum(axis=1), x[:, 0] - x[:, 1]
  ratio = 10 * np.log10(np.sum(side**2) / np.sum(middle**2))
  assert -20 < ratio < -2
  # No stretch of 250 ms before the fade falls below -50 dBFS.
  size = RATE // 4
  body = x[: 6 * RATE].reshape(-1, size, 2)
  assert 20 * np.log10(np.sqrt(np.mean(body**2, axis=(1, 2)))).min() > -50


def test_works_fill_the_band_from_bass_to_cymbals():
  freq, power = _spectrum(_rendered('rock'))

  def band_db(low, high):
    return 10 * np.log10(power[(freq >= low) & (freq < high)].sum() / power.sum())

  assert band_db(30, 150) > -12
  assert band_db(4000, 8000) > -30
  assert band_db(12000, 16000) > -35
  assert band_db(16000, 20000) > -45


def _tempo(x: np.ndarray) -> float:
  """Beats per minute in 84..168 by the autocorrelation of the spectral flux (independent code)."""
  hop = 480
  frames = np.lib.stride_tricks.sliding_window_view(x.mean(axis=1), 2048)[::hop]
  magnitude = np.log1p(50 * np.abs(np.fft.rfft(frames * np.hanning(2048))))
  flux = np.maximum(np.diff(magnitude, axis=0), 0).sum(axis=1)
  flux -= flux.mean()
  padded = np.fft.rfft(flux, 2 * len(flux))
  auto = np.fft.irfft(np.abs(padded) ** 2)[: len(flux)] / np.arange(len(flux), 0, -1)
  tempos = np.arange(84, 168, 0.25)
  lags = np.arange(len(auto))
  # A comb over eight beats makes the estimate finer than one frame.
  score = [
    sum(np.interp(m * 6000 / t, lags, auto) for m in range(1, 9)) for t in tempos
  ]  # fmt: skip
  return float(tempos[int(np.argmax(score))])


@pytest.mark.parametrize('style', ['house', 'rock', 'folk', 'chiptune', 'funk'])
def test_tempo_of_the_audio_is_the_tempo_of_the_score(style):
  score = composer.compose(style, 1, 12.0)
  assert 84 <= score.bpm <= 168
  assert _tempo(_rendered(style, 1, 12.0)) == pytest.approx(score.bpm, abs=1.0)


@pytest.mark.parametrize('style', ['church organ', 'lullaby', 'ambient', 'synthwave', 'bossa nova'])
def test_energy_lies_in_the_key(style):
  """Below 1.5 kHz at least 90 % of the pitched parts' energy has a pitch class of the key."""
  score = composer.compose(style, 1, 6.0)
  pitched = tuple(part for part in score.parts if not part.is_drums)
  freq, power = _spectrum(synthesizer.render(dataclasses.replace(score, parts=pitched)))
  inside = (freq > 110) & (freq < 1500)
  pitch = 69 + 12 * np.log2(freq[inside] / 440)
  chroma = np.bincount(np.round(pitch).astype(int) % 12, power[inside], minlength=12)
  chroma /= chroma.sum()
  assert chroma[sorted(score.pitch_classes)].sum() > 0.9


@pytest.mark.parametrize('name', sorted(instruments.VOICES))
def test_every_instrument_is_in_tune(name):
  """The peak next to the fundamental lies within 6 cents of it (beating and bells excepted)."""
  voice = instruments.voice_of(name)
  if isinstance(voice, voices.Texture):
    x = voice.render(440.0, 0.5, 1.0, RATE, np.random.default_rng(0))
    assert x.std() > 0
    assert abs(np.corrcoef(x)[0, 1]) < 0.3
    return
  low = 'bass' in name or name in ('organ pedals', 'gong')
  pitch = 43 if low else 69
  frequency = 440 * 2 ** ((pitch - 69) / 12)
  part = scores.Part(name, ())
  x = synthesizer.render_note(part, pitch, 1.0, RATE)
  assert x.dtype == np.float32
  assert np.all(np.isfinite(x))
  spectrum = np.abs(np.fft.rfft(x.mean(axis=0) * np.hanning(x.shape[1]), 1 << 20))
  freq = np.arange(len(spectrum)) * RATE / (1 << 20)
  near = (freq > frequency * 2 ** (-0.5 / 12)) & (freq < frequency * 2 ** (0.5 / 12))
  peak = freq[near][np.argmax(spectrum[near])]
  allowed = 30 if voice in (instruments.VOICES['gong'],) or getattr(voice, 'beat_hz', 0) else 6
  allowed += getattr(voice, 'detune_cents', 0) + getattr(voice, 'vibrato_cents', 0)
  assert abs(1200 * np.log2(peak / frequency)) < allowed
  # Noise bursts leave some plucked strings with a weak fundamental.
  assert spectrum[near].max() > 0.02 * spectrum.max()


def test_notes_of_all_instruments_are_equally_loud():
  for name in instruments.VOICES:
    x = synthesizer.render_note(scores.Part(name, ()), 60, 0.5, RATE)
    size = int(0.06 * RATE)
    padded = np.pad((x * x).mean(axis=0), (0, -x.shape[1] % size)).reshape(-1, size)
    assert np.sqrt(padded.mean(axis=1).max()) == pytest.approx(0.1, rel=1e-3), name


@pytest.mark.parametrize('kit', sorted(synthesizer_drums.KITS))
def test_drums_have_their_place_in_the_spectrum(kit):
  def centroid(drum):
    part = scores.Part(kit, (), is_drums=True)
    x = synthesizer.render_note(part, scores.DRUM_KEYS[drum], 0.0, RATE)
    assert 0 < np.abs(x).max() <= 1
    assert np.abs(x[:, -1]).max() < 1e-3
    freq, power = _spectrum(x.T)
    return (freq * power).sum() / power.sum()

  assert centroid('kick') < 350
  assert centroid('kick') < centroid('snare') < centroid('hat')
  assert centroid('hat') > 3000


def test_modes_equal_a_direct_sum():
  rng = np.random.default_rng(0)
  freq, amp = rng.uniform(100, 5000, 6), rng.uniform(0.1, 1, 6)
  decay, phase = rng.uniform(0.2, 2, 6), rng.uniform(0, 6, 6)
  t = np.arange(5000)[:, None] / RATE
  direct = amp * 10 ** (-3 * t / decay) * np.sin(2 * np.pi * freq * t + phase)
  fast = voices.modes(freq, amp, decay, phase, 5000, RATE)
  np.testing.assert_allclose(fast, direct.sum(axis=1), atol=2e-3)


def test_plucked_string_decays_as_set():
  voice = voices.Pluck(decay=2.0, damping=0.1, release=0.01)
  x = voice.render(220.0, 1.0, 1.0, RATE, np.random.default_rng(0))
  size = 12 * RATE // 220  # whole periods
  probe = np.exp(-2j * np.pi * 220 * np.arange(size) / RATE)

  def level_db(start):
    return 20 * np.log10(np.abs(x[:, start : start + size] @ probe).max())

  # The fundamental falls by 60 dB in 2 s, hence by 21 dB in 0.7 s.
  start = 50 * RATE // 220
  assert level_db(start + int(0.7 * RATE)) - level_db(start) == pytest.approx(-21, abs=1.0)


def test_brighter_copies_have_a_higher_centroid():
  def centroid(tone):
    freq, power = _spectrum(
      synthesizer.render_note(scores.Part('saw pad', (), tone=tone), 60, 1.0).T
    )
    return (freq * power).sum() / power.sum()

  assert centroid(1.3) > 1.05 * centroid(0.75)


def test_room_response_decays_in_its_time():
  for secs in (0.5, 2.0):
    h = synthesizer.room_response(secs, RATE)
    np.testing.assert_allclose((h * h).sum(axis=1), 1, rtol=1e-4)
    # Schroeder integration: level at 40 % of the reverberation time against the start.
    tail = np.cumsum((h * h).sum(axis=0)[::-1])[::-1]
    first, last = (10 * np.log10(tail[int(p * secs * RATE)]) for p in (0.1, 0.5))
    assert last - first == pytest.approx(-24, abs=5)
    assert np.corrcoef(h)[0, 1] < 0.9


def test_echo_changes_sides():
  x = np.zeros((2, RATE), np.float32)
  x[:, 0] = 1
  synthesizer._add_echo(x, 0.5, 240, RATE)
  delay = round(0.75 * 60 / 240 * RATE)
  np.testing.assert_allclose(x[:, delay], [0.5, 0.125])
  np.testing.assert_allclose(x[:, 2 * delay], [0.0625, 0.25])


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="instrument 'kazoo' is not one of grand piano"):
    instruments.voice_of('kazoo')
  with pytest.raises(ValueError, match="drum kit 'pots' is not one of rock drums"):
    synthesizer_drums.stroke_of('pots', 'kick')


def _parse_midi(data: bytes) -> list[list[tuple[int, bytes]]]:
  """A small reader of the messages that the writer uses: tracks of (tick, message)."""
  assert data[:4] == b'MThd'
  _, form, count, division = struct.unpack('>IHHH', data[4:14])
  assert (form, division) == (1, 960)
  place, tracks = 14, []
  for _ in range(count):
    assert data[place : place + 4] == b'MTrk'
    size = struct.unpack('>I', data[place + 4 : place + 8])[0]
    body, place = data[place + 8 : place + 8 + size], place + 8 + size
    i, tick, events = 0, 0, []
    while i < len(body):
      delta = 0
      while True:
        delta = delta << 7 | body[i] & 0x7F
        i += 1
        if body[i - 1] < 0x80:
          break
      tick += delta
      if body[i] == 0xFF:
        length = 3 + body[i + 2]
      else:
        length = 2 if body[i] >> 4 == 0xC else 3
      events.append((tick, body[i : i + length]))
      i += length
    assert events[-1][1] == b'\xff\x2f\x00'
    tracks.append(events)
  assert place == len(data)
  return tracks


def test_midi_file_holds_the_notes_of_the_score():
  score = composer.compose('rock', 3, 10.0)
  tempo_track, *tracks = _parse_midi(synthesizer_midi.to_midi(score))
  assert tempo_track[0] == (0, b'\xff\x51\x03' + round(60e6 / score.bpm).to_bytes(3, 'big'))
  assert len(tracks) == len(score.parts)
  channels = []
  for part, track in zip(score.parts, tracks):
    starts = [(t, m[1]) for t, m in track if m[0] >> 4 == 9]
    ends = [(t, m[1]) for t, m in track if m[0] >> 4 == 8]
    played = [n for n in part.notes if n.start < 10 * score.bpm / 60]
    assert sorted(starts) == sorted((round(n.start * 960), n.pitch) for n in played)
    assert sorted(ends) == sorted((round((n.start + n.duration) * 960), n.pitch) for n in played)
    channels.append(track[0][1][0] & 0x0F)
    if not part.is_drums:
      assert track[0][1][1] == instruments.MIDI_PROGRAMS[part.instrument]
  assert len(set(channels)) == len(channels)
  assert channels[-1] == 9


def test_variable_length_quantities_are_those_of_the_standard():
  known = {
    0: '00',
    0x7F: '7f',
    0x80: '8100',
    0x3FFF: 'ff7f',
    0x4000: '818000',
    0xFFFFFFF: 'ffffff7f',
  }
  for value, text in known.items():
    assert synthesizer_midi._variable_length(value).hex() == text


def test_missing_fluidsynth_says_what_to_install(monkeypatch):
  monkeypatch.setenv('PATH', '')
  with pytest.raises(FileNotFoundError, match='apt-get install fluidsynth fluid-soundfont-gm'):
    synthesizer_midi.check_installed()


def test_missing_soundfont_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr(shutil, 'which', lambda name: '/usr/bin/' + name)
  monkeypatch.setenv(synthesizer_midi.SOUNDFONT_VARIABLE, str(tmp_path / 'none.sf2'))
  with pytest.raises(FileNotFoundError, match='none.sf2'):
    synthesizer_midi.check_installed()


def _has_fluidsynth() -> bool:
  try:
    synthesizer_midi.check_installed()
  except FileNotFoundError:
    return False
  return True


@pytest.mark.skipif(not _has_fluidsynth(), reason='fluidsynth or its soundfont is not installed')
def test_fluidsynth_plays_the_same_score():
  score = composer.compose('rock', 1, 4.0)
  x = synthesizer_midi.render(score)
  assert x.shape == (4 * RATE, 2)
  assert np.abs(x).max() == pytest.approx(10 ** (-2.5 / 20), abs=1e-3)
  ours = synthesizer.render(score)

  def loudness(y):
    return (y[: 3 * RATE] ** 2).sum(axis=1).reshape(-1, 4800).mean(axis=1)

  assert np.corrcoef(loudness(x), loudness(ours))[0, 1] > 0.3
