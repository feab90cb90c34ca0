"""The memorization gate of a fine-tuning: thresholds before the run, the verdict behind it."""

import json
import pathlib
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import memorization
from evaluation.memorization import Calibration, CatalogIndex, Continuation, GateOptions, Probe
from evaluation.page import Clip, plain
from models.bundle import Bundle
from models.spec import LiveMusicSpec
from preprocessing.records import read_split

CALIBRATION_FILE, VERDICT_FILE = 'calibration.json', 'verdict.json'
NUM_PAIRS = 5


class Gate:
  """Judges models that were tuned on one catalog; its thresholds are kept in `folder`."""

  def __init__(
    self,
    data_dir: str | pathlib.Path,
    spec: LiveMusicSpec,
    folder: pathlib.Path,
    options: GateOptions | None = None,
  ):
    """Reads the catalog's tokens.

    Args:
      data_dir: the prepared catalog, with a validation split.
      spec: token layout.
      folder: of calibration.json and verdict.json.
      options: what is tried; None for the defaults.
    """
    self.options = options or GateOptions()
    self._spec, self._folder = spec, folder
    training, held_out = (_records(data_dir, split) for split in ('train', 'validation'))
    self._held_out = held_out
    self.index = CatalogIndex.of(training, spec.context_levels)
    number, seed = self.options.num_contexts, self.options.seed
    self._training_probes = memorization.choose_probes(training, number, spec, seed)
    self._held_out_probes = memorization.choose_probes(held_out, number, spec, seed)
    self._training = training

  def calibrate(self, base: Bundle) -> Calibration:
    """Thresholds from held-out music and the base's continuations; read where they are known."""
    path = self._folder / CALIBRATION_FILE
    if path.is_file():
      return Calibration.from_json(json.loads(path.read_text(encoding='utf-8')))
    played = self._continue(base, self._training_probes, 'calibrate')
    calibration = memorization.calibrate(
      played, self._held_out, self.index, self._spec, self.options
    )
    _write(path, calibration.to_json())
    return calibration

  def judge(self, tuned: Bundle) -> tuple[dict[str, Any], list[Continuation]]:
    """The verdict on a model, and its continuations of training music.

    Raises:
      ValueError: there are no thresholds yet.
    """
    path = self._folder / CALIBRATION_FILE
    if not path.is_file():
      raise ValueError(f'{path} is missing: calibrate before the run that is judged.')
    calibration = Calibration.from_json(json.loads(path.read_text(encoding='utf-8')))
    training = self._continue(tuned, self._training_probes, 'training music')
    held_out = self._continue(tuned, self._held_out_probes, 'held-out music')
    verdict = memorization.judge(training, held_out, calibration, self.options)
    verdict['pairs'] = [self._pair(row) for row in memorization.top_pairs(training, NUM_PAIRS)]
    _write(self._folder / VERDICT_FILE, verdict)
    return verdict, training

  def clips(self, continuations: list[Continuation], codec: Any) -> list[Clip]:
    """The most alike pairs as sound: what the model played, what the catalog has."""
    spec, clips = self._spec, []
    for number, row in enumerate(memorization.top_pairs(continuations, NUM_PAIRS)):
      pair = self._pair(row)
      track, at = pair['track_id'], pair['catalog_secs']
      group = f'{number + 1}. {pair["run"]} tokens in a row, {100 * pair["share"]:.0f} % the same'
      shown = f'{row.context_secs:g} s of {row.probe.track_id} shown, {row.mode}'
      places = [('played', shown, row.codes)]
      clip, frame = self.index.where(row.match.run_frame)[1:]
      music = self._training[clip].codes[frame : frame + spec.chunk_frames, : spec.target_levels]
      places.append(('catalog', f'{track} at {at:.1f} s of a clip', music))
      for title, caption, codes in places:
        audio = np.asarray(codec.decode(codes), np.float32)
        clips.append(
          Clip(f'pair{number}_{title}', group, title, caption, audio, spec.sample_rate)
        )
    return clips

  def _continue(self, bundle: Bundle, probes: list[Probe], title: str) -> list[Continuation]:
    total = len(probes) * len(self.options.context_secs) * len(self.options.modes)
    with tqdm(total=total, desc=title) as bar:
      return memorization.continue_all(
        bundle.model, bundle.params, probes, self.index, self.options,
        batch_size=len(probes), on_batch=bar.update,
      )  # fmt: skip

  def _pair(self, row: Continuation) -> dict[str, Any]:
    track_id, clip, frame = self.index.where(row.match.run_frame)
    return {
      'from_track': row.probe.track_id,
      'from_secs': row.probe.start / self._spec.frame_rate,
      'context_secs': row.context_secs,
      'mode': row.mode,
      'run': row.match.run,
      'share': row.match.share,
      'track_id': track_id,
      'clip': clip,
      'catalog_secs': frame / self._spec.frame_rate,
    }


def _records(data_dir: str | pathlib.Path, split: str) -> list[Any]:
  from evaluation.excerpts import TokenRecord
  from tasks.source import find_token_folder

  return [
    TokenRecord(info.track_id, tokens.acoustic_tokens, tokens.style_tokens)
    for tokens, info in read_split(find_token_folder(data_dir), split)
  ]


def _write(path: pathlib.Path, values: dict[str, Any]):
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(plain(values), indent=2) + '\n', encoding='utf-8')
  partial.replace(path)
