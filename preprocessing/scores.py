"""Scores: notes in beats, the parts that play them, and the scales and chords behind them."""

import dataclasses

PITCH_CLASSES = ('C', 'Db', 'D', 'Eb', 'E', 'F', 'F#', 'G', 'Ab', 'A', 'Bb', 'B')

# Semitones above the tonic.
MODES = {
  'major': (0, 2, 4, 5, 7, 9, 11),
  'minor': (0, 2, 3, 5, 7, 8, 10),
  'dorian': (0, 2, 3, 5, 7, 9, 10),
  'phrygian': (0, 1, 3, 5, 7, 8, 10),
  'lydian': (0, 2, 4, 6, 7, 9, 11),
  'mixolydian': (0, 2, 4, 5, 7, 9, 10),
  'harmonic minor': (0, 2, 3, 5, 7, 8, 11),
  'major pentatonic': (0, 2, 4, 7, 9),
  'minor pentatonic': (0, 3, 5, 7, 10),
  'pelog': (0, 1, 3, 7, 8),
  'slendro': (0, 2, 5, 7, 10),
  'in-sen': (0, 1, 5, 7, 10),
  'hirajoshi': (0, 2, 3, 7, 8),
}

# General MIDI percussion keys.
DRUM_KEYS = {
  'kick': 36, 'rim': 37, 'snare': 38, 'clap': 39, 'low tom': 45, 'mid tom': 47, 'high tom': 50,
  'hat': 42, 'open hat': 46, 'crash': 49, 'ride': 51, 'tambourine': 54, 'cowbell': 56,
  'high conga': 63, 'low conga': 64, 'shaker': 70, 'woodblock': 76,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Note:
  """One note: start and duration in beats, MIDI pitch (drums: percussion key), velocity 0..1."""

  start: float
  duration: float
  pitch: int
  velocity: float


@dataclasses.dataclass(frozen=True)
class Part:
  """One instrument of a score.

  Attributes:
    instrument: name, a key of the synthesizer's instrument table.
    notes: in order of their start.
    gain_db: level against the other parts.
    pan: -1 (left) to 1 (right).
    send: share of the part that enters the room, 0..1.
    tone: brightness and body of this copy of the instrument, about 0.75..1.3.
    echo: level of the beat-synchronous ping-pong echo, 0..1.
    is_drums: whether pitches are percussion keys.
  """

  instrument: str
  notes: tuple[Note, ...]
  gain_db: float = 0.0
  pan: float = 0.0
  send: float = 0.2
  tone: float = 1.0
  echo: float = 0.0
  is_drums: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
  """A composed work: what is played, by whom, how fast and in which room.

  Attributes:
    style: name of the style.
    seed: the seed that it was composed with.
    secs: length in seconds.
    bpm: beats per minute.
    beats_per_bar: beats of a bar.
    tonic: pitch class of the tonic, 0 = C.
    mode: a key of `MODES`.
    parts: the parts, drums last.
    room_secs: reverberation time (to -60 dB) of the room.
    mood: words for the caption.
  """

  style: str
  seed: int
  secs: float
  bpm: int
  beats_per_bar: int
  tonic: int
  mode: str
  parts: tuple[Part, ...]
  room_secs: float
  mood: str

  @property
  def key(self) -> str:
    """The key in words, such as 'F# minor'."""
    return f'{PITCH_CLASSES[self.tonic]} {self.mode}'

  @property
  def instruments(self) -> tuple[str, ...]:
    """Instrument names, the leading part first."""
    return tuple(dict.fromkeys(part.instrument for part in self.parts))

  @property
  def pitch_classes(self) -> frozenset[int]:
    """Pitch classes of the key."""
    return frozenset((self.tonic + step) % 12 for step in MODES[self.mode])


def scale_pitch(tonic: int, mode: str, degree: int) -> int:
  """MIDI pitch of a scale degree (0 = tonic in the octave of C4 = 60; any integer)."""
  steps = MODES[mode]
  octave, index = divmod(degree, len(steps))
  return 60 + tonic + 12 * octave + steps[index]


def chord_degrees(root: int, size: int) -> tuple[int, ...]:
  """Scale degrees of the chord of stacked thirds (every other degree) on `root`."""
  return tuple(root + 2 * i for i in range(size))


def near(pitch: int, center: int) -> int:
  """The octave transposition of `pitch` in [center - 6, center + 6)."""
  return center - 6 + (pitch - center + 6) % 12
