"""Commands refuse an output folder in which another run works, and leave it as it is."""

import dataclasses
import json
import types
from unittest import mock

import numpy as np
import pytest

from models import folder_lock
from preprocessing import audio


@pytest.fixture
def folder(tmp_path):
  """A folder in which the first process of this machine works."""
  holder = dataclasses.replace(
    folder_lock._this_process(), pid=1, process_start=folder_lock._process_start(1)
  )
  held = tmp_path / 'held'
  held.mkdir()
  (held / folder_lock.LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)))
  music = tmp_path / 'music'
  music.mkdir()
  for number in range(3):
    noise = np.random.default_rng(number).normal(0, 0.1, [5 * 16_000, 2])
    audio.write_audio(music / f'{number}.wav', noise, 16_000)
  return held


def prepare(folder, music):
  from preprocessing import corpus

  model = types.SimpleNamespace(content_hash='')
  options = corpus.PrepareOptions(output_dir=folder, audio_dir=music)
  corpus.prepare_corpus(options, lambda codec, style: (model, model))


def build_manifest(folder, music):
  from preprocessing import manifest_build, manifest_commands

  options = manifest_build.BuildOptions(folders=(music,))
  manifest_commands.build(options, manifest_commands.SplitOptions(), folder)


def train(folder, music):
  from pipelines import gin_config

  bindings = [f'DATA_DIR = {music!r}', f'MODEL_DIR = {folder!r}']
  files = ['gin/models/tiny.gin', 'gin/runs/pretrain_demo.gin']
  gin_config.parse_gin(files, bindings)
  gin_config.run()


def train_loop(folder, music):
  from training import loop

  loop.train(None, None, model_dir=folder, total_steps=1, optimizer=None)


def finetune(folder, music):
  from pipelines import finetune

  with mock.patch.object(finetune, '_check') as check:
    check.return_value.catalog.refusal = ''
    finetune.finetune(music, folder)


def evaluate(folder, music):
  from pipelines.evaluate import evaluate

  evaluate('tiny', music, folder)


def evaluate_codec(folder, music):
  from pipelines.evaluate_codec import evaluate_codec

  evaluate_codec('tiny', music, folder)


def evaluate_style(folder, music):
  from pipelines.evaluate_style import evaluate_style

  evaluate_style('tiny', music, folder)


def demo(folder, music):
  from pipelines import demo

  demo.main([f'--output_dir={folder}'])


COMMANDS = (
  prepare, build_manifest, train, train_loop, finetune, evaluate, evaluate_codec, evaluate_style,
  demo,
)  # fmt: skip


@pytest.mark.parametrize('command', COMMANDS)
def test_a_folder_with_a_run_in_it_is_left_alone(command, folder, tmp_path):
  with pytest.raises((folder_lock.FolderInUseError, SystemExit), match='in use by .* process 1 on'):
    command(str(folder), str(tmp_path / 'music'))
  assert [path.name for path in folder.iterdir()] == [folder_lock.LOCK_FILE]
