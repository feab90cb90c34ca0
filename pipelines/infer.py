"""What a language model makes of held-out examples: generated tokens, or scores, as JSON lines."""

import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from inference import SamplingOptions
from inference.sampling import check_seed
from models import folder_lock, folder_marker, tokens
from models.bundle import Bundle, check_tokens
from models.spec import LiveMusicSpec
from pipelines.checkpoint_sources import load_source
from pipelines.runs import held_out_token_feed, token_identity
from preprocessing import files, outputs

MODES = ('predict', 'score')
_TASK_NAME = 'held_out'
_INPUTS, _TARGETS = 'encoder_input_tokens', 'decoder_target_tokens'
Rows = dict[str, np.ndarray]


def infer(
  checkpoint_path: str,
  data_dir: str,
  output_dir: str,
  *,
  mode: str = 'predict',
  split: str = 'validation',
  batch_size: int = 8,
  num_examples: int | None = None,
  shard_id: int = 0,
  num_shards: int = 1,
  write_audio: bool = False,
  sampling: SamplingOptions | None = None,
  seed: int = 0,
  operative_config: Callable[[], str] | None = None,
) -> pathlib.Path:
  """Writes `output_dir`/held_out-<mode>.jsonl-<shard>-of-<shards>, one line an example.

  The examples are those of a run's evaluation: fixed crops of each record of the split, in the
  order of the records. 'predict' generates what follows the context, 'score' gives the
  log-probability of what did follow. Started again it goes on behind the last whole batch, with the
  same draws; a file that is complete stays as it is.

  Args:
    checkpoint_path: see `checkpoint_sources.load_source`.
    data_dir: prepare.py's output, made with the model's codec and style model.
    output_dir: made if it does not exist.
    mode: 'predict' or 'score'.
    split: of the data.
    batch_size: examples at a time.
    num_examples: of all shards together; None for all.
    shard_id: which part of the examples: those with number % num_shards == shard_id.
    num_shards: parts that are made apart, such as on several machines.
    write_audio: of 'predict': also write held_out-predict-audio/<number>.wav.
    sampling: of 'predict'; None for the defaults of live use.
    seed: of 'predict'; draws also depend on `batch_size` and `num_shards`.
    operative_config: gives the gin text to keep beside the output.

  Raises:
    FileNotFoundError: a model or the data are not there.
    ValueError: an argument is out of range, or the data holds other tokens than the model's.
  """
  if mode not in MODES:
    raise ValueError(f'mode={mode!r} is neither of {", ".join(MODES)}.')
  if not 0 <= shard_id < num_shards:
    raise ValueError(f'shard_id={shard_id} is not in 0..{num_shards - 1} (num_shards).')
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size} must be at least 1.')
  check_seed(seed)
  folder = pathlib.Path(files.absolute(output_dir))
  outputs.check_folder(folder)
  bundle = load_source(checkpoint_path).bundle
  _check_identity(bundle, token_identity(data_dir))
  part = f'{shard_id:05}-of-{num_shards:05}'
  with folder_lock.locked(folder, 'infer', part):
    if operative_config is not None and shard_id == 0:
      (folder / 'config.gin').write_text(operative_config(), encoding='utf-8')
    output = folder / f'{_TASK_NAME}-{mode}.jsonl-{part}'
    if output.exists():
      print(f'{output} is complete; delete it to make it anew.')
      return output
    examples = _examples(data_dir, bundle.spec, split, batch_size, num_examples)
    own = (example for example in examples if example[0] % num_shards == shard_id)
    write = None
    if mode == 'score':
      work = Scoring(bundle)
    else:
      write = _audio_writer(bundle, folder / f'{_TASK_NAME}-{mode}-audio') if write_audio else None
      work = Prediction(bundle, sampling or SamplingOptions(), seed)
    number = _write_lines(output, own, batch_size, work, write)
    print(f'{output}: {number} examples.')
    return output


class Prediction:
  """Generates the chunk that follows each example's context."""

  def __init__(self, bundle: Bundle, sampling: SamplingOptions, seed: int):
    self._bundle, self._sampling, self._seed = bundle, sampling, seed

  def __call__(self, batch: int, rows: Rows) -> list[dict[str, Any]]:
    """Codes [chunk_frames, target_levels] as nested lists: the prediction and what was there."""
    spec, sampling = self._bundle.spec, self._sampling
    ids = self._bundle.model.generate(
      self._bundle.params, rows[_INPUTS], rng=jax.random.fold_in(jax.random.key(self._seed), batch),
      temperature=sampling.temperature, top_k=sampling.top_k,
      guidance_weight=sampling.guidance_weight,
    )  # fmt: skip
    predicted = tokens.codec_codes(np.asarray(ids), spec)
    targets = rows[_TARGETS].reshape(predicted.shape)
    return [
      {'prediction': codes.tolist(), 'targets': tokens.codec_codes(target, spec).tolist()}
      for codes, target in zip(predicted, targets, strict=True)
    ]


class Scoring:
  """Log-probabilities of each example's targets, in nats, normalised as the model's loss is."""

  def __init__(self, bundle: Bundle):
    self._bundle, model = bundle, bundle.model

    def scores(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
      return model.token_log_probs(params, inputs, targets, over=model.config.loss_over)

    self._scores = jax.jit(scores)

  def __call__(self, batch: int, rows: Rows) -> list[dict[str, Any]]:
    """'score' (the sum, as in T5X), 'num_tokens', and the mean of each RVQ level."""
    spec = self._bundle.spec
    scores = np.asarray(self._scores(self._bundle.params, rows[_INPUTS], rows[_TARGETS]))
    return [
      {
        'score': float(row.sum(dtype=np.float64)),
        'num_tokens': row.size,
        'score_by_level': row.reshape(-1, spec.target_levels).mean(0, dtype=np.float64).tolist(),
      }
      for row in scores
    ]


def _check_identity(bundle: Bundle, identity: dict[str, str]):
  """Refuses tokens that the model does not speak; see `bundle.check_tokens`."""

  class Known:
    def __init__(self, kind: str):
      self.content_hash = identity[f'{kind}_hash']

  check_tokens(bundle, Known('codec'), Known('style'))


def _examples(
  data_dir: str, spec: LiveMusicSpec, split: str, batch_size: int, number: int | None
) -> Iterator[tuple[int, Rows]]:
  """(number, example) in the order of the split; rows that only fill a batch up are left out."""
  feed = held_out_token_feed(data_dir, batch_size=batch_size, split=split, spec=spec)
  rows = (
    {name: column[i] for name, column in batch.items()}
    for batch in feed.batches(0)
    for i in range(batch_size)
  )
  return itertools.islice(enumerate(row for row in rows if row['index'] >= 0), number)


def _write_lines(
  output: pathlib.Path,
  examples: Iterator[tuple[int, Rows]],
  batch_size: int,
  work: Callable[[int, Rows], list[dict[str, Any]]],
  write_audio: Callable[[int, list[Any]], None] | None,
) -> int:
  """Writes to a .partial file, from where an earlier try stopped; renames it; returns the lines."""
  partial = output.with_name(f'{output.name}.partial')
  done = _whole_batches(partial, batch_size)
  batches = iter(lambda: list(itertools.islice(examples, batch_size)), [])
  number = done * batch_size
  with (
    open(partial, 'a', encoding='utf-8') as file,
    tqdm(initial=number, desc=output.name.split('.')[0], unit='example') as bar,
  ):
    for index, batch in enumerate(batches):
      if index < done:
        continue
      filled = batch + [batch[-1]] * (batch_size - len(batch))
      rows = {name: np.stack([row[name] for _, row in filled]) for name in (_INPUTS, _TARGETS)}
      lines = work(index, rows)[: len(batch)]
      for (example, row), line in zip(batch, lines, strict=True):
        if write_audio is not None:
          write_audio(example, line['prediction'])
        # 'index' is that of record and crop; 'number' counts the examples of all shards.
        head = {'number': example, 'index': int(row['index'])}
        file.write(json.dumps(head | line) + '\n')
      file.flush()
      number += len(batch)
      bar.update(len(batch))
  partial.replace(output)
  return number


def _whole_batches(partial: pathlib.Path, batch_size: int) -> int:
  """Batches that `partial` holds in full; what is behind them is cut off."""
  if not partial.exists():
    return 0
  lines = partial.read_text(encoding='utf-8').splitlines(keepends=True)
  whole = [line for line in lines if line.endswith('\n')]
  done = len(whole) // batch_size
  partial.write_text(''.join(whole[: done * batch_size]), encoding='utf-8')
  return done


def _audio_writer(bundle: Bundle, folder: pathlib.Path) -> Callable[[int, list[Any]], None]:
  from models.spectrostream import SpectroStream
  from preprocessing.audio import write_audio

  codec = SpectroStream.load(bundle.codec_name)
  folder_marker.mark(folder, 'infer')

  def write(number: int, codes: list[Any]):
    audio = np.asarray(codec.decode(np.asarray(codes, np.int32)), np.float32)
    with outputs.whole_file(folder / f'{number:06}.wav') as partial:
      write_audio(partial, np.clip(audio, -1, 1), bundle.spec.sample_rate)

  return write
