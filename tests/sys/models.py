"""models - makes random models in the formats trims reads, and reads them back by itself: the independent reader that
the daemon's and the library's bytes are compared with."""
import hashlib
import json
import pathlib
import struct

ST_BYTES = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2, 'I64': 8, 'I32': 4, 'I16': 2, 'I8': 1, 'U8': 1, 'BOOL': 1,
            'F8_E4M3': 1, 'F8_E5M2': 1}
GGUF_TYPES = {'F32': (0, 1, 4), 'F16': (1, 1, 2), 'Q4_0': (2, 32, 18), 'Q8_0': (8, 32, 34)}  # number, elements, bytes


def product(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def random_tensors(rng, total, count=8, dtypes=tuple(ST_BYTES), compressible=False, prefix='layer'):
    """{name: (dtype, shape, bytes)} of about `total` bytes, some of them of odd sizes, one empty."""
    tensors = {f'{prefix}.empty': ('F32', (0, 3), b'')}
    for i in range(count):
        dtype = rng.choice(dtypes)
        rows = rng.randint(1, 7)
        columns = max(1, (total // count + rng.randint(0, 9)) // ST_BYTES[dtype] // rows)
        size = rows * columns * ST_BYTES[dtype]
        data = rng.randbytes(64) * (size // 64 + 1) if compressible else rng.randbytes(size)
        tensors[f'{prefix}.{i}.weight'] = (dtype, (rows, columns), data[:size])
    return tensors


def safetensors(tensors, metadata=None):
    header, offset = ({'__metadata__': metadata} if metadata else {}), 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + b''.join(data for _, _, data in tensors.values())


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from('<Q', data)
    start = 8 + length
    return {name: (row['dtype'], tuple(row['shape']),
                   data[start + row['data_offsets'][0]:start + row['data_offsets'][1]])
            for name, row in json.loads(data[8:start]).items() if name != '__metadata__'}


def gguf_string(text):
    return struct.pack('<Q', len(text.encode())) + text.encode()


def gguf(tensors, alignment=32):
    """Shapes are given outermost first and stored the other way round, as the format has it."""
    kv = gguf_string('general.architecture') + struct.pack('<I', 8) + gguf_string('test')
    kv += gguf_string('general.alignment') + struct.pack('<II', 4, alignment)
    infos, body = b'', b''
    for name, (dtype, shape, data) in tensors.items():
        infos += gguf_string(name) + struct.pack(f'<I{len(shape)}Q', len(shape), *reversed(shape))
        infos += struct.pack('<IQ', GGUF_TYPES[dtype][0], len(body))
        body += data + bytes(-len(data) % alignment)
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), 2) + kv + infos
    return head + bytes(-len(head) % alignment) + body


def random_gguf_tensors(rng, count=6, dtypes=tuple(GGUF_TYPES)):
    tensors = {}
    for i in range(count):
        dtype = rng.choice(dtypes)
        _, elements, size = GGUF_TYPES[dtype]
        shape = (rng.randint(1, 9), elements * rng.randint(1, 200))
        tensors[f'blk.{i}.weight'] = (dtype, shape, rng.randbytes(product(shape) // elements * size))
    return tensors


def make(path, rng, total, shards=1, kind='safetensors', files=None, **keywords):
    """A model directory (or, for a path with a suffix, one file); returns its tensors."""
    path = pathlib.Path(path)
    if path.suffix == '.gguf' or kind == 'gguf':
        tensors = random_gguf_tensors(rng, **keywords)
        path.write_bytes(gguf(tensors))
        return tensors
    tensors = random_tensors(rng, total, **keywords)
    if path.suffix == '.safetensors':
        path.write_bytes(safetensors(tensors))
        return tensors
    path.mkdir(parents=True, exist_ok=True)
    for name, data in {'config.json': b'{"model_type": "test"}', **(files or {})}.items():
        (path / name).write_bytes(data)
    if shards == 1:
        (path / 'model.safetensors').write_bytes(safetensors(tensors))
        return tensors
    names = list(tensors)
    index = {}
    for s in range(shards):
        shard = f'model-{s + 1:05}-of-{shards:05}.safetensors'
        mine = names[s::shards]
        (path / shard).write_bytes(safetensors({n: tensors[n] for n in mine}))
        index.update(dict.fromkeys(mine, shard))
    (path / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': index}))
    return tensors


def digests(tensors):
    """Comparable, and short when they differ."""
    return {name: (dtype, tuple(shape), hashlib.sha256(data).hexdigest()[:16])
            for name, (dtype, shape, data) in tensors.items()}
