"""reference - the architectures of trims-run once more, in numpy and 64 bits, written from the papers and from what published
configurations mean; and small random models of each, as files that people would have.

    model = bert(rng)                a Model: .config, .tensors {name: (dtype, array)}, .family
    model.write(folder)
    model.run(...)                   what the program should answer

Nothing here reads what trims wrote.  A tensor's array has the values that its dtype can hold, so the comparison is of the
arithmetic alone."""
import json
import math
import pathlib
import struct

import numpy as np

DTYPES = ('F32', 'F16', 'BF16')


def narrow(array, dtype):
    """(bytes, the values that these bytes stand for)"""
    array = np.ascontiguousarray(array, np.float32)
    if dtype == 'F32':
        return array.tobytes(), array.astype(np.float64)
    if dtype == 'F16':
        half = array.astype(np.float16)
        return half.tobytes(), half.astype(np.float64)
    bits = (array.view(np.uint32) + 0x8000) >> 16  # rounded half up; good enough to make weights
    return bits.astype(np.uint16).tobytes(), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


ACTIVATIONS = {'gelu': gelu, 'gelu_new': gelu_new, 'relu': lambda x: np.maximum(x, 0)}


def layer_norm(x, scale, shift, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * scale + shift


def attention(q, k, v, heads, causal):
    """[t, c] each"""
    t, c = q.shape
    split = [a.reshape(t, heads, c // heads).transpose(1, 0, 2) for a in (q, k, v)]
    scores = split[0] @ split[1].transpose(0, 2, 1) / math.sqrt(c // heads)
    if causal:
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
    return (softmax(scores) @ split[2]).transpose(1, 0, 2).reshape(t, c)


class Model:
    def __init__(self, rng, config, dtype='F32'):
        self.config, self.dtype = config, dtype
        self.random = np.random.default_rng(rng.getrandbits(64))
        self.stored, self.values = {}, {}

    def add(self, name, *shape, scale=None, around=0.0, low=None):
        """A random tensor; kept small enough for activations to stay near 1.  low: all values above it."""
        array = self.random.standard_normal(shape)
        array = around + array * (scale if scale is not None else 1 / math.sqrt(math.prod(shape[1:]) or 1))
        if low is not None:
            array = low + np.abs(array)
        raw, values = narrow(array, self.dtype)
        self.stored[name] = (self.dtype, shape, raw)
        self.values[name] = values.reshape(shape)

    def add_norm(self, name, width, suffixes=('.weight', '.bias')):
        self.add(name + suffixes[0], width, scale=0.1, around=1)
        self.add(name + suffixes[1], width, scale=0.1)

    def add_linear(self, name, out, into, transposed=False):
        self.add(f'{name}.weight', *((into, out) if transposed else (out, into)), scale=1 / math.sqrt(into))
        self.add(f'{name}.bias', out, scale=0.1)

    def write(self, folder, order=None, shards=1, files=None):
        """A folder as people have them.  order: how tensors lie in the files; default: as they were added."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'config.json').write_text(json.dumps(self.config))
        for name, text in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        names = list(self.stored)
        if order:
            order(names)
        if shards == 1:
            (folder / 'model.safetensors').write_bytes(self.safetensors(names))
            return
        where = {}
        for s in range(shards):
            shard = f'model-{s + 1:05}-of-{shards:05}.safetensors'
            (folder / shard).write_bytes(self.safetensors(names[s::shards]))
            where.update(dict.fromkeys(names[s::shards], shard))
        (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': where}))

    def safetensors(self, names):
        header, offset = {}, 0
        for name in names:
            dtype, shape, data = self.stored[name]
            header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [offset, offset + len(data)]}
            offset += len(data)
        text = json.dumps(header).encode()
        text += b' ' * (-len(text) % 8)
        return struct.pack('<Q', len(text)) + text + b''.join(self.stored[n][2] for n in names)

    def linear(self, name, x, transposed=False):
        w = self.values[f'{name}.weight']
        return x @ (w if transposed else w.T) + self.values[f'{name}.bias']

    def norm(self, name, x, eps, suffixes=('.weight', '.bias')):
        return layer_norm(x, self.values[name + suffixes[0]], self.values[name + suffixes[1]], eps)


# ---- BERT and RoBERTa

class Bert(Model):
    def __init__(self, rng, dtype='F32', kind='bert', prefix='', old_names=False, act='gelu', layers=None, hidden=None,
                 words=None, pad=1):
        heads = rng.choice((1, 2, 3, 4))
        hidden = hidden or heads * rng.choice((4, 8, 12))
        while hidden % heads:
            heads -= 1
        config = {'model_type': kind, 'hidden_size': hidden, 'num_attention_heads': heads,
                  'num_hidden_layers': layers or rng.randint(1, 3), 'intermediate_size': rng.randint(5, 70),
                  'vocab_size': words or rng.randint(30, 90), 'max_position_embeddings': rng.randint(24, 40),
                  'type_vocab_size': 1 if kind == 'roberta' else 2, 'hidden_act': act, 'layer_norm_eps': 1e-5,
                  'pad_token_id': pad if kind == 'roberta' else 0}
        super().__init__(rng, config, dtype)
        self.prefix, self.suffixes = prefix, ('.gamma', '.beta') if old_names else ('.weight', '.bias')
        self.first = config['pad_token_id'] + 1 if kind == 'roberta' else 0
        self.most = config['max_position_embeddings'] - self.first
        p = prefix + 'embeddings.'
        for name, rows in (('word', config['vocab_size']), ('position', config['max_position_embeddings']),
                           ('token_type', config['type_vocab_size'])):
            self.add(f'{p}{name}_embeddings.weight', rows, hidden, scale=1)
        self.add_norm(p + 'LayerNorm', hidden, self.suffixes)
        for i in range(config['num_hidden_layers']):
            p = f'{prefix}encoder.layer.{i}.'
            for part in 'query', 'key', 'value':
                self.add_linear(f'{p}attention.self.{part}', hidden, hidden)
            self.add_linear(p + 'attention.output.dense', hidden, hidden)
            self.add_norm(p + 'attention.output.LayerNorm', hidden, self.suffixes)
            self.add_linear(p + 'intermediate.dense', config['intermediate_size'], hidden)
            self.add_linear(p + 'output.dense', hidden, config['intermediate_size'])
            self.add_norm(p + 'output.LayerNorm', hidden, self.suffixes)
        self.add_linear(prefix + 'pooler.dense', hidden, hidden)  # nobody uses it

    def run(self, tokens, first_token=False):
        """The sentence's vector."""
        c, v = self.config, self.values
        p = self.prefix + 'embeddings.'
        x = (v[p + 'word_embeddings.weight'][tokens] + v[p + 'token_type_embeddings.weight'][0] +
             v[p + 'position_embeddings.weight'][self.first:self.first + len(tokens)])
        x = self.norm(p + 'LayerNorm', x, c['layer_norm_eps'], self.suffixes)
        for i in range(c['num_hidden_layers']):
            p = f'{self.prefix}encoder.layer.{i}.'
            q, k, w = (self.linear(f'{p}attention.self.{part}', x) for part in ('query', 'key', 'value'))
            y = self.linear(p + 'attention.output.dense', attention(q, k, w, c['num_attention_heads'], False))
            x = self.norm(p + 'attention.output.LayerNorm', x + y, c['layer_norm_eps'], self.suffixes)
            y = ACTIVATIONS[c['hidden_act']](self.linear(p + 'intermediate.dense', x))
            x = self.norm(p + 'output.LayerNorm', x + self.linear(p + 'output.dense', y), c['layer_norm_eps'],
                          self.suffixes)
        x = x[0] if first_token else x.mean(0)
        return x / np.linalg.norm(x)


# ---- GPT-2

class Gpt2(Model):
    def __init__(self, rng, dtype='F32', prefix='', own_head=False, layers=None, hidden=None, words=None):
        heads = rng.choice((1, 2, 3))
        hidden = hidden or heads * rng.choice((4, 8, 12))
        while hidden % heads:
            heads -= 1
        config = {'model_type': 'gpt2', 'n_embd': hidden, 'n_head': heads, 'n_layer': layers or rng.randint(1, 3),
                  'n_positions': rng.randint(24, 40), 'vocab_size': words or rng.randint(40, 150), 'n_inner': None,
                  'activation_function': 'gelu_new', 'layer_norm_epsilon': 1e-5, 'eos_token_id': None}
        if own_head:
            config['tie_word_embeddings'] = False
        super().__init__(rng, config, dtype)
        self.prefix, self.most = prefix, config['n_positions']
        self.add(prefix + 'wte.weight', config['vocab_size'], hidden, scale=1)
        self.add(prefix + 'wpe.weight', config['n_positions'], hidden, scale=0.5)
        for i in range(config['n_layer']):
            p = f'{prefix}h.{i}.'
            self.add_norm(p + 'ln_1', hidden)
            self.add_linear(p + 'attn.c_attn', 3 * hidden, hidden, transposed=True)
            self.add_linear(p + 'attn.c_proj', hidden, hidden, transposed=True)
            self.add_norm(p + 'ln_2', hidden)
            self.add_linear(p + 'mlp.c_fc', 4 * hidden, hidden, transposed=True)
            self.add_linear(p + 'mlp.c_proj', hidden, 4 * hidden, transposed=True)
        self.add_norm(prefix + 'ln_f', hidden)
        if own_head:
            self.add('lm_head.weight', config['vocab_size'], hidden)

    def run(self, tokens):
        """The next token's scores, with nothing kept from earlier tokens."""
        c, v, p = self.config, self.values, self.prefix
        eps = c['layer_norm_epsilon']
        x = v[p + 'wte.weight'][tokens] + v[p + 'wpe.weight'][:len(tokens)]
        for i in range(c['n_layer']):
            b = f'{p}h.{i}.'
            qkv = self.linear(b + 'attn.c_attn', self.norm(b + 'ln_1', x, eps), transposed=True)
            y = attention(*np.split(qkv, 3, axis=1), c['n_head'], True)
            x = x + self.linear(b + 'attn.c_proj', y, transposed=True)
            y = gelu_new(self.linear(b + 'mlp.c_fc', self.norm(b + 'ln_2', x, eps), transposed=True))
            x = x + self.linear(b + 'mlp.c_proj', y, transposed=True)
        x = self.norm(p + 'ln_f', x[-1], eps)
        return v.get('lm_head.weight', v[p + 'wte.weight']) @ x

    def generate(self, tokens, n):
        """(tokens behind these, scores of each step)"""
        tokens, scores = list(tokens), []
        for _ in range(n):
            scores.append(self.run(tokens))
            tokens.append(int(scores[-1].argmax()))
        return tokens[-n:], np.array(scores)


# ---- ResNet

def convolve(x, w, stride):
    """[c, h, w] and [out, c, k, k], padded by k // 2"""
    k = w.shape[2]
    x = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    h, width = ((n - k) // stride + 1 for n in x.shape[1:])
    y = np.zeros((w.shape[0], h, width))
    for i in range(k):
        for j in range(k):
            part = x[:, i:i + stride * (h - 1) + 1:stride, j:j + stride * (width - 1) + 1:stride]
            y += np.tensordot(w[:, :, i, j], part, 1)
    return y


class Resnet(Model):
    def __init__(self, rng, dtype='F32', theirs=False, bottleneck=True, depths=None, early=False, widths=None):
        depths = depths or [rng.randint(1, 2) for _ in range(4)]
        widths = widths or [rng.choice((4, 8, 12)) * 2 ** i for i in range(4)]
        config = {'model_type': 'resnet', 'depths': depths, 'hidden_sizes': widths, 'embedding_size': rng.choice((3, 4, 8)),
                  'layer_type': 'bottleneck' if bottleneck else 'basic', 'num_channels': 3,
                  'image_size': rng.choice((32, 33, 40)), 'num_labels': rng.randint(3, 20)}
        if early:  # version 1.0, stride in a bottleneck's first convolution; without it 1.5
            config['downsample_in_bottleneck'] = True
        config['id2label'] = {str(i): f'thing {i}' for i in range(config.pop('num_labels'))}
        super().__init__(rng, config, dtype)
        self.theirs, self.bottleneck = theirs, bottleneck
        p = 'resnet.' if theirs else ''
        self.add_conv(*self.stem(), config['embedding_size'], 3, 7)
        into = config['embedding_size']
        for s in range(4):
            for b in range(depths[s]):
                for names, out, size, kernel, _ in self.convolutions(s, b, into):
                    self.add_conv(*names, out, size, kernel)
                into = widths[s]
        self.add_linear('classifier.1' if theirs else 'fc', len(config['id2label']), into)
        assert all(n.startswith(p) or n.startswith('classifier') for n in self.stored)

    def add_conv(self, conv, norm, out, into, kernel):
        self.add(conv + '.weight', out, into, kernel, kernel)
        self.add_norm(norm, out)
        self.add(norm + '.running_mean', out, scale=0.1)
        self.add(norm + '.running_var', out, scale=0.3, low=0.3)

    def stem(self):
        p = 'resnet.embedder.embedder.'
        return (p + 'convolution', p + 'normalization') if self.theirs else ('conv1', 'bn1')

    def convolutions(self, s, b, into):
        """((names), out, in, kernel, stride) of a block: its own, then its shortcut's."""
        out = self.config['hidden_sizes'][s]
        stride = 2 if s > 0 and b == 0 else 1
        inner, early = out // 4, self.config.get('downsample_in_bottleneck')
        p = f'resnet.encoder.stages.{s}.layers.{b}.'

        def names(i):
            if self.theirs:
                return f'{p}layer.{i}.convolution', f'{p}layer.{i}.normalization'
            return f'layer{s + 1}.{b}.conv{i + 1}', f'layer{s + 1}.{b}.bn{i + 1}'
        if self.bottleneck:
            found = [(names(0), inner, into, 1, stride if early else 1), (names(1), inner, inner, 3, 1 if early else stride),
                     (names(2), out, inner, 1, 1)]
        else:
            found = [(names(0), out, into, 3, stride), (names(1), out, out, 3, 1)]
        if into != out or stride > 1:
            short = ((f'{p}shortcut.convolution', f'{p}shortcut.normalization') if self.theirs else
                     (f'layer{s + 1}.{b}.downsample.0', f'layer{s + 1}.{b}.downsample.1'))
            found.append((short, out, into, 1, stride))
        return found

    def conv(self, names, x, stride):
        v = self.values
        y = convolve(x, v[names[0] + '.weight'], stride)
        scale = v[names[1] + '.weight'] / np.sqrt(v[names[1] + '.running_var'] + 1e-5)
        shift = v[names[1] + '.bias'] - v[names[1] + '.running_mean'] * scale
        return y * scale[:, None, None] + shift[:, None, None]

    def run(self, image):
        """Scores of the classes."""
        x = np.maximum(self.conv(self.stem(), image, 2), 0)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        h, w = ((n - 3) // 2 + 1 for n in padded.shape[1:])
        x = np.max([padded[:, i:i + 2 * h - 1:2, j:j + 2 * w - 1:2] for i in range(3) for j in range(3)], axis=0)
        into = self.config['embedding_size']
        for s in range(4):
            for b in range(self.config['depths'][s]):
                parts = self.convolutions(s, b, into)
                own = parts[:3 if self.bottleneck else 2]
                y = x
                for i, (names, _, _, _, stride) in enumerate(own):
                    y = self.conv(names, y, stride)
                    if i < len(own) - 1:
                        y = np.maximum(y, 0)
                if len(parts) > len(own):
                    x = self.conv(parts[-1][0], x, parts[-1][4])
                x = np.maximum(x + y, 0)
                into = self.config['hidden_sizes'][s]
        return self.linear('classifier.1' if self.theirs else 'fc', x.mean((1, 2)))
