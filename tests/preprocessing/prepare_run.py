"""Runs of the preparation with stand-in models, to be killed: many short clips in many shards."""

import os
import pathlib
import sys

PLACES = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]
sys.path[:0] = PLACES

import apache_beam  # noqa: E402, F401  loaded once, by the process that runs are forked from
import fake_token_models  # noqa: E402

from preprocessing import corpus, features, records, shards  # noqa: E402, F401


def options(manifest_path, output_dir, beam_args=()):
  """A run has many moments to be killed at."""
  return corpus.PrepareOptions(
    output_dir=str(output_dir),
    manifest_path=str(manifest_path),
    name='toy',
    clips=features.ClipOptions(clip_secs=4, min_clip_secs=2, clips_per_batch=1),
    limits=corpus.quality.QualityLimits(min_secs=2.0),
    format=shards.RecordFormat(num_shards=16),
    beam_args=tuple(beam_args),
  )


def run(manifest_path, output_dir, beam_args, log):
  """A whole run, in a process group of its own."""
  os.setsid()
  os.environ['PYTHONPATH'] = os.pathsep.join(PLACES)  # Workers in processes of their own.
  with open(log, 'ab') as file:
    for stream in (1, 2):
      os.dup2(file.fileno(), stream)
  corpus.prepare_corpus(
    options(manifest_path, output_dir, beam_args), fake_token_models.load_slow
  )
