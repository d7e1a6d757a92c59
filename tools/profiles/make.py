#!/usr/bin/python3
"""make.py FOLDER - profiles of DeepPlan's eight models on its machine (V100, fp32, batch 1), derived from the shapes of their
layers and the rates below, which are the same for all of them.  Nothing here was measured.

Layers are the leaf modules that DeepPlan counts, in order of execution: attention's products belong to the layer behind
them, activations to the one before.  Shapes: the models' published configurations; tokens, picture size: DeepPlan's."""
import json
import math
import pathlib
import sys

FLOPS = 8.5e12   # multiply-adds count twice
MEMORY = 700e9   # bytes per second
KERNEL = 5e-6    # seconds that a layer takes at least
LINK = 11.5e9    # bytes per second over PCIe
TILE = 128       # rows (positions of a picture) of a tile of a matrix product, which reads its weights anew
ASSUMED = [
    'compute: 8.5 TFLOP/s, 54 % of the 15.7 of a V100: BERT-Base then takes about the 8.5 ms that fit its published speed-up',
    'element-wise work, norms, softmax: 700 GB/s of 900; at least 5 us a layer',
    'read from the host: its time in device memory and what it touches at 11.5 GB/s, as for copies',
    'touched: embeddings one row a token; matrix products all weights for every 128 rows; 3x3 convolutions once (the weights '
    'are transformed first); batch norm once; layer norm once a row',
]


class Model:
    """Layers as they come."""

    def __init__(self, name, what):
        self.name, self.what, self.layers = name, what, []

    def add(self, name, op, values, seconds, touched, tensors=('weight', 'bias')):
        """values: elements of its weights; touched: bytes."""
        exec_ns = round(max(seconds, KERNEL) * 1e9)
        layer = {'name': name, 'op': op, 'bytes': 4 * values, 'tensors': [f'{name}.{t}' for t in tensors] if values else []}
        at_batch = {'batch': 1, 'exec_ns': exec_ns}
        if values:
            at_batch |= {'dha_ns': exec_ns + round(touched / LINK * 1e9), 'touched_bytes': touched}
        layer['batches'] = [at_batch]
        self.layers.append(layer)

    def embedding(self, name, rows, width, tokens):
        self.add(name, 'embedding', rows * width, 8 * tokens * width / MEMORY, 4 * tokens * width, ('weight',))

    def linear(self, name, rows, inputs, outputs, extra=0.0):
        values = inputs * outputs + outputs
        self.add(name, 'linear', values, 2 * rows * inputs * outputs / FLOPS + extra, 4 * values * math.ceil(rows / TILE))

    def norm(self, name, rows, width):
        self.add(name, 'layer_norm', 2 * width, 8 * rows * width / MEMORY, 8 * width * rows)

    def conv(self, name, inputs, outputs, size, side):
        values = inputs * outputs * size * size
        reads = 1 if size == 3 else math.ceil(side * side / TILE)
        self.add(name, 'conv', values, 2 * values * side * side / FLOPS, 4 * values * reads, ('weight',))

    def plain(self, name, op, elements):
        self.add(name, op, 0, 8 * elements / MEMORY, 0)

    def batch_norm(self, name, width, side):
        self.add(name, 'batch_norm', 4 * width, 8 * width * side * side / MEMORY, 16 * width,
                 ('weight', 'bias', 'running_mean', 'running_var'))


def attention(tokens, width, heads):
    """Both products, and four passes over the scores."""
    return 4 * tokens * tokens * width / FLOPS + 16 * heads * tokens * tokens / MEMORY


def bert(name, vocabulary, positions, types, width, depth, heads, tokens=384):
    m = Model(name, f'{tokens} tokens')
    m.embedding('embeddings.word_embeddings', vocabulary, width, tokens)
    m.embedding('embeddings.position_embeddings', positions, width, tokens)
    m.embedding('embeddings.token_type_embeddings', types, width, tokens)
    m.norm('embeddings.LayerNorm', tokens, width)
    for i in range(depth):
        layer = f'encoder.layer.{i}.'
        for part in ('query', 'key', 'value'):
            m.linear(f'{layer}attention.self.{part}', tokens, width, width)
        m.linear(layer + 'attention.output.dense', tokens, width, width, attention(tokens, width, heads))
        m.norm(layer + 'attention.output.LayerNorm', tokens, width)
        m.linear(layer + 'intermediate.dense', tokens, width, 4 * width, 32 * tokens * width / MEMORY)
        m.linear(layer + 'output.dense', tokens, 4 * width, width)
        m.norm(layer + 'output.LayerNorm', tokens, width)
    m.linear('pooler.dense', 1, width, width)
    m.plain('pooler.activation', 'tanh', width)
    return m


def gpt2(name, width, depth, heads, tokens=1024):
    m = Model(name, f'{tokens} tokens, no output layer')
    m.embedding('wte', 50257, width, tokens)
    m.embedding('wpe', 1024, width, tokens)
    for i in range(depth):
        layer = f'h.{i}.'
        m.norm(layer + 'ln_1', tokens, width)
        m.linear(layer + 'attn.c_attn', tokens, width, 3 * width)
        m.linear(layer + 'attn.c_proj', tokens, width, width, attention(tokens, width, heads))
        m.norm(layer + 'ln_2', tokens, width)
        m.linear(layer + 'mlp.c_fc', tokens, width, 4 * width, 32 * tokens * width / MEMORY)
        m.linear(layer + 'mlp.c_proj', tokens, 4 * width, width)
    m.norm('ln_f', tokens, width)
    return m


def resnet(name, blocks):
    m = Model(name, '224x224')
    m.conv('conv1', 3, 64, 7, 112)
    m.batch_norm('bn1', 64, 112)
    m.plain('relu', 'relu', 64 * 112 * 112)
    m.plain('maxpool', 'pool', 64 * 112 * 112)
    inputs, side = 64, 56
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            before, side = side, 56 >> stage
            at = f'layer{stage + 1}.{block}.'
            m.conv(at + 'conv1', inputs, width, 1, before)
            m.batch_norm(at + 'bn1', width, before)
            m.plain(at + 'relu1', 'relu', width * before * before)
            m.conv(at + 'conv2', width, width, 3, side)
            m.batch_norm(at + 'bn2', width, side)
            m.plain(at + 'relu2', 'relu', width * side * side)
            m.conv(at + 'conv3', width, 4 * width, 1, side)
            m.batch_norm(at + 'bn3', 4 * width, side)
            if block == 0:
                m.conv(at + 'downsample.0', inputs, 4 * width, 1, side)
                m.batch_norm(at + 'downsample.1', 4 * width, side)
            m.plain(at + 'relu3', 'relu', 4 * width * side * side)
            inputs = 4 * width
    m.plain('avgpool', 'pool', inputs * side * side)
    m.linear('fc', 1, inputs, 1000)
    return m


MODELS = [
    bert('bert-base', 30522, 512, 2, 768, 12, 12), bert('bert-large', 30522, 512, 2, 1024, 24, 16),
    bert('roberta-base', 50265, 514, 1, 768, 12, 12), bert('roberta-large', 50265, 514, 1, 1024, 24, 16),
    gpt2('gpt2', 768, 12, 12), gpt2('gpt2-medium', 1024, 24, 16),
    resnet('resnet-50', (3, 4, 6, 3)), resnet('resnet-101', (3, 4, 23, 3)),
]


def write(model, folder):
    head = {'format': 'trims-profile-1', 'model': model.name, 'device': 'Tesla V100-SXM2-16GB', 'executor': 'PyTorch 1.9, fp32',
            'source': 'derived', 'note': model.what, 'assumed': ASSUMED}
    lines = ',\n  '.join(json.dumps(layer) for layer in model.layers)
    text = json.dumps(head, indent=1)[:-2] + f',\n "layers": [\n  {lines}\n ]\n}}\n'
    (folder / f'{model.name}.json').write_text(text)


if __name__ == '__main__':
    for each in MODELS:
        write(each, pathlib.Path(sys.argv[1]))
