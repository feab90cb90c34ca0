"""Licences by one name, and what a policy lets in."""

import pytest

from preprocessing import licences


@pytest.mark.parametrize(
  'text, name',
  [
    ('https://creativecommons.org/licenses/by/4.0/', 'CC-BY-4.0'),
    ('http://creativecommons.org/licenses/by-nc-sa/3.0/us/', 'CC-BY-NC-SA-3.0'),
    ('CC BY 4.0', 'CC-BY-4.0'),
    ('cc-by-sa', 'CC-BY-SA'),
    ('CC_BY_ND_2', 'CC-BY-ND-2.0'),
    ('Creative Commons Attribution 4.0 International', 'CC-BY-4.0'),
    ('Creative Commons Attribution-NonCommercial-NoDerivatives 4.0', 'CC-BY-NC-ND-4.0'),
    ('Licensed under a Creative Commons Attribution Share-Alike 3.0 licence', 'CC-BY-SA-3.0'),
    ('CC0', 'CC0-1.0'),
    ('https://creativecommons.org/publicdomain/zero/1.0/', 'CC0-1.0'),
    ('Public Domain', 'public-domain'),
    ('https://creativecommons.org/publicdomain/mark/1.0/', 'public-domain'),
    ('© 2009 A Label', 'all-rights-reserved'),
    ('2009 A Label. All rights reserved.', 'all-rights-reserved'),
    ('Our own contract 7', 'Our own contract 7'),
    ('  ', ''),
    ('CC', 'CC'),
  ],
)
def test_one_name_for_each(text, name):
  assert licences.licence_name(text) == name
  assert licences.licence_name(name) == name


def test_a_policy_lets_in_what_it_names():
  policy = licences.parse_policy(['CC-BY', 'CC0-1.0', 'our own contract 7'], required=True)
  for licence in ('CC BY 4.0', 'cc-by-2.0', 'CC0', 'Our own contract 7'):
    assert policy.refusal(licence) == ''
  for licence in ('CC-BY-NC-4.0', 'CC-BY-SA', 'Public Domain', 'GPL-3.0'):
    assert 'is not one of CC-BY, CC0-1.0' in policy.refusal(licence)
  assert policy.refusal('') == 'no licence is given, and the policy asks for one'
  assert licences.parse_policy(['CC-BY'], required=False).refusal('') == ''
  assert licences.LicencePolicy().refusal('anything') == ''
  for wrong in ('', 'CC-*'):
    with pytest.raises(ValueError, match='is not a licence; name each'):
      licences.parse_policy([wrong], required=False)
