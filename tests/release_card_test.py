"""The card of a release: what the publisher says, and its metadata."""

from __future__ import annotations

import dataclasses
import re

import pytest

from dp_diffusion import config_keys
from dp_diffusion import release_card
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import verify
from tests import tiny_release

STATEMENT = statement_lib.statement(
  tiny_release.LEDGER,
  dataset='Shapes of 2024',
  insecure_secret=False,
  code_revision='abc',
  versions={'jax': '1'},
  public_data=[
    statement_words.public_data(
      {'source': 'letters', 'split': 'train', 'images_sha256': 'a' * 64},
      'none_equal',
    )
  ],
)
CONTENTS = release_card.Contents(
  info={
    'name': 'synthetic_shapes',
    'image_shape': [8, 8, 1],
    'class_names': ['circle', 'star'],
    'num_images': 1000,
    'num_images_per_class': [500, 500],
  },
  parquet_folder='dataset/parquet',
  tfds_folder='dataset/tfds/synthetic_shapes/1.0.0',
  can_sample=True,
)
CONFIG = release_card.CardConfig(
  license='cc-by-4.0',
  contact='The shape lab, shapes@example.org',
  url='https://example.org/shapes',
  code_url='https://example.org/code',
  date='2026-01-31',
)


def section(card, title):
  return card.partition(f'## {title}\n\n')[2].partition('\n\n## ')[0]


def test_the_card_says_what_a_reader_must_know():
  card = release_card.text(STATEMENT, CONFIG, CONTENTS)
  made_from = section(card, 'Made from')
  assert 'Shapes of 2024' in made_from and 'a' * 64 in made_from
  assert 'https://example.org/code' in made_from and '2026-01-31' in made_from
  more = {'source': 'strokes', 'split': 'train', 'images_sha256': 'b' * 64}
  both = [
    *STATEMENT['public_data'],
    statement_words.public_data(more, 'none_equal'),
  ]
  card = release_card.text({**STATEMENT, 'public_data': both}, CONFIG, CONTENTS)
  made_from = section(card, 'Made from')
  assert 'a' * 64 in made_from and 'b' * 64 in made_from
  assert 'not to decide about people' in section(card, 'Intended use')
  limits = section(card, 'Limits')
  assert '100 declared records of 2 classes' in limits
  assert 'no better than guessing' in limits
  rights = section(card, 'Licence, contact, citation')
  for words in ('cc-by-4.0', 'shapes@example.org', 'example.org/shapes'):
    assert words in rights
  assert 'Cite the release as**: The shape lab' in rights
  assert release_card.PAPER_URL in rights


def test_what_was_not_given_is_said():
  config = release_card.CardConfig(date='2026-01-31')
  card = release_card.text(STATEMENT, config, CONTENTS)
  rights = section(card, 'Licence, contact, citation')
  assert 'none was given' in rights and 'whoever published' in rights
  assert 'license:' not in card.partition('\n---\n')[0]


@pytest.mark.parametrize(
  ('number', 'is_found', 'words'),
  [
    (1, True, 'grey (1 channel), as some of the sensitive images showed'),
    (3, True, 'Epsilon does not count this'),
    (1, False, 'grey (1 channel), as was set and not read from the images'),
    (3, False, 'colour (3 channels), as was set'),
    (3, None, 'was not recorded'),
  ],
)
def test_the_card_says_who_decided_on_grey_or_colour(number, is_found, words):
  channels = release_card.Channels(number=number, is_found=is_found)
  card = release_card.text(STATEMENT, CONFIG, CONTENTS, channels)
  assert words in section(card, 'Made from')
  assert ('set and not read' in card) == (is_found is False)


def test_the_metadata_of_the_dataset_are_what_the_publisher_says():
  title = release_card.title(STATEMENT, CONTENTS)
  assert release_card.about(STATEMENT, CONFIG, CONTENTS) == {
    'name': 'synthetic_shapes',
    'description': f'{title}. {STATEMENT["statement"]}',
    'license': 'cc-by-4.0',
    'url': 'https://example.org/shapes',
    'datePublished': '2026-01-31',
    'version': '1.0.0',
    'citeAs': (
      f'The shape lab, shapes@example.org, {title}, 2026-01-31,'
      ' https://example.org/shapes'
    ),
    'creator': {
      '@type': 'sc:Organization',
      'name': 'The shape lab, shapes@example.org',
    },
  }
  config = release_card.CardConfig(
    date='2026-01-31', code_url='https://example.org/code'
  )
  found = release_card.about(STATEMENT, config, CONTENTS)
  assert found['license'] == 'None was given.' and 'creator' not in found
  assert found['url'] == 'https://example.org/code'
  assert found['citeAs'] == f'{title}, 2026-01-31'


def test_a_citation_of_the_publisher_is_taken():
  config = dataclasses.replace(CONFIG, citation='Lab (2026). Shapes.')
  assert release_card.citation(STATEMENT, config, CONTENTS) == config.citation
  card = release_card.text(STATEMENT, config, CONTENTS)
  assert 'Cite the release as**: Lab (2026). Shapes.\n' in card


@pytest.mark.parametrize(
  ('license', 'lines'),
  [
    ('', []),
    ('cc-by-4.0', ['license: cc-by-4.0']),
    (
      'https://example.org/x?a=b',
      ['license: other', 'license_link: "https://example.org/x?a=b"'],
    ),
    (
      'Nur für die Klinik: "A"',
      [
        'license: other',
        'license_name: "Nur f\\U000000fcr die Klinik: \\U00000022A\\U00000022"',
      ],
    ),
  ],
)
@pytest.mark.parametrize('with_images', [True, False])
def test_metadata_are_those_that_verify_accepts(license, lines, with_images):
  config = dataclasses.replace(CONFIG, license=license)
  contents = CONTENTS if with_images else release_card.Contents(info=None)
  card = release_card.text(STATEMENT, config, contents)
  front = verify._FRONT.match(card)
  assert front is not None and card[front.end() :].startswith('# ')
  found = [x for x in front[0].splitlines() if x.startswith('license')]
  assert found == lines
  assert ('configs:' in front[0]) == with_images
  guarantee, details = statement_lib.card_parts(statement_lib.card(STATEMENT))
  assert card[front.end() :].split('\n\n')[1] == guarantee
  assert card.endswith(f'\n## Privacy\n\n{details}\n')


@pytest.mark.parametrize(
  ('num_images', 'size'),
  [
    (1, 'n<1K'),
    (999, 'n<1K'),
    (1000, '1K<n<10K'),
    (50_000, '10K<n<100K'),
    (10**9, '100M<n<1B'),
  ],
)
def test_sizes_are_those_of_hugging_face(num_images, size):
  info = {**CONTENTS.info, 'num_images': num_images}
  contents = dataclasses.replace(CONTENTS, info=info)
  assert f'\n- {size}\n' in release_card.text(STATEMENT, CONFIG, contents)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('data_name', 'two\nlines'),
    ('data_name', ' padded'),
    ('data_name', '<script>'),
    ('contact', 'a\u2028b'),
    ('contact', 'x' * 401),
    ('license', '`code`'),
    ('citation', 'a\tb'),
    ('url', 'example.org'),
    ('url', 'javascript:alert(1)'),
    ('url', 'https://example.org/a b'),
    ('url', 'https://example.org/<b>'),
    ('code_url', 'https://'),
    ('code_url', 'https://exämple.org'),
    ('date', '31.1.2026'),
    ('date', '2026-02-30'),
    ('date', '20260131'),
    ('date', '2026-W05-6'),
  ],
)
def test_what_is_no_line_link_or_date_is_refused(key, value):
  with pytest.raises(ValueError, match=f'Expected card.{key}=') as error:
    release_card.CardConfig(**{key: value})
  assert '\n' not in str(error.value)


def test_the_date_is_the_day_or_that_of_the_environment(monkeypatch):
  monkeypatch.setenv('SOURCE_DATE_EPOCH', '86400')
  assert release_card.CardConfig().dated().date == '1970-01-02'
  assert CONFIG.dated() == CONFIG
  monkeypatch.delenv('SOURCE_DATE_EPOCH')
  found = release_card.CardConfig().dated().date
  assert re.fullmatch(r'20\d\d-\d\d-\d\d', found)


def test_every_key_may_be_left_out_of_earlier_records():
  fields = dataclasses.fields(release_card.CardConfig)
  assert all(config_keys.is_later(field) for field in fields)
