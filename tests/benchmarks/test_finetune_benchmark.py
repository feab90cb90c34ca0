"""What the fine-tuning benchmark makes of the figures of its runs."""

from benchmarks import finetune

_STYLE = {'low': 0.05, 'high': 0.25}


def _row(case, seed, **figures):
  curves = {'catalog': [[0, 6.0], [25, 5.7]], 'general': [[0, 5.0], [25, 5.1]]}
  return {'case': case, 'seed': seed, 'marked': False, 'copies': 0.0, 'curves': curves, **figures}


def _rows():
  return [
    _row('full', 0, coarse_gain=12.0, style=_STYLE),
    _row('lora', 0, coarse_gain=9.0, style=_STYLE),
    _row('long', 0, copies=60.0, marked=True),
    _row('full', 1, coarse_gain=16.0, style=_STYLE),
    _row('lora', 1, coarse_gain=8.0, style=_STYLE),
  ]


def test_table_has_means_each_seed_and_the_adapters_share_of_the_gain():
  lines = finetune.table(_rows()).splitlines()
  (gain,) = (line for line in lines if line.startswith('full: coarse held-out'))
  assert gain.split()[-3:] == ['14.000', '12.000', '16.000']
  (share,) = (line for line in lines if line.startswith("lora: lora's gain"))
  assert share.split()[-3:] == ['62.500', '75.000', '50.000']
  assert 'full: style interval, seed 1: +0.050 to +0.250' in lines
  assert 'long: seed 0 MARKED' in lines and 'lora: seed 1 not marked' in lines
  assert lines[-1].startswith('full: coarse gain 14.00 %')


def test_plot_shows_every_case_of_both_kinds_of_music(tmp_path):
  path = tmp_path / 'curves.svg'
  finetune.plot(_rows(), path)
  text = path.read_text(encoding='utf-8')
  for shown in ('full', 'lora', 'long', 'held-out general music', 'loss against the base, %'):
    assert f'>{shown}<' in text
