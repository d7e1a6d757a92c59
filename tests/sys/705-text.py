"""Text becomes tokens, and tokens text again, as the tokenizers library has it and as a reference in Python has it; models take
texts and go on with them; files that make no sense are refused."""
import json
import shutil
import sys

from trimstest import BUILD, SOURCE, main, run, test

sys.path[:0] = [str(SOURCE / 'tests/run')]
import bytepair  # noqa: E402  pylint: disable=wrong-import-position
import reference  # noqa: E402  pylint: disable=wrong-import-position

RUN, TOKENS = str(BUILD / 'tools/trims-run'), str(BUILD / 'tests/sys/tokens')
FIXTURE = json.loads((SOURCE / 'tests/run/bpe.json').read_text())
MODEL = FIXTURE['model']
WORDS = len(MODEL['vocab'])


def tokenizer_json(variant, **changes):
    model = {**MODEL, **changes.pop('model', {})}
    return json.dumps({**FIXTURE['variants'][variant]['tokenizer'], **changes, 'model': model})


def two_files(vocab=None, merges=None, **config):
    merges = MODEL['merges'] if merges is None else merges
    return {'vocab.json': json.dumps(MODEL['vocab'] if vocab is None else vocab),
            'merges.txt': '#version: 0.2\n' + ''.join(f'{a} {b}\n' for a, b in merges),
            'tokenizer_config.json': json.dumps(config)}


def tokens(t, files, questions, family='gpt2', most=60000, rc=0):
    """An answer each; of files that are refused the error."""
    folder = t.dir / 'files'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    result = run(TOKENS, folder, family, most, stdin='\n'.join(map(json.dumps, questions)).encode() + b'\n')
    t.equal(result.rc, rc, result)
    answers = [json.loads(line) for line in result.out.split('\n') if line]
    if rc:
        return answers[0]
    t.equal(len(answers), len(questions), result)
    return answers


# ---- as others have it ----

@test
def texts_are_the_tokens_that_the_tokenizers_library_makes(t):
    for name, variant in FIXTURE['variants'].items():
        ways = {'tokenizer.json': {'tokenizer.json': tokenizer_json(name)},
                'merges of old': {'tokenizer.json': tokenizer_json(name, model={'merges': list(map(' '.join, MODEL['merges']))})}}
        if name != 'other':
            ways['two files'] = two_files()
        for way, files in ways.items():
            rows = variant['rows']
            got = tokens(t, files, [row['text'] for row in rows], name)
            for row, answer in zip(rows, got):
                t.equal(answer, {'tokens': row['tokens'], 'text': row['back']}, f'{name}, {way}: {row["text"]!r}')


@test
def random_texts_are_what_the_reference_makes_of_them_and_come_back(t):
    for special, lstrip, family in ([], [], 'gpt2'), (['<|endoftext|>'], [], 'gpt2'), (['<s>', '</s>', '<mask>'], ['<mask>'], 'roberta'):
        vocab, merges = bytepair.random_merges(t.random, t.random.randint(0, 400))
        vocab.update({text: len(vocab) + i for i, text in enumerate(special)})
        around = {'before': [vocab['<s>']], 'behind': [vocab['</s>']]} if lstrip else {}
        encoder = bytepair.Encoder(vocab, merges, special, lstrip, **around)
        texts = [bytepair.random_text(t.random, special) for _ in range(150)]
        for text, got in zip(texts, tokens(t, two_files(vocab, merges), texts, family)):
            want = encoder.encode(text)
            t.equal(got, {'tokens': want, 'text': encoder.decode(want)}, ascii(text))
            assert lstrip or got['text'] == text, ascii(text)


@test
def any_tokens_have_a_text(t):
    vocab, merges = bytepair.random_merges(t.random, 50)
    encoder = bytepair.Encoder(vocab, merges)
    lists = [[t.random.randrange(len(vocab)) for _ in range(t.random.randint(0, 12))] for _ in range(200)]
    broken = 'aé首🙂'.encode()  # begins of characters, one behind the other
    lists += [[vocab[bytepair.CHARACTER[byte]] for byte in broken[a:b]] for a in range(len(broken)) for b in range(a + 1)]
    for numbers, got in zip(lists, tokens(t, two_files(vocab, merges), lists)):
        t.equal(got['text'], encoder.decode(numbers), numbers)
    t.equal(tokens(t, two_files(vocab, merges), [[len(vocab)]])[0]['code'], 'BAD_MODEL')


@test
def a_word_of_any_length_is_merged_in_one_go(t):
    vocab, merges = bytepair.random_merges(t.random, 0)
    grown = 'a'
    for _ in range(9):  # aa, aaaa, ... 512 a
        merges.append((grown, grown))
        grown *= 2
        vocab[grown] = len(vocab)
    n = 200000
    got = tokens(t, two_files(vocab, merges), ['a' * n, ' ' * n, 'ab' * n], most=2 * n)
    t.equal(got[0]['tokens'], [vocab[grown]] * (n // 512) + [vocab['a' * (1 << i)] for i in reversed(range(9)) if n % 512 >> i & 1])
    t.equal([len(one['tokens']) for one in got[1:]], [n, 2 * n])


# ---- models ----

def infer(t, model, *arguments, rc=0, text=False, **files):
    folder = t.dir / 'model'
    shutil.rmtree(folder, ignore_errors=True)
    model.write(folder, files={name.replace('_json', '.json').replace('_txt', '.txt'): data for name, data in files.items()})
    result = run(RUN, 'infer', '--mode', 'private', '--file', folder, *arguments, *([] if text else ['--json']))
    t.equal(result.rc, rc, result)
    return result


@test
def gpt2_goes_on_in_words(t):
    model = reference.Gpt2(t.random, words=WORDS)
    model.config.update(n_positions=64)
    model.add('wpe.weight', 64, model.config['n_embd'], scale=0.5)
    model.write(t.models_dir / 'm', files=two_files())
    daemon = t.daemon()
    encoder = bytepair.Encoder(MODEL['vocab'], list(map(tuple, MODEL['merges'])), ['<|endoftext|>'])
    text = "A function that starts cold, isn't it?"
    prompt = encoder.encode(text)
    want = model.generate(prompt, 8)[0]
    arguments = ['infer', 'm', '--socket', daemon.socket, '--generate', 8]
    got = run(RUN, *arguments, '--input', text, '--json')
    t.equal(got.rc, 0, got)
    t.equal((got.json['tokens'], got.json['results']), (len(prompt), [{'tokens': want, 'text': encoder.decode(want)}]), got)
    numbers = run(RUN, *arguments, '--input', ','.join(map(str, prompt)), '--json')
    t.equal((numbers.json['digest'], numbers.json['results']), (got.json['digest'], [{'tokens': want}]), numbers)
    both = run(RUN, *arguments, '--input', text, '--batch', 2, '--json')
    t.equal(both.json['results'], 2 * got.json['results'])
    shown = run(RUN, *arguments, '--input', text)
    clean = ''.join('?' if ord(c) < 32 or 0x7f <= ord(c) < 0xa0 else c for c in encoder.decode(want))
    assert f'\ntext {clean}\n' in shown.out, (shown, clean)


@test
def roberta_takes_a_text(t):
    model = reference.Bert(t.random, kind='roberta', prefix='roberta.', words=WORDS)
    encoder = bytepair.Encoder(MODEL['vocab'], list(map(tuple, MODEL['merges'])), ['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
                               ['<mask>'], [0], [2])
    text = 'it  <mask> there'
    files = {name.replace('.', '_'): data for name, data in two_files().items()}
    got = infer(t, model, '--input', text, **files).json
    t.equal(got['digest'], infer(t, model, '--input', ','.join(map(str, encoder.encode(text)))).json['digest'])
    # Too long a text ends where the model does, with what ends every text.
    cut = encoder.encode('x' * 50)[:model.most - 1] + [2]
    got = infer(t, model, '--input', 'x' * 50, **files).json
    t.equal((got['tokens'], got['digest']),
            (model.most, infer(t, model, '--input', ','.join(map(str, cut))).json['digest']))


# ---- what cannot be done ----

@test
def texts_that_a_model_cannot_take_are_refused(t):
    model = reference.Gpt2(t.random, words=WORDS)
    files = {name.replace('.', '_'): data for name, data in two_files().items()}
    for text, words in ('x' * 50, f'50 tokens: this model can take {model.most}'), ('', 'the text is empty'), ('\udcff', 'no UTF-8'):
        error = infer(t, model, '--input', text, rc=1, **files).json['error']
        t.equal(error['code'], 'BAD_REQUEST')
        assert words in error['text'], error
    error = infer(t, model, '--input', 'some words', rc=1).json['error']
    assert error['code'] == 'UNSUPPORTED' and 'merges.txt' in error['text'], error
    small = reference.Gpt2(t.random, words=100)
    error = infer(t, small, '--input', 'a function', rc=1, **files).json['error']
    assert error['code'] == 'BAD_MODEL' and 'more words than the model' in error['text'], error


@test
def tokens_without_a_word_are_told_and_kept(t):
    vocab = {character: byte for byte, character in bytepair.CHARACTER.items()}
    prompt = [ord(c) for c in 'a b']
    while True:
        model = reference.Gpt2(t.random, own_head=True, words=256)
        want = model.generate(prompt, 3)[0]
        if want[0] not in prompt:
            break
    del vocab[bytepair.CHARACTER[want[0]]]
    files = {name.replace('.', '_'): data for name, data in two_files(vocab, []).items()}
    result = infer(t, model, '--input', 'a b', '--generate', 3, **files)
    t.equal(result.json['results'], [{'tokens': want}], result)
    note = [note for note in result.json['notes'] if note.startswith('no-text: the vocabulary has no token ')]
    assert len(note) == 1 and note[0] in result.err, result


@test
def files_that_make_no_sense_are_refused_with_words(t):
    cases = [
        ({'vocab.json': '[', 'merges.txt': ''}, 'BAD_MODEL', 'vocab.json has no vocabulary'),
        (two_files({'a': 1 << 32}), 'BAD_MODEL', 'the number of a is none below'),
        (two_files({'a': -1}), 'BAD_MODEL', 'the number of a'),
        (two_files({'a': 'b'}), 'BAD_MODEL', 'the number of a'),
        (two_files(merges=[('a', 'b c')]), 'BAD_MODEL', 'merge 1 is not two words'),
        (two_files(merges=[('a', 'nothing')]), 'BAD_MODEL', 'merge 1 is of or makes'),
        (two_files(added_tokens_decoder={'9999999999': {'content': 'x'}}), 'BAD_MODEL', 'an added token'),
        (two_files(added_tokens_decoder={'1': {'content': 'x' * 300}}), 'BAD_MODEL', 'an added token'),
        (two_files(added_tokens_decoder={'1': {'content': 'x', 'single_word': True}}), 'UNSUPPORTED', 'single_word'),
        (two_files(added_tokens_decoder={str(i): {'content': f'<{i}>'} for i in range(2000)}), 'LIMIT', 'added tokens'),
        (two_files(add_bos_token=True, bos_token='<nobody>'), 'BAD_MODEL', 'lacks <nobody>'),
        ({'tokenizer.json': '{"a": '}, 'BAD_MODEL', 'tokenizer.json: '),
        ({'tokenizer.json': '{"model": {"type": "Unigram"}}'}, 'UNSUPPORTED', 'Unigram'),
        ({'tokenizer.json': '{"model": {"type": "WordPiece"}}'}, 'BAD_MODEL', 'no vocabulary'),
        ({'tokenizer.json': tokenizer_json('gpt2', model={'vocab': []})}, 'BAD_MODEL', 'no vocabulary'),
        ({'tokenizer.json': tokenizer_json('gpt2', model={'merges': 1})}, 'BAD_MODEL', 'no merges'),
        ({'tokenizer.json': tokenizer_json('gpt2', model={'merges': [['a']]})}, 'BAD_MODEL', 'merge 1 is not'),
        ({'tokenizer.json': tokenizer_json('gpt2', model={'ignore_merges': True})}, 'UNSUPPORTED', 'ignore_merges'),
        ({'tokenizer.json': tokenizer_json('gpt2', normalizer={'type': 'NFC'})}, 'UNSUPPORTED', 'normalizer'),
        ({'tokenizer.json': tokenizer_json('gpt2', pre_tokenizer=None)}, 'UNSUPPORTED', 'pre_tokenizer'),
        ({'tokenizer.json': tokenizer_json('gpt2', post_processor={'type': 'Some'})}, 'UNSUPPORTED', 'post_processor Some'),
        ({'tokenizer.json': tokenizer_json('roberta', post_processor={'type': 'RobertaProcessing', 'cls': ['<no>', 1]})},
         'BAD_MODEL', 'lacks <no>'),
    ]
    for files, code, words in cases:
        error = tokens(t, files, [''], rc=1)
        t.equal(error['code'], code, error)
        assert words in error['error'], (words, error)
    answer, = tokens(t, {'vocab.json': json.dumps({'a': 0}), 'merges.txt': ''}, ['ab'])
    assert answer['code'] == 'BAD_MODEL' and 'byte 0x62' in answer['error'], answer


@test
def numbers_of_words_do_not_wrap(t):
    words = {'[UNK]': 0, '[CLS]': 1, '[SEP]': 2, 'a': (1 << 32) + 5}
    error = tokens(t, {'tokenizer.json': json.dumps({'model': {'type': 'WordPiece', 'vocab': words}})}, ['a'], 'bert', rc=1)
    t.equal(error['code'], 'BAD_MODEL', error)
    assert 'the number of a ' in error['error'], error
    words['a'] = 5
    answer, = tokens(t, {'tokenizer.json': json.dumps({'model': {'type': 'WordPiece', 'vocab': words}})}, ['a'], 'bert')
    t.equal(answer, {'tokens': [1, 5, 2]})


main()
