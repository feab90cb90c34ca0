"""Woodshed: train, fine-tune and evaluate live music models of the Magenta RealTime kind."""

import pathlib

import setuptools

# The packages are the folders at the top level, listed by name: an automatic search would pick up
# tests/, docs/ and whatever a user keeps beside them.
PACKAGES = [
  'evaluation',
  'inference',
  'models',
  'models.depthformer',
  'models.musiccoca',
  'models.musicnn',
  'models.spectrostream',
  'pipelines',
  'preprocessing',
  'recipes',
  'recipes.recorded_music',
  'tasks',
  'training',
]

# Lower bounds are the oldest versions that the code's calls exist in, upper bounds the first ones
# not tested; constraints.txt is the tested set.
REQUIREMENTS = [
  'absl-py>=2.1',
  'apache-beam>=2.70,<2.80',
  'av>=18.1,<19',
  'clu>=0.0.12,<0.1',
  'etils[epath]>=1.9',
  'flax>=0.10,<0.14',
  'gin-config>=0.5,<0.6',
  'jax>=0.7.2,<0.12',
  'jinja2>=3.1,<4',
  'matplotlib>=3.8,<4',
  'msgpack>=1.0,<2',
  'mutagen>=1.47,<2',
  'numpy>=2.0,<3',
  'optax>=0.2.4,<0.3',
  'orbax-checkpoint>=0.11,<0.14',
  'protobuf>=5.29,<7',
  'pyarrow>=15,<27',
  'safetensors>=0.5,<1',
  'scipy>=1.13,<2',
  'sentencepiece>=0.2,<=0.2.2',  # 0.2.3 needs protobuf 7, and `import seqio` then fails.
  'seqio>=0.0.19,<0.1',
  'soundfile>=0.13,<0.15',
  'soxr>=0.5,<2',
  'tensorboard>=2.19,<3',  # clu.metric_writers imports it without asking for it.
  'tensorflow>=2.19,<2.22',
  'tensorflow-datasets>=4.9.7,<5',
  'tensorstore>=0.1.60,<0.2',
  'tqdm>=4.66,<5',
]

DASK = ['dask>=2024.4.2,<2027', 'distributed>=2024.4.2,<2027']

setuptools.setup(
  name='woodshed',
  version='0.1.0',
  description=__doc__,
  long_description=(pathlib.Path(__file__).parent / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11,<3.14',
  packages=[*PACKAGES, 'woodshed_files.gin'],
  # The folder is called gin/ in the checkout; installed under that name it would hide the library.
  package_dir={'woodshed_files.gin': 'gin'},
  package_data={
    'evaluation': ['templates/*'],
    'inference': ['web/*'],
    'models.depthformer': ['bundled/*/*'],
    'models.musiccoca': ['bundled/*'],
    'models.musicnn': ['bundled/*'],
    'models.spectrostream': ['bundled/*'],
    'recipes.recorded_music': ['*.csv', '*.md'],
    'woodshed_files.gin': ['*/*.gin'],
  },
  py_modules=['prepare', 'train', 'finetune', 'eval', 'generate', 'jam', 'plan'],
  install_requires=REQUIREMENTS,
  extras_require={
    'tpu': ['jax[tpu]>=0.7.2,<0.12'],
    'gpu': ['jax[cuda12]>=0.7.2,<0.12'],
    'jam': [
      'python-osc>=1.9,<2',
      'starlette>=0.46,<2',
      'uvicorn>=0.35,<0.60',  # websockets-sansio came with 0.35.
      'websockets>=15,<18',
    ],
    'browser': ['playwright>=1.50,<2'],  # Drives a Chromium that is there, in slow tests.
    'litert': ['ai-edge-litert>=2.0,<3'],  # Runs the TFLite files of Magenta RealTime v2.
    'dask': DASK,  # prepare.py --beam=--runner=DaskRunner
    'test': ['hypothesis>=6.100', 'pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.9', *DASK],
    'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5,<10'],
  },
)
