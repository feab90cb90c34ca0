"""Files of the demo corpus: formats, tags, captions, idempotence, refusals."""

import json

import mutagen
import numpy as np
import pytest
import soundfile

from preprocessing import demo_corpus

SECS = 2.5


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  directory = tmp_path_factory.mktemp('corpus')
  works = demo_corpus.write_corpus(directory, num_works=4, secs_per_work=SECS, seed=7)
  return directory, works


def test_files_are_readable_and_as_long_as_stated(corpus):
  directory, works = corpus
  assert {work.path.rsplit('.', 1)[1] for work in works} == set(demo_corpus.FORMATS)
  for work in works:
    assert len(work.path.split('/')) == 3
    x, rate = soundfile.read(directory / work.path, dtype='float32')
    assert rate == 48_000
    assert x.shape == (round(SECS * rate), 2)
    assert work.duration_secs == SECS
    # Lossy formats overshoot a little.
    assert 0.6 < np.abs(x).max() < 0.95
    assert not np.array_equal(x[:, 0], x[:, 1])


def test_files_hold_what_the_renderer_made(corpus):
  directory, works = corpus
  for work in works:
    expected = demo_corpus.render(demo_corpus.compose(work.style, work.seed, SECS))
    x, _ = soundfile.read(directory / work.path, dtype='float32')
    if work.path.endswith(('.flac', '.wav')):
      np.testing.assert_allclose(x, expected, atol=1 / 32767)
    else:
      middle, heard = expected.mean(axis=1), x.mean(axis=1)
      assert np.corrcoef(middle, heard)[0, 1] > 0.98


def test_tags_read_back(corpus):
  directory, works = corpus
  for work in works:
    tags = mutagen.File(directory / work.path).tags
    if work.path.endswith(('.mp3', '.wav')):
      names = {
        'title': 'TIT2', 'artist': 'TPE1', 'album': 'TALB', 'bpm': 'TBPM', 'key': 'TKEY',
        'caption': 'COMM::eng', 'licence': 'TCOP', 'instruments': 'TXXX:instruments',
      }  # fmt: skip
      found = {name: str(tags[frame]) for name, frame in names.items()}
    else:
      names = {'caption': 'description', 'licence': 'license'}
      fields = ('title', 'artist', 'album', 'bpm', 'key', 'caption', 'licence', 'instruments')
      found = {name: tags[names.get(name, name)][0] for name in fields}
    assert found == {
      'title': work.title, 'artist': work.artist, 'album': work.album, 'bpm': str(work.bpm),
      'key': work.key, 'caption': work.caption, 'licence': 'CC0-1.0',
      'instruments': ', '.join(work.instruments),
    }  # fmt: skip


def test_corpus_file_is_the_ground_truth(corpus):
  directory, works = corpus
  assert demo_corpus.read_corpus(directory) == works
  recipe = json.loads((directory / 'corpus.json').read_text())['recipe']
  assert recipe['seed'] == 7
  assert recipe['styles'] == list(demo_corpus.SEEN_STYLES)


def test_second_call_keeps_files_and_restores_missing_ones(corpus):
  directory, works = corpus
  flac = next(work for work in works if work.path.endswith('.flac'))
  before, _ = soundfile.read(directory / flac.path)
  (directory / flac.path).unlink()
  times = {w.path: (directory / w.path).stat().st_mtime_ns for w in works if w != flac}
  again = demo_corpus.write_corpus(directory, num_works=4, secs_per_work=SECS, seed=7)
  assert again == works
  for path, time in times.items():
    assert (directory / path).stat().st_mtime_ns == time
  after, _ = soundfile.read(directory / flac.path)
  np.testing.assert_array_equal(before, after)
  assert not list(directory.rglob('.partial*'))


def test_corpus_grows_and_never_shrinks(tmp_path):
  options = {'secs_per_work': 2.0, 'seed': 1, 'formats': ('flac',), 'styles': ('chiptune',)}
  two = demo_corpus.write_corpus(tmp_path, num_works=2, **options)
  three = demo_corpus.write_corpus(tmp_path, num_works=3, **options)
  assert three[:2] == two
  assert demo_corpus.write_corpus(tmp_path, num_works=1, **options) == two[:1]
  assert demo_corpus.read_corpus(tmp_path) == three


def test_a_directory_with_another_corpus_is_refused(corpus):
  directory, _ = corpus
  with pytest.raises(ValueError, match=r'seed=7 \(now 8\).*choose another directory'):
    demo_corpus.write_corpus(directory, num_works=4, secs_per_work=SECS, seed=8)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'styles': ('polka',)}, "style 'polka' is not one of ambient"),
    ({'formats': ('aiff',)}, "format 'aiff' is not one of flac, wav, mp3, ogg"),
    ({'formats': ()}, 'no formats given'),
    ({'num_works': 0}, 'num_works=0'),
    ({'secs_per_work': 1.5}, 'secs=1.5 is too short'),
    ({'secs_per_work': float('nan')}, 'secs_per_work=nan is no length'),
    ({'seed': -1}, 'seed=-1'),
    ({'renderer': 'timidity'}, "'timidity' is not one of 'builtin', 'fluidsynth'"),
  ],
)
def test_bad_arguments_are_refused(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    options = {'num_works': 1, 'secs_per_work': 2, 'seed': 0} | change
    demo_corpus.write_corpus(tmp_path / 'corpus', **options)


def test_a_file_is_no_directory_of_a_corpus(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(SystemExit, match=f'^demo_corpus: .*{tmp_path}/file'):
    demo_corpus.main([f'--output_dir={tmp_path}/file', '--num_works=1'])


def test_plans_of_any_size_have_distinct_captions_ids_and_paths():
  works = [work for work, _ in demo_corpus.plan_works(250, 2.0, 3, demo_corpus.STYLES)]
  for field in ('caption', 'work_id', 'path', 'seed'):
    assert len({getattr(work, field) for work in works}) == 250, field
  counts = {style: sum(work.style == style for work in works) for style in demo_corpus.STYLES}
  assert max(counts.values()) - min(counts.values()) <= 1
  for style in demo_corpus.STYLES:
    formats = {work.path.rsplit('.', 1)[1] for work in works if work.style == style}
    assert formats == set(demo_corpus.FORMATS)


def test_captions_collide_never_even_for_one_style():
  plan = demo_corpus.plan_works(150, 2.0, 0, ('church organ',))
  assert len({work.caption for work, _ in plan}) == 150


def test_other_seeds_give_other_works():
  first, second = (
    {work.seed for work, _ in demo_corpus.plan_works(40, 2.0, seed, demo_corpus.STYLES)}
    for seed in (0, 1)
  )
  assert not first & second


def test_captions_state_tempo_key_and_instruments():
  for work, score in demo_corpus.plan_works(40, 2.0, 5, demo_corpus.STYLES):
    assert f'{score.bpm} bpm' in work.caption
    assert score.key in work.caption
    assert score.mood.lower() in work.caption.lower()
    assert all(name in work.caption.lower() for name in work.instruments)
    assert 'slow' in work.caption.lower() if score.bpm < 84 else True
    assert 'fast' in work.caption.lower() if score.bpm >= 104 else True
