"""Renders a score with fluidsynth and a General MIDI soundfont, by way of a standard MIDI file."""

import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

import numpy as np
import soundfile

from models import spec
from preprocessing import scores, synthesizer, synthesizer_instruments

SOUNDFONT_VARIABLE = 'WOODSHED_SOUNDFONT'
_SOUNDFONTS = (
  '/usr/share/sounds/sf2/FluidR3_GM.sf2',
  '/usr/share/sounds/sf2/default-GM.sf2',
  '/usr/share/soundfonts/FluidR3_GM.sf2',
  '/usr/share/soundfonts/default.sf2',
  '/opt/homebrew/share/soundfonts/default.sf2',
)
_TICKS_PER_BEAT = 960
_DRUM_CHANNEL = 9
# General MIDI 2 / Roland GS drum kits; the others play the standard kit.
_DRUM_PROGRAMS = {
  'electronic drums': 24, 'drum machine': 25, 'gated drums': 16, 'jazz drums': 32,
  'brushed drums': 40, 'chip drums': 25, 'taiko': 48,
}  # fmt: skip
_INSTALL = (
  'Install both (Debian and Ubuntu: apt-get install fluidsynth fluid-soundfont-gm; macOS: brew '
  f'install fluid-synth and set {SOUNDFONT_VARIABLE} to a .sf2 file), or use renderer="builtin".'
)


def check_installed() -> pathlib.Path:
  """Returns the soundfont; raises FileNotFoundError that names what to install."""
  if shutil.which('fluidsynth') is None:
    raise FileNotFoundError(f'the program fluidsynth is not on the PATH. {_INSTALL}')
  chosen = os.environ.get(SOUNDFONT_VARIABLE)
  for name in (chosen,) if chosen else _SOUNDFONTS:
    if pathlib.Path(name).is_file():
      return pathlib.Path(name)
  raise FileNotFoundError(f'no soundfont at {chosen or ", ".join(_SOUNDFONTS)}. {_INSTALL}')


def render(score: scores.Score, sample_rate: int = spec.LiveMusicSpec().sample_rate) -> np.ndarray:
  """Renders a score as `synthesizer.render` does, with the sounds of the soundfont.

  Returns:
    float32 [round(score.secs * sample_rate), 2], levelled and faded as the built-in renderer's.

  Raises:
    FileNotFoundError: where fluidsynth or a soundfont is missing.
    RuntimeError: where fluidsynth fails; with its message.
  """
  soundfont = check_installed()
  with tempfile.TemporaryDirectory() as folder:
    song, sound = pathlib.Path(folder, 'song.mid'), pathlib.Path(folder, 'song.wav')
    song.write_bytes(to_midi(score))
    command = [
      'fluidsynth', '-ni', '-q', '-g', '0.5', '-r', str(sample_rate), '-T', 'wav', '-O', 'float',
      '-F', str(sound), str(soundfont), str(song),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not sound.exists():
      raise RuntimeError(f'fluidsynth failed ({done.returncode}): {done.stderr.strip()[-500:]}')
    x, _ = soundfile.read(sound, dtype='float32', always_2d=True)
  num_samples = round(score.secs * sample_rate)
  x = np.pad(x[:num_samples], ((0, max(0, num_samples - len(x))), (0, 0)))
  return synthesizer.master(x.T, sample_rate).T.copy()


def to_midi(score: scores.Score) -> bytes:
  """The score as a standard MIDI file, format 1: a tempo track, then one track per part."""
  last = score.secs * score.bpm / 60
  tempo = round(60e6 / score.bpm)
  beat = 6 if score.beats_per_bar == 2 else score.beats_per_bar
  meter = bytes((0xFF, 0x58, 4, beat, 3 if beat == 6 else 2, 24, 8))
  tracks = [_track([(0, b'\xff\x51\x03' + tempo.to_bytes(3, 'big')), (0, meter)])]
  channel = 0
  for part in score.parts:
    channel += channel == _DRUM_CHANNEL
    tracks.append(_track(_part_events(part, _DRUM_CHANNEL if part.is_drums else channel, last)))
    channel += not part.is_drums
  return b'MThd' + struct.pack('>IHHH', 6, 1, len(tracks), _TICKS_PER_BEAT) + b''.join(tracks)


def _part_events(part: scores.Part, channel: int, last_beat: float) -> list[tuple[int, bytes]]:
  """(tick, message) pairs of a part: program, volume, pan, reverb, notes that start in time."""
  if part.is_drums:
    program = _DRUM_PROGRAMS.get(part.instrument, 0)
  else:
    program = synthesizer_instruments.MIDI_PROGRAMS[part.instrument]
  # Controller 7 is read as 40 log10(value / 127) dB.
  volume = int(np.clip(100 * 10 ** (part.gain_db / 40), 1, 127))
  pan = int(np.clip(64 + 63 * part.pan, 0, 127))
  control = 0xB0 | channel
  events = [
    (0, bytes((0xC0 | channel, program))),
    (0, bytes((control, 7, volume))),
    (0, bytes((control, 10, pan))),
    (0, bytes((control, 91, int(127 * min(part.send, 1.0))))),
  ]
  for note in part.notes:
    if note.start >= last_beat:
      continue
    start = round(note.start * _TICKS_PER_BEAT)
    end = max(round((note.start + note.duration) * _TICKS_PER_BEAT), start + 1)
    velocity = int(np.clip(127 * note.velocity**0.5, 1, 127))
    events.append((start, bytes((0x90 | channel, note.pitch, velocity))))
    events.append((end, bytes((0x80 | channel, note.pitch, 0))))
  # At one tick ends come before starts, so that a repeated note is not cut at once.
  return sorted(events, key=lambda event: (event[0], event[1][0] & 0xF0 == 0x90))


def _track(events: list[tuple[int, bytes]]) -> bytes:
  """A track chunk from (tick, message) pairs in order of their ticks."""
  body = bytearray()
  now = 0
  for tick, message in events:
    body += _variable_length(tick - now) + message
    now = tick
  body += b'\x00\xff\x2f\x00'
  return b'MTrk' + struct.pack('>I', len(body)) + bytes(body)


def _variable_length(value: int) -> bytes:
  """MIDI's variable-length quantity: seven bits a byte, high bit set on all but the last."""
  groups = [value & 0x7F]
  while value := value >> 7:
    groups.append(0x80 | value & 0x7F)
  return bytes(reversed(groups))
