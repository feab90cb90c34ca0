"""Folder names that are patterns elsewhere, and what may be removed from an output folder."""

import dataclasses
import json
import os

import numpy as np
import pytest

from models import folder_marker
from preprocessing import audio, corpus, dataset, parts, records, shards, token_inspection
from tasks import source

RATE = 16_000
ODD = 'album [1] {x} 50% %s * ?'
LIKE = 'album 1 {x} 50% %s a b'  # What the name of ODD matches as a pattern.


def write_album(folder, seed=0):
  folder.mkdir(parents=True, exist_ok=True)
  for number in range(4):
    noise = np.random.default_rng([seed, number]).normal(0, 0.1, [5 * RATE, 2])
    audio.write_audio(folder / f'{number}.wav', noise, RATE)
  return folder


def options(folder, **changes):
  return corpus.PrepareOptions(
    output_dir=str(folder / 'out'), audio_dir=str(folder), name='toy', **changes
  )


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def test_names_with_patterns_mean_themselves(tmp_path, fake_models):
  """Prepared, grown, inspected and read in such a folder, beside one that its name matches."""
  odd, like = write_album(tmp_path / ODD), tmp_path / LIKE
  making = like / 'out' / 'toy' / '.1.0.0.0123456789ab'
  making.mkdir(parents=True)
  (making / 'toy-train.tfrecord-00000-of-00001').write_bytes(b'in the making')
  before = contents(like)
  made = corpus.prepare_corpus(options(odd), fake_models)
  write_album(odd, seed=1)  # Grown: the first version is replaced, nothing is left beside it.
  made = corpus.prepare_corpus(options(odd), fake_models)
  assert made.did_work and made.stats['splits']['train']['tracks'] > 0
  assert [path.name for path in (odd / 'out' / 'toy').iterdir()] == ['1.0.0']
  assert contents(like) == before
  found = token_inspection.find_shards(odd / 'out')
  assert [str(path.parent) for path in found] == [str(made.dataset_dir)]
  assert source.find_token_folder(odd / 'out') == made.dataset_dir
  assert len(list(records.read_split(made.dataset_dir, 'train'))) == (
    made.stats['splits']['train']['records']
  )


def grown(folder, loader):
  """The data set of a corpus, and options for another one in its place."""
  made = corpus.prepare_corpus(options(folder), loader)
  return made.dataset_dir, options(folder, format=shards.RecordFormat(codec_levels=16))


def test_files_of_a_users_own_outlive_the_data_set_that_they_lie_in(tmp_path, fake_models, capsys):
  folder, again = grown(write_album(tmp_path / 'album'), fake_models)
  (folder / 'notes.txt').write_text('mine')
  (folder / 'covers').mkdir()
  (folder / 'covers' / 'front.png').write_bytes(b'png')
  stale = folder.parent / '.1.0.0.0123456789ab'
  folder_marker.mark(stale, 'records')
  (stale / 'toy-train.tfrecord-00000-of-00004').write_bytes(b'')
  (stale / '.toy-train.tfrecord-00001-of-00004.0123456789ab').write_bytes(b'')
  other = folder.parent / '.1.0.0.ba9876543210'
  other.mkdir()
  (other / 'notes.txt').write_text('not a data set')
  assert corpus.prepare_corpus(again, fake_models).did_work
  assert (folder / 'notes.txt').read_text() == 'mine'
  assert (folder / 'covers' / 'front.png').read_bytes() == b'png'
  assert sorted(path.name for path in folder.parent.iterdir()) == ['.1.0.0.ba9876543210', '1.0.0']
  assert (other / 'notes.txt').is_file()
  said = capsys.readouterr().err
  assert f'{folder / "notes.txt"} is kept: Woodshed did not write it.' in said
  assert f'{other} is left: it holds files that Woodshed did not write.' in said


def test_a_folder_that_is_no_data_set_is_not_replaced(tmp_path, fake_models):
  album = write_album(tmp_path / 'album')
  place = options(album).dataset_dir
  place.mkdir(parents=True)
  (place / 'thesis.tex').write_text('mine')
  with pytest.raises(ValueError, match='1.0.0 holds thesis.tex, which Woodshed did not write'):
    corpus.prepare_corpus(options(album), fake_models)
  assert sorted(path.name for path in (album / 'out').iterdir()) == ['toy']  # Before any work.
  (place / 'thesis.tex').unlink()
  (place / 'toy-train.tfrecord-00000-of-00001').write_bytes(b'')
  dataset.check_place(place)  # A data set that was deleted in part.


def test_in_a_bucket_other_files_stay(bucket, fake_models):
  write_album(bucket / 'music')
  place = bucket / 'out' / 'toy' / '1.0.0'
  there = dataclasses.replace(
    options(bucket), output_dir='gs://bucket/out', audio_dir='gs://bucket/music'
  )
  corpus.prepare_corpus(there, fake_models)
  (place / 'notes.txt').write_text('mine')
  other = dataclasses.replace(there, format=shards.RecordFormat(codec_levels=16))
  assert corpus.prepare_corpus(other, fake_models).did_work
  assert (place / 'notes.txt').read_text() == 'mine'
  stats = json.loads((place / 'stats.json').read_text())
  assert stats['fingerprint'] == json.loads((place / 'COMPLETED').read_text())['fingerprint']
  place.joinpath('COMPLETED').unlink()
  place.joinpath(folder_marker.MARKER_FILE).unlink()
  with pytest.raises(ValueError, match=r'gs://bucket/out/toy/1\.0\.0 holds notes.txt'):
    corpus.prepare_corpus(there, fake_models)


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path):
  key = 'ab' * 16
  stale = tmp_path / 'ab' / f'.{key}.json.0123456789ab'
  others = [tmp_path / 'ab' / '.DS_Store', tmp_path / 'ab' / '.my.notes', tmp_path / 'x' / '.a.b']
  for path in (stale, *others):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'')
    os.utime(path, (1, 1))
  parts.remove_stale(tmp_path)
  assert not stale.exists() and all(path.exists() for path in others)
