#!/usr/bin/env python3
r"""bpe.py - made bpe.json, the tokens that trims-run must make of texts by byte-pair encoding.

The recipe, to be repeated in an environment of its own (nothing of trims is in it):

    python3 -m venv /tmp/v && /tmp/v/bin/pip install tokenizers==0.23.3
    /tmp/v/bin/python tests/run/bpe.py > tests/run/bpe.json

A vocabulary of 600 words is trained by the tokenizers library on the sentences below; tokens are that library's as well, in
three ways: as GPT-2 has it, as RoBERTa has it, and with everything else that tokenizer.json can ask for."""
import json

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ['<s>', '<pad>', '</s>', '<unk>', '<mask>', '<|endoftext|>']
CORPUS = [
    'A function that starts cold waits for its weights; one that finds them in memory does not.',
    "It's not that they're slow: we've measured it, and they'll be there before you'd look. Don't wait, I'm told.",
    'The model is read once, checked once, and used by everybody who asks for it, until there is no room any more.',
    'In 2018 they copied 100 tensors over 4 links at 12 GB/s; in 2024 there were 1,000 of them.',
    'Ein Café in Zürich, naïve Übermut: später, größer, schöner. Les élèves étaient à l’école, déjà.',
    'Ελλάδα και Москва, 東京は日本の首都です, ½ and 🙂 🙃.',
    'def load(self, name):\n    return self.models[name]\n\n\tif not self.there:\n\t\twait()\n',
]
TEXTS = [
    'Hello, how are you?',
    'A model that is there already need not be loaded.',
    "we're sure they've said: it's what I'd do, I'll do, I'm doing; don't! THEY'RE 'SHOUTING'",
    ' leading and trailing  ',
    'one  two   three\n\nfour\t\tfive \n six\u00a0seven\u2003\u2003eight\u3000nine\x85ten',
    'separators\x1cof\x1ffiles, a\u180evowel, zero\u200bwidth',
    'Ein Café in Zürich: naïve Übermut, 3½ Tassen — und kein Zucker!',
    'e\u0301crit en deux: e\u0301 et \u0301 seul',
    '東京は日本の首都です。',
    'Ελλάδα, Москва, İstanbul, ﬁne ligatures, Ⅷ ² ½ ٣ 🙂👩‍👩‍👧',
    'x' * 300,
    ' ' * 77 + 'far in' + '\n' * 9,
    'ab' * 200,
    '1234567890 12,345.678 0x7f',
    'a<s>b</s> c <pad><unk>',
    'Paris is the  <mask> of France, <mask>\u2003\t<mask>.',
    'end <|endoftext|>\n begin<|endoftext|><|endoftext|>',
    '<|endoftext <s <maskk <mask>>',
    '  <trim>  both',
    '<longer> <longer still> <longe',
    '¡«®ÿĀ℀Ġ nbsp\u00a0 soft\u00adhyphen \x7f\x01',
]


def variants(trained):
    gpt2 = Tokenizer.from_str(trained)
    gpt2.pre_tokenizer, gpt2.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    gpt2.add_special_tokens(['<|endoftext|>'])
    yield 'gpt2', gpt2
    roberta = Tokenizer.from_str(trained)
    roberta.pre_tokenizer, roberta.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    roberta.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0), add_prefix_space=False)
    roberta.add_special_tokens(['<s>', '<pad>', '</s>', '<unk>', AddedToken('<mask>', lstrip=True)])
    yield 'roberta', roberta
    other = Tokenizer.from_str(trained)
    other.pre_tokenizer, other.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    other.add_special_tokens(['<s>', '</s>', AddedToken('<mask>', rstrip=True), AddedToken('<trim>', lstrip=True, rstrip=True)])
    other.add_tokens(['<longer>', '<longer still>'])
    other.post_processor = processors.TemplateProcessing(single='<s> $A </s> <trim>', special_tokens=[
        (token, other.token_to_id(token)) for token in ('<s>', '</s>', '<trim>')])
    yield 'other', other


def main():
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    trained = json.loads(base.to_str())
    trained['added_tokens'] = []
    told = {'made_by': f'tokenizers {tokenizers.__version__}', 'model': trained['model'], 'variants': {}}
    for name, tokenizer in variants(json.dumps(trained)):
        rest = {key: value for key, value in json.loads(tokenizer.to_str()).items() if key != 'model'}
        rows = [{'text': text, 'tokens': tokenizer.encode(text).ids} for text in TEXTS]
        for row in rows:
            row['back'] = tokenizer.decode(row['tokens'], skip_special_tokens=False)
        told['variants'][name] = {'tokenizer': rest, 'rows': rows}
    print(json.dumps(told, ensure_ascii=True).replace('}, {"text"', '},\n{"text"').replace(', "variants"', ',\n"variants"'))


if __name__ == '__main__':
    main()
