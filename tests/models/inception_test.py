"""Our Inception-v3 against TensorFlow's operations, layer by layer.

The graph is built here with the node names and the operations of the frozen
graph of 2015, node by node and not from our own table, with narrow random
layers. Where the true file is in the cache, the same comparison runs on it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import graph_def
from dp_diffusion.models import inception
from dp_diffusion.models import inception_weights

WIDTH = 0.125  # Of the true channel counts.
# Read here, as tests run with an empty cache of their own.
USERS_CACHE = inception_weights.cache_folder()


class GraphBuilder:
  """Writes the nodes of the 2015 graph; returns node names like TensorFlow."""

  def __init__(self, tf, rng, scale_after_normalization=True):
    self.tf, self.rng = tf, rng
    self.graph = tf.compat.v1.GraphDef()
    self.graph.versions.producer = 8  # Its batch norm went out with 9.
    self.scale = scale_after_normalization
    self.channels = {}

  def node(self, op, name, inputs=(), **attrs):
    node = self.graph.node.add(op=op, name=name, input=inputs)
    for key, value in attrs.items():
      attr = node.attr[key]
      if isinstance(value, bool):
        attr.b = value
      elif isinstance(value, float):
        attr.f = value
      elif isinstance(value, list):
        attr.list.i.extend(value)
      elif isinstance(value, bytes):
        attr.s = value
      elif isinstance(value, int):
        attr.type = value
      else:
        attr.tensor.CopyFrom(value)
    return name

  def constant(self, name, value):
    tensor = self.tf.make_tensor_proto(value)
    return self.node('Const', name, dtype=int(tensor.dtype), value=tensor)

  def conv(self, name, x, kernel, channels, stride=1, padding=b'SAME'):
    c_in, c_out = self.channels[x], max(1, int(channels * WIDTH))
    size = (*kernel, c_in, c_out)
    spread = np.sqrt(2 / np.prod(size[:3]))
    self.constant(
      f'{name}/conv2d_params', self.normal(*size) * np.float32(spread)
    )
    self.constant(f'{name}/batchnorm/beta', 0.1 * self.normal(c_out))
    self.constant(f'{name}/batchnorm/moving_mean', 0.1 * self.normal(c_out))
    gamma = 1 + 0.1 * self.normal(c_out)
    variance = self.rng.uniform(0.5, 1.5, c_out).astype(np.float32)
    gamma[0], variance[0] = 0.04, 1e-3  # Here epsilon matters.
    self.constant(f'{name}/batchnorm/gamma', gamma)
    self.constant(f'{name}/batchnorm/moving_variance', variance)
    self.node(
      'Conv2D', f'{name}/Conv2D', [x, f'{name}/conv2d_params'],
      T=1, strides=[1, stride, stride, 1], padding=padding,
    )  # fmt: skip
    moments = ('moving_mean', 'moving_variance', 'beta', 'gamma')
    self.node(
      'BatchNormWithGlobalNormalization', f'{name}/batchnorm',
      [f'{name}/Conv2D', *(f'{name}/batchnorm/{m}' for m in moments)],
      T=1, variance_epsilon=0.001, scale_after_normalization=self.scale,
    )  # fmt: skip
    self.node('Relu', name, [f'{name}/batchnorm'], T=1)
    self.channels[name] = c_out
    return name

  def normal(self, *shape):
    return self.rng.normal(size=shape).astype(np.float32)

  def convs(self, prefix, x, *kernels_and_channels):
    for i, (kernel, channels) in enumerate(kernels_and_channels):
      name = f'{prefix}/conv_{i}' if i else f'{prefix}/conv'
      x = self.conv(name, x, kernel, channels)
    return x

  def pool(self, name, x, op, stride=1, padding=b'SAME', size=3):
    self.channels[name] = self.channels[x]
    return self.node(
      op, name, [x], T=1, ksize=[1, size, size, 1],
      strides=[1, stride, stride, 1], padding=padding,
    )  # fmt: skip

  def join(self, name, parts):
    dim = self.constant(f'{name}/concat_dim', np.int32(3))
    node = self.graph.node.add(op='Concat', name=name, input=[dim, *parts])
    node.attr['N'].i = len(parts)
    node.attr['T'].type = 1
    self.channels[name] = sum(self.channels[p] for p in parts)
    return name

  def build(self):
    """Pixels at 'ExpandDims' to features at 'pool_3'."""
    self.node('Placeholder', 'ExpandDims', dtype=1)
    self.constant('ResizeBilinear/size', np.int32([299, 299]))
    self.node(
      'ResizeBilinear', 'ResizeBilinear',
      ['ExpandDims', 'ResizeBilinear/size'], T=1, align_corners=False,
    )  # fmt: skip
    self.constant('Sub/y', np.float32(128))
    self.node('Sub', 'Sub', ['ResizeBilinear', 'Sub/y'], T=1)
    self.constant('Mul/y', np.float32(0.0078125))
    x = self.node('Mul', 'Mul', ['Sub', 'Mul/y'], T=1)
    self.channels[x] = 3
    x = self.conv('conv', x, (3, 3), 32, 2, b'VALID')
    x = self.conv('conv_1', x, (3, 3), 32, 1, b'VALID')
    x = self.conv('conv_2', x, (3, 3), 64)
    x = self.pool('pool', x, 'MaxPool', 2, b'VALID')
    x = self.conv('conv_3', x, (1, 1), 80, 1, b'VALID')
    x = self.conv('conv_4', x, (3, 3), 192, 1, b'VALID')
    x = self.pool('pool_1', x, 'MaxPool', 2, b'VALID')
    for name, pooled in (('mixed', 32), ('mixed_1', 64), ('mixed_2', 64)):
      x = self.mixed_35(name, x, pooled)
    x = self.mixed_3(x)
    for i, inner in ((4, 128), (5, 160), (6, 160), (7, 192)):
      x = self.mixed_17(f'mixed_{i}', x, inner)
    x = self.mixed_8(x)
    x = self.mixed_tail('mixed_9', x, 'AvgPool')
    x = self.mixed_tail('mixed_10', x, 'MaxPool')
    self.pool('pool_3', x, 'AvgPool', 1, b'VALID', size=8)
    return self.graph

  def mixed_35(self, name, x, pooled):
    parts = [self.convs(name, x, ((1, 1), 64))]
    parts += [self.convs(f'{name}/tower', x, ((1, 1), 48), ((5, 5), 64))]
    three = ((3, 3), 96)
    parts += [self.convs(f'{name}/tower_1', x, ((1, 1), 64), three, three)]
    pool = self.pool(f'{name}/tower_2/pool', x, 'AvgPool')
    parts += [self.convs(f'{name}/tower_2', pool, ((1, 1), pooled))]
    return self.join(f'{name}/join', parts)

  def mixed_3(self, x):
    first = self.conv('mixed_3/conv', x, (3, 3), 384, 2, b'VALID')
    tower = self.convs('mixed_3/tower', x, ((1, 1), 64), ((3, 3), 96))
    tower = self.conv('mixed_3/tower/conv_2', tower, (3, 3), 96, 2, b'VALID')
    pool = self.pool('mixed_3/pool', x, 'MaxPool', 2, b'VALID')
    return self.join('mixed_3/join', [first, tower, pool])

  def mixed_17(self, name, x, inner):
    one, wide, tall = ((1, 1), inner), ((1, 7), inner), ((7, 1), inner)
    parts = [self.convs(name, x, ((1, 1), 192))]
    parts += [self.convs(f'{name}/tower', x, one, wide, ((7, 1), 192))]
    long = (one, tall, wide, tall, ((1, 7), 192))
    parts += [self.convs(f'{name}/tower_1', x, *long)]
    pool = self.pool(f'{name}/tower_2/pool', x, 'AvgPool')
    parts += [self.convs(f'{name}/tower_2', pool, ((1, 1), 192))]
    return self.join(f'{name}/join', parts)

  def mixed_8(self, x):
    first = self.convs('mixed_8/tower', x, ((1, 1), 192))
    first = self.conv('mixed_8/tower/conv_1', first, (3, 3), 320, 2, b'VALID')
    second = self.convs(
      'mixed_8/tower_1', x, ((1, 1), 192), ((1, 7), 192), ((7, 1), 192)
    )
    second = self.conv(
      'mixed_8/tower_1/conv_3', second, (3, 3), 192, 2, b'VALID'
    )
    pool = self.pool('mixed_8/pool', x, 'MaxPool', 2, b'VALID')
    return self.join('mixed_8/join', [first, second, pool])

  def mixed_tail(self, name, x, pool):
    parts = [self.convs(name, x, ((1, 1), 320))]
    ends = {
      'tower': self.convs(f'{name}/tower', x, ((1, 1), 384)),
      'tower_1': self.convs(f'{name}/tower_1', x, ((1, 1), 448), ((3, 3), 384)),
    }
    for tower, end in ends.items():
      mixed = f'{name}/{tower}/mixed'
      parts += [self.conv(f'{mixed}/conv', end, (1, 3), 384)]
      parts += [self.conv(f'{mixed}/conv_1', end, (3, 1), 384)]
    pooled = self.pool(f'{name}/tower_2/pool', x, pool)
    parts += [self.convs(f'{name}/tower_2', pooled, ((1, 1), 192))]
    return self.join(f'{name}/join', parts)


@pytest.fixture(scope='module')
def tf():
  return pytest.importorskip(
    'tensorflow', reason='TensorFlow checks our Inception, and is not here.'
  )


@pytest.fixture(scope='module')
def narrow_graph(tf):
  return GraphBuilder(tf, np.random.default_rng(0)).build()


def run_tensorflow(tf, graph, images, tensors):
  """Runs the graph on float32 pixels, fed where FID's code feeds them."""
  with tf.Graph().as_default() as g:
    tf.import_graph_def(graph, name='')
    with tf.compat.v1.Session(graph=g) as session:
      return session.run(tensors, {'ExpandDims:0': images.astype(np.float32)})


def run_ours(data, images):
  """Returns (features, {tensor name: activation})."""
  params = inception_weights.read_params(data)
  net = inception.InceptionV3(inception_weights.channels(params))

  @jax.jit
  def run(params, images):
    x = inception.preprocess(images)
    return net.apply({'params': params}, x, mutable=['intermediates'])

  features, state = run(params, images)
  return features, {k: v[0] for k, v in state['intermediates'].items()}


def check_every_layer(tf, graph, images):
  features, ours = run_ours(graph.SerializeToString(), images)
  names = {n.name for n in graph.node}
  # A block's node is its join; the inner forks of the last two have none.
  tensors = {
    k: k if k[:-2] in names else f'{k[:-2]}/join:0'
    for k in ours
    if not k.endswith('/mixed:0')
  }
  theirs = run_tensorflow(tf, graph, images, [*tensors.values(), 'pool_3:0'])
  assert len(tensors) == 94 + 11
  for name, expected in zip(tensors, theirs[:-1], strict=True):
    scale = np.abs(expected).max()
    assert scale > 0.01, f'{name} is dead, and would hide an error'
    np.testing.assert_allclose(
      ours[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name
    )
  expected = theirs[-1][:, 0, 0]
  np.testing.assert_allclose(
    features, expected, rtol=0, atol=1e-4 * np.abs(expected).max()
  )
  assert np.std(expected, axis=0).max() > 0.01  # Images differ.


def random_images(*shape):
  return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


def test_agrees_with_tensorflow_in_every_layer(tf, narrow_graph):
  check_every_layer(tf, narrow_graph, random_images(2, 32, 32, 3))


def test_agrees_with_tensorflow_on_the_true_file(tf):
  path = USERS_CACHE / inception_weights.FILE_NAME
  if not path.exists():
    pytest.skip(f'The graph of 2015 is not at {path}.')
  graph = tf.compat.v1.GraphDef()
  graph.ParseFromString(inception_weights.find(str(path)).read_bytes())
  check_every_layer(tf, graph, random_images(2, 32, 32, 3))


def test_gamma_is_left_out_where_the_graph_leaves_it_out(tf):
  builder = GraphBuilder(tf, np.random.default_rng(0), False)
  params = inception_weights.read_params(builder.build().SerializeToString())
  np.testing.assert_array_equal(params['mixed.conv']['gamma'], 1.0)


def test_constants_are_read_as_tensorflow_reads_them(tf, narrow_graph):
  nodes = graph_def.read_nodes(narrow_graph.SerializeToString())
  checked = 0
  for node in narrow_graph.node:
    if node.op == 'Const' and node.attr['dtype'].type == 1:
      expected = tf.make_ndarray(node.attr['value'].tensor)
      np.testing.assert_array_equal(nodes[node.name].value, expected)
      checked += 1
  assert checked == 5 * 94 + 2


def test_a_missing_or_foreign_node_is_named(tf, narrow_graph):
  def copy():
    graph = type(narrow_graph)()
    graph.CopyFrom(narrow_graph)
    return graph, {n.name: n for n in graph.node}

  graph, nodes = copy()
  nodes['mixed_5/tower/conv/conv2d_params'].name = 'other'
  with pytest.raises(ValueError, match='mixed_5/tower/conv/conv2d_params'):
    inception_weights.read_params(graph.SerializeToString())
  graph, nodes = copy()
  tensor = nodes['conv/conv2d_params'].attr['value'].tensor
  tensor.CopyFrom(tf.make_tensor_proto(np.zeros((5, 5, 3, 4), np.float32)))
  with pytest.raises(ValueError, match=r'kernel of \(3, 3\)'):
    inception_weights.read_params(graph.SerializeToString())
  graph, nodes = copy()
  nodes['conv/batchnorm'].attr['variance_epsilon'].f = 0.01
  with pytest.raises(ValueError, match='epsilon'):
    inception_weights.read_params(graph.SerializeToString())


@pytest.mark.parametrize('size', [(28, 28), (32, 32), (299, 299), (400, 333)])
def test_resize_is_that_of_tensorflow_1(tf, size):
  images = random_images(2, *size, 3).astype(np.float32)
  expected = tf.compat.v1.image.resize_bilinear(
    images, (299, 299), align_corners=False, half_pixel_centers=False
  )
  found = jax.jit(inception.resize_bilinear_tf1, static_argnums=1)(images, 299)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_resize_follows_the_formula():
  x = np.arange(3, dtype=np.float32)[None, None, :, None]
  found = inception.resize_bilinear_tf1(jnp.asarray(x), 6)
  # Sources 0, 0.5, 1, 1.5, 2, 2.5 and the last clamped at pixel 2.
  np.testing.assert_allclose(
    found[0, 0, :, 0], [0, 0.5, 1, 1.5, 2, 2], rtol=0, atol=1e-6
  )


def test_preprocess_repeats_grey_and_scales():
  grey = np.full((1, 4, 4, 1), 255, np.uint8)
  x = inception.preprocess(jnp.asarray(grey))
  assert x.shape == (1, 299, 299, 3)
  np.testing.assert_allclose(x, 127 / 128, rtol=1e-6)


def test_the_full_network_has_the_known_size():
  x = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
  net = inception.InceptionV3()
  key = jax.random.key(0)
  variables = jax.eval_shape(lambda x: net.init(key, x), x)
  leaves = jax.tree.leaves(variables['params'])
  # torchvision's Inception-v3 without its classifiers has 21,785,568 trained
  # numbers: kernels, and two numbers for each of 17,216 channels.
  kernels = sum(leaf.size for leaf in leaves if leaf.ndim == 4)
  rest = sum(leaf.size for leaf in leaves if leaf.ndim == 1)
  assert (kernels, rest) == (21_785_568 - 2 * 17_216, 4 * 17_216)
  out = jax.eval_shape(net.apply, variables, x)
  assert out.shape == (1, inception.NUM_FEATURES)
