"""prepare.py's story from end to end, with cheap models: records, rejects, resuming, growth."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_token_models import load, load_refusing_work

from preprocessing import audio, corpus, manifest, parts, pipeline, records, shards

ROOT = pathlib.Path(__file__).parents[2]
RATE = 16_000


def _write_track(path, level, secs):
  """A square wave whose pitch changes each half second, by the file's name: no two are alike."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pitches = np.random.default_rng(list(path.name.encode())).uniform(40, 400, 2 * round(secs) + 2)
  phase = np.cumsum(np.repeat(pitches, RATE // 2)[: round(secs * RATE)]) / RATE
  wave = level * np.sign(np.sin(2 * np.pi * phase + 0.1))
  audio.write_audio(path, np.stack([wave, wave], axis=1), RATE)


@pytest.fixture(scope='module')
def audio_dir(tmp_path_factory):
  """Eight good tracks of different lengths and five bad files."""
  folder = tmp_path_factory.mktemp('audio')
  for number in range(8):
    suffix = ('.wav', '.flac')[number % 2]
    _write_track(folder / 'band' / f'{number:02d} song {number}{suffix}', 0.5, 5 + 4 * number)
  whole = folder / 'bad' / 'cut.wav'
  _write_track(whole, 0.5, 10)
  whole.write_bytes(whole.read_bytes()[:200_000])
  (folder / 'bad' / 'garbage.mp3').write_bytes(b'\x01\x02garbage' * 999)
  (folder / 'bad' / 'empty.ogg').write_bytes(b'')
  _write_track(folder / 'bad' / 'silent.wav', 0.0, 6)
  _write_track(folder / 'bad' / 'short.wav', 0.5, 1)
  return folder


def _options(audio_dir, output, **kwargs):
  return corpus.PrepareOptions(
    output_dir=str(output), audio_dir=str(audio_dir), name='toy',
    **{'clips': corpus.features.ClipOptions(clip_secs=10), **kwargs},
  )  # fmt: skip


@pytest.fixture(scope='module')
def prepared(audio_dir, tmp_path_factory):
  output = tmp_path_factory.mktemp('out')
  return corpus.prepare_corpus(_options(audio_dir, output), load), output


def _all_records(folder):
  """{(track_id, start): (split, index, shard, tokens)} of a data set."""
  found = {}
  for path in sorted(pathlib.Path(folder).glob('*.tfrecord-*')):
    for place, (tokens, info) in enumerate(records.read_shards([path])):
      name = (info.track_id, info.start_secs)
      assert name not in found, 'a record stands there twice'
      split = path.name.split('-')[1].split('.')[0]
      shard, count = int(path.name.split('-')[2]), int(path.name.split('-')[4])
      assert info.index == place * count + shard
      found[name] = (split, info.index, path.name, tokens)
  return found


def test_every_clip_of_every_good_file_is_there(prepared):
  result, output = prepared
  tracks = manifest.read_manifest(output / 'manifest.jsonl')
  assert sorted(round(track.duration_secs) for track in tracks) == list(range(5, 37, 4))
  clips = corpus.features.ClipOptions(clip_secs=10)
  expected = {
    (track.track_id, start): track.split
    for track in tracks
    for start, _ in corpus.features.plan_clips(track.duration_secs, clips, track.sha256)
  }
  assert any(start % 10 for _, start in expected)
  found = _all_records(result.dataset_dir)
  assert {name: value[0] for name, value in found.items()} == expected
  for split in ('train', 'validation'):
    indices = sorted(value[1] for value in found.values() if value[0] == split)
    assert indices == list(range(len(indices)))
    assert result.stats['splits'][split]['records'] == len(indices)
  for _, _, _, tokens in found.values():
    assert tokens.style_tokens.shape == (1, 12)
    # All peaks are brought to -1 dBFS, and the codec tells the level.
    assert abs(np.median(tokens.acoustic_tokens[:, 0]) - 1000 * 10 ** (-1 / 20)) < 60
  assert result.stats['hours'] == pytest.approx(sum(range(5, 37, 4)) / 3600, abs=1e-6)


def test_bad_files_are_set_aside_with_their_reasons(prepared):
  result, output = prepared
  rows = [json.loads(line) for line in (output / 'rejects.jsonl').read_text().splitlines()]
  reasons = {pathlib.Path(row['path']).name: row['reason'] for row in rows}
  assert reasons == {
    'cut.wav': 'truncated', 'garbage.mp3': 'not_audio', 'empty.ogg': 'empty_file',
    'silent.wav': 'silent', 'short.wav': 'too_short',
  }  # fmt: skip
  assert result.stats['rejects'] == dict.fromkeys(reasons.values(), 1)


def _shards_of(folder):
  return {path.name: path.read_bytes() for path in folder.glob('*.tfrecord-*')}


def test_damaged_shards_are_made_again_and_the_others_stay(prepared, audio_dir):
  """The way out that readers name: delete the shard, or not even that, and the same command."""
  result, output = prepared
  folder = pathlib.Path(result.dataset_dir)
  before = _shards_of(folder)
  places = {path.name: path.stat().st_ino for path in folder.iterdir()}
  rows = json.loads((folder / 'shards.json').read_text())
  assert {name: row[0] for name, row in rows.items()} == {n: len(x) for n, x in before.items()}
  assert sum(row[1] for row in rows.values()) == len(_all_records(folder))
  emptied, *_, deleted = sorted(before)
  (folder / emptied).write_bytes(b'')
  (folder / deleted).unlink()
  again = corpus.prepare_corpus(_options(audio_dir, output), load_refusing_work)
  assert again.did_work and _shards_of(folder) == before
  other = folder / 'other-train.tfrecord-00000-of-00001'
  other.write_bytes(b'of somebody else')
  with pytest.raises(ValueError, match='00000-of-00001 does not belong to this data set'):
    corpus.prepare_corpus(_options(audio_dir, output), load_refusing_work)
  assert other.read_bytes() == b'of somebody else'
  other.unlink()
  kept = before.keys() - {emptied, deleted}
  assert kept and all((folder / name).stat().st_ino == places[name] for name in kept)
  assert not corpus.prepare_corpus(_options(audio_dir, output), load_refusing_work).did_work


def test_what_shards_look_like_is_written_down_for_older_data_sets(prepared, audio_dir):
  result, output = prepared
  path = pathlib.Path(result.dataset_dir) / 'shards.json'
  rows = json.loads(path.read_text())
  path.unlink()
  assert not corpus.prepare_corpus(_options(audio_dir, output), load_refusing_work).did_work
  assert json.loads(path.read_text()) == rows


def test_tfds_opens_the_folder(prepared):
  result, _ = prepared
  builder = tfds.builder_from_directory(str(result.dataset_dir))
  found = _all_records(result.dataset_dir)
  for split, facts in result.stats['splits'].items():
    assert builder.info.splits[split].num_examples == facts['records']
  for example in builder.as_dataset(split='validation').as_numpy_iterator():
    split, index, _, _ = found[example['track_id'].decode(), float(example['start_secs'])]
    assert (split, index) == ('validation', example['index'])


def test_a_second_run_does_nothing(prepared, audio_dir):
  result, output = prepared
  before = {path: path.stat().st_mtime_ns for path in result.dataset_dir.iterdir()}
  again = corpus.prepare_corpus(_options(audio_dir, output), load_refusing_work)
  assert not again.did_work and again.stats == result.stats
  assert {path: path.stat().st_mtime_ns for path in result.dataset_dir.iterdir()} == before


def test_a_grown_folder_costs_only_what_is_new_and_keeps_its_splits(prepared, audio_dir, tmp_path):
  _, output = prepared
  grown, copy = tmp_path / 'audio', tmp_path / 'out'
  shutil.copytree(audio_dir, grown)
  shutil.copytree(output, copy, copy_function=shutil.copy2)
  _write_track(grown / 'band' / 'another song.wav', 0.5, 12)
  old = {path.name: path.stat().st_mtime_ns for path in (copy / 'parts').glob('*/*')}
  assert corpus.prepare_corpus(_options(grown, copy), load).did_work
  new = {path.name: path.stat().st_mtime_ns for path in (copy / 'parts').glob('*/*')}
  assert old.items() <= new.items() and len(new) == len(old) + 2  # tokens and their marker
  splits = {
    track.sha256: track.split for track in manifest.read_manifest(output / 'manifest.jsonl')
  }
  after = {track.sha256: track.split for track in manifest.read_manifest(copy / 'manifest.jsonl')}
  assert splits.items() <= after.items() and len(after) == len(splits) + 1


def test_a_run_that_breaks_between_shards_goes_on(prepared, audio_dir, tmp_path, monkeypatch):
  output = tmp_path / 'out'
  write, calls = records.write_shard, []

  def breaking(path, encoded, compression):
    calls.append(path)
    if len(calls) == 3:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, encoded, compression)

  monkeypatch.setattr(records, 'write_shard', breaking)
  with pytest.raises(OSError, match='No space left on device') as caught:
    corpus.prepare_corpus(_options(audio_dir, output), load)
  assert caught.value.errno == errno.ENOSPC
  assert not (output / 'toy' / '1.0.0').exists()
  monkeypatch.setattr(records, 'write_shard', write)
  _assert_completes(prepared, audio_dir, output)


def _assert_completes(prepared, audio_dir, output):
  result = corpus.prepare_corpus(_options(audio_dir, output), load)
  expected = prepared[0].dataset_dir
  names = {path.name for path in expected.glob('*.tfrecord-*')}
  assert {path.name for path in result.dataset_dir.glob('*.tfrecord-*')} == names
  for name in names:
    assert (result.dataset_dir / name).read_bytes() == (expected / name).read_bytes()
  leftovers = [path for path in output.rglob('.*') if path.is_file()]
  assert not [path for path in leftovers if '.safetensors' in path.name]
  assert result.stats == prepared[0].stats


def test_the_local_runner_downloads_nothing():
  """Beam's DirectRunner looks for the Prism binary on the network first."""
  for beam_args, mode, workers in (
    ((), 'multi_threading', os.cpu_count()),
    (('--runner=DirectRunner', '--direct_num_workers=5'), 'multi_threading', 5),
    (('--direct_running_mode=in_memory',), 'in_memory', 1),
  ):
    options = pipeline.pipeline_options(beam_args).get_all_options()
    assert options['runner'] == 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
    assert (options['direct_running_mode'], options['direct_num_workers']) == (mode, workers)


def test_a_changed_file_is_noticed(prepared, audio_dir, tmp_path):
  moved = tmp_path / 'audio'
  shutil.copytree(audio_dir / 'band', moved)
  tracks, _ = manifest.build_manifest(moved)
  manifest.write_manifest(tmp_path / 'm.jsonl', tracks)
  _write_track(pathlib.Path(tracks[0].path), 0.25, 20)
  options = corpus.PrepareOptions(
    output_dir=str(tmp_path / 'out'), manifest_path=str(tmp_path / 'm.jsonl'), name='toy'
  )
  result = corpus.prepare_corpus(options, load)
  assert result.stats['rejects'] == {'changed': 1}


@pytest.mark.parametrize(
  'change, message',
  [
    ({'name': 'My Corpus'}, "name='My Corpus' is not made of"),
    ({'version': '1'}, "version='1' is not of the form"),
    ({'output_dir': os.fsdecode(b'/o\xe9')}, r"output_dir='/o\\udce9' is not UTF-8"),
    ({'audio_dir': None}, 'Give audio_dir'),
    ({'audio_dir': '/nowhere/at/all'}, '/nowhere/at/all is not a folder'),
    ({'format': shards.RecordFormat(num_shards=0)}, 'num_shards=0'),
    ({'min_held_out': -1}, 'min_held_out=-1'),
    ({'validation_fraction': 0.7, 'test_fraction': 0.3}, 'validation_fraction=0.7'),
    ({'validation_fraction': -0.1, 'test_fraction': 0.3}, 'validation_fraction=-0.1'),
    ({'clips': corpus.features.ClipOptions(min_clip_secs=0.5)}, 'min_clip_secs=0.5'),
  ],
)
def test_wrong_options_are_told_before_any_work(audio_dir, tmp_path, change, message):
  def no_loading(codec, style):
    raise AssertionError('models must not be loaded for wrong options')

  options = {'output_dir': str(tmp_path / 'out'), 'audio_dir': str(audio_dir), **change}
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    corpus.prepare_corpus(corpus.PrepareOptions(**options), no_loading)
  assert not (tmp_path / 'out').exists()


def test_a_folder_without_a_usable_file_says_why(audio_dir, tmp_path):
  with pytest.raises(ValueError, match='No usable track is left of 5 files: .*1 truncated'):
    corpus.prepare_corpus(_options(audio_dir / 'bad', tmp_path / 'out'), load)


def test_parts_depend_on_content_and_settings():
  settings = parts.TokenSettings(
    'codec', 'style', corpus.features.ClipOptions(), corpus.quality.QualityLimits()
  )
  keys = {
    settings.key('a'),
    settings.key('b'),
    dataclasses.replace(settings, codec_hash='other').key('a'),
    dataclasses.replace(settings, clips=corpus.features.ClipOptions(clip_secs=20)).key('a'),
  }
  assert len(keys) == 4
  batched = dataclasses.replace(settings, clips=corpus.features.ClipOptions(clips_per_batch=9))
  assert batched.key('a') == settings.key('a')


def test_help_and_wrong_folders_exit_with_a_message(tmp_path):
  shown = subprocess.run(
    [sys.executable, 'prepare.py', '--help'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert '--audio_dir' in shown.stdout
  assert 'apache_beam' not in shown.stderr
  refused = subprocess.run(
    [sys.executable, 'prepare.py', f'--audio_dir={tmp_path}/none', f'--output_dir={tmp_path}/o'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert refused.returncode == 1
  assert 'is not a folder' in refused.stderr and 'Traceback' not in refused.stderr
