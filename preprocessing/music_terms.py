"""Sung or instrumental, and of which tradition: what genres, key words and titles say of it.

Only what is said is filled in; a plain 'rock' says nothing of either.
"""

import re
from collections.abc import Sequence

_INSTRUMENTAL = re.compile(
  r'\b(instrumental|karaoke|no[ -]?vocals?|without vocals|backing track|solo (piano|guitar|violin|'
  r'cello|organ)|string quartet|beat tape|zxx)\b'
)
_VOCAL = re.compile(
  r'\b(vocals?|voices?|singers?|singing|sung|songs?|singer[- ]songwriter|choir|choral|chorus|chant|'
  r'a cappella|acapella|opera|aria|lieder|rap|rapper|hip[- ]hop vocals|gospel|qawwali|fado|'
  r'barbershop|madrigal|spoken word|soprano|tenor|baritone|mezzo[- ]soprano)\b'
)
_NO_SONG = re.compile(r'\btenor sax(ophone)?\b|\bsoprano sax(ophone)?\b|\bbaritone sax(ophone)?\b')
_YES = ('1', 'true', 'yes', 'y', 'vocal', 'vocals', 'sung', 'voice')
_NO = ('0', 'false', 'no', 'n', 'none', 'instrumental')
_UNKNOWN = ('', 'unknown', 'n/a', '?')

# Tradition -> words that name it, its genres or instruments that belong to it alone.
TRADITIONS = {
  'Afro-Cuban': ('afro-cuban', 'afrocuban', 'son cubano', 'guaguancó', 'guaguanco', 'batá'),
  'Andean': ('andean', 'huayno', 'charango', 'zampoña', 'siku'),
  'Arabic': ('arabic', 'arab', 'maqam', 'tarab', 'khaleeji', 'oud', 'qanun'),
  'Argentine tango': ('tango', 'milonga'),
  'Balkan': ('balkan', 'sevdalinka', 'čoček', 'cocek'),
  'Brazilian': ('brazilian', 'samba', 'bossa nova', 'choro', 'forró', 'forro', 'maracatu'),
  'Bulgarian': ('bulgarian', 'gadulka', 'kaval'),
  'Carnatic': ('carnatic', 'karnatak', 'mridangam', 'kriti'),
  'Celtic': ('celtic', 'irish', 'scottish', 'uilleann pipes', 'bodhrán', 'strathspey'),
  'Chinese': ('chinese', 'guzheng', 'erhu', 'pipa', 'guqin', 'peking opera'),
  'Ethiopian': ('ethiopian', 'ethio-jazz', 'krar', 'masinko'),
  'Flamenco': ('flamenco', 'bulerías', 'bulerias', 'soleá', 'cante jondo'),
  'Gamelan': ('gamelan', 'balinese', 'javanese'),
  'Gnawa': ('gnawa', 'gnaoua', 'guembri'),
  'Greek': ('rebetiko', 'rembetika', 'laika', 'bouzouki'),
  'Hawaiian': ('hawaiian', 'slack-key'),
  'Hindustani': ('hindustani', 'raga', 'raag', 'sitar', 'tabla', 'dhrupad', 'khayal', 'bansuri'),
  'Japanese': ('japanese', 'gagaku', 'koto', 'shakuhachi', 'shamisen', 'min\'yō', 'taiko'),
  'Jewish': ('klezmer', 'cantorial', 'sephardic', 'ladino'),
  'Korean': ('korean', 'gugak', 'pansori', 'gayageum', 'samulnori'),
  'Mande': ('mande', 'mandinka', 'griot', 'kora', 'balafon', 'wassoulou'),
  'Mexican': ('mexican', 'mariachi', 'ranchera', 'son jarocho', 'norteño', 'norteno'),
  'Mongolian': ('mongolian', 'tuvan', 'throat singing', 'khoomei', 'morin khuur'),
  'Nordic': ('nordic folk', 'hardanger', 'nyckelharpa', 'joik', 'yoik'),
  'Persian': ('persian', 'iranian', 'dastgah', 'santur', 'setar'),
  'Portuguese': ('fado', 'guitarra portuguesa'),
  'Qawwali': ('qawwali',),
  'Shona': ('shona', 'mbira'),
  'Turkish': ('turkish', 'makam', 'saz', 'bağlama', 'baglama', 'ottoman'),
  'Vietnamese': ('vietnamese', 'đàn tranh', 'ca trù'),
  'West African': ('afrobeat', 'highlife', 'jùjú', 'djembe', 'ewe', 'yoruba'),
  'Western classical': (
    'classical', 'baroque', 'romantic era', 'renaissance', 'symphony', 'string quartet', 'sonata',
    'opera', 'lieder', 'gregorian chant',
  ),
}  # fmt: skip
_TRADITION_PATTERNS = {
  name: re.compile(r'(?<!\w)(' + '|'.join(map(re.escape, words)) + r')(?!\w)')
  for name, words in TRADITIONS.items()
}


def vocal_from(said: str, words: Sequence[str], language: str = '', lyrics: bool = False) -> str:
  """'vocal', 'instrumental' or ''.

  Args:
    said: what a tag or a column says outright, e.g. 'yes', 'instrumental'.
    words: genre, key words, title; 'instrumental' in any of them decides.
    language: of the lyrics; 'zxx' means none.
    lyrics: whether the file carries lyrics.
  """
  said = said.strip().casefold()
  if said in _YES:
    return 'vocal'
  if said in _NO or language.strip().casefold() == 'zxx':
    return 'instrumental'
  text = _NO_SONG.sub(' ', ' ; '.join([*words, said]).casefold())
  if _INSTRUMENTAL.search(text):
    return 'instrumental'
  if _VOCAL.search(text) or lyrics or language.strip():
    return 'vocal'
  return ''


def tradition_from(words: Sequence[str]) -> str:
  """The tradition that genre and key words name, '' where none or more than one do."""
  text = ' ; '.join(words).casefold()
  named = [name for name, pattern in _TRADITION_PATTERNS.items() if pattern.search(text)]
  if len(named) > 1 and 'Western classical' in named:
    # 'Hindustani classical' is not the Western kind.
    named.remove('Western classical')
  return named[0] if len(named) == 1 else ''


def is_vocal_word(said: str) -> bool:
  """Whether a value of a vocal column or tag is understood."""
  said = said.strip().casefold()
  return said in _YES or said in _NO or said in _UNKNOWN
