"""Trains what gin files say: a language model, a codec, a style model; pretraining and fine-tuning.

  python train.py --gin_file=gin/models/tiny.gin --gin_file=gin/runs/pretrain_demo.gin \
    --gin.DATA_DIR=\\"demo/corpus\\" --gin.MODEL_DIR=\\"runs/tiny\\"

Started again, it goes on. --gin.NAME=VALUE sets a macro or a parameter.
"""

from absl import flags

from pipelines import startup

_GIN_FILE = flags.DEFINE_multi_string(
  'gin_file', [], 'A gin file; repeat it, later ones win: a model of gin/models, a run of gin/runs.'
)
_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders in which gin files are found.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the configuration, the parameters, the first example and the memory '
  'needed; train nothing.',
)  # fmt: skip
_RUN_MODE = flags.DEFINE_enum(
  'run_mode', 'train', ['train', 'precompile'], 'precompile compiles the step for the devices that '
  'are there, prints the seconds and what XLA says of its memory, and trains nothing.',
)  # fmt: skip
_PROFILE_STEPS = flags.DEFINE_string(
  'profile_steps', None, 'FIRST:LAST, such as 10:12: write a trace of these steps to '
  'MODEL_DIR/profile/, for TensorBoard and XProf.',
)  # fmt: skip
# T5X's names.
_MULTIPROCESS_GPU = flags.DEFINE_bool(
  'multiprocess_gpu', False, 'Train with other processes; what the next three flags leave out is '
  'found by JAX (SLURM, Open MPI). TPU hosts find each other without any of these flags.',
)  # fmt: skip
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0, with a port that is free.'
)
_PROCESS_COUNT = flags.DEFINE_integer('process_count', None, 'Processes of the run.')
_PROCESS_INDEX = flags.DEFINE_integer('process_index', None, 'Index of this process, from 0.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv: list[str]) -> None:
  with startup.plain_errors('train.py'):
    startup.begin(_ASSETS_DIR.value)
    from pipelines import gin_config
    from training import hosts

    hosts.initialize(
      _COORDINATOR_ADDRESS.value, _PROCESS_COUNT.value, _PROCESS_INDEX.value,
      multiprocess=_MULTIPROCESS_GPU.value,
    )  # fmt: skip
    bindings, unknown = gin_config.split_flags(argv[1:])
    if unknown:
      raise gin_config.GinError(f'{unknown[0]!r} is not a flag; see --help.')
    gin_config.parse_gin(_GIN_FILE.value, bindings, _SEARCH_PATHS.value)
    gin_config.run(
      dry_run=_DRY_RUN.value,
      precompile=_RUN_MODE.value == 'precompile',
      profile_steps=_PROFILE_STEPS.value,
    )


if __name__ == '__main__':
  startup.run(main)
