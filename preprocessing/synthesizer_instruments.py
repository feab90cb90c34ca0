"""The instruments of the built-in synthesizer as data: name -> voice, and General MIDI programs."""

from preprocessing.synthesizer_voices import FM
from preprocessing.synthesizer_voices import Modal
from preprocessing.synthesizer_voices import Pluck
from preprocessing.synthesizer_voices import Texture
from preprocessing.synthesizer_voices import Voice
from preprocessing.synthesizer_voices import Wave

_VOWEL = ((600.0, 140.0, 1.0), (1040.0, 180.0, 0.6), (2600.0, 400.0, 0.25), (8000.0, 2500.0, 0.05))
_NASAL = ((500.0, 200.0, 0.7), (1500.0, 500.0, 1.0), (3000.0, 800.0, 0.7), (6500.0, 2500.0, 0.15))
_FIDDLE = ((480.0, 150.0, 1.0), (1000.0, 300.0, 0.7), (2800.0, 900.0, 0.8), (7000.0, 3000.0, 0.2))
_BELL = (0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.1, 5.4)
_BAR = (1.0, 3.93, 9.2, 16.0)
_BRONZE = (1.0, 2.76, 5.4, 8.93, 11.3)
_GONG = (1.0, 1.47, 1.99, 2.36, 2.97, 3.65, 4.42, 5.8, 7.7)

VOICES: dict[str, Voice] = {
  # Keyboards and struck.
  'grand piano': Modal((), (1, 0.75, 0.55, 0.5, 0.35, 0.3), 14, 0.0004, 5.0, 0.3, 1.5, strike=0.12, rings=False),
  'electric piano': FM(((1, 1, 1.2, 1.0, 1.0), (1, 14, 0.5, 0.12, 0.35)), decay=1.1, tremolo_hz=4.5),
  'fm bell': FM(((1, 3.5, 2.4, 0.7, 1.0), (2, 7.1, 1.0, 0.3, 0.3)), decay=0.7, release=0.9, sustain=0.05),
  'vibraphone': Modal(_BAR, (1, 0.28, 0.12, 0.03), decay=3.0, damping=0.9, tremolo_hz=5.5, strike=0.08),
  'kalimba': Modal((1, 5.4, 12.5), (1, 0.3, 0.15), decay=1.2, damping=1.5, strike=0.25),
  'music box': Modal((1, 6.27, 17.5), (1, 0.4, 0.2), decay=2.2, damping=1.2, strike=0.3, strike_hz=(4000.0, 16000.0)),
  'celesta': Modal((1, 2.0, 4.1, 9.2), (1, 0.3, 0.3, 0.08), decay=1.8, damping=0.8, strike=0.1),
  'gangsa': Modal(_BRONZE, (1, 0.55, 0.4, 0.25, 0.15), decay=1.6, damping=0.7, beat_hz=6.0, strike=0.35, strike_hz=(3000.0, 14000.0)),
  'saron': Modal(_BRONZE, (1, 0.45, 0.25, 0.15, 0.1), decay=2.2, damping=0.8, beat_hz=5.0, strike=0.2),
  'gong': Modal(_GONG, (1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15), decay=3.0, damping=0.25, beat_hz=2.5, strike=0.05, strike_hz=(200.0, 3000.0)),
  # Organs and reeds.
  'church organ': Wave((1, 0.9, 0.35, 0.7, 0.15, 0.3, 0.1, 0.45, 0.05, 0.12, 0.05, 0.18, 0, 0, 0, 0.15), voices=2, detune_cents=5, dark_hz=9000, attack=0.05, sustain=1, release=0.25, breath=0.05, breath_hz=(2500.0, 16000.0)),
  'principal organ': Wave((1, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.1), detune_cents=4, dark_hz=9000, attack=0.04, sustain=1, release=0.2, breath=0.03),
  'trumpet organ': Wave(slope=0.8, detune_cents=4, dark_hz=4500, attack=0.03, sustain=1, release=0.2),
  'organ pedals': Wave((1, 0.5, 0.25, 0.25, 0.1, 0.1, 0.05, 0.08), voices=2, detune_cents=3, dark_hz=3000, attack=0.06, sustain=1, release=0.25),
  'drawbar organ': Wave((1, 0.8, 0.6, 0.1, 0, 0.2, 0, 0.3), detune_cents=6, dark_hz=8000, attack=0.005, sustain=1, release=0.05, vibrato_hz=6.3, vibrato_cents=9),
  'rock organ': Wave((1, 1, 0.9, 0.6, 0.1, 0.5, 0.1, 0.6), voices=2, detune_cents=8, dark_hz=7000, attack=0.004, sustain=1, release=0.06, vibrato_hz=6.6, vibrato_cents=12),
  'accordion': Wave(slope=0.9, voices=2, detune_cents=14, dark_hz=4000, formants=_NASAL, attack=0.04, sustain=1, release=0.1),
  'harmonica': Wave(slope=0.8, dark_hz=4500, formants=_NASAL, attack=0.04, sustain=0.9, vibrato_cents=14, breath=0.06),
  'melodica': Wave(slope=0.7, even=0.6, dark_hz=3800, formants=_NASAL, attack=0.03, sustain=0.9, vibrato_cents=8, breath=0.05),
  'bagpipe': Wave(slope=0.5, dark_hz=5500, formants=_NASAL, attack=0.01, sustain=1, release=0.03, detune_cents=4),
  'drone pipes': Wave(slope=0.7, voices=2, detune_cents=7, dark_hz=3500, attack=0.1, sustain=1, release=0.2),
  # Winds and brass.
  'flute': Wave((1, 0.45, 0.18, 0.08, 0.04, 0.02), dark_hz=8000, attack=0.05, sustain=0.9, vibrato_cents=16, breath=0.09),
  'tin whistle': Wave((1, 0.25, 0.12, 0.03), dark_hz=12000, attack=0.02, sustain=0.95, release=0.05, vibrato_cents=8, breath=0.1, breath_hz=(3500.0, 15000.0)),
  'shakuhachi': Wave((1, 0.5, 0.35, 0.1, 0.08), dark_hz=7000, attack=0.09, sustain=0.85, release=0.25, vibrato_hz=4.6, vibrato_cents=35, breath=0.28, breath_hz=(900.0, 10000.0)),
  'clarinet': Wave(slope=1.0, even=0.12, dark_hz=3200, attack=0.04, sustain=0.9, vibrato_cents=5, breath=0.03),
  'saxophone': Wave(slope=0.75, dark_hz=2200, bright_hz=4500, sweep_secs=0.15, formants=_NASAL, attack=0.03, sustain=0.85, vibrato_cents=18, breath=0.07),
  'muted trumpet': Wave(slope=0.4, dark_hz=6500, formants=((1600.0, 500.0, 1.0), (3200.0, 900.0, 0.5), (7000.0, 2500.0, 0.2)), attack=0.025, sustain=0.85, vibrato_cents=14),
  'soft trumpet': Wave(slope=0.9, dark_hz=1700, bright_hz=3500, sweep_secs=0.2, attack=0.05, sustain=0.85, vibrato_cents=14, breath=0.02),
  'brass section': Wave(slope=0.7, voices=3, detune_cents=12, dark_hz=2500, bright_hz=7000, sweep_secs=0.12, attack=0.03, sustain=0.8, release=0.08),
  # Bowed and pads.
  'fiddle': Wave(slope=0.7, dark_hz=6000, formants=_FIDDLE, attack=0.03, sustain=0.9, release=0.07, vibrato_cents=16, breath=0.05),
  'cello': Wave(slope=0.8, dark_hz=3000, formants=_FIDDLE, attack=0.09, sustain=0.9, release=0.2, vibrato_cents=14, breath=0.03),
  'string section': Wave(slope=0.9, voices=3, detune_cents=16, dark_hz=4500, attack=0.2, sustain=1, release=0.4, vibrato_cents=8),
  'soft strings': Wave(slope=1.1, voices=3, detune_cents=14, dark_hz=3000, attack=0.35, sustain=1, release=0.6),
  'warm pad': Wave(slope=1.0, voices=3, detune_cents=15, dark_hz=1500, attack=0.25, sustain=1, release=0.6),
  'saw pad': Wave(slope=0.9, voices=3, detune_cents=20, dark_hz=4500, attack=0.15, sustain=1, release=0.5),
  'glass pad': Wave((1, 0, 0.5, 0, 0.1, 0.4, 0, 0.3, 0, 0.25, 0, 0, 0.2, 0, 0, 0.15), voices=2, detune_cents=10, dark_hz=9000, attack=0.3, sustain=1, release=0.8),
  'choir pad': Wave(slope=0.8, voices=3, detune_cents=18, dark_hz=7000, formants=_VOWEL, attack=0.25, sustain=1, release=0.5, vibrato_cents=12, breath=0.05),
  # Plucked.
  'nylon guitar': Pluck(3.0, 0.2, 0.25, 3500),
  'steel-string guitar': Pluck(4.0, 0.06, 0.15, 9000, snap=0.25),
  'jazz guitar': Pluck(3.0, 0.25, 0.3, 2200, width=0.2),
  'clean guitar': Pluck(2.5, 0.1, 0.2, 6000, width=0.2, release=0.03),
  'electric guitar': Pluck(3.5, 0.08, 0.13, 7000, width=0.25, drive=0.7),
  'wah guitar': Pluck(1.8, 0.05, 0.1, 7000, width=0.3, release=0.02, drive=0.9, snap=0.4),
  'distorted guitar': Wave(slope=0.7, voices=2, detune_cents=10, dark_hz=3500, bright_hz=6000, sweep_secs=0.2, attack=0.004, decay=1.5, sustain=0.6, release=0.04, drive=2.5),
  'lead guitar': Wave(slope=0.8, dark_hz=3500, bright_hz=6000, sweep_secs=0.3, attack=0.006, decay=1.5, sustain=0.7, release=0.08, vibrato_cents=22, drive=2.2),
  'banjo': Pluck(1.0, 0.04, 0.08, 11000, snap=0.4),
  'mandolin': Pluck(1.6, 0.05, 0.12, 10000, width=0.6, snap=0.3),
  'harp': Pluck(3.5, 0.14, 0.4, 5000, width=0.4, release=0.5),
  'celtic harp': Pluck(3.0, 0.09, 0.35, 7000, width=0.4, release=0.4),
  'koto': Pluck(3.2, 0.05, 0.1, 9000, width=0.3, release=0.4, snap=0.5),
  'shamisen': Pluck(0.9, 0.05, 0.06, 9000, width=0.2, release=0.05, snap=0.9),
  'clavinet': Pluck(1.6, 0.04, 0.07, 8000, width=0.25, release=0.015, snap=0.3),
  'synth pluck': Wave(slope=0.9, voices=2, detune_cents=12, dark_hz=700, bright_hz=7000, sweep_secs=0.07, attack=0.003, decay=0.18, sustain=0.1, release=0.15),
  # Basses.
  'upright bass': Modal((), (1, 0.7, 0.45, 0.25, 0.12, 0.08), 10, 0.0002, 1.6, 0.5, 1.0, strike=0.08, strike_hz=(400.0, 3500.0), rings=False, release=0.06),
  'bass guitar': Modal((), (1, 0.8, 0.6, 0.4, 0.3, 0.2), 16, 0.0001, 2.2, 0.35, 1.0, strike=0.08, strike_hz=(1000.0, 6000.0), rings=False, release=0.04),
  'slap bass': Modal((), (1, 0.8, 0.7, 0.6, 0.5, 0.45), 28, 0.0001, 1.6, 0.3, 1.0, strike=0.4, strike_hz=(2000.0, 12000.0), rings=False, release=0.03),
  'dub bass': Wave((1, 0.35, 0.12, 0.04), dark_hz=500, attack=0.008, decay=0.6, sustain=0.7, release=0.06, detune_cents=1),
  'sub bass': Wave((1, 0.12, 0.05), dark_hz=800, attack=0.015, decay=1.0, sustain=0.8, release=0.12, detune_cents=1),
  'synth bass': Wave(slope=1.0, detune_cents=4, dark_hz=350, bright_hz=3500, sweep_secs=0.09, attack=0.003, decay=0.3, sustain=0.6, release=0.04),
  'fm bass': FM(((1, 1, 2.5, 0.15, 1.0), (1, 3, 0.9, 0.06, 0.3)), decay=0.5, sustain=0.4, release=0.04, detune_cents=2),
  'reese bass': Wave(slope=0.9, voices=2, detune_cents=28, dark_hz=900, bright_hz=2500, sweep_secs=0.3, attack=0.01, sustain=0.9, release=0.06),
  # Leads and chip sounds.
  'soft lead': Wave((1, 0.1, 0.3, 0.03, 0.1), dark_hz=5000, detune_cents=6, attack=0.03, sustain=0.9, release=0.15, vibrato_cents=12),
  'saw lead': Wave(slope=0.9, voices=2, detune_cents=14, dark_hz=3500, bright_hz=8000, sweep_secs=0.25, attack=0.008, sustain=0.8, release=0.12, vibrato_cents=10),
  'square lead': Wave(slope=1.0, even=0.0, dark_hz=3000, bright_hz=6000, sweep_secs=0.08, attack=0.003, decay=0.15, sustain=0.3, release=0.06),
  'saw arpeggio': Wave(slope=0.9, voices=2, detune_cents=10, dark_hz=1200, bright_hz=6000, sweep_secs=0.08, attack=0.003, decay=0.15, sustain=0.3, release=0.08),
  'saw stab': Wave(slope=0.8, voices=3, detune_cents=22, dark_hz=1500, bright_hz=8000, sweep_secs=0.1, attack=0.003, decay=0.2, sustain=0.4, release=0.08),
  'chip pulse': Wave(slope=0.75, dark_hz=12000, detune_cents=2, attack=0.002, decay=0.2, sustain=0.6, release=0.02, vibrato_cents=8),
  'chip square': Wave(slope=1.0, even=0.0, dark_hz=12000, detune_cents=2, attack=0.002, decay=0.1, sustain=0.6, release=0.01),
  'chip triangle': Wave(slope=2.0, even=0.0, dark_hz=12000, detune_cents=1, attack=0.002, sustain=1, release=0.01),
  # Textures.
  'wind texture': Texture(),
  'vinyl crackle': Texture(500.0, 12000.0, 9.0, 0.05, 0.05),
}  # fmt: skip

# General MIDI programs (0-based) for rendering by a soundfont; drums go to channel 10.
MIDI_PROGRAMS = {
  'grand piano': 0, 'electric piano': 4, 'fm bell': 14, 'vibraphone': 11, 'kalimba': 108, 'music box': 10,
  'celesta': 8, 'gangsa': 14, 'saron': 12, 'gong': 14, 'church organ': 19, 'principal organ': 19,
  'trumpet organ': 20, 'organ pedals': 19, 'drawbar organ': 16, 'rock organ': 18, 'accordion': 21,
  'harmonica': 22, 'melodica': 20, 'bagpipe': 109, 'drone pipes': 109, 'flute': 73, 'tin whistle': 78,
  'shakuhachi': 77, 'clarinet': 71, 'saxophone': 65, 'muted trumpet': 59, 'soft trumpet': 56,
  'brass section': 61, 'fiddle': 110, 'cello': 42, 'string section': 48, 'soft strings': 49,
  'warm pad': 89, 'saw pad': 90, 'glass pad': 92, 'choir pad': 91, 'nylon guitar': 24,
  'steel-string guitar': 25, 'jazz guitar': 26, 'clean guitar': 27, 'electric guitar': 27, 'wah guitar': 28,
  'distorted guitar': 30, 'lead guitar': 29, 'banjo': 105, 'mandolin': 25, 'harp': 46, 'celtic harp': 46,
  'koto': 107, 'shamisen': 106, 'clavinet': 7, 'synth pluck': 81, 'upright bass': 32, 'bass guitar': 33,
  'slap bass': 36, 'dub bass': 39, 'sub bass': 39, 'synth bass': 38, 'fm bass': 39, 'reese bass': 38,
  'soft lead': 80, 'saw lead': 81, 'square lead': 80, 'saw arpeggio': 81, 'saw stab': 62, 'chip pulse': 80,
  'chip square': 80, 'chip triangle': 80, 'wind texture': 122, 'vinyl crackle': 122,
}  # fmt: skip


def voice_of(instrument: str) -> Voice:
  """The voice of an instrument; raises ValueError with the names."""
  if instrument not in VOICES:
    raise ValueError(f'instrument {instrument!r} is not one of {", ".join(VOICES)}.')
  return VOICES[instrument]
