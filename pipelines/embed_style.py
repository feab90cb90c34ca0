"""Writes a catalog's style embeddings as one Parquet table, for other tools."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from models import folder_lock
from models.musiccoca import MusicCoCa
from pipelines.style_clips import find_tracks, whole_windows
from preprocessing import outputs
from preprocessing.captions import whole_caption

EMBEDDINGS_FILE = 'embeddings.parquet'
_BLOCK = 64  # Windows of one row group.


def run(
  *,
  mode: str,
  evaluate: Callable[..., Any],
  embed: Callable[..., Any],
  operative_config: Callable[[], str] | None = None,
) -> Any:
  """Calls what `mode` names: 'eval' or 'embed'.

  Raises:
    ValueError: another mode.
  """
  if mode == 'eval':
    return evaluate(operative_config=operative_config)
  if mode == 'embed':
    return embed()
  raise ValueError(f"MODE={mode!r} is neither 'eval' nor 'embed'.")


def embed_catalog(
  style_model: str, data_dir: str, output_dir: str, split: str | None = None
) -> pathlib.Path:
  """Writes `output_dir`/embeddings.parquet, a row for each window of each track.

  Columns: track, work, caption, genre, start_secs; embedding (list of style_dim float32, not
  normalised), tokens (list of style_rvq_levels int32). The table's metadata names the style model
  by its hash.

  Args:
    style_model: a bundled or released name, or a file.
    data_dir: a manifest, a folder with one, or a demo corpus.
    output_dir: made if it does not exist.
    split: see `style_clips.find_tracks`.

  Returns:
    The path of the table.

  Raises:
    FileNotFoundError: the model or the data are not there.
    ValueError: no track can be read.
  """
  outputs.check_folder(output_dir)
  model = MusicCoCa.load(style_model)
  tracks, _ = find_tracks(data_dir, split)
  folder = pathlib.Path(output_dir)
  with folder_lock.locked(folder, 'embed'):
    return _write_table(model, style_model, tracks, data_dir, folder / EMBEDDINGS_FILE)


def _write_table(
  model: MusicCoCa, style_model: str, tracks: list[Any], data_dir: str, path: pathlib.Path
) -> pathlib.Path:
  import pyarrow as pa
  import pyarrow.parquet as pq

  spec, problems, number = model.spec, [], 0
  schema = pa.schema(
    [
      ('track', pa.string()), ('work', pa.string()), ('caption', pa.string()),
      ('genre', pa.string()), ('start_secs', pa.float32()),
      ('embedding', pa.list_(pa.float32(), spec.style_dim)),
      ('tokens', pa.list_(pa.int32(), spec.style_rvq_levels)),
    ],
    metadata={'style_model': str(style_model), 'style_hash': model.content_hash},
  )  # fmt: skip

  with outputs.whole_file(path) as partial, pq.ParquetWriter(partial, schema) as writer:
    waiting: list[tuple[Any, float, np.ndarray]] = []

    def flush() -> None:
      embeddings = model.embed_clips(np.stack([window for *_, window in waiting]))
      codes = model.tokenize(embeddings)
      rows = [
        {
          'track': track.path, 'work': track.work or track.path,
          'caption': whole_caption(track.facts),
          'genre': track.facts.styles[0] if track.facts.styles else '', 'start_secs': start,
          'embedding': embedding, 'tokens': code,
        }
        for (track, start, _), embedding, code in zip(waiting, embeddings, codes, strict=True)
      ]  # fmt: skip
      writer.write_table(pa.Table.from_pylist(rows, schema=schema))
      waiting.clear()

    for item in tqdm(whole_windows(tracks, spec, problems), desc='embeddings', unit='window'):
      waiting.append(item)
      number += 1
      if len(waiting) == _BLOCK:
        flush()
    if waiting:
      flush()
    if not number:
      for problem in problems:
        print(f'Left out: {problem["what"]}: {problem["why"]}')
      raise ValueError(f'None of {len(tracks)} tracks of {data_dir} can be read.')
  for problem in problems:
    print(f'Left out: {problem["what"]}: {problem["why"]}')
  print(f'{path}: {number} windows of {len(tracks) - len(problems)} tracks.')
  return path
