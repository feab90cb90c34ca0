"""The commands that start one run on every worker: of a slice, of several, or of GPU hosts.

docs/tpu.md explains them, and says what has to be there before.
"""

import shlex
from collections.abc import Sequence

from pipelines.plan_chips import Slice, parse_topology

# Images of Google Cloud for TPU hosts.
_IMAGES = {
  'v4': 'tpu-ubuntu2204-base',
  'v5e': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
_PORT = 8476


def commands(
  topology: str,
  num_slices: int,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  name: str = 'woodshed',
  zone: str = 'ZONE',
) -> str:
  """Shell commands with comments, in the order in which they are given.

  Args:
    topology: see `plan_chips.parse_topology`.
    num_slices: of TPUs.
    gin_files: of train.py.
    bindings: of gin, 'NAME=VALUE'.
    name: of the slice; several get a number behind it. Of GPUs, of the hosts.
    zone: of Google Cloud.

  Raises:
    ValueError: there is no such slice.
  """
  place = parse_topology(topology, num_slices)
  train = train_command(gin_files, bindings)
  lines = _on_tpus(place, train, name, zone) if place.chip.is_tpu else _on_gpus(place, train, name)
  head = [f'# {place.describe()}. Written from documentation, not run by us.']
  if place.hosts * place.num_slices > 1:
    head.append('# All workers must see DATA_DIR and MODEL_DIR as folders: a mounted bucket, NFS.')
  return '\n'.join([*head, *lines])


def train_command(gin_files: Sequence[str], bindings: Sequence[str]) -> str:
  """'python train.py ...', quoted for a shell."""
  arguments = [f'--gin_file={name}' for name in gin_files]
  arguments += [f'--gin.{binding}' for binding in bindings]
  return shlex.join(['.venv/bin/python', 'train.py', *arguments])


def _on_tpus(place: Slice, train: str, name: str, zone: str) -> list[str]:
  slices, several = place.num_slices, place.num_slices > 1
  nodes = [f'{name}-{i}' for i in range(slices)] if several else [name]
  identity = f'--node-count={slices} --node-prefix={name}' if several else f'--node-id={name}'
  where = f'--zone={zone}'
  install = (
    'git clone https://github.com/OWNER/woodshed.git && cd woodshed && '
    'curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install 3.12 && '
    'make install PYTHON=$(~/.local/bin/uv python find 3.12) && '
    '.venv/bin/pip install -q -c constraints.txt -e .[tpu]'
  )
  lines = [
    '',
    '# 1. Ask for machines; `gcloud compute tpus queued-resources list` tells when they are there.',
    f'gcloud compute tpus queued-resources create {name} {identity} {where} '
    f'--accelerator-type={place.accelerator_type} --runtime-version={_IMAGES[place.chip.name]}',
    '',
    f'# 2. Install, on all {place.hosts} workers of each slice at once.',
    *(_on_all_workers(node, where, install) for node in nodes),
    '',
    '# 3. Train: every worker runs this in its checkout, and JAX finds the others:',
    f'#   {train}',
  ]
  background = [f'{_on_all_workers(node, where, "cd woodshed && " + train)}' for node in nodes]
  lines += [f'{command} &' for command in background[:-1]] + background[-1:]
  if several:
    lines += [
      '',
      '# Slices that were not asked for together do not know of each other. Then put in front of',
      '# .venv/bin/python, with ADDRESS for that of worker 0 of slice 0:',
      *(
        f'#   slice {k}: MEGASCALE_COORDINATOR_ADDRESS=ADDRESS MEGASCALE_NUM_SLICES={slices} '
        f'MEGASCALE_SLICE_ID={k}'
        for k in range(slices)
      ),
    ]
  return [
    *lines,
    '',
    '# The same command again goes on where a run stopped. In the end:',
    f'gcloud compute tpus queued-resources delete {name} {where} --force',
  ]


def _on_all_workers(node: str, where: str, command: str) -> str:
  ssh = f'gcloud compute tpus tpu-vm ssh {node} {where} --worker=all'
  return f'{ssh} --command={shlex.quote(command)}'


def _on_gpus(place: Slice, train: str, name: str) -> list[str]:
  memory = 'XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 '
  if place.hosts == 1:
    return ['', memory + train]
  lines = ['', '# One process a host, each with all of its GPUs; all must run at the same time.']
  for index in range(place.hosts):
    joins = (
      f'--coordinator_address={name}-0:{_PORT} --process_count={place.hosts} '
      f'--process_index={index}'
    )
    lines += [f'# On {name}-{index}:', f'{memory}{train} {joins}']
  return [
    *lines,
    '',
    f'# Under SLURM: srun --nodes={place.hosts} --ntasks-per-node=1 ... {train} --multiprocess_gpu',
  ]
