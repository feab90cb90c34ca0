"""Prepared data as an evaluation reads it, from records and audio written by the test."""

import json

import numpy as np
import pytest
import soundfile

from models.spec import LiveMusicSpec
from pipelines.prepared_data import PreparedData
from preprocessing import features, measurement, quality
from preprocessing.features import ClipTokens
from preprocessing.manifest import Track, write_manifest
from preprocessing.records import RecordInfo, encode_record, shard_name, write_shard

SPEC = LiveMusicSpec()
RATE = 48_000


class Model:
  def __init__(self, content_hash):
    self.content_hash = content_hash


def clip(seed, frames):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 1024, [frames, 64])
  return ClipTokens(0.0, codes, rng.integers(0, 1024, [1, 12]), np.zeros([1, 768], np.float32))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Four training clips in two shards, two validation tracks; one file is gone, none is a test."""
  root = tmp_path_factory.mktemp('prepared')
  folder = root / 'corpus' / '1.0.0'
  folder.mkdir(parents=True)
  t = np.arange(3 * RATE) / RATE
  tone = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 550 * t)], -1) * 0.25
  soundfile.write(root / 'a.wav', tone, RATE, subtype='FLOAT')
  soundfile.write(root / 'c.wav', tone[:RATE], RATE, subtype='FLOAT')
  tracks = [
    Track('a', str(root / 'a.wav'), 64 * '0', 3.0, RATE, 2, 'A', 'Band', genre='x',
          caption='a tone', split='validation', work='a'),
    Track('b', str(root / 'gone.wav'), 64 * '1', 30.0, RATE, 2, 'B', genre='y', split='validation',
          work='b'),
    Track('c', str(root / 'c.wav'), 64 * '2', 1.0, RATE, 2, 'C', genre='x', split='validation',
          work='c'),
    Track('d', str(root / 'a.wav'), 64 * '3', 3.0, RATE, 2, 'D', split='train', work='d'),
  ]  # fmt: skip
  write_manifest(folder / 'manifest.jsonl', tracks)
  clips = [clip(i, 100) for i in range(4)]
  for shard in range(2):
    records = [encode_record(clips[i], RecordInfo(i, 'd', 0.0)) for i in (shard, shard + 2)]
    write_shard(folder / shard_name('corpus', 'train', shard, 2), records)
  held_out = [encode_record(clip(9, 75), RecordInfo(0, 'a', 0.0))]
  write_shard(folder / shard_name('corpus', 'validation', 0, 1), held_out)
  facts = {'tracks': 1, 'records': 1, 'hours': 0.05}
  stats = {
    'splits': {'train': facts | {'records': 4}, 'validation': facts},
    'codec_hash': 'c0', 'style_hash': 's0', 'fingerprint': 'f' * 64,
    'clips': {'peak_dbfs': -6.0},
  }  # fmt: skip
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'dataset_info.json').write_text('{}')
  (folder / 'COMPLETED').write_text('{}')
  return root, clips


def test_held_out_split_is_the_first_that_has_records(data):
  opened = PreparedData.open(data[0], SPEC)
  assert opened.split == 'validation'
  (record,) = opened.held_out_records()
  assert record.track_id == 'a'
  np.testing.assert_array_equal(record.codes, clip(9, 75).acoustic_tokens)
  with pytest.raises(ValueError, match="no records of test; it has .*'validation'"):
    PreparedData.open(data[0], SPEC, 'test')


def test_training_codes_are_counted_over_all_shards(data):
  opened = PreparedData.open(data[0], SPEC)
  opened.count_training_codes(100)
  codes = np.concatenate([c.acoustic_tokens for c in data[1]])
  assert opened.training_counts.shape == (64, 1024)
  np.testing.assert_array_equal(opened.training_counts[5], np.bincount(codes[:, 5], minlength=1024))
  opened.count_training_codes(1)
  assert opened.training_counts.sum() == 100 * 64


def test_audio_is_levelled_as_prepared_and_problems_are_told(data):
  opened = PreparedData.open(data[0], SPEC)
  recordings = opened.read_audio(5, 2.5)
  assert [r.title for r in recordings] == ['A (Band)']
  assert recordings[0].caption == 'a tone'
  assert recordings[0].audio.shape == (2.5 * RATE, 2)
  assert np.abs(recordings[0].audio).max() == pytest.approx(10 ** (-6 / 20), abs=1e-3)
  assert [p['what'] for p in opened.problems] == ['Audio of B', 'Audio of C']
  assert 'gone.wav' in opened.problems[0]['why']


@pytest.mark.parametrize('peak_dbfs', [-1.0, -20.0, None])
def test_audio_is_levelled_by_loudness_where_the_corpus_was(data, monkeypatch, peak_dbfs):
  """The gain is the tokenizer's: to the loudness, but no further than the peak allows."""
  opened = PreparedData.open(data[0], SPEC)
  path = str(data[0] / 'a.wav')
  _, loudness = measurement.level(path)
  found = quality.measure(path, RATE)
  assert (found.peak, found.loudness_lufs) == measurement.level(path)
  options = features.ClipOptions(peak_dbfs=peak_dbfs, loudness_lufs=loudness - 12)
  monkeypatch.setattr(opened, '_clips', options)
  (recording,) = opened.read_audio(5, 2.5)
  x, _ = soundfile.read(path, dtype='float32')
  gain = np.abs(recording.audio).max() / np.abs(x[: len(recording.audio)]).max()
  limit = 20 * np.log10(found.peak)
  assert 20 * np.log10(gain) == pytest.approx(min(-12.0, (peak_dbfs or 0) - limit), abs=1e-3)
  assert opened.levelling == [peak_dbfs, loudness - 12]
  reads = []
  monkeypatch.setattr(measurement, 'level', lambda path, **_: reads.append(path))
  (track, *_) = opened.tracks()
  opened.read_excerpt(track, 0, 1)
  assert not reads  # A file is decoded once for its level.


def test_tokens_of_other_models_are_refused(data):
  opened = PreparedData.open(data[0], SPEC)
  opened.check(Model('c0'), Model('s0'))
  with pytest.raises(ValueError, match='codec model c0.*c1'):
    opened.check(Model('c1'), Model('s0'))
  with pytest.raises(ValueError, match='style model s0.*s1'):
    opened.check(Model('c0'), Model('s1'))


def test_identity_rows(data):
  rows = dict(PreparedData.open(data[0], SPEC).describe())
  assert rows['Data fingerprint'] == 'f' * 16
  assert 'train: 1 tracks, 4 records, 3.0 min' in rows['Splits']
  assert len(rows['Manifest hash']) == 16
