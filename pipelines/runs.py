"""What `train.py` runs: a model, a feed and an optimizer, put together as gin says."""

import dataclasses
import functools
import inspect
import itertools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from inference.sampling import check_seed
from models import folder_marker, record_shards
from models.adapted import AdaptedModel
from models.depthformer import DepthformerModel
from models.record_shards import NoSplitError, TokenDataError, TokenFolder, find_token_folder
from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from pipelines import initial_params
from pipelines.checkpoint_sources import MODEL_FILE, checkpoint_identity, write_model_file
from pipelines.device_peak import run_efficiency
from pipelines.precompile import StepOptions, compile_step, describe_memory
from training import hosts, loop
from training.best import KeepBest
from training.checkpoints import saved_steps
from training.data_state import check_same_data
from training.feed import MixedFeed, TokenFeed
from training.metrics import sum_metrics, summarize
from training.partitioning import Partitioning, PjitPartitioner
from training.prefetch import feed_batches
from training.profiling import ProfileWindow
from training.state import TrainState, flat_names
from training.wrappers import averaged_params

LANGUAGE_MODELS = (DepthformerModel, AdaptedModel)
MODEL_INFO_FILE = 'model-info.txt'
Optimizer = optax.GradientTransformation


def train(
  *,
  model_dir: str,
  trainable: Any,
  feed: Any,
  optimizer: Optimizer | Callable[..., Optimizer],
  total_steps: int,
  seed: int = 42,
  initial_checkpoint_path: str | None = None,
  restore_optimizer: bool = False,
  codebook_start: bool = False,
  start_params: Callable[[], Any] | None = None,
  log_period: int = 50,
  checkpoint_period: int = 1000,
  keep_checkpoints: int = 5,
  keep_best: KeepBest | None = None,
  eval_period: int = 0,
  eval_at_start: bool = False,
  evaluators: Sequence['HeldOutLoss'] = (),
  num_microbatches: int = 1,
  max_skipped_steps: int = 0,
  time_budget_secs: float | None = None,
  tensorboard: bool = True,
  finish: Callable[[TrainState, Any, str], None] | None = None,
  partitioner: PjitPartitioner | None = None,
  profile_steps: str | None = None,
  dry_run: bool = False,
  precompile: bool = False,
  on_start: Callable[[], Any] | None = None,
  allow_other_data: bool = False,
) -> TrainState | None:
  """Trains `trainable` on `feed`, into `model_dir`; started again it goes on.

  Precedence at the start: the newest checkpoint in `model_dir`, `initial_checkpoint_path`, initial
  values.

  Args:
    model_dir: see `training.loop.train`, like all that is not named here.
    trainable: the model.
    feed: the batches.
    optimizer: one, or a function that makes one; where it takes `stacked`, it is told which
      parameters hold stacked layers.
    total_steps: steps of the whole run.
    seed: of initial values and dropout; 0 to 2**32 - 1.
    initial_checkpoint_path: see `checkpoint_sources.load_source`. Its parameters are taken; the
      step counts from 0.
    restore_optimizer: take the optimizer's statistics from there, too, and with them the number of
      updates by which the learning-rate schedule goes on.
    codebook_start: of a language model that starts from no checkpoint: embeddings and output layer
      start from the codebooks of the data's codec and style model.
    start_params: gives the parameters of a new run, for a start that only its kind of model knows;
      then nothing is read from `initial_checkpoint_path`.
    log_period: steps between lines of metrics.
    checkpoint_period: steps between checkpoints.
    keep_checkpoints: how many of the newest stay.
    keep_best: which ones stay besides.
    eval_period: steps between evaluations; 0 for none.
    eval_at_start: evaluate before the first step, too.
    evaluators: each has a `name`, the stream that it writes.
    num_microbatches: parts of a batch whose gradients are added up.
    max_skipped_steps: steps in a row that may be skipped because they are not finite.
    time_budget_secs: stop cleanly after so long.
    tensorboard: write events beside metrics.jsonl.
    finish: called with the last state, the trainable and `model_dir` once `total_steps` are made or
      the time is up; of several processes, in the first.
    partitioner: how models and batches are shared by the devices; None shares the batches.
    profile_steps: 'FIRST:LAST', steps whose trace is written to MODEL_DIR/profile/.
    dry_run: print the model, the first example and the memory needed, and train nothing.
    precompile: compile the step, print what XLA says of its memory, and train nothing.
    on_start: called when everything is built.
    allow_other_data: go on with other data than the newest checkpoint was trained on.

  Raises:
    TokenDataError: the data, or what evaluators hold out, is not there, empty or damaged.
    ValueError: a number is out of range, or see `training.loop.train`.
  """
  check_seed(seed, 'RANDOM_SEED')
  profile = ProfileWindow.parse(model_dir, profile_steps) if profile_steps else None
  loop.check_numbers(
    total_steps=(total_steps, 0), log_period=(log_period, 1), eval_period=(eval_period, 0),
    checkpoint_period=(checkpoint_period, 1), num_microbatches=(num_microbatches, 1),
    max_skipped_steps=(max_skipped_steps, 0),
  )  # fmt: skip
  _check_data(feed, evaluators if eval_period else ())
  partitioning = (partitioner or PjitPartitioner()).fit(getattr(feed, 'batch_size', None))
  info = parameter_table(trainable, partitioning)
  optimizer, first = make_optimizer(optimizer, trainable), hosts.is_first()
  step_options = StepOptions(num_microbatches, max_skipped_steps > 0)
  if dry_run or precompile:
    print(info)
    if dry_run:
      batch = next(feed_batches(feed, 0))
      spec = trainable.spec if isinstance(trainable, LANGUAGE_MODELS) else MAGENTA_RT_V1
      print(describe_batch(batch, spec))
      print(describe_memory(trainable, optimizer, batch, partitioning, partitioner, step_options))
    if on_start:
      on_start()
    if precompile:
      print(compile_step(trainable, feed, optimizer, partitioning, step_options))
    return None
  folder = pathlib.Path(model_dir)
  folder_marker.mark(folder, 'run')
  identity = getattr(feed, 'identity', None)
  if first:
    (folder / MODEL_INFO_FILE).write_text(info, encoding='utf-8')
  if first and isinstance(trainable, LANGUAGE_MODELS) and identity:
    write_model_file(folder, trainable, **identity)
  start = None
  if not saved_steps(folder):
    if start_params is not None:
      start = start_params()
    elif initial_checkpoint_path:
      start = initial_params.read(initial_checkpoint_path, identity)
      if isinstance(trainable, AdaptedModel):
        start = trainable.start_from(start, jax.random.key(seed))
    elif codebook_start:
      start = initial_params.from_codebooks(trainable, identity, seed, feed)
  if on_start and first:
    on_start()
  for evaluator in evaluators:
    if hasattr(evaluator, 'use'):
      evaluator.use(partitioning)
  optimizer_start = None
  if restore_optimizer and start is not None:
    optimizer_start = functools.partial(
      initial_params.optimizer_state, initial_checkpoint_path, trainable
    )
  if first and initial_checkpoint_path:
    print(_start_of_schedule(optimizer, initial_checkpoint_path, restore_optimizer), flush=True)
  efficiency = run_efficiency(trainable, getattr(feed, 'batch_size', None), partitioning)
  if first and efficiency.peak:
    print(f'{folder}: {efficiency}.', flush=True)
  began = time.monotonic()
  state = loop.train(
    trainable,
    feed,
    model_dir=folder,
    total_steps=total_steps,
    optimizer=optimizer,
    seed=seed,
    log_period=log_period,
    checkpoint_period=checkpoint_period,
    keep_checkpoints=keep_checkpoints,
    keep_best=keep_best,
    eval_period=eval_period,
    eval_at_start=eval_at_start,
    evaluators={evaluator.name: evaluator for evaluator in evaluators},
    initial_params=start,
    initial_optimizer_state=optimizer_start,
    num_microbatches=num_microbatches,
    max_skipped_steps=max_skipped_steps,
    time_budget_secs=time_budget_secs,
    tensorboard=tensorboard,
    partitioning=partitioning,
    profile=profile,
    derive=efficiency,
    allow_other_data=allow_other_data,
  )
  # Not after a signal: whoever sent it wants the process gone, and will start the run again.
  time_is_up = time_budget_secs is not None and time.monotonic() - began >= time_budget_secs
  if finish is not None:
    whole = state if jax.process_count() == 1 else hosts.to_host(state)
    if first and (whole.step >= total_steps or time_is_up):
      finish(whole, trainable, str(folder))
  return state


def _check_data(feed: Any, evaluators: Sequence[Any]):
  """Looks at what will be read, now and at the first evaluation."""
  if isinstance(feed, PreparedFeed):
    feed.check()
    if hosts.is_first():
      for note in feed.notes:
        print(note, flush=True)
  for evaluator in evaluators:
    if isinstance(evaluator, HeldOutLoss):
      evaluator.check()


def _start_of_schedule(optimizer: Optimizer, path: str, restored: bool) -> str:
  """What the schedule makes of a run that starts from a checkpoint, in words."""
  updates = initial_params.num_updates(path) if restored else 0
  rate = getattr(optimizer, 'learning_rate', None)
  kept = f'kept with its {updates:,} updates' if restored else 'new'
  if rate is None:
    return f'Start from {path}: optimizer {kept}.'
  places = (1, 100, 1000)
  rates = ', '.join(f'{float(rate(updates + place - 1)):.3g}' for place in places)
  return f'Start from {path}: optimizer {kept}; learning rate {rates} at updates 1, 100, 1000.'


def make_optimizer(optimizer: Optimizer | Callable[..., Optimizer], trainable: Any) -> Optimizer:
  """The optimizer itself; a function that takes `stacked` gets `trainable.layer_axes()`."""
  if isinstance(optimizer, optax.GradientTransformation):
    return optimizer
  if 'stacked' in inspect.signature(optimizer).parameters and hasattr(trainable, 'layer_axes'):
    optimizer = functools.partial(optimizer, stacked=trainable.layer_axes())
  return optimizer()


class HeldOutLoss:
  """Evaluator: metrics of the trainable's `loss_fn`, without dropout, over the same batches."""

  def __init__(
    self, trainable: Any, feed: Any, num_batches: int = 20, name: str = 'training_eval/held_out'
  ):
    """Keeps the first `num_batches` batches of `feed` in memory, once asked; see `metrics`."""
    self.name = name
    self._trainable, self._feed, self._num_batches = trainable, feed, num_batches
    self._batches: list[dict[str, Any]] | None = None
    self._partitioning: Partitioning | None = None
    self._metrics = jax.jit(self._metrics_of)

  def check(self):
    """Checks the held-out split before the first step.

    Raises:
      TokenDataError: it is not there, empty or damaged; names the way out.
    """
    if not isinstance(self._feed, TokenFeed):
      return
    try:
      self._feed.check()
    except TokenDataError as error:
      raise TokenDataError(
        f'{self.name} cannot be evaluated: {error}',
        'Prepare the corpus with a larger --validation_fraction or --min_held_out, or train '
        'without evaluation: --gin.EVAL_PERIOD=0.' if isinstance(error, NoSplitError) else '',
      ) from error

  def use(self, partitioning: Partitioning):
    """Shares the batches among the devices of a run."""
    if not partitioning.trivial:
      self._partitioning, self._batches = partitioning, None
      self._metrics = partitioning.jit(self._metrics_of, out_shardings=partitioning.replicated)

  def _metrics_of(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return self._trainable.loss_fn(params, batch, None)[1]

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """(name, value) over all batches, such as ('loss/level_00', 5.3)."""
    if self._batches is None:
      self._batches = list(itertools.islice(feed_batches(self._feed, 0), self._num_batches))
      if not self._batches:
        raise ValueError(f'{self.name} has no example to evaluate.')
      if self._partitioning:
        # Every process has read all rows.
        place = self._partitioning.placer(shared=False)
        self._batches = [place(batch) for batch in self._batches]
    params = averaged_params(state)
    summed = sum_metrics([
      jax.device_get(self._metrics(params, batch)) for batch in self._batches
    ])  # fmt: skip
    return summarize(self._trainable, summed).items()


@dataclasses.dataclass(frozen=True)
class PreparedFeed:
  """A feed of tokens that also tells where they come from.

  Attributes:
    feed: gives the batches.
    identity: names and hashes of the codec and the style model.
    content: of each data set, its fingerprint and what it is in words; see `training.data_state`.
    notes: lines about the data to print.
  """

  feed: TokenFeed | MixedFeed
  identity: dict[str, str]
  content: tuple[dict[str, str], ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def batch_size(self) -> int:
    return self.feed.batch_size

  def check(self):
    """Checks the data; see `TokenFeed.check`."""
    self.feed.check()

  def batches(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    return self.feed.batches(start)

  def shard(self, index: int, count: int) -> 'PreparedFeed':
    return dataclasses.replace(self, feed=self.feed.shard(index, count))


def token_feed(
  data_dir: str,
  *,
  batch_size: int,
  split: str = 'train',
  mixture_or_task_name: str | None = None,
  task_feature_lengths: dict[str, int] | None = None,
  seed: int = 42,
  context_dropout: float = 0.0,
  crops: Any | None = None,
  style: Any | None = None,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> PreparedFeed:
  """Training batches of what prepare.py wrote: each epoch crops every clip anew.

  Args:
    data_dir: output of prepare.py.
    batch_size: examples in a step.
    split: of the data.
    mixture_or_task_name: the name to register the task under.
    task_feature_lengths: {'inputs': 1006, 'targets': 800} or None; nothing else fits the model.
    seed: of crops, order and dropped styles.
    context_dropout: share of the examples without a context, so that the style alone says what to
      play; for `crops` of None.
    crops: `tasks.crops.CropOptions`.
    style: `tasks.styles.StyleOptions`.
    spec: token layout.

  Raises:
    ValueError: no finished records in `data_dir`, or other lengths.
  """
  lengths = {'inputs': spec.inputs_length, 'targets': spec.targets_length}
  if task_feature_lengths not in (None, lengths):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS={task_feature_lengths}: a live music example has {lengths}, neither '
      'cut nor padded.'
    )
  from tasks import registry
  from tasks.crops import CropOptions

  crops = crops or CropOptions(context_dropout=context_dropout)
  given = {'crops': crops, 'style': style}
  options = {key: value for key, value in given.items() if value is not None}
  task = registry.live_music_task(data_dir, name=mixture_or_task_name, spec=spec, **options)
  folder = TokenFolder(find_token_folder(data_dir))
  return PreparedFeed(
    TokenFeed(task, split, batch_size, seed=seed), token_identity(data_dir),
    (data_content(folder),), tuple(folder.notes()),
  )  # fmt: skip


def data_content(folder: TokenFolder) -> dict[str, str]:
  """Identifies a data set, for checkpoints: 'fingerprint' and, in words, 'about'."""
  counts = ', '.join(f'{folder.num_records(split)} {split}' for split in folder.splits)
  return {'fingerprint': folder.fingerprint, 'about': f'{folder.path} ({counts})'}


def token_identity(data_dir: str) -> dict[str, str]:
  """Names and hashes of the codec and the style model that made the tokens in `data_dir`.

  Raises:
    TokenDataError: no finished records there, or their stats.json does not say.
  """
  folder = TokenFolder(find_token_folder(data_dir))
  (codec, codec_hash), (style, style_hash) = folder.made_by('codec'), folder.made_by('style')
  return {
    'codec_name': codec, 'codec_hash': codec_hash, 'style_name': style, 'style_hash': style_hash
  }


def describe_model(
  model_dir: str,
  *,
  model: DepthformerModel,
  data_dir: str,
  initial_checkpoint_path: str | None = None,
  allow_other_data: bool = False,
) -> pathlib.Path:
  """Writes MODEL_DIR/model.json for a run that another engine trains, and returns its path.

  Args:
    model_dir: where the run lives.
    model: what it trains.
    data_dir: output of prepare.py.
    initial_checkpoint_path: the T5X checkpoint that it starts from.
    allow_other_data: go on although the run in `model_dir` was begun with other data.

  Raises:
    ValueError: the checkpoint was trained on tokens of another codec or style model, or the run on
      other data.
  """
  identity = token_identity(data_dir)
  content = [data_content(TokenFolder(find_token_folder(data_dir)))]
  if told := _data_of_t5x_run(model_dir, content, allow_other_data):
    print(told, flush=True)
  if initial_checkpoint_path:
    initial_params.check_tokens(
      initial_checkpoint_path, checkpoint_identity(initial_checkpoint_path), identity
    )
  return write_model_file(model_dir, model, data=content, **identity)


def _data_of_t5x_run(model_dir: str, content: list[dict[str, str]], allow_other: bool) -> str:
  """Compares the data with that of the run, whose checkpoints say nothing of it."""
  folder = epath.Path(model_dir)  # May be in a bucket.
  if not folder.is_dir() or not any(p.name.startswith('checkpoint_') for p in folder.iterdir()):
    return ''
  described = record_shards.read_json(folder / MODEL_FILE).get('data')
  return check_same_data(str(folder), described, content, allow_other=allow_other)


def held_out_token_feed(
  data_dir: str,
  *,
  batch_size: int,
  split: str = 'validation',
  seed: int = 0,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> TokenFeed:
  """One epoch of fixed crops of a split, for `HeldOutLoss`."""
  from tasks import registry

  task = registry.live_music_eval_task(data_dir, spec=spec)
  return TokenFeed(task, split, batch_size, seed=seed, num_epochs=1)


def parameter_table(trainable: Any, partitioning: Partitioning) -> str:
  """Name, size, shape, logical and mesh axes of every parameter, and the total, as text."""
  tree = jax.eval_shape(trainable.init, jax.random.key(0))
  shapes, specs = flat_names(tree), flat_names(partitioning.param_specs(trainable, tree))
  axes = trainable.logical_axes() if hasattr(trainable, 'logical_axes') else None
  rows = []
  for name, leaf in shapes.items():
    node = axes
    for key in name.split('/') if axes is not None else ():
      node = node[key]
    shape, names = ', '.join(map(str, leaf.shape)), ', '.join(axis or '-' for axis in node or ())
    spec = '' if partitioning.trivial else f'({", ".join(map(str, specs[name]))})'
    rows.append((name, f'{leaf.size:,}', f'({shape})', names, spec))
  widths = [max(len(row[i]) for row in rows) for i in range(4)]
  lines = []
  for name, size, shape, names, spec in rows:
    columns = [f'{name:<{widths[0]}}', f'{size:>{widths[1]}}', f'{shape:<{widths[2]}}']
    lines.append('  '.join([*columns, f'{names:<{widths[3]}}', spec]).rstrip())
  total = sum(leaf.size for leaf in shapes.values())
  ending = '' if partitioning.trivial else f'\nLaid out {partitioning}'
  return '\n'.join([*lines, f'Total number of parameters: {total:,}{ending}']) + '\n'


def describe_batch(batch: dict[str, np.ndarray], spec: LiveMusicSpec = MAGENTA_RT_V1) -> str:
  """The shapes of a batch and its first example; tokens are decoded to RVQ codes by level."""
  lines = [f'{name}: {x.dtype} {x.shape}' for name, x in batch.items()]
  if 'decoder_target_tokens' in batch:
    codes = np.asarray(batch['encoder_input_tokens'][0])
    context, style = codes[: spec.context_length], codes[spec.context_length :]
    masked = int((context.reshape(-1, spec.context_levels)[:, 0] == spec.mask_id).sum())
    offsets = spec.codebook_size * np.arange(spec.target_levels) + spec.codec_offset
    targets = np.asarray(batch['decoder_target_tokens'][0]).reshape(-1, spec.target_levels)
    style_offsets = spec.codebook_size * np.arange(spec.style_levels) + spec.style_offset
    dropped = bool((style == spec.mask_id).all())
    lines += [
      'First example:',
      f'  context: {spec.context_frames} frames, the first {masked} masked',
      f'  style codes: {"masked" if dropped else (style - style_offsets).tolist()}',
      f'  first target frame, codes by level: {(targets[0] - offsets).tolist()}',
      f'  last target frame, codes by level: {(targets[-1] - offsets).tolist()}',
    ]
  else:
    lines += [
      f'First {name}: from {x[0].min():.3f} to {x[0].max():.3f}, rms '
      f'{np.sqrt(np.mean(np.square(x[0], dtype=np.float64))):.3f}'
      for name, x in batch.items()
      if np.issubdtype(x.dtype, np.floating)
    ]
  return '\n'.join(lines)
