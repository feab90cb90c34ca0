"""What `jam.py` is given: refused early, or served."""

import dataclasses
import json
import urllib.request

import numpy as np
import pytest

from inference.client import JamClient
from models.bundle import load_bundle
from pipelines import jam


@pytest.fixture(scope='module')
def bundle():
  presets = {'catalog': np.ones(768, np.float32), 'catalog-1': np.zeros(768, np.float32)}
  return dataclasses.replace(load_bundle('tiny'), presets=presets)


def test_a_tuned_bundle_begins_with_its_presets(bundle):
  server = jam.make_server(bundle, 'mine', port=0, seed=7, buffer_secs=3)
  server.start()
  try:
    with JamClient(server.url) as client:
      prompts = client.settings['prompts']
      assert [(p['kind'], p['content'], p['weight']) for p in prompts] == [
        ('preset', 'catalog', 1.0), ('preset', 'catalog-1', 0.0)
      ]  # fmt: skip
      assert client.settings['sampling']['seed'] == 7 and client.settings['buffer_secs'] == 3
      status = json.load(urllib.request.urlopen(f'{server.url}api/status'))
      assert status['model'] == 'mine' and len(status['players']) == 1
  finally:
    server.stop()


def test_what_cannot_be_served_is_refused(bundle):
  with pytest.raises(ValueError, match=r'buffer_secs=30 is not in 0.25\.\.20'):
    jam.make_server(bundle, 'x', buffer_secs=30)
  with pytest.raises(ValueError, match="no preset 'nope'"):
    jam.make_server(bundle, 'x', prompts=['preset:nope'])
  with pytest.raises(ValueError, match='max_batch=5'):
    jam.make_server(bundle, 'x', max_batch=5)
  with pytest.raises(ValueError, match='at most 6'):
    jam.make_server(bundle, 'x', prompts=['x'] * 7)


def test_other_machines_need_the_token_that_is_made(bundle):
  assert jam.make_server(bundle, 'x').token == ''
  server = jam.make_server(bundle, 'x', host='0.0.0.0')
  assert len(server.token) >= 32 and server.url.endswith(f'#token={server.token}')
  assert jam.first_prompts(load_bundle('tiny')) == list(jam.PROMPTS)
