"""Words for recordings that come without a caption, heard by two networks of others (musicnn).

`Tagger` gives the probability of 100 tags, 50 of Last.fm listeners ('msd') and 50 of the players of
MagnaTagATune ('mtt'); `words` makes styles, instruments, moods and vocals of them, and a caption.
What is heard is a guess: it belongs where nothing better is known of a track, and a track that has
a caption or tags of its own keeps them.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from models.musicnn import NAMES, Musicnn
from models.vector_cache import VectorCache
from preprocessing.captions import CaptionFacts

STYLE, INSTRUMENT, MOOD, VOICE, NO_VOICE = 'style', 'instrument', 'mood', 'voice', 'no voice'
# Tag -> (kind, word); tags that mean the same share a word.
VOCABULARY = {
  'msd': {
    'rock': (STYLE, 'rock'), 'pop': (STYLE, 'pop'), 'alternative': (STYLE, 'alternative rock'),
    'indie': (STYLE, 'indie'), 'electronic': (STYLE, 'electronic'),
    'female vocalists': (VOICE, 'female vocals'), 'dance': (STYLE, 'dance music'),
    '00s': (MOOD, '2000s'), 'alternative rock': (STYLE, 'alternative rock'),
    'jazz': (STYLE, 'jazz'), 'beautiful': (MOOD, 'beautiful'), 'metal': (STYLE, 'metal'),
    'chillout': (STYLE, 'chillout'), 'male vocalists': (VOICE, 'male vocals'),
    'classic rock': (STYLE, 'classic rock'), 'soul': (STYLE, 'soul'),
    'indie rock': (STYLE, 'indie rock'), 'Mellow': (MOOD, 'mellow'),
    'electronica': (STYLE, 'electronica'), '80s': (MOOD, '80s'), 'folk': (STYLE, 'folk'),
    '90s': (MOOD, '90s'), 'chill': (STYLE, 'chillout'), 'instrumental': (NO_VOICE, 'instrumental'),
    'punk': (STYLE, 'punk'), 'oldies': (STYLE, 'oldies'), 'blues': (STYLE, 'blues'),
    'hard rock': (STYLE, 'hard rock'), 'ambient': (STYLE, 'ambient'),
    'acoustic': (MOOD, 'acoustic'), 'experimental': (STYLE, 'experimental'),
    'female vocalist': (VOICE, 'female vocals'), 'guitar': (INSTRUMENT, 'guitar'),
    'Hip-Hop': (STYLE, 'hip hop'), '70s': (MOOD, '70s'), 'party': (MOOD, 'party'),
    'country': (STYLE, 'country'), 'easy listening': (STYLE, 'easy listening'),
    'sexy': (MOOD, 'sexy'), 'catchy': (MOOD, 'catchy'), 'funk': (STYLE, 'funk'),
    'electro': (STYLE, 'electro'), 'heavy metal': (STYLE, 'heavy metal'),
    'Progressive rock': (STYLE, 'progressive rock'), '60s': (MOOD, '60s'),
    'rnb': (STYLE, 'r&b'), 'indie pop': (STYLE, 'indie pop'), 'sad': (MOOD, 'sad'),
    'House': (STYLE, 'house'), 'happy': (MOOD, 'happy'),
  },
  'mtt': {
    'guitar': (INSTRUMENT, 'guitar'), 'classical': (STYLE, 'classical'), 'slow': (MOOD, 'slow'),
    'techno': (STYLE, 'techno'), 'strings': (INSTRUMENT, 'strings'),
    'drums': (INSTRUMENT, 'drums'), 'electronic': (STYLE, 'electronic'), 'rock': (STYLE, 'rock'),
    'fast': (MOOD, 'fast'), 'piano': (INSTRUMENT, 'piano'), 'ambient': (STYLE, 'ambient'),
    'beat': (INSTRUMENT, 'drums'), 'violin': (INSTRUMENT, 'violin'), 'vocal': (VOICE, 'vocals'),
    'synth': (INSTRUMENT, 'synthesizer'), 'female': (VOICE, 'female vocals'),
    'indian': (STYLE, 'indian'), 'opera': (STYLE, 'opera'), 'male': (VOICE, 'male vocals'),
    'singing': (VOICE, 'vocals'), 'vocals': (VOICE, 'vocals'),
    'no vocals': (NO_VOICE, 'instrumental'), 'harpsichord': (INSTRUMENT, 'harpsichord'),
    'loud': (MOOD, 'loud'), 'quiet': (MOOD, 'quiet'), 'flute': (INSTRUMENT, 'flute'),
    'woman': (VOICE, 'female vocals'), 'male vocal': (VOICE, 'male vocals'),
    'no vocal': (NO_VOICE, 'instrumental'), 'pop': (STYLE, 'pop'), 'soft': (MOOD, 'soft'),
    'sitar': (INSTRUMENT, 'sitar'), 'solo': (MOOD, 'solo'), 'man': (VOICE, 'male vocals'),
    'classic': (STYLE, 'classical'), 'choir': (VOICE, 'choir'), 'voice': (VOICE, 'vocals'),
    'new age': (STYLE, 'new age'), 'dance': (STYLE, 'dance music'),
    'male voice': (VOICE, 'male vocals'), 'female vocal': (VOICE, 'female vocals'),
    'beats': (INSTRUMENT, 'drums'), 'harp': (INSTRUMENT, 'harp'), 'cello': (INSTRUMENT, 'cello'),
    'no voice': (NO_VOICE, 'instrumental'), 'weird': (MOOD, 'weird'),
    'country': (STYLE, 'country'), 'metal': (STYLE, 'metal'),
    'female voice': (VOICE, 'female vocals'), 'choral': (VOICE, 'choir'),
  },
}  # fmt: skip
# Moods that cannot both be: the likelier is kept.
_OPPOSITES = ({'slow', 'fast'}, {'loud', 'quiet'}, {'loud', 'soft'}, {'happy', 'sad'})
# Most words of a kind; a voice is named only where it is clearly likelier than none, or the other
# way round.
_MOST = {STYLE: 3, INSTRUMENT: 3, MOOD: 2}
_CLEARLY = 1.5
LEAST = 0.1  # Probability from which a tag counts.


@dataclasses.dataclass(frozen=True)
class HeardWords:
  """What was heard, the likeliest first.

  Attributes:
    styles, instruments, moods: words of `VOCABULARY`.
    voice: 'female vocals', 'male vocals', 'vocals', 'choir', or ''.
    vocal: 'vocal', 'instrumental' or '' where it is not clear, as in a manifest.
  """

  styles: tuple[str, ...] = ()
  instruments: tuple[str, ...] = ()
  moods: tuple[str, ...] = ()
  voice: str = ''
  vocal: str = ''

  def caption(self) -> str:
    """Such as 'ambient, electronic with piano and strings, slow, instrumental'; '' for nothing."""
    parts = [', '.join(self.styles)]
    if self.instruments:
      parts[0] = f'{parts[0] or "music"} with {" and ".join(self.instruments)}'
    parts += [' and '.join(self.moods), self.voice]
    if self.vocal == 'instrumental':
      parts.append(self.vocal)
    return ', '.join(part for part in parts if part)

  def facts(self) -> CaptionFacts:
    """The same for `captions.caption_variant`."""
    return CaptionFacts(
      caption=self.caption(), styles=self.styles, instruments=self.instruments, vocal=self.vocal
    )


class Tagger:
  """Both networks, and what they have heard before.

  Attributes:
    tags: (network, tag) of each probability.
  """

  def __init__(self, cache_dir: str | pathlib.Path | None = None):
    """Loads the bundled networks.

    Args:
      cache_dir: folder in which probabilities are kept by content; None keeps none.
    """
    self._networks = {name: Musicnn.load(name) for name in NAMES}
    self.tags = tuple((name, tag) for name in NAMES for tag in self._networks[name].tags)
    self._cache = None
    if cache_dir is not None:
      name = '-'.join(['musicnn', *(self._networks[name].content_hash for name in NAMES)])
      self._cache = VectorCache(pathlib.Path(cache_dir) / name, len(self.tags))

  def probabilities(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """The probability of each of `tags`, float32 [100], the mean over patches of 3 s.

    Args:
      audio: [n] or [n, channels] float; a minute of a track says nearly all that the track does.
      sample_rate: Hz.

    Raises:
      ValueError: see `Musicnn.hear`.
    """
    audio = np.asarray(audio, np.float32)
    key = _key(audio, sample_rate)
    known = None if self._cache is None else self._cache.get(key)
    if known is not None:
      return known
    heard = [network.hear(audio, sample_rate) for network in self._networks.values()]
    found = np.concatenate([one.probabilities.mean(0) for one in heard])
    if self._cache is not None:
      self._cache.put(key, found)
    return found

  def words(self, audio: np.ndarray, sample_rate: int, least: float = LEAST) -> HeardWords:
    """What is heard in audio, in words: `words` of `probabilities`."""
    return words(dict(zip(self.tags, self.probabilities(audio, sample_rate))), least)


def words(probabilities: Mapping[tuple[str, str], float], least: float = LEAST) -> HeardWords:
  """Words for the tags that are likely enough.

  A word is as likely as the likeliest of its tags. A voice is named where it is at least 1.5 times
  as likely as 'instrumental', and its sex where one is 1.5 times as likely as the other.

  Args:
    probabilities: (network, tag) -> 0..1; tags that are left out count as 0.
    least: probability from which a word counts.

  Raises:
    KeyError: a tag is not in `VOCABULARY`.
  """
  likely: dict[str, dict[str, float]] = {}
  for (network, tag), probability in probabilities.items():
    kind, word = VOCABULARY[network][tag]
    of_kind = likely.setdefault(kind, {})
    of_kind[word] = max(of_kind.get(word, 0.0), float(probability))
  ranked = functools.partial(_ranked, likely, least)
  voice, vocal = _voice(likely.get(VOICE, {}), likely.get(NO_VOICE, {}), least)
  return HeardWords(ranked(STYLE), ranked(INSTRUMENT), ranked(MOOD), voice, vocal)


def _ranked(
  likely: Mapping[str, Mapping[str, float]], least: float, kind: str
) -> tuple[str, ...]:
  known = [(word, value) for word, value in likely.get(kind, {}).items() if value >= least]
  known.sort(key=lambda pair: -pair[1])
  kept: list[str] = []
  for word, _ in known:
    if not any({word, other} in _OPPOSITES for other in kept):
      kept.append(word)
  return tuple(kept[: _MOST[kind]])


def _voice(
  voices: Mapping[str, float], none: Mapping[str, float], least: float
) -> tuple[str, str]:
  sung, unsung = max(voices.values(), default=0.0), max(none.values(), default=0.0)
  if unsung >= max(least, _CLEARLY * sung):
    return '', 'instrumental'
  if sung < max(least, _CLEARLY * unsung):
    return '', ''
  name = max(voices, key=voices.__getitem__)
  women, men = voices.get('female vocals', 0.0), voices.get('male vocals', 0.0)
  if name != 'choir':
    name = 'vocals'
    if max(women, men) >= max(least, _CLEARLY * min(women, men)):
      name = 'female vocals' if women > men else 'male vocals'
  return name, 'vocal'


def _key(audio: np.ndarray, sample_rate: int) -> str:
  digest = hashlib.sha256(f'{sample_rate} {audio.shape}'.encode())
  digest.update(np.ascontiguousarray(audio))
  return digest.hexdigest()
