"""The v1 variant reproduces Magenta RT v1's fine-tuning task: golden/tasks.*."""

import json
import os
import pathlib

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest
import seqio
import tensorflow as tf

from models.spec import LiveMusicSpec
from tasks import crops, registry

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SPEC = LiveMusicSpec()
LENGTHS = {'inputs': 1006, 'targets': 800}
FORCED = json.loads((GOLDEN / 'tasks.json').read_text())['forced']


@pytest.fixture(scope='module')
def arrays():
  with np.load(GOLDEN / 'tasks.npz') as file:
    return {name: file[name] for name in file}


@pytest.fixture(scope='module')
def task_name():
  files = {'train': [str(GOLDEN / 'tasks.tfrecord')]}
  return registry.magenta_rt_v1_task(files, name='v1_golden')


@pytest.mark.parametrize('case', FORCED, ids=lambda case: str(case['case']))
def test_forced_draws(arrays, case):
  clip, number = case['clip'], case['case']
  codes = tf.constant(arrays[f'clips/{clip}/acoustic_tokens_first32'], tf.int32)
  style = tf.constant(arrays[f'clips/{clip}/style_tokens'])
  prompt = crops.prompt_secs(case['prompt_draw_before_clip'], len(codes) // 25, SPEC)
  example = crops.build_example(codes, style, prompt * 25, case['start_sec'] * 25, SPEC)
  np.testing.assert_array_equal(example['inputs'], arrays[f'forced/{number}/inputs'])
  np.testing.assert_array_equal(example['targets'], arrays[f'forced/{number}/targets'])


def test_whole_pipeline_with_seed_42(arrays, task_name):
  dataset = seqio.get_mixture_or_task(task_name).get_dataset(
    sequence_length=LENGTHS, split='train', shuffle=False, seed=42, num_epochs=8, use_cached=False
  )
  examples = list(dataset.as_numpy_iterator())
  for feature in ('inputs', 'targets'):
    np.testing.assert_array_equal(
      np.stack([example[feature] for example in examples]), arrays[f'pipeline_seed42/{feature}']
    )


@pytest.mark.parametrize('pack', [False, True])
def test_converted_features(arrays, task_name, pack):
  dataset = seqio.get_dataset(
    mixture_or_task_name=task_name,
    task_feature_lengths=LENGTHS,
    feature_converter=seqio.EncDecFeatureConverter(pack=pack),
    dataset_split='train',
    shuffle=False,
    num_epochs=1,
    seed=42,
    use_cached=False,
  )
  examples = list(dataset.as_numpy_iterator())
  names = [name.split('/')[1] for name in arrays if name.startswith(f'features_pack{int(pack)}/')]
  assert len(names) == 4
  for name in names:
    expected = arrays[f'features_pack{int(pack)}/{name}']
    np.testing.assert_array_equal(np.stack([example[name] for example in examples]), expected)
    assert examples[0][name].dtype == expected.dtype
