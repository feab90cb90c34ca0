"""Says before a run whether it fits on a slice, how fast it is at best, and what it costs.

  python plan.py --gin_file=gin/models/large.gin --topology=v6e-256 --batch=512
  python plan.py launch --topology=v6e-256 --num_slices=2 --gin_file=gin/models/large.gin \
    --gin_file=gin/runs/pretrain.gin --gin.DATA_DIR=\\"/data/lm\\" --gin.MODEL_DIR=\\"/data/large\\"
  python plan.py corpus --hours=190000 --price_core_hour=0.03 --price_gib_month=0.02

The training step is compiled by the TPU compiler, which needs no TPU (pip install -e '.[tpu]');
GPUs are planned by arithmetic. A run that does not fit exits with 1. `launch` prints the commands
that start a run on all workers of a slice. `corpus` times codec and style model on this machine and
says what preparing so many hours of audio takes.
"""

import sys

from absl import flags

from pipelines import startup

_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'v6e-256 or v5e-16 (chips), v5p-128 or v4-8 (cores, two to a chip), h100-8.'
)
_NUM_SLICES = flags.DEFINE_integer('num_slices', 1, 'How many such slices train as one.')
_GIN_FILE = flags.DEFINE_multi_string(
  'gin_file', [], 'A gin file; repeat it, later ones win. A plan reads gin/runs/pretrain.gin first.'
)
_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders in which gin files are found.')
_BATCH = flags.DEFINE_integer('batch', None, 'Examples of a step. Default: BATCH_SIZE.')
_STEPS = flags.DEFINE_integer('steps', None, 'Steps of the run. Default: TRAIN_STEPS.')
_ANALYTIC = flags.DEFINE_bool('analytic', False, 'Compile nothing: figures by arithmetic only.')
_CACHE_DIR = flags.DEFINE_string(
  'cache_dir', None, 'Where results of compilations are kept. Default: ~/.cache/woodshed/plans.'
)
_NAME = flags.DEFINE_string('name', 'woodshed', 'launch: name of the slices or the GPU hosts.')
_ZONE = flags.DEFINE_string('zone', 'ZONE', 'launch: zone of Google Cloud.')
_HOURS = flags.DEFINE_float('hours', None, 'corpus: hours of audio.')
_TRACK_SECS = flags.DEFINE_float('track_secs', 240.0, 'corpus: mean length of a track.')
_CODEC = flags.DEFINE_string('codec', 'tiny', 'corpus: a bundled or released codec, or a path.')
_STYLE = flags.DEFINE_string('style', 'tiny', 'corpus: likewise the style model.')
_CODEC_LEVELS = flags.DEFINE_integer('codec_levels', None, 'corpus: levels kept in the records.')
_SHARD_MIB = flags.DEFINE_integer('shard_mib', 128, 'corpus: most MiB of a shard.')
_WORKERS = flags.DEFINE_integer('workers', 1000, 'corpus: cores or accelerators at work at once.')
_MEASURE_SECS = flags.DEFINE_float('measure_secs', 60.0, 'corpus: how long to measure.')
_PRICE_CORE_HOUR = flags.DEFINE_float('price_core_hour', None, 'corpus: price of a core-hour.')
_PRICE_ACCELERATOR_HOUR = flags.DEFINE_float(
  'price_accelerator_hour', None, 'corpus: price of an accelerator-hour.'
)
_PRICE_GIB_MONTH = flags.DEFINE_float('price_gib_month', None, 'corpus: of a GiB for a month.')


def _corpus() -> str:
  from pipelines import plan_corpus

  if _HOURS.value is None:
    raise ValueError('--hours is missing, such as --hours=190000.')
  plan = plan_corpus.CorpusPlan(
    hours=_HOURS.value,
    track_secs=_TRACK_SECS.value,
    codec_levels=_CODEC_LEVELS.value,
    shard_bytes=_SHARD_MIB.value << 20,
    workers=_WORKERS.value,
    price_core_hour=_PRICE_CORE_HOUR.value,
    price_accelerator_hour=_PRICE_ACCELERATOR_HOUR.value,
    price_gib_month=_PRICE_GIB_MONTH.value,
  )
  return plan_corpus.plan_corpus(plan, _CODEC.value, _STYLE.value, _MEASURE_SECS.value)


_CORPUS = {
  'hours', 'track_secs', 'codec', 'style', 'codec_levels', 'shard_mib', 'workers', 'measure_secs',
  'price_core_hour', 'price_accelerator_hour', 'price_gib_month',
}  # fmt: skip
_LAUNCH = {'topology', 'num_slices', 'gin_file', 'gin_search_paths', 'name', 'zone'}
_PLAN = {
  'topology', 'num_slices', 'gin_file', 'gin_search_paths', 'batch', 'steps', 'analytic',
  'cache_dir',
}  # fmt: skip
_FLAGS = [value for value in list(globals().values()) if isinstance(value, flags.FlagHolder)]


def main(argv: list[str]) -> None:
  with startup.plain_errors('plan.py', resumes=False):
    startup.begin()
    from pipelines import gin_config

    bindings, others = gin_config.split_flags(argv[1:])
    if others == ['corpus']:
      startup.check_flags('`corpus`', _FLAGS, _CORPUS)
      if bindings:
        raise ValueError(f'--gin.{bindings[0]} has no effect on `corpus`. Leave it out.')
      print(_corpus())
      return
    if others not in ([], ['launch']):
      raise ValueError(f'{others[0]!r} is no flag, `launch` or `corpus`; see --help.')
    startup.check_flags('`launch`' if others else 'a plan', _FLAGS, _LAUNCH if others else _PLAN)
    if _TOPOLOGY.value is None:
      raise ValueError('--topology is missing, such as --topology=v6e-256.')
    if others:
      from pipelines import plan_launch

      # What the workers will parse: better refused here than on each of them.
      gin_config.parse_gin(_GIN_FILE.value, bindings, _SEARCH_PATHS.value)

      print(plan_launch.commands(
        _TOPOLOGY.value, _NUM_SLICES.value, _GIN_FILE.value, bindings, _NAME.value, _ZONE.value
      ))  # fmt: skip
      return
    from pipelines import plan

    fits = plan.plan(
      gin_files=_GIN_FILE.value, topology=_TOPOLOGY.value, num_slices=_NUM_SLICES.value,
      batch_size=_BATCH.value, steps=_STEPS.value, bindings=bindings,
      search_paths=_SEARCH_PATHS.value, analytic=_ANALYTIC.value, cache_dir=_CACHE_DIR.value,
    )  # fmt: skip
    sys.exit(0 if fits else 1)


if __name__ == '__main__':
  startup.run(main)
