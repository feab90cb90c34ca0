"""A run of the preparation with stand-in models, to be killed: AUDIO OUT [Beam options ...]"""

import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]

import fake_token_models  # noqa: E402

from preprocessing import corpus, features, shards  # noqa: E402

CLIPS = features.ClipOptions(clip_secs=4, min_clip_secs=2, clips_per_batch=1)


def options(audio_dir, output_dir, beam_args=()):
  """Many short clips in many shards: a run has many moments to be killed at."""
  return corpus.PrepareOptions(
    output_dir=str(output_dir),
    audio_dir=str(audio_dir),
    name='toy',
    clips=CLIPS,
    limits=corpus.quality.QualityLimits(min_secs=2.0),
    format=shards.RecordFormat(num_shards=16),
    beam_args=tuple(beam_args),
  )


if __name__ == '__main__':
  corpus.prepare_corpus(options(*sys.argv[1:3], sys.argv[3:]), fake_token_models.load_slow)
