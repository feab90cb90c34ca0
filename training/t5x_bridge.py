"""T5X's side of the language model: its model, its batches, and what its runs leave behind.

For `python -m t5x.train` and gin/t5x/*.gin. T5X is not on PyPI; docs/t5x.md says how it is
installed. Nothing else imports this module.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from flax.linen import partitioning as flax_partitioning
from t5x import checkpoints, gin_utils
from t5x import models as t5x_models

from models import weights
from models.depthformer import DepthformerModel, from_v1, to_v1, v1_axes
from training import feed, orbax_paths, t5x_layouts

Batch = Mapping[str, jax.Array]
Metrics = dict[str, clu_metrics.Metric]


class T5XDepthformer(t5x_models.BaseModel):
  """A Depthformer as T5X trains it.

  T5X sees Magenta RealTime v1's parameters, one array per layer, with their logical axes. They are
  stacked inside each step, so T5X's own Adafactor, partitioner and checkpoints are v1's, unchanged.
  """

  FEATURE_CONVERTER_CLS = t5x_models.EncoderDecoderModel.FEATURE_CONVERTER_CLS

  def __init__(
    self,
    model: DepthformerModel,
    optimizer_def: Any,
    *,
    temperature: float = 1.1,
    top_k: int = 40,
    guidance_weight: float = 4.0,
    constrain_levels: bool = True,
  ):
    """Wraps `model`; the options after the optimizer are those of `DepthformerModel.generate`."""
    super().__init__(optimizer_def=optimizer_def)
    self.model = model
    self._decoding = dict(
      temperature=temperature,
      top_k=top_k,
      guidance_weight=guidance_weight,
      constrain_levels=constrain_levels,
    )

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, Any],
    input_types: Mapping[str, Any] | None = None,
  ) -> flax.core.FrozenDict:
    """Initial parameters under 'params' and their axis names under 'params_axes', as v1 has them.

    Raises:
      ValueError: the inputs or targets are not as long as the model's.
    """
    del input_types
    config, spec = self.model.config, self.model.spec
    lengths = {
      'encoder_input_tokens': spec.inputs_length,
      'decoder_target_tokens': spec.targets_length,
    }
    for name, length in lengths.items():
      if name in input_shapes and input_shapes[name][-1] != length:
        raise ValueError(
          f'{name} is {input_shapes[name][-1]} tokens long, this model takes {length}: set '
          f"TASK_FEATURE_LENGTHS = {{'inputs': {spec.inputs_length}, 'targets': "
          f'{spec.targets_length}}}.'
        )
    axes = {
      f'{name}_axes': flax_partitioning.AxisMetadata(names)
      for name, names in v1_axes(config, spec).items()
    }
    return flax.core.freeze({
      'params': weights.unflatten(to_v1(self.model.init(rng), config, spec)),
      'params_axes': weights.unflatten(axes),
    })  # fmt: skip

  def loss_fn(
    self, params: Any, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """Summed loss of a batch in nats, and T5X's metrics with those of each RVQ level beside them.

    Args:
      params: v1's tree.
      batch: see `DepthformerModel.loss_fn`.
      dropout_rng: None turns dropout off.
    """
    loss, sums = self.model.loss_fn(self._stacked(params), batch, dropout_rng)
    return loss, _metrics(loss, sums, batch)

  def predict_batch_with_aux(
    self, params: Any, batch: Batch, rng: jax.Array | None = None, **options: Any
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generates the chunk after each row's context.

    Args:
      params: v1's tree.
      batch: 'encoder_input_tokens' int32 [B, inputs_length].
      rng: key of the draws; not needed at temperature 0.
      **options: of `DepthformerModel.generate`, in place of the model's own.

    Returns:
      Ids int32 [B, targets_length], and 'scores' float32 [B]: the log-probability of the draws.
    """
    ids, scores = self.model.generate(
      self._stacked(params),
      batch['encoder_input_tokens'],
      rng=rng,
      return_scores=True,
      **(self._decoding | options),
    )
    return ids.reshape(len(ids), -1), {'scores': scores}

  def score_batch(
    self, params: Any, batch: Batch, return_intermediates: bool = False
  ) -> jax.Array | tuple[jax.Array, dict[str, Any]]:
    """log p of each row's targets in nats, float32 [B], over what the loss is over.

    With `return_intermediates` also {'token_log_probs': (float32 [B, targets_length],)}.
    """
    log_probs = self.model.token_log_probs(
      self._stacked(params),
      batch['encoder_input_tokens'],
      batch['decoder_target_tokens'],
      over=self.model.config.loss_over,
    )
    scores = jnp.sum(log_probs, axis=-1)
    return (scores, {'token_log_probs': (log_probs,)}) if return_intermediates else scores

  def _stacked(self, params: Any) -> dict[str, Any]:
    flat = weights.flatten(flax.core.unfreeze(params))
    return from_v1(flat, self.model.config, self.model.spec)


def _metrics(loss: jax.Array, sums: Mapping[str, jax.Array], batch: Batch) -> Metrics:
  """The sums of `DepthformerModel.loss_fn` under T5X's tags, and loss and accuracy per level."""
  targets = batch['decoder_target_tokens']
  present = {name: batch[f'{name}_segment_ids'] for name in ('encoder', 'decoder')
             if f'{name}_segment_ids' in batch}  # fmt: skip
  tokens = ('encoder_input_tokens', 'decoder_target_tokens')
  metrics = t5x_models.compute_base_metrics(
    logits=jnp.zeros([*targets.shape, 1]),  # Only for an accuracy, which is replaced.
    targets=targets,
    mask=batch.get('decoder_loss_weights', targets != 0).astype(jnp.float32),
    loss=loss,
    z_loss=sums['z_loss'],
    segment_ids=present or {name: batch[name] != 0 for name in tokens},
  )
  metrics['accuracy'] = clu_metrics.Average(total=sums['correct'], count=sums['weight_sum'])
  for name, tag in (('loss', 'loss'), ('correct', 'accuracy')):
    for level, total in enumerate(sums[f'level_{name}']):
      metrics[f'{tag}/level_{level:02d}'] = clu_metrics.Average(
        total=total, count=sums['level_weight'][level]
      )
  return metrics


def get_dataset(
  cfg: Any,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Any,
  num_epochs: int | None = None,
  continue_from_last_checkpoint: bool = False,
  *,
  model_dir: str | None = None,
  initial_checkpoint_path: str | None = None,
) -> Any:
  """T5X's training batches, the same that train.py reads: batch s holds examples [s B, (s + 1) B).

  The first batch is that of the step at which T5X will go on, so a restart neither repeats nor
  leaves out an example, without a state of the data in the checkpoint.

  Args:
    cfg: T5X's `DatasetConfig`, of a live music task. What it says of shuffling, packing and
      converting has no use here.
    shard_id: of this host.
    num_shards: hosts that read different examples.
    feature_converter_cls: not used.
    num_epochs: None never ends.
    continue_from_last_checkpoint: not used; `model_dir` decides.
    model_dir: where the run lives.
    initial_checkpoint_path: where it starts while `model_dir` holds no checkpoint.

  Returns:
    A tf.data.Dataset of 'encoder_input_tokens' and 'decoder_target_tokens'.

  Raises:
    ValueError: there is no seed, a cached task is asked for, or T5X cannot save to `model_dir`.
  """
  del feature_converter_cls, continue_from_last_checkpoint
  orbax_paths.check_for_t5x(model_dir)
  if cfg.seed is None:
    raise ValueError('seed=None: the examples of a step depend on it; set RANDOM_SEED to a number.')
  if cfg.use_cached:
    raise ValueError(
      'USE_CACHED_TASKS=True: token records are read as they are. For a SeqIO cache, which T5X '
      'reads in an order of its own, bind train_script.train.get_dataset_fn = @utils.get_dataset.'
    )
  return feed.token_dataset(
    cfg.mixture_or_task_name,
    cfg.split,
    cfg.batch_size,
    seed=cfg.seed,
    start_step=_start_step(model_dir, initial_checkpoint_path),
    host=shard_id,
    num_hosts=num_shards,
    num_epochs=num_epochs,
  )


def _start_step(model_dir: str | None, initial_checkpoint_path: str | None) -> int:
  """The step from which T5X goes on, by its own precedence."""
  step = checkpoints.latest_step(model_dir) if model_dir else None
  if step is not None or not initial_checkpoint_path:
    return step or 0
  if match := re.search(r'checkpoint_(\d+)/*$', str(initial_checkpoint_path)):
    return int(match[1])
  stored = t5x_layouts.open_state(initial_checkpoint_path)
  return int(stored.read([t5x_layouts.STEP])[t5x_layouts.STEP])


def write_run_files(
  model_dir: str,
  summary_writer: Any,
  step: int,
  *,
  describe: Callable[[str], Any] | None = None,
):
  """T5X calls this when a run is built: config.gin as T5X writes it, then `describe(model_dir)`."""
  orbax_paths.check_for_t5x(model_dir)
  gin_utils.summarize_gin_config(model_dir, summary_writer, step)
  if describe is not None and jax.process_index() == 0:
    describe(model_dir)
