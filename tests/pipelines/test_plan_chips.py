"""Names of slices: chips and cores told apart, and what there is not."""

import pytest

from pipelines.plan_chips import CHIPS, parse_topology


@pytest.mark.parametrize(
  'name, chips, shape, hosts, compiler_name, cloud_name',
  [
    ('v6e-256', 256, (16, 16), 64, 'v6e:16x16', 'v6e-256'),
    ('v6e-1', 1, (1, 1), 1, 'v6e:1x1', 'v6e-1'),
    ('v6e-8', 8, (2, 4), 1, 'v6e:2x4', 'v6e-8'),
    ('v5e-16', 16, (4, 4), 4, 'v5e:4x4', 'v5litepod-16'),
    ('v5litepod-16', 16, (4, 4), 4, 'v5e:4x4', 'v5litepod-16'),
    # Two cores to a chip.
    ('v5p-128', 64, (4, 4, 4), 16, 'v5p:4x4x4', 'v5p-128'),
    ('v5p-8', 4, (2, 2, 1), 1, 'v5p:2x2x1', 'v5p-8'),
    ('v5p:4x4x4', 64, (4, 4, 4), 16, 'v5p:4x4x4', 'v5p-128'),
    ('v4-512', 256, (4, 8, 8), 64, 'v4:4x8x8', 'v4-512'),
  ],
)
def test_tpu_slices(name, chips, shape, hosts, compiler_name, cloud_name):
  place = parse_topology(name)
  assert (place.chips, place.shape, place.hosts) == (chips, shape, hosts)
  assert place.topology_name == compiler_name
  assert place.accelerator_type == cloud_name
  assert place.linked_chips == place.total_chips == chips


def test_gpus_are_linked_within_a_host():
  place = parse_topology('h100-64')
  assert (place.chips, place.hosts, place.linked_chips) == (64, 8, 8)
  assert parse_topology('h200-4').linked_chips == 4
  assert parse_topology('h200-4').hosts == 1


def test_several_slices():
  place = parse_topology('v5p-128', num_slices=3)
  assert (place.total_chips, place.chips, place.linked_chips) == (192, 64, 64)
  assert place.describe() == '3 slices of v5p-128: 64 chips (128 cores) as 4x4x4, 16 hosts'


@pytest.mark.parametrize(
  'name, slices, message',
  [
    ('v6-256', 1, 'Did you mean v6e'),
    ('v6e', 1, 'write CHIP-NUMBER'),
    ('v6e-48', 1, 'v6e counts chips, and there are v6e-1, v6e-4'),
    ('v5p-127', 1, 'v5p counts cores, two to a chip, and there are v5p-8'),
    ('v5e:2x8', 1, 'there are'),
    ('v6e-512', 1, 'v6e-256'),
    ('h100-12', 1, 'a multiple of 8'),
    ('h100-8', 2, 'GPUs have none'),
    ('v6e-4', 0, 'at least 1'),
  ],
)
def test_what_there_is_not(name, slices, message):
  with pytest.raises(ValueError, match=message):
    parse_topology(name, slices)


def test_every_shape_has_its_number_of_chips():
  for chip in CHIPS.values():
    for chips, shape in (chip.shapes or {}).items():
      product = 1
      for size in shape:
        product *= size
      assert product == chips
      assert parse_topology(f'{chip.name}-{chips * chip.cores}').shape == shape
