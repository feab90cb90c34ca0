"""Composes a score from (style, seed): form, harmony, melody and drum patterns.

A work draws its tempo, key, two progressions (A and B), two patterns per part and two motifs
once, then lays out sections of one progression each. So bars repeat and change as in songs: a
listener, or a language model, can predict most of a bar from the bars before it.
"""

import dataclasses
import math
import zlib

import numpy as np

from preprocessing import composer_styles, scores

# (section kind, intensity); after the last one the form goes on from the second.
_FORM = (('A', 2), ('A', 3), ('B', 3), ('A', 3), ('B', 2))
_VELOCITY = {'X': 1.0, 'x': 0.75, 'o': 0.4}


@dataclasses.dataclass(frozen=True)
class _Bar:
  """One bar of the form: what the parts need to know about it."""

  index: int
  position: int  # within its section
  section: str
  intensity: int
  is_last: bool  # of its section
  root: int  # scale degree of the chord
  next_root: int


@dataclasses.dataclass(frozen=True)
class _Key:
  """A tonic and mode with the work's chord size."""

  tonic: int
  mode: str
  chord_size: int

  def chord(self, root: int) -> list[int]:
    """Pitches of the chord on scale degree `root`, root first."""
    degrees = scores.chord_degrees(root, self.chord_size)
    return [scores.scale_pitch(self.tonic, self.mode, degree) for degree in degrees]

  def stack_tone(self, root: int, index: int, center: int) -> int:
    """Tone `index` of the chord, counted upwards through octaves from a root near `center`."""
    chord = self.chord(root)
    octave, tone = divmod(index, len(chord))
    base = scores.near(chord[0], center)
    return base + (chord[tone] - chord[0]) + 12 * octave

  def voicing(self, root: int, center: int) -> list[int]:
    """The chord with every tone near `center`, so that successive chords move little."""
    return sorted(scores.near(pitch, center) for pitch in self.chord(root))

  def nearest_degree(self, degrees: tuple[int, ...], pitch: float) -> int:
    """Of `degrees` and their octaves, the one whose pitch lies nearest to `pitch`."""
    size = len(scores.MODES[self.mode])
    candidates = [d + size * octave for d in degrees for octave in range(-4, 5)]
    return min(
      candidates, key=lambda d: (abs(scores.scale_pitch(self.tonic, self.mode, d) - pitch), d)
    )


def compose(style: str, seed: int, secs: float = 60.0) -> scores.Score:
  """Composes a work.

  Args:
    style: a name from `composer_styles.STYLES`.
    seed: which work of the style; the same (style, seed, secs) gives the same score, and a longer
      one starts as a shorter one does.
    secs: length in seconds, at least 2.

  Returns:
    The score. Notes may ring past `secs`; the renderer fades out there.

  Raises:
    ValueError: for an unknown style or a length below 2 s.
  """
  if secs < 2:
    raise ValueError(f'secs={secs} is too short for a work: use at least 2.')
  spec = composer_styles.style_named(style)
  rng = np.random.default_rng([zlib.crc32(style.encode()), seed])
  bpm = int(rng.integers(spec.tempo[0], spec.tempo[1] + 1))
  key = _Key(int(rng.integers(12)), _draw(rng, spec.modes), spec.chord_size)
  mood = _draw(rng, spec.moods)
  progressions = _draw_two(rng, spec.progressions)
  # In 6/8 the beat is a dotted crotchet; bpm counts dotted crotchets there.
  num_bars = math.ceil(secs * bpm / 60 / spec.beats_per_bar)
  bars = _form(num_bars, progressions)
  parts = [_compose_part(part, spec, key, bars, rng) for part in spec.parts]
  if spec.kits:
    parts.append(_compose_drums(spec, bars, rng))
  return scores.Score(
    style=style, seed=seed, secs=float(secs), bpm=bpm, beats_per_bar=spec.beats_per_bar,
    tonic=key.tonic, mode=key.mode, parts=tuple(parts), room_secs=spec.room_secs, mood=mood,
  )  # fmt: skip


def _draw(rng: np.random.Generator, choices: tuple):
  return choices[int(rng.integers(len(choices)))]


def _draw_two(rng: np.random.Generator, choices: tuple) -> dict[str, object]:
  """Draws one choice for each section kind, different where there are two."""
  order = rng.permutation(len(choices))
  return {'A': choices[order[0]], 'B': choices[order[1 % len(order)]]}


def _form(num_bars: int, progressions: dict[str, tuple[int, ...]]) -> list[_Bar]:
  """Lays out sections until `num_bars` bars are filled."""
  plan = []
  section = 0
  while len(plan) < num_bars + 1:
    kind, intensity = _FORM[section if section < len(_FORM) else 1 + (section - 1) % 4]
    roots = progressions[kind]
    plan.extend(
      (position, kind, intensity, position == len(roots) - 1, root)
      for position, root in enumerate(roots)
    )
    section += 1
  return [
    _Bar(index, position, kind, intensity, is_last, root, plan[index + 1][4])
    for index, (position, kind, intensity, is_last, root) in enumerate(plan[:num_bars])
  ]


def _compose_part(
  part: composer_styles.PartStyle,
  spec: composer_styles.Style,
  key: _Key,
  bars: list[_Bar],
  rng: np.random.Generator,
) -> scores.Part:
  """Writes one pitched part over all bars."""
  instrument = _draw(rng, part.instruments)
  patterns = _draw_two(rng, part.patterns)
  side = 1 if rng.random() < 0.5 else -1
  tone = float(rng.uniform(0.75, 1.3))
  gain_db = part.gain_db + float(rng.uniform(-1.5, 1.5))
  motifs = {kind: _Motif.draw(rng, part.patterns) for kind in 'AB'}
  walk = {kind: rng.integers(-1, 3, size=(8, 4)) for kind in 'AB'}
  notes = []
  for bar in bars:
    if part.rank > bar.intensity:
      continue
    match part.kind:
      case 'melody':
        steps = motifs[bar.section].bar(bar, key, part.center)
      case 'walk':
        steps = _walking_bar(bar, key, part.center, walk[bar.section])
      case 'scale':
        steps = _pattern_bar(patterns[bar.section], bar, key, part.center, over_scale=True)
      case _:
        steps = _pattern_bar(patterns[bar.section], bar, key, part.center)
    notes.extend(_place(steps, bar, spec))
  return scores.Part(instrument, tuple(notes), gain_db, part.pan * side, part.send, tone, part.echo)


def _place(
  steps: list[tuple[float, float, int, float]], bar: _Bar, spec: composer_styles.Style
) -> list[scores.Note]:
  """Turns (start, end, pitch, velocity) in parts of a bar into notes in swung beats."""
  notes = []
  for start, end, pitch, velocity in steps:
    first = _swung((bar.index + start) * spec.beats_per_bar, spec.swing)
    last = _swung((bar.index + end) * spec.beats_per_bar, spec.swing)
    notes.append(scores.Note(first, last - first, pitch, velocity))
  return notes


def _swung(beat: float, swing: float) -> float:
  """Moves the second half of a beat to `swing` and what lies between in proportion."""
  whole = math.floor(beat + 1e-9)
  part = max(beat - whole, 0.0)
  if part <= 0.5:
    return whole + part * 2 * swing
  return whole + swing + (part - 0.5) * 2 * (1 - swing)


def parse_steps(pattern: str) -> list[tuple[float, float, str]]:
  """Splits a bar pattern into (start, end, symbol), in parts of the bar."""
  steps = []
  size = len(pattern)
  for index, symbol in enumerate(pattern):
    if symbol in '.-':
      continue
    end = index + 1
    while end < size and pattern[end] == '-':
      end += 1
    steps.append((index / size, end / size, symbol))
  return steps


def _stress(start: float) -> float:
  """Velocity by the place in the bar: the first beat strongest, then halves, then the rest."""
  if start == 0:
    return 1.0
  return 0.88 if (start * 4) % 1 == 0 else 0.76


def _pattern_bar(
  pattern: str, bar: _Bar, key: _Key, center: int, over_scale: bool = False
) -> list[tuple[float, float, int, float]]:
  """Plays a bar pattern over the bar's chord, or over the scale from the chord's root."""
  steps = []
  for start, end, symbol in parse_steps(pattern):
    if symbol == 'C':
      pitches = key.voicing(bar.root, center)
    elif symbol == 'P':
      root = scores.near(key.chord(bar.root)[0], center)
      pitches = [root, key.stack_tone(bar.root, 2, center), root + 12]
    elif symbol == 'a':
      target = key.nearest_degree((bar.next_root,), center)
      pitches = [scores.scale_pitch(key.tonic, key.mode, target - 1)]
    elif over_scale:
      first = key.nearest_degree((bar.root,), center)
      pitches = [scores.scale_pitch(key.tonic, key.mode, first + int(symbol))]
    else:
      pitches = [key.stack_tone(bar.root, int(symbol), center)]
    # A chord is about as loud as a single tone.
    level = _stress(start) / len(pitches) ** 0.5
    steps.extend((start, end, pitch, level) for pitch in pitches)
  return steps


def _walking_bar(
  bar: _Bar, key: _Key, center: int, walk: np.ndarray
) -> list[tuple[float, float, int, float]]:
  """Four crotchets: root, two tones of the chord or scale, a step towards the next root."""
  first = key.nearest_degree((bar.root,), center)
  target = key.nearest_degree((bar.next_root,), center)
  draws = walk[bar.position % len(walk)]
  side = 1 if draws[0] > 0 else -1
  degrees = (first, first + 2, first + (4 if draws[1] > 0 else 1), target + side)
  return [
    (i / 4, (i + 0.9) / 4, scores.scale_pitch(key.tonic, key.mode, degree), _stress(i / 4))
    for i, degree in enumerate(degrees)
  ]


@dataclasses.dataclass(frozen=True)
class _Motif:
  """A melodic idea: two rhythms and, for each, a contour in scale steps."""

  rhythms: tuple[str, str]
  contours: tuple[tuple[int, ...], tuple[int, ...]]
  lift: int

  @classmethod
  def draw(cls, rng: np.random.Generator, patterns: tuple[str, ...]) -> '_Motif':
    order = rng.permutation(len(patterns))
    rhythms = (patterns[order[0]], patterns[order[1 % len(order)]])
    contours = []
    for _ in rhythms:
      steps = rng.choice([-2, -1, -1, 1, 1, 2], size=16)
      contour = np.clip(np.cumsum(steps), -4, 5)
      contours.append((0, *(int(c) for c in contour)))
    return cls(rhythms, tuple(contours), int(rng.integers(-2, 3)))

  def bar(self, bar: _Bar, key: _Key, center: int) -> list[tuple[float, float, int, float]]:
    """The phrase a a' a b over four bars: each bar moves the contour onto its chord."""
    which = 1 if bar.position % 4 == 3 else 0
    chord = scores.chord_degrees(bar.root, 3 if key.chord_size > 2 else 2)
    base = key.nearest_degree(chord, center + self.lift)
    steps = parse_steps(self.rhythms[which])
    notes = []
    for i, (start, end, _) in enumerate(steps):
      degree = base + self.contours[which][i]
      if i == len(steps) - 1 or (end - start) >= 0.25:
        pitch = scores.scale_pitch(key.tonic, key.mode, degree)
        degree = key.nearest_degree(chord, pitch)
      pitch = scores.scale_pitch(key.tonic, key.mode, degree)
      notes.append((start, end, pitch, _stress(start)))
    return notes


def _compose_drums(
  spec: composer_styles.Style, bars: list[_Bar], rng: np.random.Generator
) -> scores.Part:
  """Writes the drum part: a grid per section kind, a fill at its end, a crash at its start."""
  kit = _draw(rng, spec.kits)
  grids = _draw_two(rng, spec.grids)
  tone = float(rng.uniform(0.85, 1.2))
  gain_db = spec.drums_db + float(rng.uniform(-1.5, 1.5))
  has_crash = any('crash' in grid for grid in (*spec.grids, spec.fill))
  notes = []
  for bar in bars:
    grid = spec.fill if bar.is_last else grids[bar.section]
    steps = []
    for drum, pattern in grid.items():
      pattern = pattern * (16 // len(pattern)) if len(pattern) == 4 else pattern
      steps.extend(
        (start, end, scores.DRUM_KEYS[drum], _VELOCITY[symbol])
        for start, end, symbol in parse_steps(pattern)
      )
    if has_crash and bar.position == 0 and bar.index:
      steps.append((0.0, 1 / 16, scores.DRUM_KEYS['crash'], 0.75))
    notes.extend(_place(sorted(steps), bar, spec))
  return scores.Part(kit, tuple(notes), gain_db, 0.0, 0.15, tone, is_drums=True)
