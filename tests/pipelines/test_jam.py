"""What `jam.py` is given: refused early, or served."""

import dataclasses
import json
import urllib.request

import numpy as np
import pytest

from inference.addresses import listen
from inference.client import JamClient
from models.bundle import load_bundle
from pipelines import jam


@pytest.fixture(scope='module')
def bundle():
  presets = {'catalog': np.ones(768, np.float32), 'catalog-1': np.zeros(768, np.float32)}
  return dataclasses.replace(load_bundle('tiny'), presets=presets)


def test_a_tuned_bundle_begins_with_its_presets(bundle):
  server = jam.make_server(bundle, 'mine', jam.JamOptions(port=0, seed=7, buffer_secs=3))
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


def test_a_preset_that_the_bundle_does_not_have_is_refused(bundle):
  with pytest.raises(ValueError, match="no preset 'nope'"):
    jam.make_server(bundle, 'x', jam.JamOptions(prompts=['preset:nope']))


@pytest.mark.parametrize(
  'options, reason',
  [
    ({'buffer_secs': 30}, r'buffer_secs=30 is not in 0.25\.\.20'),
    ({'buffer_secs': float('nan')}, 'buffer_secs=nan'),
    ({'max_batch': 0}, 'max_batch=0'),
    ({'max_batch': 5}, 'max_batch=5 is not a power of two'),
    ({'max_players': 0}, 'max_players=0 must be at least 1'),
    ({'seed': 2**32}, r'seed=4294967296 is not a whole number in 0\.\.4294967295'),
    ({'prompts': ['x'] * 7}, 'at most 6'),
    ({'prompts': ['organ \udcff']}, 'not valid Unicode'),
    ({'token': 'a\udcff'}, 'The token has the lone surrogate'),
    ({'token': 'a' * 257}, 'token of 257 characters'),
    ({'token': '', 'host': '0.0.0.0'}, 'can be reached from other machines'),
    ({'origins': ['studio.example']}, "allowed_origin='studio.example' is not an origin"),
  ],
)
def test_options_out_of_range_are_refused(options, reason):
  with pytest.raises(ValueError, match=reason):
    jam.JamOptions(**options)


@pytest.mark.parametrize(
  'options, osc, reason',
  [
    ({'port': 65536}, {}, '--port=65536'),
    ({'host': 'no host'}, {}, '--host=no host is not an address'),
    ({}, {'osc_port': 70000}, '--osc_port=70000'),
    ({}, {'osc_port': 0, 'osc_host': 'no host'}, '--osc_host=no host is not an address'),
  ],
)
def test_addresses_are_refused_before_anything_is_loaded(options, osc, reason):
  with pytest.raises(ValueError, match=reason):
    jam.serve('no such bundle', jam.JamOptions(**{'port': 0, **options}), **osc)


def test_a_port_is_given_back_where_the_model_is_not_there():
  with listen('127.0.0.1', 0) as free:
    port = free.getsockname()[1]
  with pytest.raises(FileNotFoundError):
    jam.serve('no such bundle', jam.JamOptions(port=port))
  listen('127.0.0.1', port).close()


def test_other_machines_need_the_token_that_is_made(bundle):
  assert jam.make_server(bundle, 'x').token == ''
  server = jam.make_server(bundle, 'x', jam.JamOptions(host='0.0.0.0'))
  assert len(server.token) >= 32 and server.url.endswith(f'#token={server.token}')
  assert jam.first_prompts(load_bundle('tiny')) == list(jam.PROMPTS)
