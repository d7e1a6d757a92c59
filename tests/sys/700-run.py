"""trims-run computes what it should: every architecture in every type of weights against a reference in numpy, the published
MiniLM against ONNX Runtime, and text to tokens against the tokenizers library."""
import glob
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np

from trimstest import BUILD, PATIENCE, SOURCE, Skip, main, run, test

sys.path[:0] = [str(SOURCE / 'tests/run'), str(SOURCE / 'tools')]
import quickstart  # noqa: E402  pylint: disable=wrong-import-position
import reference  # noqa: E402  pylint: disable=wrong-import-position

RUN = str(BUILD / 'tools/trims-run')
PUBLISHED = SOURCE / 'build/published/minilm'  # what a second run need not fetch again
# Sums of a few thousand products of fp32 numbers near 1, against the same in 64 bits.
CLOSE = 5e-5


def infer(t, *arguments, rc=0):
    """(the report, the raw result)"""
    out = t.dir / 'result.bin'
    out.unlink(missing_ok=True)
    result = run(RUN, 'infer', *arguments, '--output', out, '--json')
    t.equal(result.rc, rc, str(result))
    return result.json, np.fromfile(out, np.float32) if out.exists() else None


def privately(t, model, *arguments, **keywords):
    folder = t.dir / 'own'
    shutil.rmtree(folder, ignore_errors=True)
    model.write(folder, **keywords)
    return infer(t, '--mode', 'private', '--file', folder, *arguments)


def near(t, got, want, what):
    want = np.asarray(want, np.float64)
    t.equal(got.size, want.size, f'{what}: values')
    worst = np.abs(got.reshape(want.shape) - want).max() / max(1, np.abs(want).max())
    assert worst < CLOSE, f'{what}: off by {worst}'


def some_tokens(t, model, most):
    return [t.random.randrange(model.config['vocab_size']) for _ in range(t.random.randint(1, most))]


def listed(tokens):
    return ','.join(map(str, tokens))


# ---- architectures ----

@test
def bert_and_roberta_are_as_the_reference_has_them(t):
    for dtype in reference.DTYPES:
        for kinds in {}, {'prefix': 'bert.', 'old_names': True, 'act': 'relu'}, {'act': 'gelu_new'}, {
                'kind': 'roberta', 'prefix': 'roberta.'}, {'kind': 'roberta', 'pad': 0}:
            model = reference.Bert(t.random, dtype, **kinds)
            tokens = some_tokens(t, model, model.most)
            _, got = privately(t, model, '--input', listed(tokens))
            near(t, got, model.run(tokens), f'{dtype} {kinds}')


@test
def sentences_may_be_their_first_token(t):
    model = reference.Bert(t.random)
    tokens = some_tokens(t, model, model.most)
    pooling = {'pooling_mode_cls_token': True, 'pooling_mode_mean_tokens': False}
    _, got = privately(t, model, '--input', listed(tokens), files={'1_Pooling/config.json': json.dumps(pooling)})
    near(t, got, model.run(tokens, first_token=True), 'first token')


@test
def gpt2_goes_on_as_the_reference_does(t):
    for dtype in reference.DTYPES:
        for kinds in {}, {'prefix': 'transformer.'}, {'prefix': 'transformer.', 'own_head': True}:
            model = reference.Gpt2(t.random, dtype, **kinds)
            n = t.random.randint(1, 8)
            tokens = some_tokens(t, model, model.most - n)
            want, scores = model.generate(tokens, n)
            report, got = privately(t, model, '--input', listed(tokens), '--generate', n)
            near(t, got, scores, f'{dtype} {kinds}: scores')
            t.equal(report['results'][0]['tokens'], want, f'{dtype} {kinds}: tokens')
            t.equal(report['decoded'], n - 1)
            assert report['times']['prefill_ns'] > 0 and (report['times']['decode_ns'] > 0) == (n > 1), report['times']
    text = run(RUN, 'infer', '--mode', 'private', '--file', t.dir / 'own', '--tokens', 5, '--generate', 3)
    assert 'prefill of 5 tokens ' in text.out and ', decode of 2 ' in text.out, text


@test
def gpt2_ends_at_its_end_token(t):
    model = reference.Gpt2(t.random)
    tokens = some_tokens(t, model, 8)
    want, _ = model.generate(tokens, 6)
    model.config['eos_token_id'] = want[2]
    report, _ = privately(t, model, '--input', listed(tokens), '--generate', 6)
    t.equal(report['results'][0]['tokens'], want[:want.index(want[2]) + 1])


@test
def each_text_of_a_batch_ends_at_its_end_token(t):
    """One goes on while another has ended, for as long as there is one."""
    model = reference.Gpt2(t.random)
    rows = np.array([[t.random.randrange(model.config['vocab_size']) for _ in range(5)] for _ in range(4)], np.int32)
    np.save(t.dir / 'rows.npy', rows)
    all_of_it = [model.generate(list(row), 6)[0] for row in rows]
    end = model.config['eos_token_id'] = all_of_it[0][1]
    want = [tokens[:tokens.index(end) + 1] if end in tokens else tokens for tokens in all_of_it]
    report, _ = privately(t, model, '--input', t.dir / 'rows.npy', '--generate', 6)
    t.equal([row['tokens'] for row in report['results']], want)
    t.equal(report['decoded'], max(map(len, want)) - 1)


@test
def resnets_are_as_the_reference_has_them(t):
    for dtype in reference.DTYPES:
        for theirs in False, True:
            for bottleneck in False, True:
                model = reference.Resnet(t.random, dtype, theirs, bottleneck, early=bottleneck and theirs and dtype == 'F32')
                size = model.config['image_size']
                images = model.random.standard_normal((2, 3, size, size)).astype(np.float32)
                np.save(t.dir / 'images.npy', images)
                want = [model.run(image.astype(np.float64)) for image in images]
                report, got = privately(t, model, '--input', t.dir / 'images.npy')
                near(t, got, want, f'{dtype} {theirs} {bottleneck}')
                for one, scores in zip(report['results'], want):
                    t.equal(one['label'], f'thing {scores.argmax()}')


@test
def a_batch_is_its_inputs_one_by_one(t):
    model = reference.Bert(t.random)
    rows = np.array([[t.random.randrange(model.config['vocab_size']) for _ in range(9)] for _ in range(5)], np.int64)
    np.save(t.dir / 'rows.npy', rows)
    _, got = privately(t, model, '--input', t.dir / 'rows.npy')
    near(t, got, [model.run(list(row)) for row in rows], 'rows')
    model = reference.Gpt2(t.random)
    rows = np.array([[t.random.randrange(model.config['vocab_size']) for _ in range(7)] for _ in range(3)], np.int32)
    np.save(t.dir / 'rows.npy', rows)
    report, _ = privately(t, model, '--input', t.dir / 'rows.npy', '--generate', 4)
    t.equal([r['tokens'] for r in report['results']], [model.generate(list(row), 4)[0] for row in rows])


@test
def one_row_in_a_file_may_be_long(t):
    model = reference.Bert(t.random, layers=1)
    model.config['max_position_embeddings'] = 5000
    model.add('embeddings.position_embeddings.weight', 5000, model.config['hidden_size'], scale=1)
    tokens = [t.random.randrange(model.config['vocab_size']) for _ in range(4100)]
    np.save(t.dir / 'row.npy', np.array(tokens, np.int32))
    report, _ = privately(t, model, '--input', t.dir / 'row.npy')
    t.equal(report['digest'], privately(t, model, '--input', listed(tokens))[0]['digest'])


@test
def the_order_and_number_of_files_does_not_matter(t):
    model = reference.Bert(t.random)
    tokens = listed(some_tokens(t, model, model.most))
    first, _ = privately(t, model, '--input', tokens)
    for shards in 1, 3:
        report, _ = privately(t, model, '--input', tokens, order=t.random.shuffle, shards=shards)
        t.equal(report['digest'], first['digest'], f'{shards} files')


@test
def threads_and_repetitions_give_the_same_bits(t):
    model = reference.Bert(t.random, hidden=96)
    tokens = listed(some_tokens(t, model, model.most))
    for threads in 1, 2, 5:
        digests = {privately(t, model, '--input', tokens, '--threads', threads, '--repeat', 20)[0]['digest']
                   for _ in range(2)}
        t.equal(len(digests), 1, f'{threads} threads: {digests}')


@test
def a_library_s_own_threads_have_ended_when_the_model_is_asked_for(t):
    """They look for work for milliseconds, on the cores that the daemon would load or answer with."""
    path = t.dir / 'socket'
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        p = t.spawn(RUN, 'infer', 'a', '--socket', path, '--threads', '2', stdin=subprocess.DEVNULL)
        with listener.accept()[0] as daemon:
            daemon.settimeout(PATIENCE)
            assert daemon.recv(4096), 'it says hello'
            if os.environ.get('TRIMS_SANITIZE') != 'thread':  # that has a thread of its own
                t.equal(len(os.listdir(f'/proc/{p.pid}/task')), 1)
        t.equal(p.wait(PATIENCE), 3, 'it was left alone')


@test
def a_library_that_threads_cannot_share_is_used_by_one(t):
    found = glob.glob('/usr/lib/*/openblas-serial/libopenblas.so.0')
    if not found:
        raise Skip('libopenblas0-serial is not installed')
    model = reference.Bert(t.random, hidden=96)
    model.write(t.dir / 'a')
    arguments = ('infer', '--mode', 'private', '--file', t.dir / 'a', '--repeat', 50, '--json')
    serial = {'LD_LIBRARY_PATH': os.path.dirname(found[0])}
    one = run(RUN, *arguments, '--threads', 1, **serial)
    for threads in 2, 5:
        result = run(RUN, *arguments, '--threads', threads, **serial)
        t.equal(result.rc, 0, str(result))
        t.equal(result.json['digest'], one.json['digest'])
        assert 'openblas-one-thread' in result.err and 'openblas' not in one.err, result
        t.equal(([note.split(':')[0] for note in result.json['notes']], one.json['notes']), (['openblas-one-thread'], []))


# ---- the published model ----

def published():
    """The folder of all-MiniLM-L6-v2 as published; fetched if it can be."""
    if not PUBLISHED.exists():
        quickstart.STORE.mkdir(parents=True, exist_ok=True)
        fresh = PUBLISHED.with_name(f'minilm.{os.getpid()}')
        fresh.mkdir(parents=True)
        try:
            quickstart.take_published(fresh)
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            shutil.rmtree(fresh)
            raise Skip(f'the published weights cannot be had: {e}') from e
        if PUBLISHED.exists():  # somebody else was faster
            shutil.rmtree(fresh)
        else:
            fresh.rename(PUBLISHED)
    return PUBLISHED


@test
def minilm_is_as_onnx_runtime_has_it(t):
    folder = published()
    daemon = t.daemon(sources=[f'dir:{folder.parent}'])
    fixture = json.loads((SOURCE / 'tests/run/minilm.json').read_text())
    for row in fixture['rows']:
        report, got = infer(t, 'minilm', '--socket', daemon.socket, '--input', row['text'])
        t.equal(report['tokens'], len(row['tokens']), f'tokens of {row["text"]!r}')
        worst = np.abs(got - np.array(row['embedding'])).max()
        assert worst < 1e-5, f'{row["text"]!r}: off by {worst}'
        same, _ = infer(t, 'minilm', '--socket', daemon.socket, '--input', listed(row['tokens']))
        t.equal(same['digest'], report['digest'], 'text and its tokens')


# ---- what cannot be done ----

def refused(t, model, *arguments, code, words, **keywords):
    folder = t.dir / 'own'
    shutil.rmtree(folder, ignore_errors=True)
    model.write(folder, **keywords)
    result = run(RUN, 'infer', '--mode', 'private', '--file', folder, *arguments, '--json')
    t.equal(result.rc, 1, str(result))
    t.equal(result.json['error']['code'], code, str(result))
    assert words in result.json['error']['text'] and words in result.err, result


@test
def what_a_model_cannot_take_is_refused_with_words(t):
    model = reference.Bert(t.random)
    size = model.config['vocab_size']
    refused(t, model, '--input', f'1,{size}', code='BAD_REQUEST', words=f'number 2 of the tokens is none below {size}')
    refused(t, model, '--input', listed([1] * (model.most + 1)), code='BAD_REQUEST', words=f'can take {model.most}')
    refused(t, model, '--input', 'some words', code='UNSUPPORTED', words='vocab.txt')
    refused(t, model, '--input', '1', '--generate', 2, code='BAD_REQUEST', words='--generate')
    refused(t, model, '--input', t.dir / 'none.npy', code='BAD_REQUEST', words='none.npy')
    os.mkfifo(t.dir / 'pipe.npy')  # nobody writes to it
    refused(t, model, '--input', t.dir / 'pipe.npy', code='LIMIT', words='is no regular file')
    for seed in '', '-1', '1x', '18446744073709551616':
        refused(t, model, '--input', f'random:{seed}', code='BAD_REQUEST', words='the seed is no number')
    for command in 'infer', 'layers':
        result = run(RUN, command, '--mode', 'private', '--file', t.dir / 'own', '--tokens', model.most + 1)
        t.equal(result.rc, 1, str(result))
        assert f'--tokens {model.most + 1}: this model can take {model.most}' in result.err, result
    image = reference.Resnet(t.random)
    refused(t, image, '--input', '1,2', code='BAD_REQUEST', words='takes images')
    refused(t, image, '--tokens', 5, code='BAD_REQUEST', words='--tokens')
    np.save(t.dir / 'small.npy', np.zeros((1, 3, 7, 7), np.float32))
    refused(t, image, '--input', t.dir / 'small.npy', code='BAD_REQUEST', words='takes 32-bit floats')


@test
def results_that_are_no_numbers_are_told(t):
    for model, what in (reference.Bert(t.random), 'embedding'), (reference.Gpt2(t.random), 'tokens'):
        report, _ = privately(t, model, '--input', '1')
        t.equal(report['notes'], [])
        name = 'embeddings.LayerNorm.bias' if what == 'embedding' else 'ln_f.bias'
        dtype, shape, data = model.stored[name]
        model.stored[name] = (dtype, shape, np.full(len(data) // 4, np.nan, np.float32).tobytes())
        report, got = privately(t, model, '--input', '1')
        t.equal(int((~np.isfinite(got)).sum()), got.size, what)
        t.equal(report['notes'], [f'not-finite: {got.size} values that the model computed are no finite numbers'])
        result = run(RUN, 'infer', '--mode', 'private', '--file', t.dir / 'own', '--input', '1')
        t.equal(result.rc, 0, result)
        assert 'not-finite: ' in result.err, result
        if what == 'embedding':
            t.equal((report['results'][0]['norm'], set(report['results'][0]['first'])), (None, {None}))
            assert 'length nan: nan nan' in result.out, result


@test
def models_that_are_not_what_they_say_are_refused(t):
    model = reference.Bert(t.random)
    name = 'encoder.layer.0.output.dense.weight'
    dtype, shape, data = model.stored[name]
    model.stored[name] = (dtype, (shape[1], shape[0]) if shape[0] != shape[1] else (shape[0] * shape[1],), data)
    refused(t, model, '--input', '1', code='BAD_MODEL', words=f'tensor {name} is [')
    model.stored[name] = ('I32', shape, data)
    refused(t, model, '--input', '1', code='UNSUPPORTED', words=f'tensor {name} is I32')
    del model.stored[name]
    refused(t, model, '--input', '1', code='BAD_MODEL', words=f'no tensor {name}')
    for key, value, code in (('model_type', 'mamba', 'UNSUPPORTED'), ('hidden_size', 0, 'BAD_MODEL'),
                             ('num_attention_heads', 1000, 'BAD_MODEL'), ('hidden_act', 'sine', 'UNSUPPORTED'),
                             ('num_hidden_layers', 'many', 'BAD_MODEL'), ('layer_norm_eps', -1, 'BAD_MODEL')):
        model = reference.Bert(t.random)
        model.config[key] = value
        refused(t, model, '--input', '1', code=code, words=str(value) if code == 'UNSUPPORTED' else key)
    for family, key, value in ((reference.Bert, 'is_decoder', True), (reference.Gpt2, 'scale_attn_weights', False),
                               (reference.Gpt2, 'scale_attn_by_inverse_layer_idx', True), (reference.Gpt2, 'add_cross_attention', True),
                               (reference.Resnet, 'layer_type', 'inverted'), (reference.Resnet, 'hidden_act', 'gelu')):
        model = family(t.random)
        model.config[key] = value
        refused(t, model, code='UNSUPPORTED', words=key)
    model = reference.Bert(t.random)
    both = {'pooling_mode_mean_tokens': True, 'pooling_mode_max_tokens': True}
    refused(t, model, code='UNSUPPORTED', words='1_Pooling', files={'1_Pooling/config.json': json.dumps(both)})
    for config, words in ([], 'it is no object'), (1, "config.json: '[' or '{' expected"):
        model.config = config
        refused(t, model, '--input', '1', code='BAD_MODEL', words=words)


@test
def a_file_that_ends_before_its_size_is_told_so(t):
    """As one does that shrinks while it is read.  The kernel says 4096 bytes of each file of this kind, whatever it has."""
    found = '/sys/kernel/mm/transparent_hugepage/enabled'
    if not os.path.exists(found) or os.stat(found).st_size <= len(pathlib.Path(found).read_bytes()):
        raise Skip('no file here says that it is longer than it is')
    result = run(RUN, 'infer', '--mode', 'private', '--file', found, '--json')
    t.equal((result.rc, result.json['error']['code']), (1, 'DISK_ERROR'), result)
    assert 'enabled: it ends before its size' in result.err, result


@test
def a_command_line_that_makes_no_sense_is_told_so(t):
    for arguments in (['infer'], ['infer', 'a', '--mode', 'fast'], ['profile', 'a', '--batches', '1,2,1'], ['infer', 'a', '--device', 'tpu:0'],
                      ['infer', 'a', '--batch', '0'], ['infer', 'a', '--batch', '-1'], ['infer', 'a', 'b'], ['layers'],
                      ['infer', 'a', '--mode', 'private'], ['layers', 'a', '--repeat', '2'], ['dance'], []):
        result = run(RUN, *arguments)
        t.equal(result.rc, 2, str(result))
        assert result.err.startswith('trims-run: '), result
    assert pathlib.Path(RUN).exists()


main()
