"""Prepares a folder of music: `python prepare.py --audio_dir=DIR --output_dir=OUT`.

Reads tags, checks quality, splits by work, and writes token records that train.py reads. A file
that cannot be used is listed in OUT/rejects.jsonl with its reason. Run again, it does what is new.
"""

import time

from absl import app, flags

_AUDIO_DIR = flags.DEFINE_string('audio_dir', None, 'Folder of audio files, of any nesting.')
_MANIFEST = flags.DEFINE_string('manifest', None, 'A manifest.jsonl, in place of --audio_dir.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Where to write.', required=True)
_NAME = flags.DEFINE_string('name', 'corpus', 'Name of the data set.')
_VERSION = flags.DEFINE_string('version', '1.0.0', 'Version of the data set.')
_CODEC = flags.DEFINE_string('codec', 'tiny', 'SpectroStream: a bundled name or a path.')
_STYLE = flags.DEFINE_string('style', 'tiny', 'MusicCoCa: a bundled or official name, or a path.')
_CLIP_SECS = flags.DEFINE_integer('clip_secs', 30, 'Length of a clip.')
_MIN_CLIP_SECS = flags.DEFINE_float('min_clip_secs', 4.0, 'Shortest clip; shorter rests are left.')
_VALIDATION = flags.DEFINE_float('validation_fraction', 0.1, 'Share of tracks for validation.')
_TEST = flags.DEFINE_float('test_fraction', 0.05, 'Share of tracks for test.')
_MIN_HELD_OUT = flags.DEFINE_integer(
  'min_held_out', 2, 'Least number of tracks in each held-out split of a small catalog.'
)
_REQUIRE_STEREO = flags.DEFINE_bool('require_stereo', False, 'Set mono files aside.')
_CODEC_LEVELS = flags.DEFINE_integer(
  'codec_levels', None, 'Codec levels kept in the records, at least 16. All (64) by default, as v1.'
)
_COMPRESSION = flags.DEFINE_enum(
  'compression', '', ['', 'GZIP'], 'Of the shards. GZIP: a third of the size; not for v1 and TFDS.'
)
_SHARD_MIB = flags.DEFINE_integer('shard_mib', 128, 'Most MiB of a shard, before compression.')
_NUM_SHARDS = flags.DEFINE_integer(
  'num_shards', None, 'Shards of each split; by --shard_mib if left out.'
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of the order of records, and of the splits until a manifest keeps them.'
)
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)
_BEAM = flags.DEFINE_multi_string(
  'beam', [], 'An option of the Beam runner, e.g. --beam=--runner=DaskRunner; may be repeated.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown argument {argv[1]!r}.')
  from pipelines import startup

  startup.begin(_ASSETS_DIR.value)
  # Heavy imports come after the flags, so that --help answers at once.
  from preprocessing import corpus, features, quality, shards

  began = time.monotonic()
  with startup.plain_errors('prepare.py'):
    options = corpus.PrepareOptions(
      output_dir=_OUTPUT_DIR.value,
      audio_dir=_AUDIO_DIR.value,
      manifest_path=_MANIFEST.value,
      name=_NAME.value,
      version=_VERSION.value,
      codec=_CODEC.value,
      style=_STYLE.value,
      clips=features.ClipOptions(clip_secs=_CLIP_SECS.value, min_clip_secs=_MIN_CLIP_SECS.value),
      limits=quality.QualityLimits(
        min_secs=_MIN_CLIP_SECS.value, require_stereo=_REQUIRE_STEREO.value
      ),
      validation_fraction=_VALIDATION.value,
      test_fraction=_TEST.value,
      min_held_out=_MIN_HELD_OUT.value,
      format=shards.RecordFormat(
        codec_levels=_CODEC_LEVELS.value,
        compression=_COMPRESSION.value,
        shard_bytes=_SHARD_MIB.value << 20,
        num_shards=_NUM_SHARDS.value,
      ),
      seed=_SEED.value,
      beam_args=tuple(_BEAM.value),
    )
    prepared = corpus.prepare_corpus(options)
  print(corpus.summary(prepared, time.monotonic() - began))


if __name__ == '__main__':
  app.run(main)
