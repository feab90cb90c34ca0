"""The campaign of bad input: no crash, the right reason for each file, all else tokenized.

`pytest -s tests/preprocessing/test_bad_input.py` prints the table; with `-m slow` the bundled
models tokenize what is good, two processes read, and 3 hours of silence lie among it.
"""

import collections
import os
import pathlib
import shutil
import subprocess
import sys

import bad_files
import pytest
from fake_token_models import load, load_refusing_work

from preprocessing import audio, corpus, dataset, manifest, quality, records, units

ROOT = pathlib.Path(__file__).parents[2]


def _run(folder, output, loader, monkeypatch, **options):
  """Prepares the corpus; two files change between the manifest and the tokenizer."""
  tokenize = dataset.tokenize

  def later(*args, **kwargs):
    if (folder / 'deleted.wav').exists():
      audio.write_audio(folder / 'changed.wav', bad_files.music(999), bad_files.RATE)
      (folder / 'deleted.wav').unlink()
    return tokenize(*args, **kwargs)

  monkeypatch.setattr(dataset, 'tokenize', later)
  return corpus.prepare_corpus(
    corpus.PrepareOptions(output_dir=str(output), audio_dir=str(folder), name='toy', **options),
    loader,
  )


def _outcomes(made, result, output):
  """{path: outcome} by the files that a run leaves, and the table of it."""
  rejects = {reject.path: reject for reject in manifest.read_rejects(output / 'rejects.jsonl')}
  kept = {track.path: track.track_id for track in manifest.read_manifest(output / 'manifest.jsonl')}
  assert not kept.keys() & rejects.keys()
  shards = sorted(result.dataset_dir.glob('*.tfrecord-*'))
  written = collections.Counter(info.track_id for _, info in records.read_shards(shards))
  assert set(written) == set(kept.values())
  outcomes, lines = {}, []
  for path, kind in made.items():
    reject = rejects.get(path)
    passed = bad_files.KEPT if path in kept else bad_files.PASSED_OVER
    outcomes[path] = reject.reason if reject else passed
    right = 'right' if outcomes[path] == kind.outcome else f'NOT {kind.outcome}'
    detail = reject.detail.replace(path, '...') if reject else f'{written[kept.get(path)]} clips'
    lines.append(f'{kind.name:<44} {outcomes[path]:<16} {right:<6} {ascii(detail)[1:70]}')
  return outcomes, lines, kept


def _judge(made, outcomes, lines, slow):
  print()
  print('\n'.join(lines))
  for kind in bad_files.KINDS:
    if why := bad_files.skipped(kind, slow):
      print(f'{kind.name:<44} left out: {why}')
  counts = collections.Counter(outcomes.values())
  print(f'{len(made)} kinds: ' + ', '.join(f'{n} {name}' for name, n in counts.most_common()))
  wrong = {
    kind.name: (outcomes[path], kind.outcome)
    for path, kind in made.items()
    if outcomes[path] != kind.outcome
  }
  assert not wrong
  assert len(made) >= 40
  assert set(counts) <= {*quality.REASONS, bad_files.KEPT, bad_files.PASSED_OVER}


def test_the_campaign(tmp_path, monkeypatch):
  folder, output = tmp_path / 'audio', tmp_path / 'out'
  made = bad_files.make_corpus(folder)
  result = _run(folder, output, load, monkeypatch)
  outcomes, lines, kept = _outcomes(made, result, output)
  _judge(made, outcomes, lines, slow=False)
  # The good files, and the second name of one content, are there too.
  others = set(kept) - set(made)
  assert {os.path.basename(path) for path in others} == {
    'good 0.flac', 'good 1.flac', 'good 2.flac', 'twice (hard link).wav',
  }  # fmt: skip
  tracks = {os.path.basename(t.path): t for t in manifest.read_manifest(output / 'manifest.jsonl')}
  assert tracks['twice.wav'].split == tracks['twice (hard link).wav'].split
  assert not any(track.recording for track in tracks.values())
  counts = collections.Counter(
    outcome for outcome in outcomes.values() if outcome in quality.REASONS
  )
  assert result.stats['rejects'] == counts
  # A second run looks at what may have got better, and does nothing else.
  again = _run(folder, output, load_refusing_work, monkeypatch)
  assert not again.did_work


@pytest.mark.slow
def test_the_whole_campaign_with_the_bundled_models(tmp_path, monkeypatch):
  folder, output = tmp_path / 'audio', tmp_path / 'out'
  made = bad_files.make_corpus(folder, slow=True)
  result = _run(folder, output, units.load_models, monkeypatch, num_workers=2)
  outcomes, lines, _ = _outcomes(made, result, output)
  _judge(made, outcomes, lines, slow=True)


@pytest.mark.skipif(os.geteuid() != 0, reason='covered by the campaign')
@pytest.mark.skipif(not shutil.which('setpriv'), reason='setpriv is not installed')
def test_unreadable_files_as_another_user(tmp_path):
  """Root reads everything, so another user looks."""
  for folder in (tmp_path, *tmp_path.parents[:2]):
    folder.chmod(0o755)
  path = tmp_path / 'locked.wav'
  audio.write_audio(path, bad_files.music(0), bad_files.RATE)
  path.chmod(0)
  script = (
    'import sys; from preprocessing import scan; '
    'found = scan.scan([sys.argv[1]], scan.ScanSettings())[sys.argv[1]]; '
    'print(found.reason, found.detail)'
  )
  user = ('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups')
  done = subprocess.run(
    [*user, sys.executable, '-c', script, str(path)], cwd=ROOT, capture_output=True, text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}, check=False,
  )  # fmt: skip
  if 'PermissionError' in done.stderr and 'site-packages' in done.stderr:
    pytest.skip('the environment is closed to other users')
  assert done.stdout.startswith(f'unreadable {path}'), done.stderr[-500:]
