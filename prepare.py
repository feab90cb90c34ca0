"""Prepares a folder of music: `python prepare.py --audio_dir=DIR --output_dir=OUT`.

Reads tags, checks quality, finds duplicates, splits by work, and writes token records that train.py
reads. A file that cannot be used is listed in OUT/rejects.jsonl with its reason. Run again, it does
what is new. Parts of it alone:

  python prepare.py manifest build --audio_dir=DIR --output_dir=OUT
  python prepare.py manifest build --table=tracks.csv --column=path=File --output_dir=OUT
  python prepare.py manifest check --manifest=OUT/manifest.jsonl
  python prepare.py manifest stats --manifest=OUT/manifest.jsonl
  python prepare.py tokens inspect --data=OUT --number=3 --output_dir=/tmp/heard
"""

import time

from absl import flags

from pipelines import startup

_AUDIO_DIR = flags.DEFINE_multi_string(
  'audio_dir', [], 'Folder of audio files, of any nesting; may be repeated. Local, gs:// or s3://.'
)
_TABLE = flags.DEFINE_string('table', '', 'A .csv, .tsv or .jsonl of tracks, or of changes.')
_COLUMN = flags.DEFINE_multi_string(
  'column', [], 'FIELD=COLUMN of the table, e.g. --column=path=File; may be repeated.'
)
_TABLE_ROOT = flags.DEFINE_string('table_root', '', "Folder of the table's relative paths.")
_MANIFEST = flags.DEFINE_string(
  'manifest', None, 'A manifest.jsonl. With --audio_dir or --table: they change it.'
)
_SOURCE = flags.DEFINE_string('source', '', 'Said of new tracks. Default: the name of the folder.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Where to write.')
_LICENCES = flags.DEFINE_list(
  'licences', [], 'Licences that are let in, e.g. CC0-1.0,CC-BY,public-domain. Default: all.'
)
_LICENCE_REQUIRED = flags.DEFINE_bool(
  'licence_required', False, 'Leave tracks without a licence out.'
)
_DUPLICATES = flags.DEFINE_enum(
  'duplicates', 'keep', ['keep', 'drop_copies', 'drop'],
  'Keep copies and near-duplicates in one split, or drop copies, or both.',
)  # fmt: skip
_NEAR_DUPLICATES = flags.DEFINE_bool(
  'near_duplicates', True, 'Look for the same recording in other codings, by fingerprints.'
)
_LIMIT = flags.DEFINE_multi_string(
  'limit', [], 'A limit of quality, e.g. --limit=max_clipped_share=0.02; may be repeated.'
)
_WORKERS = flags.DEFINE_integer('workers', 0, 'Processes that read files. Default: by cores.')
_NAME = flags.DEFINE_string('name', 'corpus', 'Name of the data set.')
_VERSION = flags.DEFINE_string('version', '1.0.0', 'Version of the data set.')
_CODEC = flags.DEFINE_string(
  'codec', 'tiny', 'SpectroStream: a bundled or released name, or a path.'
)
_STYLE = flags.DEFINE_string('style', 'tiny', 'MusicCoCa: a bundled or official name, or a path.')
_CLIP_SECS = flags.DEFINE_integer('clip_secs', 30, 'Length of a clip.')
_MIN_CLIP_SECS = flags.DEFINE_float('min_clip_secs', 4.0, 'Shortest clip; shorter rests are left.')
_VALIDATION = flags.DEFINE_float('validation_fraction', 0.1, 'Share of tracks for validation.')
_TEST = flags.DEFINE_float('test_fraction', 0.05, 'Share of tracks for test.')
_MIN_HELD_OUT = flags.DEFINE_integer(
  'min_held_out', 2, 'Least number of tracks in each held-out split of a small catalog.'
)
_HASHED_OFFSET = flags.DEFINE_bool(
  'hashed_offset', True, 'Cut clips where a hash of the content says, not at whole clips.'
)
_PEAK_DBFS = flags.DEFINE_float(
  'peak_dbfs', -1.0, 'Peak to which tracks are scaled; their ceiling with --loudness_lufs.'
)
_LOUDNESS_LUFS = flags.DEFINE_float(
  'loudness_lufs', None, 'Integrated loudness to which tracks are scaled, in place of the peak.'
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
_DATA = flags.DEFINE_string('data', None, 'tokens inspect: a shard, or a folder of shards.')
_SPLIT = flags.DEFINE_string('split', None, 'tokens inspect: of a folder. Default: train.')
_NUMBER = flags.DEFINE_integer('number', 3, 'tokens inspect: how many records.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of the order of records, and of the splits until a manifest keeps them.'
)
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)
_BEAM = flags.DEFINE_multi_string(
  'beam', [], 'An option of the Beam runner, e.g. --beam=--runner=DaskRunner; may be repeated.'
)


# What each command reads; `prepare.py` alone reads all but the flags of `tokens inspect`.
_OF_INSPECT = {'data', 'split', 'number'}
_INSPECT = {*_OF_INSPECT, 'output_dir', 'codec', 'codec_levels', 'assets_dir'}
_BUILD = {
  'audio_dir', 'table', 'column', 'table_root', 'manifest', 'source', 'output_dir', 'licences',
  'licence_required', 'duplicates', 'near_duplicates', 'limit', 'require_stereo', 'min_clip_secs',
  'workers', 'validation_fraction', 'test_fraction', 'min_held_out', 'seed', 'assets_dir',
}  # fmt: skip
_FLAGS = [value for value in list(globals().values()) if isinstance(value, flags.FlagHolder)]


def main(argv):
  with startup.plain_errors('prepare.py'):
    startup.begin(_ASSETS_DIR.value)
    if argv[1:2] == ['manifest']:
      print(_manifest(argv[2:]))
    elif argv[1:] == ['tokens', 'inspect']:
      _inspect()
    elif len(argv) > 1:
      raise ValueError(f'{argv[1]!r} is no flag, `manifest` or `tokens inspect`; see --help.')
    else:
      print(_prepare())


def _manifest(words: list[str]) -> str:
  from preprocessing import manifest_commands

  if len(words) != 1 or words[0] not in manifest_commands.VERBS:
    raise ValueError(f'Say `manifest build`, `manifest check` or `manifest stats`, not {words}.')
  used = _BUILD if words[0] == 'build' else {'manifest', 'output_dir'}
  startup.check_flags(f'`manifest {words[0]}`', _FLAGS, used)
  if words[0] != 'build':
    if not _MANIFEST.value:
      raise ValueError('--manifest is missing.')
    if words[0] == 'check':
      return manifest_commands.check(_MANIFEST.value)
    return manifest_commands.stats(_MANIFEST.value, _OUTPUT_DIR.value or '')
  held_out = manifest_commands.SplitOptions(
    _VALIDATION.value, _TEST.value, _MIN_HELD_OUT.value, _SEED.value
  )
  options = _prepare_options().build_options()
  return manifest_commands.build(options, held_out, _OUTPUT_DIR.value)


def _inspect():
  from preprocessing import token_inspection

  startup.check_flags('`tokens inspect`', _FLAGS, _INSPECT)
  if not _DATA.value:
    raise ValueError('--data is missing: a shard, or a folder of shards.')
  codec = _CODEC.value if flags.FLAGS['codec'].present else None
  for paragraph in token_inspection.report(
    _DATA.value, _SPLIT.value, _NUMBER.value, _OUTPUT_DIR.value or '', codec, _CODEC_LEVELS.value
  ):
    print(paragraph)


def _prepare() -> str:
  from preprocessing import corpus

  used = {flag.name for flag in _FLAGS} - _OF_INSPECT
  startup.check_flags('preparing; it belongs to `tokens inspect`', _FLAGS, used)
  began = time.monotonic()
  prepared = corpus.prepare_corpus(_prepare_options())
  return corpus.summary(prepared, time.monotonic() - began)


def _prepare_options():
  # Heavy imports come after the flags, so that --help answers at once.
  from preprocessing import corpus, features, licences, quality, shards, tables

  if not _OUTPUT_DIR.value:
    raise ValueError('--output_dir is missing.')
  return corpus.PrepareOptions(
    output_dir=_OUTPUT_DIR.value,
    audio_dir=tuple(_AUDIO_DIR.value),
    manifest_path=_MANIFEST.value,
    table=_TABLE.value,
    columns=tables.parse_columns(_COLUMN.value),
    table_root=_TABLE_ROOT.value,
    source=_SOURCE.value,
    licence_policy=licences.parse_policy(_LICENCES.value, _LICENCE_REQUIRED.value),
    duplicates=_DUPLICATES.value,
    near_duplicates=_NEAR_DUPLICATES.value,
    num_workers=_WORKERS.value,
    name=_NAME.value,
    version=_VERSION.value,
    codec=_CODEC.value,
    style=_STYLE.value,
    clips=features.ClipOptions(
      clip_secs=_CLIP_SECS.value,
      min_clip_secs=_MIN_CLIP_SECS.value,
      peak_dbfs=_PEAK_DBFS.value,
      loudness_lufs=_LOUDNESS_LUFS.value,
      hashed_offset=_HASHED_OFFSET.value,
    ),
    limits=quality.parse_limits(
      _LIMIT.value, min_secs=_MIN_CLIP_SECS.value, require_stereo=_REQUIRE_STEREO.value
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


if __name__ == '__main__':
  startup.run(main)
