"""What is heard in recordings: kept by content, turned into captions, and given as a teacher."""

import json
import pathlib

import numpy as np
import pytest
import soundfile

from pipelines import style_feed, style_training
from pipelines.style_hearing import Heard, Hearing, Teacher
from preprocessing.captions import CaptionFacts


@pytest.fixture(scope='module')
def chord(tmp_path_factory):
  """9 s of an A minor chord that is struck twice a second."""
  path = tmp_path_factory.mktemp('chord') / 'chord.wav'
  t = np.arange(9 * 16_000) / 16_000
  tones = sum(np.sin(2 * np.pi * hertz * t) for hertz in (220.0, 261.63, 329.63, 440.0))
  soundfile.write(path, 0.1 * tones * np.exp(-8 * (t % 0.5)), 16_000)
  return str(path)


@pytest.fixture(scope='module')
def hearing(tmp_path_factory):
  return Hearing(tmp_path_factory.mktemp('heard'))


@pytest.fixture(scope='module')
def heard(hearing, chord):
  return hearing.hear(chord)


def test_patches_of_features_tags_and_pitch_classes(heard):
  assert heard.features.shape == (3, 400) and heard.probabilities.shape == (3, 100)
  assert ((heard.probabilities >= 0) & (heard.probabilities <= 1)).all()
  np.testing.assert_allclose(heard.chroma.sum(1), 1, atol=0.05)
  # A, C and E, in the order of their strength.
  assert set(np.argsort(heard.chroma.mean(0))[-3:]) == {9, 0, 4}
  assert heard.key() == 'A minor'
  assert heard.bpm() == pytest.approx(120, rel=0.02)


def test_what_was_heard_is_kept_by_content(hearing, heard, chord, tmp_path, monkeypatch):
  copy = tmp_path / 'other name.wav'
  copy.write_bytes(pathlib.Path(chord).read_bytes())
  monkeypatch.setattr(Hearing, '_listen', lambda *_: pytest.fail('it was heard before'))
  again = hearing.hear(str(copy))
  for name in ('features', 'probabilities', 'chroma', 'tempo'):
    np.testing.assert_array_equal(getattr(again, name), getattr(heard, name))


def test_a_damaged_entry_is_heard_again(heard, chord, tmp_path):
  hearing = Hearing(tmp_path)
  hearing.hear(chord)
  (entry,) = tmp_path.glob('*/*.npz')
  for content in (b'', entry.read_bytes()[:500], b'no archive at all'):
    entry.write_bytes(content)
    np.testing.assert_array_equal(hearing.hear(chord).features, heard.features)
  assert not list(tmp_path.glob('*/*.partial'))


def test_silence_is_heard_without_key_and_tempo(tmp_path):
  path = tmp_path / 'silence.wav'
  soundfile.write(path, np.zeros(1600), 16_000)
  heard = Hearing(tmp_path / 'cache').hear(str(path))
  assert len(heard.features) == 1 and heard.key() == '' and heard.bpm() is None
  assert np.isfinite(heard.tempo).all()


def _heard(tags: dict, hearing: Hearing) -> Heard:
  probabilities = np.zeros([2, 100], np.float32)
  for tag, value in tags.items():
    probabilities[:, hearing.tags.index(tag)] = value
  chroma = np.zeros([2, 12], np.float32)
  chroma[:, [2, 6, 9]] = 1 / 3
  return Heard(np.zeros([2, 400]), probabilities, chroma, np.array([98.2, 0.8], np.float32))


def test_captions_of_what_was_heard(hearing):
  tags = {('msd', 'ambient'): 0.5, ('mtt', 'piano'): 0.4, ('mtt', 'slow'): 0.3,
          ('mtt', 'no vocals'): 0.6}  # fmt: skip
  own = CaptionFacts('exported by a program', ('Space Music, ambient',), ('theremin',))
  facts = hearing.facts(_heard(tags, hearing), own)
  assert facts.styles == ('Space Music', 'ambient')
  assert facts.instruments == ('theremin', 'piano')
  assert facts.caption == (
    'Space Music, ambient with theremin and piano, slow, instrumental, 98 bpm, in D major'
  )
  assert facts.bpm == pytest.approx(98.2) and facts.key == 'D major'
  assert facts.vocal == 'instrumental'


def test_targets_are_means_by_overlap():
  rng = np.random.default_rng(0)
  tracks = [
    Heard(rng.standard_normal([n, 400]), np.zeros([n, 100]), rng.dirichlet(np.ones(12), n),
          np.zeros(2))
    for n in (5, 40)
  ]  # fmt: skip
  teacher = Teacher(tracks, rank=4)
  assert teacher.width == 4 + 4 + 4
  rows = np.stack([teacher.targets(0, 3.0 * i, 3.0) for i in range(5)])
  # 1.5 s of patch 1, patches 2 and 3, and 0.75 s of patch 4.
  expected = (1.5 * rows[1] + 3 * rows[2] + 3 * rows[3] + 0.75 * rows[4]) / 8.25
  np.testing.assert_allclose(teacher.targets(0, 4.5, 8.25), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(teacher.targets(0, 100.0, 3.0), rows[4], atol=1e-6)
  everything = np.concatenate(
    [rows, np.stack([teacher.targets(1, 3.0 * i, 3.0) for i in range(40)])]
  )
  np.testing.assert_allclose(everything.mean(0), 0, atol=1e-5)
  for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
    assert everything[:, part].var(0, ddof=1).sum() == pytest.approx(1, rel=1e-4)


@pytest.fixture
def unnamed(chord, tmp_path):
  """A manifest of two tracks, of which only the second one has a caption."""
  manifest = tmp_path / 'manifest.jsonl'
  rows = [
    {'track_id': f't{i}', 'path': chord, 'sha256': f'{i:064d}', 'duration_secs': 9.0,
     'sample_rate': 16_000, 'channels': 1, 'title': '', 'caption': caption, 'split': 'train'}
    for i, caption in enumerate(['', 'sad strings'])
  ]  # fmt: skip
  manifest.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(manifest)


def test_captions_by_their_source(unnamed, tmp_path):
  def captions(source: str) -> list[str]:
    sources = style_training._Sources(source, tmp_path / 'cache', False)
    return [track.facts.caption for track in sources.training([unnamed])[0]]

  assert captions('own') == ['sad strings']
  first, second = captions('missing')
  assert 'in A minor' in first and second == 'sad strings'
  assert captions('heard') == [first, first]
  with pytest.raises(ValueError, match="CAPTIONS='all' is none of 'own', 'missing', 'heard'"):
    captions('all')


def test_a_track_that_cannot_be_read_is_left_out_and_named(unnamed, tmp_path, capsys):
  broken = tmp_path / 'broken.wav'
  broken.write_bytes(b'RIFF and nothing more')
  with open(unnamed, 'a') as manifest:
    row = {'track_id': 'b', 'path': str(broken), 'sha256': '9' * 64, 'duration_secs': 9.0,
           'sample_rate': 16_000, 'channels': 1, 'title': '', 'split': 'train'}  # fmt: skip
    manifest.write(json.dumps(row) + '\n')
  tracks, _ = style_training._Sources('heard', tmp_path / 'cache', True).training([unnamed])
  assert len(tracks) == 2
  printed = ''.join(capsys.readouterr())
  assert f'{broken} is left out: ' in printed


def test_a_teacher_hears_tracks_that_keep_their_captions(unnamed, tmp_path):
  tracks, teacher = style_training._Sources('own', tmp_path / 'cache', True).training([unnamed])
  assert [track.facts.caption for track in tracks] == ['sad strings']
  assert teacher.targets(0, 0.0, 3.0).shape == (teacher.width,)
  assert style_feed.style_tracks(unnamed)[0].facts.caption == 'sad strings'
