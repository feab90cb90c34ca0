"""Says before a run whether it fits on a slice, how fast it is at best, and what it costs.

  python plan.py --gin_file=gin/models/large.gin --topology=v6e-256 --batch=512
  python plan.py launch --topology=v6e-256 --num_slices=2 --gin_file=gin/models/large.gin \
    --gin_file=gin/runs/pretrain.gin --gin.DATA_DIR=\\"/data/lm\\" --gin.MODEL_DIR=\\"/data/large\\"

The training step is compiled by the TPU compiler, which needs no TPU (pip install -e '.[tpu]');
GPUs are planned by arithmetic. A run that does not fit exits with 1. `launch` prints the commands
that start a run on all workers of a slice.
"""

import sys

from absl import app, flags

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


def main(argv: list[str]) -> None:
  from pipelines import gin_config

  startup.begin()
  with startup.plain_errors('plan.py', resumes=False):
    bindings, others = gin_config.split_flags(argv[1:])
    if others not in ([], ['launch']):
      raise ValueError(f'{others[0]!r} is neither a flag nor `launch`; see --help.')
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
  app.run(main, flags_parser=startup.parse_flags)
