"""What `import dp_diffusion` names: all of it there, nothing imported."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys

import pytest

import dp_diffusion

IMPORT = """
import sys
before = set(sys.modules)
import dp_diffusion
new = {name for name in set(sys.modules) - before if '.' not in name}
assert new <= {'dp_diffusion'} | set(sys.stdlib_module_names), new
assert not [name for name in sys.modules if name.startswith('dp_diffusion.')]
assert set(dp_diffusion.__all__) <= set(dir(dp_diffusion))
assert not hasattr(dp_diffusion, 'clipped_grad_summ')
from dp_diffusion import errors
"""


def test_importing_it_imports_nothing_else(subprocess_environment):
  job = subprocess.run(
    [sys.executable, '-W', 'error', '-c', IMPORT],
    env=subprocess_environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (job.returncode, job.stderr) == (0, '')


@pytest.mark.parametrize('name', dp_diffusion.__all__)
def test_every_name_has_an_example(name):
  value = getattr(dp_diffusion, name)
  assert value.__name__ == name
  assert value.__module__ == dp_diffusion._MODULE_OF[name]
  assert doctest.DocTestParser().get_examples(value.__doc__), name


def test_a_type_checker_sees_the_same_names(repository):
  """Those that are imported for it, from the modules of the table."""
  text = (repository / 'dp_diffusion' / '__init__.py').read_text()
  (block,) = (
    node
    for node in ast.parse(text).body
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
  )
  seen = {node.names[0].name: node.module for node in block.body}
  assert seen == dp_diffusion._MODULE_OF
  assert dp_diffusion.__all__ == sorted(seen)


def test_an_unknown_name_is_an_error():
  with pytest.raises(AttributeError, match='clipped_grad_summ'):
    _ = dp_diffusion.clipped_grad_summ
