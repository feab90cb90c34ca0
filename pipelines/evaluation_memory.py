"""Do models play their training music back? Continuations of it against the whole of it.

The figures are those of `evaluation.memorization`, of the language models as a report samples them:
one chunk after 10 s of context, of training tracks and of held-out ones. What copying looks like is
known from planted copies, what chance looks like from held-out music.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from evaluation import memorization
from evaluation.excerpts import TokenRecord
from evaluation.memorization import CatalogIndex, Continuation, GateOptions, Probe
from models import tokens
from pipelines.checkpoint_sources import Source
from pipelines.evaluation_clips import Bench
from pipelines.measurements import Measurements

MAX_RECORDS = 500  # Looking up takes time in proportion.
NUM_PAIRS = 2
PLANTED, REAL = 'planted copies', 'held-out music'


@dataclasses.dataclass(frozen=True)
class Pair:
  """A continuation and the place of the training music that is most like it, for listening."""

  name: str
  codes: np.ndarray
  found: np.ndarray
  track_id: str
  run: int
  share: float


class MemoryStage:
  """Measures the models one by one."""

  def __init__(self, bench: Bench, store: Measurements):
    self._bench, self._store = bench, store
    spec, options = bench.spec, bench.options
    self._train = list(bench.data.training_records(MAX_RECORDS))
    self._held_out = list(bench.data.held_out_records())[:MAX_RECORDS]
    self.index = CatalogIndex.of(self._train, spec.context_levels)
    number = options.num_memory_probes
    self.options = GateOptions(
      num_contexts=number, context_secs=(spec.context_secs,), modes=(memorization.SAMPLED,),
      temperature=options.sampling.temperature, top_k=options.sampling.top_k, seed=options.seed,
    )  # fmt: skip
    self._probes = [
      memorization.choose_probes(records, number, spec, options.seed)
      for records in (self._train, self._held_out)
    ]

  @property
  def num_chunks(self) -> int:
    """Chunks that each model plays."""
    return sum(len(probes) for probes in self._probes)

  def measure(self, on_chunk: Callable[[], Any]) -> tuple[dict[str, Any], list[Pair]]:
    """The `memorization` of a report, and the pairs that are most alike."""
    sources = self._bench.sources
    played = {
      source.name: [self._continue(source, probes, on_chunk) for probes in self._probes]
      for source in sources
    }
    base = played[sources[0].name][0] if len(sources) > 1 else []
    calibration = memorization.calibrate(
      base, self._held_out, self.index, self._bench.spec, self.options
    )
    rows = []
    for name, (training, held_out) in played.items():
      verdict = memorization.judge(training, held_out, calibration, self.options)
      rows.append({'name': name, 'kind': 'model', **verdict})
    rows += self._anchors(calibration)
    pairs = [
      self._pair(source.name, row)
      for source in sources
      for row in memorization.top_pairs(played[source.name][0], NUM_PAIRS)
    ]
    return {
      'rows': rows,
      'run_threshold': calibration.run,
      'share_threshold': calibration.share,
      'num_frames': len(self.index.codes),
      'num_records': len(self._train),
      'context_secs': self._bench.spec.context_secs,
      'ordered': rows[-2]['training_rate'] > rows[-1]['training_rate'],
      'pairs': [
        {'model': pair.name, 'track_id': pair.track_id, 'run': pair.run, 'share': pair.share}
        for pair in pairs
      ],
    }, pairs

  def _continue(
    self, source: Source, probes: Sequence[Probe], on_chunk: Callable[[], Any]
  ) -> list[Continuation]:
    spec = self._bench.spec
    rows = []
    for number, probe in enumerate(probes):
      depends = ['continue', self._bench.weights_hash(source), probe.context.tolist(),
                 np.asarray(probe.style).tolist(), repr(self._bench.options.sampling),
                 self._bench.options.seed + number]  # fmt: skip
      codes = np.array(
        self._store.take(depends, lambda probe=probe, number=number: self._play(
          source, probe, self._bench.options.seed + number).tolist())
      )  # fmt: skip
      match = memorization.find(codes[:, : spec.context_levels], self.index)
      rows.append(Continuation(probe, spec.context_secs, memorization.SAMPLED, codes, match))
      on_chunk()
    return rows

  def _play(self, source: Source, probe: Probe, seed: int) -> np.ndarray:
    """One chunk; shapes and options are those of a live session, so nothing new is compiled."""
    spec, sampling = self._bench.spec, self._bench.options.sampling
    inputs = tokens.encoder_inputs(probe.context, probe.style, spec)
    ids = source.bundle.model.generate(
      source.bundle.params, inputs[None], rng=jax.random.key(seed),
      temperature=sampling.temperature, top_k=sampling.top_k,
      guidance_weight=sampling.guidance_weight,
    )  # fmt: skip
    return tokens.codec_codes(np.asarray(ids)[0], spec)

  def _anchors(self, calibration: memorization.Calibration) -> list[dict[str, Any]]:
    """Training music itself, which is all copies, and held-out music, which is none."""
    spec = self._bench.spec
    rows = []
    for name, records in ((PLANTED, self._train), (REAL, self._held_out)):
      matches = [
        memorization.find(chunk, self.index)
        for chunk in _chunks(records, self.options.num_contexts, spec)
      ]
      rate = float(np.mean([calibration.is_copy(match) for match in matches])) if matches else 0.0
      rows.append({
        'name': name, 'kind': 'anchor', 'training_rate': rate, 'held_out_rate': None,
        'excess': None, 'longest_run': max((match.run for match in matches), default=0),
        'largest_share': max((match.share for match in matches), default=0.0),
        'num_training': len(matches), 'num_held_out': 0,
      })  # fmt: skip
    return rows

  def _pair(self, name: str, row: Continuation) -> Pair:
    match, length = row.match, len(row.codes)
    track_id, number, first = self.index.where(match.run_frame)
    found = self._train[number].codes[first : first + length, : self._bench.spec.target_levels]
    return Pair(name, row.codes, found, track_id, match.run, match.share)


def _chunks(records: Sequence[TokenRecord], number: int, spec: Any) -> list[np.ndarray]:
  """The last whole chunk of up to `number` records, coarse levels."""
  return [
    np.asarray(record.codes[-spec.chunk_frames :, : spec.context_levels], np.int32)
    for record in records[:number]
    if len(record.codes) >= spec.chunk_frames
  ]
