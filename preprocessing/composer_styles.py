"""The styles of the demo corpus as data: harmony, rhythm, tempo, instruments, room and words.

Bar patterns are strings that divide a bar into equal steps. In pitched parts a digit starts that
tone of the chord (0 = root, counted upwards through octaves), `C` the whole chord, `P` root, fifth
and octave, `a` a step towards the next bar's root, `x` (melodies) the next note of the motif; `-`
holds and `.` rests. In drum grids `X` is an accent, `x` a stroke and `o` a ghost stroke.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class PartStyle:
  """How one part of a style plays.

  Attributes:
    kind: 'pattern', 'melody', 'walk' (walking bass) or 'scale' (digits are scale degrees).
    instruments: the choice of instruments; one is drawn per work.
    patterns: the choice of bar patterns; two are drawn per work, one per section kind.
    center: MIDI pitch around which the part lies.
    gain_db, pan, send, echo: as in `scores.Part`; the side of the pan is drawn per work.
    rank: 1 plays throughout, 2 from medium intensity on, 3 at full intensity.
  """

  kind: str
  instruments: tuple[str, ...]
  patterns: tuple[str, ...]
  center: int
  gain_db: float = 0.0
  pan: float = 0.0
  send: float = 0.2
  echo: float = 0.0
  rank: int = 1


@dataclasses.dataclass(frozen=True)
class Style:
  """One style of music.

  Attributes:
    label: what a listener would call it.
    genre: genre tag.
    tempo: lowest and highest beats per minute.
    modes: scales; one is drawn per work.
    progressions: chord roots as scale degrees, one a bar; two are drawn per work.
    parts: the pitched parts, the leading one first.
    kits: the choice of drum kits (empty: no drums).
    grids: the choice of drum grids, {drum: bar grid}; two are drawn per work.
    fill: drum grid of the last bar of a section.
    moods: the choice of caption words.
    artists: invented artists.
    beats_per_bar: 4, 3 or 2 (6/8 is counted in two dotted beats).
    chord_size: tones of a chord.
    swing: where the second half of a beat starts, 0.5 = straight.
    room_secs: reverberation time.
    drums_db: level of the drums.
  """

  label: str
  genre: str
  tempo: tuple[int, int]
  modes: tuple[str, ...]
  progressions: tuple[tuple[int, ...], ...]
  parts: tuple[PartStyle, ...]
  moods: tuple[str, ...]
  artists: tuple[str, ...]
  kits: tuple[str, ...] = ()
  grids: tuple[Mapping[str, str], ...] = ()
  fill: Mapping[str, str] = dataclasses.field(default_factory=dict)
  beats_per_bar: int = 4
  chord_size: int = 3
  swing: float = 0.5
  room_secs: float = 0.8
  drums_db: float = 0.0


_TABLE = {}

_TABLE['ambient'] = Style(
  label='ambient', genre='Ambient', tempo=(60, 76), modes=('lydian', 'major', 'dorian'),
  progressions=((0, 4, 5, 3), (0, 1, 0, 4), (0, 2, 3, 4), (5, 3, 0, 4)), chord_size=4,
  room_secs=3.2,
  parts=(
    PartStyle('pattern', ('warm pad', 'choir pad', 'glass pad'), ('C---------------',),
              center=62, send=0.5),
    PartStyle('pattern', ('fm bell', 'vibraphone', 'kalimba'),
              ('0...2...4...3...', '4..3..2..1..0...', '0..2..4..6..4.2.'),
              center=72, gain_db=-5, pan=0.4, send=0.6, echo=0.3),
    PartStyle('pattern', ('sub bass',), ('0---------------', '0-------2-------'),
              center=36, gain_db=-3, send=0.1),
    PartStyle('melody', ('flute', 'soft lead', 'fm bell'),
              ('x-------x---x---', 'x-----x-x-------', '....x---x-------'),
              center=76, gain_db=-5, pan=-0.3, send=0.6, echo=0.3, rank=2),
    PartStyle('pattern', ('wind texture',), ('0---------------',),
              center=84, gain_db=-12, send=0.4),
  ),
  moods=('calm and spacious', 'dreamy', 'floating and still', 'meditative'),
  artists=('Tidal Hollow', 'Slow Lantern', 'Far Glass'),
)  # fmt: skip

_TABLE['house'] = Style(
  label='house', genre='House', tempo=(119, 128), modes=('minor', 'dorian'),
  progressions=((0, 5, 2, 6), (0, 3, 5, 6), (0, 0, 5, 6), (5, 6, 0, 0)), chord_size=4,
  room_secs=0.9,
  parts=(
    PartStyle('pattern', ('electric piano', 'saw stab', 'rock organ'),
              ('C..C..C...C..C..', '..C..C....C..C..', 'C.....C..C..C...'),
              center=62, gain_db=-2, pan=0.15, send=0.3),
    PartStyle('pattern', ('synth bass', 'fm bass'),
              ('..0...0...0...0.', '..00..03..00..0a', '0..0..0...0.0.3.'),
              center=38, send=0.0),
    PartStyle('pattern', ('warm pad', 'string section'), ('C---------------',),
              center=67, gain_db=-8, send=0.5, rank=2),
    PartStyle('melody', ('synth pluck', 'soft lead', 'vibraphone'),
              ('x..x..x.x..x..x.', 'x.x...x.x.....x.', '..x.x..x..x.x...'),
              center=74, gain_db=-4, pan=-0.3, send=0.3, echo=0.35, rank=3),
  ),
  kits=('electronic drums', 'drum machine'),
  grids=(
    {'kick': 'X...X...X...X...', 'clap': '....X.......X...', 'open hat': '..x...x...x...x.',
     'hat': 'x.ox'},
    {'kick': 'X...X...X...X...', 'snare': '....x.......x...', 'hat': 'xoXoxoXoxoXoxoXo',
     'shaker': 'xoxo'},
  ),
  fill={'kick': 'X...X...X...X.x.', 'clap': '....X.......X.xX', 'hat': 'x.xx',
        'crash': '..............x.'},
  moods=('uplifting and danceable', 'hypnotic club', 'driving late-night', 'warm and groovy'),
  artists=('Night Ferry', 'Lowlight Union', 'Parallel Rooms'), drums_db=1,
)  # fmt: skip

_TABLE['jazz swing'] = Style(
  label='swing jazz', genre='Jazz', tempo=(112, 156), modes=('major', 'dorian'),
  progressions=((1, 4, 0, 5), (1, 4, 0, 0), (0, 5, 1, 4), (2, 5, 1, 4)), chord_size=4, swing=0.65,
  room_secs=1.0,
  parts=(
    PartStyle('melody', ('saxophone', 'vibraphone', 'muted trumpet'),
              ('x-xxx---..xxx-x-', 'x-x-xxx-x---....', '..x-xxx-x-x-x---', 'x---..xxx-xxx-..'),
              center=70, pan=-0.25, send=0.25),
    PartStyle('pattern', ('grand piano', 'jazz guitar'),
              ('C-....C-..C-....', '..C-....C-....C-', 'C-....C---......'),
              center=60, gain_db=-4, pan=0.35, send=0.25),
    PartStyle('walk', ('upright bass',), ('0---x---x---a---',), center=40, pan=0.05, send=0.1),
  ),
  kits=('jazz drums', 'brushed drums'),
  grids=(
    {'ride': 'X...x.x.X...x.x.', 'hat': '....x.......x...', 'kick': 'o...o...o...o...',
     'snare': '......o.......o.'},
    {'ride': 'X...x.x.X...x.x.', 'hat': '....x.......x...', 'kick': 'o.........o.....',
     'rim': '............x...'},
  ),
  fill={'ride': 'X...x.x.X.......', 'snare': '......x.x.x.xxx.', 'kick': 'o...o...x.....x.',
        'hat': '....x.......x...'},
  moods=('relaxed and swinging', 'smoky and late', 'lively and warm', 'cool and playful'),
  artists=('The Corner Trio', 'Blue Umbrella', 'Ninth Street Four'), drums_db=-2,
)  # fmt: skip

_TABLE['rock'] = Style(
  label='hard rock', genre='Rock', tempo=(116, 150), modes=('minor', 'mixolydian', 'dorian'),
  progressions=((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 0, 4), (0, 2, 6, 3)), room_secs=0.7,
  parts=(
    PartStyle('pattern', ('distorted guitar',),
              ('P.P.P.P.P.P.P.P.', 'P--P--P-P--P--P-', 'P---..P.P---P.P.', 'PPP.PPP.PPP.P.P.'),
              center=46, pan=0.6, send=0.15),
    PartStyle('pattern', ('electric guitar',), ('0.2.3.2.0.2.3.2.', '0--2--3-4--3--2-'),
              center=58, gain_db=-6, pan=-0.6, echo=0.1, rank=2),
    PartStyle('pattern', ('bass guitar',),
              ('0.0.0.0.0.0.0.0.', '0-0.0-0.0-0.0-a-', '0--0--0-0--0--a-'),
              center=36, gain_db=-1, send=0.0),
    PartStyle('melody', ('lead guitar', 'rock organ'),
              ('x---x-x-x---....', 'x-x-x---x-x-x---', 'x-----x-x-x-x-x-'),
              center=69, gain_db=-4, pan=-0.1, send=0.3, echo=0.25, rank=3),
  ),
  kits=('rock drums',),
  grids=(
    {'kick': 'X.....X.X.......', 'snare': '....X.......X...', 'hat': 'X.x.X.x.X.x.X.x.'},
    {'kick': 'X..x..X.X..x..x.', 'snare': '....X.......X...', 'ride': 'X.x.X.x.X.x.X.x.',
     'crash': 'X...............'},
    {'kick': 'X.X...X...X.X...', 'snare': '....X.......X..o', 'open hat': 'x...x...x...x...'},
  ),
  fill={'kick': 'X.....X.X.......', 'snare': '....X...X.xx....', 'high tom': '............x...',
        'mid tom': '.............x..',
        'low tom': '..............xx', 'hat': 'X.x.X.x.........'},
  moods=('loud and energetic', 'heavy and aggressive', 'raw and driving', 'anthemic'),
  artists=('Iron Harbor', 'Static Wolves', 'Red Quarry'), drums_db=1,
)  # fmt: skip

_TABLE['folk'] = Style(
  label='acoustic folk', genre='Folk', tempo=(86, 112), modes=('major', 'mixolydian', 'dorian'),
  progressions=((0, 4, 5, 3), (0, 3, 0, 4), (0, 5, 3, 4), (0, 6, 3, 0)), room_secs=0.8,
  parts=(
    PartStyle('pattern', ('steel-string guitar',),
              ('0.2.1.3.0.2.1.3.', '0.3.2.4.1.3.2.3.', 'C..CC.C.C..CC.C.'),
              center=50, pan=0.35),
    PartStyle('melody', ('flute', 'harmonica', 'fiddle'),
              ('x---x-x-x-------', 'x-x-x---x---x---', 'x-----x-x-x-x---'),
              center=74, gain_db=-3, pan=-0.3, send=0.3, rank=2),
    PartStyle('pattern', ('banjo', 'mandolin'), ('..2.4.3...2.4.3.', '2.342.342.342.34'),
              center=62, gain_db=-6, pan=-0.55, rank=3),
    PartStyle('pattern', ('upright bass',), ('0-------2-------', '0-----0-2-----a-'),
              center=40, gain_db=-2, send=0.1),
  ),
  kits=('hand percussion',),
  grids=(
    {'shaker': 'x.xoX.xox.xoX.xo', 'kick': 'x.......x.......', 'tambourine': '....x.......x...'},
    {'shaker': 'xoXoxoXoxoXoxoXo', 'low conga': 'x.....x.x.......',
     'high conga': '....x.......x.x.'},
  ),
  fill={'shaker': 'x.xoX.xox.xoX.xo', 'kick': 'x.......x...x...', 'tambourine': '....x...x.x.x.xx'},
  moods=('gentle and pastoral', 'bright and homely', 'wistful', 'open-air and hopeful'),
  artists=('Willow & Wren', 'The Long Meadow', 'Juniper Lane'), drums_db=-7,
)  # fmt: skip

_TABLE['church organ'] = Style(
  label='church organ chorale', genre='Classical', tempo=(62, 82),
  modes=('major', 'minor', 'harmonic minor'),
  progressions=((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 4), (3, 0, 4, 0)), room_secs=3.6,
  parts=(
    PartStyle('pattern', ('church organ',),
              ('C---C---C---C---', 'C-------C---C---', 'C---C-C-C---C---'),
              center=62, pan=-0.2, send=0.45),
    PartStyle('melody', ('principal organ', 'trumpet organ'),
              ('x---x---x-x-x---', 'x---x-x-x---x---', 'x-x-x---x-------'),
              center=74, gain_db=-3, pan=0.25, send=0.5),
    PartStyle('pattern', ('organ pedals',),
              ('0-------2-------', '0---------------', '0---2---0---a---'),
              center=38, gain_db=-1, send=0.3),
  ),
  moods=('solemn', 'majestic', 'devout and serene', 'grand and bright'),
  artists=('Saint Orla Organists', 'The Loft', 'Nave and Choir'),
)  # fmt: skip

_TABLE['bossa nova'] = Style(
  label='bossa nova', genre='Latin', tempo=(116, 138), modes=('major', 'dorian'),
  progressions=((0, 1, 4, 0), (0, 5, 1, 4), (1, 4, 0, 0), (0, 3, 1, 4)), chord_size=4,
  room_secs=0.9,
  parts=(
    PartStyle('melody', ('flute', 'vibraphone', 'soft trumpet'),
              ('x--x--x---x--x--', '..x-x-x--x------', 'x-----x--x--x---'),
              center=74, gain_db=-2, pan=-0.25, send=0.3),
    PartStyle('pattern', ('nylon guitar',),
              ('C--C--C---C--C--', 'C-C---C--C--C---', '0-C..C-.2-C..C-.'),
              center=57, gain_db=-1, pan=0.3),
    PartStyle('pattern', ('upright bass', 'bass guitar'), ('0-----2-2-----0-', '0-----2-0-----a-'),
              center=38, gain_db=-1, send=0.05),
    PartStyle('pattern', ('warm pad', 'string section'), ('C---------------',),
              center=66, gain_db=-11, send=0.4, rank=3),
  ),
  kits=('latin percussion',),
  grids=(
    {'shaker': 'xoXoxoXoxoXoxoXo', 'rim': 'x..x..x...x..x..', 'kick': 'x..xx..xx..xx..x'},
    {'hat': 'xoXoxoXoxoXoxoXo', 'rim': 'x..x..x...x..x..', 'kick': 'x.....xxx.....xx',
     'high conga': '....o.......o.x.'},
  ),
  fill={'shaker': 'xoXoxoXoxoXoxoXo', 'rim': 'x..x..x...x..x.x', 'high conga': '..x.x.xx........',
        'low conga': '........x.xx....'},
  moods=('relaxed and sunny', 'intimate', 'breezy', 'gently swaying'),
  artists=('Praia Clara', 'Duo Marola', 'Copa Verde'), drums_db=-5,
)  # fmt: skip

_TABLE['synthwave'] = Style(
  label='synthwave', genre='Electronic', tempo=(88, 112), modes=('minor', 'dorian'),
  progressions=((0, 5, 2, 6), (5, 6, 0, 0), (0, 2, 6, 3), (0, 3, 5, 4)), room_secs=1.4,
  parts=(
    PartStyle('melody', ('saw lead', 'soft lead'),
              ('x-----x-x---x---', 'x---x---x-x-x---', 'x--x--x---------'),
              center=74, gain_db=-2, pan=0.1, send=0.35, echo=0.3, rank=2),
    PartStyle('pattern', ('synth bass',),
              ('0000000000000000', '0.00.00.0.00.00.', '0.3.0.3.0.3.0.3.'),
              center=36, send=0.0),
    PartStyle('pattern', ('saw arpeggio', 'square lead'),
              ('0123210123210123', '0.2.3.2.0.2.3.2.', '0213021302130213'),
              center=66, gain_db=-6, pan=0.5, send=0.25, echo=0.3),
    PartStyle('pattern', ('saw pad', 'warm pad'), ('C---------------',),
              center=62, gain_db=-5, send=0.4),
  ),
  kits=('gated drums', 'drum machine'),
  grids=(
    {'kick': 'X.......X.......', 'snare': '....X.......X...', 'hat': 'x.x.x.x.x.x.x.x.'},
    {'kick': 'X.....x.X.x.....', 'snare': '....X.......X...', 'hat': 'xxxxxxxxxxxxxxxx',
     'open hat': '..............x.'},
  ),
  fill={'kick': 'X.......X.......', 'snare': '....X.......X.xx', 'high tom': '........xx......',
        'mid tom': '..........xx....',
        'hat': 'x.x.x.x.........'},
  moods=('nostalgic neon', 'cinematic and retro', 'night-drive', 'melancholic and glowing'),
  artists=('Chrome Coast', 'Vector Avenue', 'Laser Tide'),
)  # fmt: skip

_TABLE['reggae'] = Style(
  label='dub reggae', genre='Reggae', tempo=(68, 84), modes=('minor', 'major', 'dorian'),
  progressions=((0, 3, 0, 3), (0, 4, 3, 0), (0, 5, 3, 4), (0, 6, 0, 6)), room_secs=1.2, swing=0.55,
  parts=(
    PartStyle('pattern', ('clean guitar', 'rock organ'), ('..C...C...C...C.', '..CC..C...CC..C.'),
              center=62, gain_db=-1, pan=0.4, send=0.25, echo=0.35),
    PartStyle('pattern', ('dub bass',),
              ('0--0..2.3--2..0.', '0-..0.2-....2.a.', '..0-0.0-2.3.2.0.'),
              center=34, gain_db=2, send=0.0),
    PartStyle('pattern', ('rock organ', 'drawbar organ'), ('.C.C.C.C.C.C.C.C', '..C-..C-..C-..C-'),
              center=67, gain_db=-9, pan=-0.45, rank=2),
    PartStyle('melody', ('melodica', 'muted trumpet', 'soft trumpet'),
              ('x---x-x---......', '....x-x-x---x---', 'x-x-....x-x-....'),
              center=70, gain_db=-3, pan=-0.15, send=0.35, echo=0.45, rank=3),
  ),
  kits=('dry drums',),
  grids=(
    {'kick': '........X.......', 'rim': '........X.......', 'hat': 'x.Xox.Xox.Xox.Xo'},
    {'kick': 'x...X...x...X...', 'rim': '....x.......x..o', 'hat': 'xoXoxoXoxoXoxoXo'},
  ),
  fill={'kick': '........X.......', 'snare': '........X..xx.xx', 'high tom': '....x.xx........',
        'hat': 'x.Xo............'},
  moods=('laid-back and heavy', 'sunny', 'deep and echoing', 'easygoing'),
  artists=('Harbour Roots', 'King Pepperfruit', 'Echo Yard'), drums_db=-1,
)  # fmt: skip

_TABLE['funk'] = Style(
  label='funk', genre='Funk', tempo=(96, 114), modes=('dorian', 'mixolydian'),
  progressions=((0, 0, 3, 3), (0, 3, 0, 3), (0, 6, 3, 0), (0, 0, 0, 4)), chord_size=4,
  room_secs=0.6,
  parts=(
    PartStyle('pattern', ('clavinet', 'wah guitar'),
              ('C.CC..C.C.CC.C.C', '..C.CC.C..C.CC.C', 'CC.C.CC.C..C.CC.'),
              center=60, gain_db=-2, pan=0.45, send=0.12),
    PartStyle('pattern', ('slap bass',),
              ('0..3..0..0.3.2.a', '0.0..3.0..2.3.0.', '0...3.0.0.2..3.a'),
              center=36, gain_db=1, send=0.0),
    PartStyle('pattern', ('brass section',),
              ('......C-......CC', 'C...........C.C-', '...C..C---......'),
              center=67, gain_db=-4, pan=-0.35, send=0.25, rank=2),
    PartStyle('melody', ('saxophone', 'rock organ'),
              ('x.xx..x.xx.x....', '..x.x.xxx--.x.x.', 'x--x..xx..x-x-..'),
              center=70, gain_db=-3, pan=-0.1, rank=3),
  ),
  kits=('dry drums', 'rock drums'),
  grids=(
    {'kick': 'X..x..x...x..x..', 'snare': '....X..o.o..X..o', 'hat': 'X.x.X.x.X.x.X.xx'},
    {'kick': 'X.x....x..X..x..', 'snare': '....X.o..o..X.o.', 'hat': 'xoXoxoXoxoXoxo..',
     'open hat': '..............x.'},
  ),
  fill={'kick': 'X..x..x...x.....', 'snare': '....X..ox.xxx.xx', 'hat': 'X.x.X.x.........',
        'cowbell': '........x...x...'},
  moods=('tight and groovy', 'brash and playful', 'sweaty and rhythmic', 'strutting'),
  artists=('The Copper Tones', 'Brother Magnet', 'Velvet Engine'), drums_db=1,
)  # fmt: skip

_TABLE['chiptune'] = Style(
  label='chiptune', genre='Game music', tempo=(132, 160), modes=('major', 'minor'),
  progressions=((0, 4, 5, 3), (5, 3, 0, 4), (0, 3, 4, 0), (0, 2, 3, 4)), room_secs=0.25,
  parts=(
    PartStyle('melody', ('chip pulse',),
              ('x.x.x-x-x.x.x---', 'x-xxx-x-x-xxx---', 'xxx.xxx.x-x-x---'),
              center=79, pan=0.25, send=0.05),
    PartStyle('pattern', ('chip square',),
              ('0123012301230123', '0246420246420246', '0.1.2.3.2.1.0.1.'),
              center=67, gain_db=-4, pan=-0.45, send=0.05),
    PartStyle('pattern', ('chip triangle',),
              ('0.0.3.0.0.0.3.0.', '0-.0-.3-0-.0-.2-', '0.3.0.3.0.3.0.a.'),
              center=43, gain_db=1, send=0.0),
  ),
  kits=('chip drums',),
  grids=(
    {'kick': 'X...x...X...x...', 'snare': '....X.......X...', 'hat': 'x.x.x.x.x.x.x.xx'},
    {'kick': 'X..x..X.X..x..X.', 'snare': '....X.......X..x', 'hat': '..x...x...x...x.'},
  ),
  fill={'kick': 'X...x...X...x...', 'snare': '....X...x.xxxxxx', 'hat': 'x.x.x.x.........'},
  moods=('cheerful and bouncy', 'heroic', 'frantic', 'playful and bright'),
  artists=('Pixel Badger', 'Byte Parade', 'Save Point'), drums_db=-3,
)  # fmt: skip

_TABLE['lullaby'] = Style(
  label='music box lullaby waltz', genre="Children's music", tempo=(76, 98), modes=('major',),
  beats_per_bar=3,
  progressions=((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 3, 0), (0, 2, 3, 4)), room_secs=1.6,
  parts=(
    PartStyle('melody', ('music box', 'celesta'), ('x---x-x-x---', 'x-x-x---x---', 'x-----x-x-x-'),
              center=84, pan=0.15, send=0.4),
    PartStyle('pattern', ('harp', 'nylon guitar'), ('0...2...3...', '0.1.2.3.2.1.', '0...C...C...'),
              center=57, gain_db=-3, pan=-0.4, send=0.35),
    PartStyle('pattern', ('soft strings', 'glass pad'), ('C-----------',),
              center=62, gain_db=-9, send=0.5, rank=2),
    PartStyle('pattern', ('clarinet', 'cello'), ('0-----------', '0-------2---'),
              center=50, gain_db=-7, pan=0.2, send=0.3, rank=3),
  ),
  moods=('tender and sleepy', 'delicate', 'innocent and warm', 'quiet and starry'),
  artists=('Moth & Moon', 'The Little Clockwork', 'Pillow Harbor'),
)  # fmt: skip

_TABLE['lo-fi hip hop'] = Style(
  label='lo-fi hip hop', genre='Hip hop', tempo=(70, 88), modes=('dorian', 'minor', 'major'),
  progressions=((1, 4, 0, 5), (0, 5, 3, 4), (3, 2, 1, 0), (0, 3, 5, 4)), chord_size=4, swing=0.58,
  room_secs=0.7,
  parts=(
    PartStyle('pattern', ('electric piano', 'jazz guitar', 'grand piano'),
              ('C-----..C---....', 'C---..C-....C---', 'C-------..C-..C-'),
              center=60, pan=0.2, send=0.25),
    PartStyle('melody', ('kalimba', 'muted trumpet', 'vibraphone'),
              ('..x-x---x-......', 'x-..x-x-....x---', 'x---....x-x-x---'),
              center=72, gain_db=-4, pan=-0.3, send=0.35, echo=0.25, rank=2),
    PartStyle('pattern', ('sub bass', 'upright bass'),
              ('0-----..0-..2-..', '0---..0-....a-..', '0-..0-....2-..0-'),
              center=35, send=0.0),
    PartStyle('pattern', ('vinyl crackle',), ('0---------------',),
              center=84, gain_db=-13, send=0.0),
  ),
  kits=('dusty drums',),
  grids=(
    {'kick': 'X......x..X.....', 'snare': '....X.......X...', 'hat': 'x.x.x.x.x.x.x.x.'},
    {'kick': 'X.....x...xX....', 'snare': '....X.......X..o', 'hat': 'xox.xox.xox.xox.'},
  ),
  fill={'kick': 'X......x..X...x.', 'snare': '....X.......X.xo', 'hat': 'x.x.x.x.x.x.....',
        'open hat': '............x...'},
  moods=('mellow and dusty', 'rainy and nostalgic', 'sleepy and warm', 'chilled study'),
  artists=('Paper Cup', 'Windowseat', 'Soft Static'), drums_db=-1,
)  # fmt: skip

_TABLE['drum and bass'] = Style(
  label='drum and bass', genre='Drum & Bass', tempo=(166, 176), modes=('minor', 'phrygian'),
  progressions=((0, 0, 5, 5), (0, 5, 3, 6), (0, 0, 3, 5), (0, 6, 5, 5)), chord_size=4,
  room_secs=1.1,
  parts=(
    PartStyle('pattern', ('reese bass', 'fm bass'),
              ('0-----0-..3-0---', '0---------0-3-2-', '0--0--0-..0-a---'),
              center=34, send=0.0),
    PartStyle('pattern', ('glass pad', 'saw pad', 'choir pad'), ('C---------------',),
              center=64, gain_db=-6, send=0.45),
    PartStyle('melody', ('saw lead', 'synth pluck', 'fm bell'),
              ('x-----x-----x---', 'x---x---x-----x-', 'x-----------x-x-'),
              center=74, gain_db=-4, pan=-0.2, send=0.4, echo=0.3, rank=3),
    PartStyle('pattern', ('electric piano', 'saw stab'), ('C.....C.........', '......C.....C...'),
              center=62, gain_db=-6, pan=0.35, send=0.3, echo=0.3, rank=2),
  ),
  kits=('break drums', 'electronic drums'),
  grids=(
    {'kick': 'X.........X.....', 'snare': '....X.......X...', 'hat': 'x.x.x.x.x.x.x.x.',
     'ride': '..o...o...o...o.'},
    {'kick': 'X.x.......X.....', 'snare': '....X..o.o..X..o', 'hat': 'xoxoxoxoxoxoxoxo'},
  ),
  fill={'kick': 'X.x.....X.X.....', 'snare': '....X..x.x..X.xx', 'hat': 'xoxoxoxoxoxo....',
        'crash': '............x...'},
  moods=('fast and dark', 'rolling and energetic', 'urgent', 'futuristic'),
  artists=('Subvector', 'Concrete Heron', 'Halogen Drift'), drums_db=1,
)  # fmt: skip

_TABLE['celtic jig'] = Style(
  label='celtic jig', genre='Celtic', tempo=(104, 122), modes=('major', 'mixolydian', 'dorian'),
  beats_per_bar=2,
  progressions=((0, 0, 4, 0, 3, 0, 4, 0), (0, 6, 0, 6, 0, 6, 4, 0), (0, 3, 4, 0, 5, 3, 4, 0)),
  room_secs=0.8,
  parts=(
    PartStyle('melody', ('fiddle', 'tin whistle', 'bagpipe'), ('xxxxxx', 'x-xxxx', 'xxxx-x'),
              center=76, pan=-0.2, send=0.25),
    PartStyle('pattern', ('celtic harp', 'mandolin'), ('0.23.2', 'C.CC.C', '0.2C.2'),
              center=55, gain_db=-3, pan=0.4, send=0.25),
    PartStyle('pattern', ('drone pipes', 'accordion'), ('P-----', 'C--C--'),
              center=50, gain_db=-8, pan=0.1, rank=2),
  ),
  kits=('frame drum',),
  grids=({'low tom': 'X.ox.o', 'rim': '..x..x', 'tambourine': 'x..x..'},
         {'low tom': 'X.oXoo', 'tambourine': 'x.ox.o'}),
  fill={'low tom': 'X.oXxx', 'rim': 'x.xx.x', 'tambourine': 'x..xxx'},
  moods=('lively and festive', 'merry', 'windswept and quick', 'dancing'),
  artists=('The Rushlight Band', 'Glen Morrow', 'Three Herons'), drums_db=-4,
)  # fmt: skip

_TABLE['gamelan'] = Style(
  label='gamelan', genre='Gamelan', tempo=(84, 112), modes=('pelog', 'slendro'),
  progressions=((0, 2, 0, 3), (0, 3, 2, 0), (0, 1, 3, 0)), chord_size=2, room_secs=1.8,
  parts=(
    PartStyle('scale', ('gangsa',), ('0.12.10.23.20.12', '01.21.02.32.01.2', '0120213201202132'),
              center=79, gain_db=-1, pan=0.45, send=0.3),
    PartStyle('scale', ('gangsa',), ('.2.0.23.0.32.20.', '2.30.23.03.23.0.', '3.2.3.0.2.3.2.0.'),
              center=84, gain_db=-3, pan=-0.45, send=0.3),
    PartStyle('pattern', ('saron',), ('0---1---0---1---', '0---0---1---0---'),
              center=62, gain_db=-1, pan=-0.1, send=0.35),
    PartStyle('pattern', ('gong',), ('0---------------', '0-------1-------'),
              center=40, gain_db=1, send=0.35),
  ),
  kits=('kendang drums',),
  grids=({'low conga': 'x..x..x.x..x.x..', 'high conga': '..x..x.x..x.x.xx',
          'hat': '..o...o...o...o.'},
         {'low conga': 'x...x.x...x.x...', 'high conga': '.xx..x.xx..x.x.x',
          'hat': 'o...o...o...o...'}),
  fill={'low conga': 'x.x.x.x.xxxxxxxx', 'crash': 'x...............'},
  moods=('shimmering and ritual', 'interlocking and bright', 'trance-like', 'ceremonial'),
  artists=('Sekar Wesi', 'Gong Ember', 'Nine Bronzes'), drums_db=-5,
)  # fmt: skip

_TABLE['koto'] = Style(
  label='japanese koto music', genre='Traditional Japanese', tempo=(76, 104),
  modes=('in-sen', 'hirajoshi'),
  progressions=((0, 0, 3, 0), (0, 2, 3, 0), (0, 3, 1, 0)), room_secs=1.8,
  parts=(
    PartStyle('pattern', ('koto',), ('0...2.3.4...3.2.', '0.23432.0.23432.', '0..2..3.4.5.4.3.'),
              center=57, pan=0.3, send=0.3),
    PartStyle('melody', ('shakuhachi',),
              ('x-------x---x---', 'x---x-------x-x-', '....x-x-x-------'),
              center=72, gain_db=-2, pan=-0.3, send=0.45),
    PartStyle('pattern', ('shamisen',), ('0..0..2.0..0.2..', '2...0.0.2...0...'),
              center=60, gain_db=-6, pan=-0.5, rank=2),
  ),
  kits=('taiko',),
  grids=({'kick': 'X.......X.....x.', 'low tom': '....x..x....x.xx', 'rim': '..x...x...x.....'},
         {'kick': 'X...x...X.x.....', 'low tom': '......x.....xx.x',
          'woodblock': 'x.......x.......'}),
  fill={'kick': 'X...X...X.X.XXXX', 'low tom': 'x.x.x.x.xxxxxxxx'},
  moods=('austere and floating', 'ceremonial and wide', 'quiet and wintry', 'tense and elegant'),
  artists=('Yuki no Hashi', 'Seven Pines', 'Stone Garden'), drums_db=-2,
)  # fmt: skip

TABLE: Mapping[str, Style] = _TABLE
STYLES: tuple[str, ...] = tuple(_TABLE)
UNSEEN_STYLES: tuple[str, ...] = ('celtic jig', 'gamelan', 'koto')


def style_named(name: str) -> Style:
  """Returns the style called `name`; raises ValueError with the choices."""
  if name not in TABLE:
    raise ValueError(f'style {name!r} is not one of {", ".join(STYLES)}.')
  return TABLE[name]
