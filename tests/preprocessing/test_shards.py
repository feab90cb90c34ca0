"""Shards: number and size, order, levels, compression, buckets; and looking into them."""

import dataclasses
import hashlib
import json

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from models.record_shards import TokenFolder
from models.spec import MAGENTA_RT_V1 as SPEC
from preprocessing import (
  audio,
  corpus,
  features,
  manifest,
  parts,
  records,
  shards,
  token_inspection,
  units,
  work,
)
from tasks import source


def _clip(index):
  rng = np.random.default_rng(index)
  return features.ClipTokens(
    start_secs=30.0 * index,
    acoustic_tokens=rng.integers(0, 1024, [100 + index, 64], dtype=np.int32),
    style_tokens=rng.integers(0, 1024, [1, 12], dtype=np.int32),
    style_embeddings=rng.normal(size=[1, 768]).astype(np.float32),
  )


def _info(index):
  return records.RecordInfo(index, f'track-{index}', 30.0 * index, 'slow, warm', 'CC0-1.0')


@pytest.mark.parametrize(
  'num_records, num_bytes, count',
  [
    (1, 200_000, 1),
    (7, 1_400_000, 1),
    (8, 1_600_000, 2),
    (40, 8_000_000, 8),
    (2000, 400_000_000, 8),
    (6000, 2**30, 8),
    (6000, 2**30 + 1, 16),
    (22_800_000, 4_282 * 2**30, 65_536),
  ],
)
def test_number_of_shards_is_a_power_of_two_by_size(num_records, num_bytes, count):
  assert shards.num_shards_for(num_records, num_bytes) == count


@pytest.mark.parametrize('levels', [None, 16])
def test_the_size_of_a_record_is_foreseen(levels):
  clip = features.ClipTokens(
    0.0,
    np.full([750, 64], 1023, np.int32),
    np.zeros([3, 12], np.int32),
    np.zeros([3, 768], np.float32),
  )
  size = len(records.encode_record(clip, _info(0), levels))
  assert shards.record_bytes(750, levels) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'codec_levels': 8}, r'codec_levels=8 is not in 16\.\.64'),
    ({'compression': 'ZIP'}, "compression='ZIP' is neither"),
    ({'shard_bytes': 100}, 'shard_bytes=100 must be at least 65536'),
    ({'num_shards': 0}, 'num_shards=0'),
  ],
)
def test_impossible_formats_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    shards.RecordFormat(**change).check()


def test_the_order_is_that_of_the_hashes():
  tracks = [manifest.Track(f'track {i}', '', '', 1.0, 1, 1, caption=str(i)) for i in range(20)]
  frames = [[750] * (1 + i % 4) for i in range(20)]
  order = shards.shuffle(tracks, [f'key {i}' for i in range(20)], frames, seed=3)
  names = [(track.track_id, clip) for track, f in zip(tracks, frames) for clip in range(len(f))]
  expected = sorted(
    names, key=lambda name: hashlib.sha256(f'3/{name[0]}/{name[1]}'.encode()).hexdigest()
  )
  found = list(order.clips())
  assert [(clip.track_id, clip.number) for clip in found] == expected != names
  assert [clip.index for clip in found] == list(range(len(names)))
  assert all(clip.key == f'key {clip.caption}' for clip in found)
  assert list(order.clips(1, 4)) == found[1::4]
  assert order.num_bytes == 50 * shards.record_bytes(750)


@pytest.mark.parametrize('compression', ['', 'GZIP'])
def test_fewer_levels_and_compression(tmp_path, compression):
  path = tmp_path / 'toy-train.tfrecord-00000-of-00001'
  encoded = [records.encode_record(_clip(i), _info(i), codec_levels=16) for i in range(5)]
  records.write_shard(path, encoded, compression)
  (tmp_path / 'stats.json').write_text(json.dumps({'format': {'compression': compression}}))
  assert records.count_records(path, compression) == 5
  plain = list(tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator())
  assert plain == encoded
  for index, (tokens, info) in enumerate(records.read_split(tmp_path, 'train')):
    assert info == _info(index)
    np.testing.assert_array_equal(tokens.acoustic_tokens, _clip(index).acoustic_tokens[:, :16])
  data = source.TokenRecordSource(
    {'train': [str(path)]}, compression=TokenFolder(tmp_path).compression
  )
  for index, example in enumerate(data.stream('train', num_epochs=1).as_numpy_iterator()):
    np.testing.assert_array_equal(
      example['acoustic_tokens'], _clip(index).acoustic_tokens[:, : SPEC.target_levels]
    )
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(ValueError, match='inside of record 4'):
    records.count_records(path, compression)


class Bucket(MemoryFileSystem):
  """Stands in for S3: an object store in memory."""

  protocol = ('s3',)
  store, pseudo_dirs = {}, ['']

  @classmethod
  def _strip_protocol(cls, path):
    return MemoryFileSystem._strip_protocol(str(path).replace('s3://', '/'))


@pytest.fixture
def bucket(monkeypatch):
  """epath's s3:// leads into memory."""
  # What EPATH_USE_TF=false does: TensorFlow has no S3 of its own.
  monkeypatch.setattr('etils.epath.gpath._is_tf_installed', lambda: False)
  fsspec.register_implementation('s3', Bucket, clobber=True)
  Bucket.store.clear()
  return epath.Path('s3://music/prepared')


def test_parts_plans_and_shards_lie_in_a_bucket_too(bucket):
  folder = bucket / 'parts'
  clips = [_clip(0), _clip(1)]
  parts.write_part(folder, 'ab12', clips)
  parts.write_marker(folder, 'ab12', parts.PartMarker(clip_starts=(0.0, 30.0)))
  assert parts.done_keys(folder) == {'ab12'}
  assert parts.read_markers(folder, ['ab12', 'cd34'])['ab12'].clip_starts == (0.0, 30.0)
  assert parts.read_markers(folder, ['cd34']) == {'cd34': None}
  lines = [
    units.as_line(units.ShardClip('ab12', number, number, f'track-{number}', 'c', 'l'))
    for number in range(2)
  ]
  target = str(bucket / 'toy-train.tfrecord-00000-of-00001')
  (shard,) = work.write_plan(bucket / 'plan.jsonl', [(target, lines)])
  how = units.ShardWork(str(folder), codec_levels=16)
  assert how.do(shard) and not how.do(shard)
  assert records.count_records(target) == 2
  with pytest.raises(OSError, match='no room'), parts.atomic_file(bucket / 'half') as file:
    file.write(b'x')
    raise OSError('no room')
  assert not (bucket / 'half').exists()
  content = epath.Path(target).read_bytes()
  size = int.from_bytes(content[:8], 'little')
  tokens, info = records.decode_record(content[12 : 12 + size])
  assert info.track_id == 'track-0'
  np.testing.assert_array_equal(tokens.acoustic_tokens, clips[0].acoustic_tokens[:, :16])


def test_a_corpus_is_prepared_into_a_bucket(bucket, tmp_path, fake_models):
  """The same records as on a disk; a second run does nothing; another version of them replaces."""
  wave = np.random.default_rng(0).normal(0, 0.1, [12 * 16_000, 2])
  for number in range(3):
    audio.write_audio(tmp_path / f'{number}.wav', wave[: (12 - number) * 16_000], 16_000)
  tracks, _ = manifest.build_manifest(tmp_path)
  manifest.write_manifest(tmp_path / 'tracks.jsonl', tracks)
  made = {}
  for output in (str(bucket), str(tmp_path / 'out')):
    options = corpus.PrepareOptions(
      output_dir=output, manifest_path=str(tmp_path / 'tracks.jsonl'), min_held_out=1,
      clips=features.ClipOptions(clip_secs=5),
    )  # fmt: skip
    folder = corpus.prepare_corpus(options, fake_models).dataset_dir
    made[output] = {path.name: epath.Path(path).read_bytes() for path in folder.iterdir()}
    assert not corpus.prepare_corpus(options, fake_models).did_work
  here, there = made.values()
  assert here.keys() == there.keys() and 'COMPLETED' in here
  shard_names = [name for name in here if '.tfrecord-' in name]
  assert shard_names and all(here[name] == there[name] for name in shard_names)
  again = dataclasses.replace(
    options, output_dir=str(bucket), format=shards.RecordFormat(codec_levels=16)
  )
  folder = corpus.prepare_corpus(again, fake_models).dataset_dir
  after = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert after.keys() == here.keys()
  assert all(len(after[name]) < len(here[name]) for name in shard_names)


def test_a_plan_that_another_run_wrote_is_refused(tmp_path):
  lines = [{'a': i} for i in range(5)]
  first, second = work.write_plan(tmp_path / 'plan', [('', lines[:2]), ('x', lines[2:])])
  assert list(work.read_range(second)) == lines[2:] and second.target == 'x'
  work.write_plan(tmp_path / 'plan', [('', lines[:1])])
  with pytest.raises(RuntimeError, match='another run has'):
    list(work.read_range(first))


def test_dealing_spreads_neighbours():
  assert work.deal(list(range(7)), most=3) == [[0, 3, 6], [1, 4], [2, 5]]
  assert work.deal([1, 2], most=3) == [[1], [2]] and work.deal([]) == []


class Decoder:
  """Says what it was given: every sample is the first code of its frame, in thousandths."""

  content_hash = 'c0'

  def decode(self, codes):
    return np.repeat(codes[:, :1] / 2000.0, SPEC.samples_per_frame, 0).repeat(2, 1)


def test_records_are_shown_and_heard(tmp_path):
  folder = tmp_path / 'toy' / '1.0.0'
  records.write_shard(
    folder / 'toy-train.tfrecord-00000-of-00001',
    [records.encode_record(_clip(i), _info(i)) for i in range(3)],
  )
  (folder / 'COMPLETED').write_text('{}')
  (folder / 'stats.json').write_text(json.dumps({'codec': 'tiny', 'codec_hash': 'c0'}))
  found = token_inspection.find_shards(tmp_path)
  assert [path.name for path in found] == ['toy-train.tfrecord-00000-of-00001']
  assert token_inspection.find_shards(found[0]) == [found[0]]
  heard = tmp_path / 'heard'
  told = list(token_inspection.inspect(found, 2, str(heard), Decoder()))
  assert len(told) == 2 and 'record 1: track track-1, 30.00 s + 4.04 s, licence CC0' in told[1]
  assert 'caption: slow, warm' in told[0]
  x = audio.read_audio(heard / '000001_track-1.wav')
  expected = _clip(1).acoustic_tokens[:, 0] / 2000.0
  np.testing.assert_allclose(x[:: SPEC.samples_per_frame, 0], expected, atol=1e-4)
  Decoder.content_hash, other = 'another', Decoder.content_hash
  try:
    with pytest.raises(ValueError, match="tokens of the codec 'tiny'"):
      list(token_inspection.inspect(found, 1, codec=Decoder()))
  finally:
    Decoder.content_hash = other
  with pytest.raises(ValueError, match="no split 'test'"):
    token_inspection.find_shards(tmp_path, 'test')
  with pytest.raises(FileNotFoundError, match='neither a shard nor a folder'):
    token_inspection.find_shards(tmp_path / 'none')
