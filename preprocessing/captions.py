"""Caption variants for training a style model: what is known of a track, said in many ways.

People prompt with two words more often than with a sentence. So a track's caption is shown whole,
in parts, as a genre alone, or as a short phrase made of its tags, with other words for the same
thing.
"""

import dataclasses
import re

import numpy as np

_BPM = re.compile(r'\b(\d{2,3}(?:\.\d+)?) ?bpm\b', re.IGNORECASE)
_KEY = re.compile(
  r'\b([A-G](?:b|#)?) ((?:harmonic )?(?:major|minor)|dorian|phrygian|lydian|mixolydian)\b'
)
_SEPARATORS = re.compile(r'[,;:()]| with | featuring ')

# (beats per minute below which the words fit, words).
_TEMPO_WORDS = (
  (70, ('very slow', 'slow', 'slow tempo')),
  (90, ('slow', 'slow tempo', 'downtempo')),
  (112, ('moderate', 'mid-tempo', 'medium tempo')),
  (140, ('medium-fast', 'upbeat', 'up-tempo')),
  (1000, ('fast', 'very fast', 'fast tempo')),
)

# Other words for a term; what stands on the right is never replaced in turn.
SYNONYMS = {
  'acoustic folk': ('folk', 'folk song', 'singer-songwriter', 'acoustic country'),
  'ambient': ('ambient soundscape', 'ambient drone', 'new age', 'meditation music'),
  'bossa nova': ('brazilian jazz', 'bossa', 'latin lounge', 'samba'),
  'celtic jig': ('irish folk dance', 'irish jig', 'celtic', 'celtic folk'),
  'chiptune': ('8-bit', '8-bit video game music', 'game music', 'retro game soundtrack'),
  'church organ chorale': ('church organ', 'organ hymn', 'sacred organ music', 'baroque organ'),
  'drum and bass': ('dnb', 'jungle', 'drum & bass', 'breakbeat'),
  'dub reggae': ('reggae', 'dub', 'roots reggae', 'jamaican dub'),
  'funk': ('funky groove', 'funk jam', '70s funk', 'soul funk'),
  'gamelan': ('indonesian gamelan', 'balinese gamelan', 'javanese percussion'),
  'hard rock': ('rock', 'heavy metal', 'heavy rock', 'metal', 'loud guitar rock'),
  'house': ('house music', 'dance music', 'deep house', 'club music', 'edm', 'disco house'),
  'japanese koto music': ('koto', 'traditional japanese', 'japanese', 'japanese folk'),
  'lo-fi hip hop': ('lofi', 'lo-fi beats', 'hip hop', 'chill beats', 'study beats'),
  'music box lullaby waltz': ('music box', 'lullaby', 'music box lullaby', 'waltz', 'nursery song'),
  'swing jazz': ('jazz', 'swing', 'jazz combo', 'bebop'),
  'synthwave': ('retrowave', '80s synth', 'electronic', 'retro synth pop', 'outrun'),
  'acoustic guitar': ('guitar', 'folk guitar'),
  'brushed drums': ('brushes', 'soft drums'),
  'distorted guitar': ('electric guitar', 'heavy guitar', 'guitar riffs'),
  'electric piano': ('rhodes', 'e-piano'),
  'grand piano': ('piano', 'acoustic piano'),
  'jazz drums': ('drums', 'swing drums'),
  'rock drums': ('drums', 'loud drums'),
  'saxophone': ('sax', 'tenor sax'),
  'string section': ('strings', 'string orchestra'),
  'upright bass': ('double bass', 'acoustic bass'),
  'warm pad': ('pad', 'synth pad'),
}


@dataclasses.dataclass(frozen=True)
class CaptionFacts:
  """What is known of a track; everything may be empty.

  Attributes:
    caption: a sentence.
    styles: names of its style or genre, the most exact one first.
    instruments: names, the leading one first.
    bpm: beats per minute.
    key: tonic and mode.
    vocal: 'vocal', 'instrumental' or ''.
    tradition: musical tradition.
  """

  caption: str = ''
  styles: tuple[str, ...] = ()
  instruments: tuple[str, ...] = ()
  bpm: float | None = None
  key: str = ''
  vocal: str = ''
  tradition: str = ''

  @property
  def is_empty(self) -> bool:
    return not (self.caption.strip() or self.styles or self.instruments)


def caption_variant(facts: CaptionFacts, rng: np.random.Generator) -> str:
  """One of many ways to caption a track: whole, in parts, style alone, or a short phrase.

  Raises:
    ValueError: nothing is known of the track.
  """
  if facts.is_empty:
    raise ValueError('A track without caption, style and instruments cannot be captioned.')
  draw = rng.random()
  if facts.caption.strip() and (draw < 0.7 or not (facts.styles or facts.instruments)):
    if draw < 0.35:
      text = facts.caption
    else:
      text = _some_phrases(facts.caption, rng)
    return with_synonyms(text, rng, 0.4)
  if facts.styles and draw < 0.85:
    return with_synonyms(_style_alone(facts, rng), rng, 0.6)
  return with_synonyms(_short_phrase(facts, rng), rng, 0.5)


def whole_caption(facts: CaptionFacts) -> str:
  """The caption as it is; where there is none, styles and instruments in a row."""
  return facts.caption.strip() or ', '.join([*facts.styles, *facts.instruments])


def tempo_and_key(caption: str) -> tuple[float | None, str]:
  """What a caption says of tempo and key: '... at 84 bpm in F# minor' -> (84.0, 'F# minor')."""
  bpm, key = _BPM.search(caption), _KEY.search(caption)
  return (float(bpm[1]) if bpm else None), (f'{key[1]} {key[2]}' if key else '')


def phrases(caption: str) -> list[str]:
  """Splits a caption at punctuation and before what it is 'with'."""
  return [part.strip() for part in _SEPARATORS.split(caption) if part.strip()]


def with_synonyms(text: str, rng: np.random.Generator, probability: float) -> str:
  """Replaces each known term of a text, with a probability, by another word for it."""
  lowered = text.lower()
  for term, others in SYNONYMS.items():
    at = lowered.find(term)
    if at >= 0 and rng.random() < probability:
      other = others[int(rng.integers(len(others)))]
      text = text[:at] + other + text[at + len(term) :]
      lowered = text.lower()
  return text


def tempo_words(bpm: float) -> tuple[str, ...]:
  """Words for a tempo."""
  return next(words for limit, words in _TEMPO_WORDS if bpm < limit or limit == 1000)


def _some_phrases(caption: str, rng: np.random.Generator) -> str:
  """A random part of the caption's phrases, in random order."""
  parts = phrases(caption)
  kept = rng.permutation(len(parts))[: int(rng.integers(1, len(parts) + 1))]
  return ', '.join(parts[i] for i in kept)


def _style_alone(facts: CaptionFacts, rng: np.random.Generator) -> str:
  style = _draw(facts.styles, rng)
  return _draw((style, style, f'{style} music', f'a {style} track'), rng)


def _short_phrase(facts: CaptionFacts, rng: np.random.Generator) -> str:
  """Two or three facts: 'slow jazz with piano', 'piano and sax', 'instrumental funk'."""
  style = _draw(facts.styles, rng) if facts.styles else 'music'
  forms = []
  if facts.instruments:
    order = rng.permutation(len(facts.instruments))
    some = [facts.instruments[i] for i in order[:2]]
    forms += [f'{style} with {some[0]}', f'{some[0]} {style}', ' and '.join(some), some[0]]
  if facts.bpm:
    tempo = _draw(tempo_words(facts.bpm), rng)
    forms += [f'{tempo} {style}', f'{style} at {facts.bpm:.0f} bpm', f'{style}, {tempo}']
    if facts.instruments:
      forms += [f'{tempo} {style} with {some[0]}', f'{tempo} {style} with {" and ".join(some)}']
  if facts.key:
    forms += [f'{style} in {facts.key}']
  if facts.vocal == 'instrumental':
    forms += [f'instrumental {style}', f'{style}, instrumental']
  elif facts.vocal:
    forms += [f'{style} with vocals', f'vocal {style}']
  if facts.tradition:
    forms += [f'{facts.tradition} {style}', f'{facts.tradition} music']
  return _draw(tuple(forms) or (style,), rng)


def _draw(choices: tuple[str, ...], rng: np.random.Generator) -> str:
  return choices[int(rng.integers(len(choices)))]
