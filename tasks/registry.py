"""Registers SeqIO tasks over token records: for training, for evaluation, and v1's own order."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from models.record_shards import TokenFolder
from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from tasks import metrics, preprocessors, source
from tasks.crops import V1_CROPS, CropOptions
from tasks.styles import OWN_STYLE, StyleOptions

CROPS_PER_CLIP = 3


@dataclasses.dataclass(frozen=True)
class TaskInfo:
  """What the stream must know of a registered task.

  Attributes:
    name: in SeqIO's registry.
    spec: token layout.
    examples_per_record: most examples that one record gives in one epoch.
    settings: what the task was registered with; a second registration must agree.
    content: fingerprint of the data set; '' for shards without one.
  """

  name: str
  spec: LiveMusicSpec
  examples_per_record: int
  settings: tuple
  content: str


_INFOS: dict[str, TaskInfo] = {}


def task_info(name: str) -> TaskInfo:
  """Facts of a task that this module registered.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in _INFOS:
    raise ValueError(
      f'No live music task {name!r}; registered are {sorted(_INFOS)}. '
      'live_music_task(data_dir) registers one.'
    )
  return _INFOS[name]


def live_music_task(
  data_dir: str | os.PathLike | None = None,
  *,
  name: str | None = None,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
  crops: CropOptions = V1_CROPS,
  style: StyleOptions = OWN_STYLE,
  files: Mapping[str, Sequence[str]] | None = None,
) -> str:
  """Registers the training task of a token data set and returns its name.

  Each epoch crops each clip anew, by draws that depend on (seed, index, epoch) alone. Registering
  the same again does nothing.

  Args:
    data_dir: output of prepare.py, or the folder of the shards itself.
    name: in SeqIO's registry; None makes one of the folder and the settings.
    spec: token layout.
    crops: how to crop.
    style: what stands for the style of a clip.
    files: shards by split, in place of `data_dir`: for records without metadata.

  Raises:
    ValueError: no finished records there, or the name is taken by other settings.
  """
  steps = [
    seqio.CacheDatasetPlaceholder(),
    preprocessors.count_epochs,
    preprocessors.random_crops(crops, spec, style),
  ]
  return _register(data_dir, files, name, 'live_music', spec, steps, 1, crops, style)


def live_music_eval_task(
  data_dir: str | os.PathLike | None = None,
  *,
  name: str | None = None,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
  crops_per_clip: int = CROPS_PER_CLIP,
  files: Mapping[str, Sequence[str]] | None = None,
) -> str:
  """Registers the evaluation task: fixed, evenly spaced crops of each clip, nothing dropped.

  Args and errors are those of `live_music_task`; `crops_per_clip` examples come from each clip that
  has so many different places for them, fewer from a short one.
  """
  if crops_per_clip < 1:
    raise ValueError(f'crops_per_clip={crops_per_clip} must be at least 1.')
  steps = [
    seqio.CacheDatasetPlaceholder(),
    preprocessors.count_epochs,
    preprocessors.fixed_crops(crops_per_clip, spec),
  ]
  return _register(data_dir, files, name, 'live_music_eval', spec, steps, crops_per_clip, None)


def magenta_rt_v1_task(
  files: Mapping[str, Sequence[str]], *, name: str, spec: LiveMusicSpec = MAGENTA_RT_V1
) -> str:
  """Registers a task equal to Magenta RT v1's fine-tuning task, draws included.

  It crops before the cache placeholder, so that a clip gives the same crop in every epoch; it is
  here to compare with v1, not to train with.
  """
  if name not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
      name,
      source=seqio.TFExampleDataSource(
        split_to_filepattern={split: list(paths) for split, paths in files.items()},
        feature_description={
          feature: tf.io.FixedLenFeature([], tf.string)
          for feature in ('acoustic_tokens', 'style_tokens')
        },
      ),
      preprocessors=[
        preprocessors.construct_v1_example(spec),
        seqio.CacheDatasetPlaceholder(),
        preprocessors.drop_v1_style(spec),
      ],
      output_features=output_features(spec),
    )
  return name


def output_features(spec: LiveMusicSpec) -> dict[str, seqio.Feature]:
  """SeqIO features of inputs and targets: ids as they are, no end mark."""
  feature = seqio.Feature(
    vocabulary=seqio.PassThroughVocabulary(size=spec.vocab_size), add_eos=False, dtype=tf.int32
  )
  return {'inputs': feature, 'targets': feature}


def _register(
  data_dir, files, name, prefix, spec, steps, examples_per_record, crops, style=None
) -> str:
  if (data_dir is None) == (files is None):
    raise ValueError('Give either data_dir or files.')
  if files is None:
    folder = TokenFolder(source.find_token_folder(data_dir).resolve())
    place, content = str(folder.path), folder.fingerprint
    embeddings = style is not None and style.needs_embeddings
    open_source = functools.partial(
      source.TokenRecordSource.of_folder, folder, spec, embeddings=embeddings
    )
  else:
    place, content = repr(sorted((split, tuple(paths)) for split, paths in files.items())), ''
    open_source = functools.partial(source.TokenRecordSource, dict(files), spec=spec)
  settings = (place, spec, examples_per_record, crops, style.identity if style else None)
  name = name or f'{prefix}_{hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}'
  known = _INFOS.get(name)
  if known is not None:
    if known.settings != settings:
      raise ValueError(f'Task {name!r} is registered with other settings; choose another name.')
    if known.content == content:
      return name
    seqio.TaskRegistry.remove(name)  # The data set was made anew in the same folder.
  seqio.TaskRegistry.add(
    name,
    source=open_source(),
    preprocessors=steps,
    output_features=output_features(spec),
    # T5X and SeqIO evaluate tasks that have metrics.
    metric_fns=[metrics.log_likelihood] if crops is None else [],
  )
  _INFOS[name] = TaskInfo(name, spec, examples_per_record, settings, content)
  return name

