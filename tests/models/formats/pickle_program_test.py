"""A pickle is read, and never run."""

from __future__ import annotations

import io
import os
import pickle
import random

import pytest

from dp_diffusion.models.formats import pickle_program

VALUE = {'a': [1, 300, 70_000, 2**70, -1.5, 'é', None, True, (), (1, 2, 3, 4)]}


def load(program, names=None, persistent=None):
  return pickle_program.load(io.BytesIO(program), names or {}, persistent)


class Evil:
  """Runs what it is given, in an ordinary unpickler."""

  def __init__(self, function, *arguments):
    self._call = (function, arguments)

  def __reduce__(self):
    return self._call


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_plain_data(protocol):
  assert load(pickle.dumps(VALUE, protocol)) == VALUE
  same = [1]
  first, second = load(pickle.dumps([same, same], protocol))
  assert first is second


def test_the_stream_stands_behind_the_program():
  stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps(2, 2) + b'rest')
  assert [pickle_program.load(stream, {}) for _ in range(2)] == [1, 2]
  assert stream.read() == b'rest'


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize(
  'evil',
  [
    Evil(os.system, 'false'),
    Evil(eval, '1'),
    Evil(getattr, dict, 'update'),
    Evil,
    random.Random(),
  ],
)
def test_no_name_outside_the_table(protocol, evil):
  program = pickle.dumps({'weight': evil}, protocol)
  with pytest.raises(ValueError, match='the code .*which is not run'):
    load(program)


@pytest.mark.parametrize(
  ('program', 'words'),
  [
    (b'\x80\x02cm\nconstant\n)R.', 'no known function'),  # Called.
    (b'\x80\x02}cm\nf\n)\x81.', 'opcode NEWOBJ'),
    (b'\x80\x02(S"x"\nim\nf\n.', 'opcode'),  # INST, protocol 0.
    (b'\x80\x02cm\nf\n}b.', 'no dict to fill'),  # Attributes of a function.
    (b'\x80\x02cm\nf\nX\x01\x00\x00\x00xK\x01s.', 'no dict to fill'),
    (b'\x80\x02cm\nf\nK\x01a.', 'no list to fill'),
    (b'\x80\x02cm\nf\nNR.', 'no known function'),
    (b'\x80\x02cm\nf\n(K\x01tR.', 'damaged'),  # Other arguments.
    (b'\x80\x02\x82\x01.', 'opcode EXT1'),
    (b'\x80\x02K\x01Q.', 'persistent'),
    (b'\x80\x02})K\x01s.', 'tuple as a key'),
  ],
)
def test_only_named_calls(program, words):
  names = {'m.f': pickle_program.Call(lambda: None), 'm.constant': 3}
  assert load(b'\x80\x02cm\nf\n)R.', names) is None
  with pytest.raises(ValueError, match=words):
    load(program, names)


def test_attributes_are_left_out():
  """As the `_metadata` of a state dict."""
  assert load(b'\x80\x02}}X\x01\x00\x00\x00aK\x01sb.') == {}


def test_damaged_programs():
  whole = pickle.dumps(VALUE, 2)
  rng = random.Random(0)
  programs = [whole[:n] for n in range(len(whole))]
  for _ in range(2000):
    program = bytearray(whole)
    program[rng.randrange(len(whole))] = rng.randrange(256)
    programs.append(bytes(program))
  num_refused = 0
  for program in programs:
    try:
      load(program)
    except ValueError:
      num_refused += 1
  assert num_refused >= len(whole)


def test_a_program_has_a_limit(monkeypatch):
  program = pickle.dumps('a' * 100, 2)
  load(program)
  monkeypatch.setattr(pickle_program, 'MAX_BYTES', 100)
  with pytest.raises(ValueError, match='more than 100 bytes'):
    load(program)
