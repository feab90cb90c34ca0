"""Beam's options, the graph itself, and what a package for remote workers holds."""

import pathlib
import subprocess
import sys
import tarfile

import apache_beam as beam
import pytest

from preprocessing import features, parts, pipeline, quality, units, work

ROOT = pathlib.Path(__file__).parents[2]
CLUSTERS = {
  'DataflowRunner': [
    '--project=p', '--region=r', '--temp_location=gs://b/tmp', '--setup_file=./setup.py',
    '--sdk_container_image=image', '--max_num_workers=50', '--experiments=use_runner_v2',
    '--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver',
  ],
  'FlinkRunner': ['--flink_master=localhost:8081', '--environment_type=LOOPBACK'],
  'SparkRunner': ['--spark_master_url=spark://localhost:7077', '--environment_type=LOOPBACK'],
  'PortableRunner': ['--job_endpoint=localhost:8099', '--environment_type=LOOPBACK'],
}  # fmt: skip


def _how():
  settings = parts.TokenSettings('c', 's', features.ClipOptions(), quality.QualityLimits())
  return units.TrackWork('/parts', settings, 'tiny', 'tiny')


@pytest.mark.parametrize('runner', CLUSTERS)
def test_options_of_clusters_are_known_and_the_graph_serializes(runner):
  """What a runner would be sent: the graph with these options, small and without a branch."""
  options = pipeline.pipeline_options([f'--runner={runner}', *CLUSTERS[runner]])
  told = options.get_all_options()
  assert told['runner'] == runner
  ranges = [work.WorkRange('gs://b/plans/tracks.jsonl', 100 * i, 100, 1) for i in range(8192)]
  local = beam.Pipeline(options=pipeline.pipeline_options([]))
  pipeline.build(ranges, pipeline.TokenizeTracks(_how()), local)
  graph = local.to_runner_api()
  assert len(graph.SerializeToString()) < 4 << 20
  steps = graph.components.transforms
  (root,) = graph.root_transform_ids
  assert [steps[s].unique_name for s in steps[root].subtransforms] == ['Ranges', 'Spread', 'Work']
  for step in (step for step in steps.values() if not step.subtransforms):
    assert len(step.inputs) <= 1 and len(step.outputs) <= 1, step.unique_name


@pytest.mark.parametrize(
  'wrong', [['--direct_num_worker=2'], ['--runner=FlinkRunner', '--flink_mastr=x']]
)
def test_options_that_beam_would_drop_are_refused(wrong):
  with pytest.raises(ValueError, match=f'Beam has no option {wrong[-1].split("=")[0]} for'):
    pipeline.pipeline_options(wrong)


def test_dask_is_found_by_its_short_name():
  pytest.importorskip('distributed')
  options = pipeline.pipeline_options(['--runner=DaskRunner', '--dask_npartitions=4'])
  told = options.get_all_options()
  assert told['runner'] == 'apache_beam.runners.dask.dask_runner.DaskRunner'
  assert told['npartitions'] == 4


@pytest.mark.slow
def test_the_package_for_workers_holds_all_that_they_need(tmp_path):
  """What --setup_file sends: Beam runs `setup.py sdist`."""
  subprocess.run(
    [sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(tmp_path), 'sdist',
     '--formats=gztar', '--dist-dir', str(tmp_path)],
    cwd=ROOT, check=True, capture_output=True,
  )  # fmt: skip
  (archive,) = tmp_path.glob('*.tar.gz')
  with tarfile.open(archive) as package:
    names = {name.partition('/')[2] for name in package.getnames()}
  for room in ('models', 'preprocessing'):
    for path in (ROOT / room).rglob('*'):
      if path.suffix in ('.py', '.safetensors', '.model', '.json'):
        assert path.relative_to(ROOT).as_posix() in names
  assert {'setup.py', 'README.md', 'pyproject.toml'} <= names
