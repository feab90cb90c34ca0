"""train.py in two processes over loopback is train.py in one: same examples, same losses."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from models.spec import LiveMusicSpec
from preprocessing.features import ClipTokens
from preprocessing.records import RecordInfo, encode_record, shard_name, write_shard
from training import metrics

ROOT = pathlib.Path(__file__).parents[2]
SPEC = LiveMusicSpec()
NUM_SHARDS = 2
SETTINGS = {
  'BATCH_SIZE': 4, 'TRAIN_STEPS': 4, 'LOG_PERIOD': 1, 'CHECKPOINT_PERIOD': 2, 'EVAL_PERIOD': 2,
  'EVAL_STEPS': 1, 'WARMUP_STEPS': 2, 'BASE_LEARNING_RATE': 0.05,
}  # fmt: skip


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Ten clips of 15 s in two shards."""
  folder = tmp_path_factory.mktemp('prepared') / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  splits = []
  for split, count in {'train': 10, 'validation': 2}.items():
    records = []
    for index in range(count):
      rng = np.random.default_rng([index, count])
      codes = rng.integers(0, 40, [375, SPEC.codec_levels], dtype=np.int32)
      style = np.full([2, SPEC.style_rvq_levels], index, np.int32)
      tokens = ClipTokens(0.0, codes, style, np.zeros([2, SPEC.style_dim], np.float32))
      records.append(encode_record(tokens, RecordInfo(index, f'{split}-{index}', 0.0)))
    shards = [records[i::NUM_SHARDS] for i in range(NUM_SHARDS)]
    for i, shard in enumerate(shards):
      write_shard(folder / shard_name('toy', split, i, NUM_SHARDS), shard)
    lengths = [str(len(shard)) for shard in shards]
    splits.append({'name': split, 'shardLengths': lengths})
  (folder / 'dataset_info.json').write_text(json.dumps({'splits': splits}))
  stats = {'codec': 'tiny', 'codec_hash': 'c0de', 'style': 'tiny', 'style_hash': '5717e'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'COMPLETED').write_text('')
  return folder.parents[1]


def _train(data_dir, model_dir, num_processes, **settings):
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  settings = {'DATA_DIR': str(data_dir), 'MODEL_DIR': str(model_dir)} | SETTINGS | settings
  command = [
    sys.executable, 'train.py', '--gin_file=gin/models/tiny.gin',
    '--gin_file=gin/runs/pretrain.gin',
    *(f'--gin.{name}={value!r}' for name, value in settings.items()),
  ]  # fmt: skip
  processes = []
  for index in range(num_processes):
    together = [
      f'--coordinator_address=127.0.0.1:{port}', f'--process_count={num_processes}',
      f'--process_index={index}',
    ]  # fmt: skip
    processes.append(
      subprocess.Popen(
        command + (together if num_processes > 1 else []), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
      )
    )  # fmt: skip
  for process in processes:
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]


@pytest.mark.slow
def test_train_py_in_two_processes(data_dir, tmp_path):
  """Two train to the losses of one; one continues what two have begun."""
  _train(data_dir, tmp_path / 'one', 1)
  _train(data_dir, tmp_path / 'two', 2, TRAIN_STEPS=3)
  table = (tmp_path / 'two' / 'model-info.txt').read_text()
  assert 'Laid out on 2 x 1 devices (data x model) of 2 process(es)' in table
  _train(data_dir, tmp_path / 'two', 1)
  one, two = (metrics.read_metrics(tmp_path / name) for name in ('one', 'two'))
  for stream in ('train', 'training_eval/held_out'):
    expected = {line['step']: line for line in one if line['stream'] == stream}
    found = {line['step']: line for line in two if line['stream'] == stream}
    assert set(expected) <= set(found)
    for step, line in expected.items():
      for name in ('loss', 'loss/level_00', 'accuracy'):
        np.testing.assert_allclose(found[step][name], line[name], rtol=1e-5, err_msg=name)
