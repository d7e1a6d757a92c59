"""bytepair - byte-level byte-pair encoding once more, written from its description (Sennrich et al. 2016, Radford et al. 2019)
and to be read, not to be fast: what trims-run's is compared with."""
import unicodedata

ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Characters that Unicode has had since 3.2 and has not moved since, so that libraries of any age agree on them.
SETTLED = [chr(c) for c in range(1, 0x110000)
           if unicodedata.ucd_3_2_0.category(chr(c)) == unicodedata.category(chr(c)) not in ('Cn', 'Cs')]


def alphabet():
    """Each byte's character: printable ones of Latin-1 are themselves, the others get those from U+0100 on, in order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte if byte in plain else 256 + others.index(byte)) for byte in range(256)}


CHARACTER = alphabet()
BYTE = {character: byte for byte, character in CHARACTER.items()}


def kind(character):
    """'L'etter, 'N'umber, ' ' or other."""
    category = unicodedata.category(character)[0]
    if category == 'Z' or character in '\t\n\v\f\r\x85':
        return ' '
    return category if category in 'LN' else '.'


def run_end(text, at):
    """Where the run of one kind that begins there ends."""
    end = at + 1
    while end < len(text) and kind(text[end]) == kind(text[at]):
        end += 1
    return end


def split(text):
    """An ending; or a run of one kind, with a blank before it; or blanks, of which the last is left for what follows, even where
    it then cannot take it."""
    words, at = [], 0
    while at < len(text):
        ending = next((e for e in ENDINGS if text.startswith(e, at)), None)
        begin = at + 1 if text[at] == ' ' and at + 1 < len(text) and kind(text[at + 1]) != ' ' else at
        end = at + len(ending) if ending else run_end(text, begin)
        if not ending and kind(text[begin]) == ' ' and end < len(text) and end - at > 1:
            end -= 1
        words.append(text[at:end])
        at = end
    return words


class Encoder:
    """vocab: {word: number}; merges: [(left, right)]; specials: texts that are tokens as they are, the left blanks of those in
    `lstrip` theirs."""

    def __init__(self, vocab, merges, specials=(), lstrip=(), before=(), behind=()):
        self.vocab, self.ranks = vocab, {pair: rank for rank, pair in enumerate(merges)}
        self.specials, self.lstrip, self.before, self.behind = specials, lstrip, list(before), list(behind)
        self.words = {number: word for word, number in vocab.items()}

    def word(self, text):
        parts = [CHARACTER[byte] for byte in text.encode()]
        while True:
            pairs = [(self.ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in self.ranks]
            if not pairs:
                return [self.vocab[part] for part in parts]
            i = min(pairs)[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]

    def plain(self, text):
        return [token for word in split(text) for token in self.word(word)]

    def encode(self, text):
        tokens, begin, at = [], 0, 0
        while at < len(text):
            found = max((s for s in self.specials if text.startswith(s, at)), key=len, default=None)
            if found is None:
                at += 1
                continue
            end = at
            while found in self.lstrip and end > begin and kind(text[end - 1]) == ' ':
                end -= 1
            tokens += self.plain(text[begin:end]) + [self.vocab[found]]
            begin = at = at + len(found)
        return self.before + tokens + self.plain(text[begin:]) + self.behind

    def decode(self, tokens):
        raw = b''.join(bytes(BYTE[c] for c in self.words[token]) for token in tokens)
        return raw.decode(errors='replace')


def random_text(rng, specials=()):
    """Runs of everything that is cut differently."""
    blanks = [' '] * 6 + list('\t\n\r\x0b\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000\u180e\u200b')
    kinds = (lambda: rng.choice(SETTLED), lambda: rng.choice(blanks) * rng.choice((1, 1, 1, 2, 3)),
             lambda: rng.choice(ENDINGS), lambda: chr(rng.randint(33, 126)), lambda: rng.choice('aeiou') * rng.randint(1, 9),
             lambda: rng.choice(('the ', ' of', ' and ', 'mod', 'el', ' load', ' is', '12', 'é', '首都', *specials)))
    return ''.join(rng.choice(kinds)() for _ in range(rng.randint(1, 30)))


def random_merges(rng, count):
    """(vocab, merges): each merge of two words there are, short ones rather than long ones."""
    words = [CHARACTER[byte] for byte in range(256)]
    rng.shuffle(words)
    vocab, merges = {word: number for number, word in enumerate(words)}, []
    likely = [CHARACTER[byte] for byte in b'aeioudlmhst '] * 3 + [CHARACTER[byte] for byte in 'é首都'.encode()]
    while len(merges) < count:
        pair = rng.choice(likely), rng.choice(likely)
        if ''.join(pair) not in vocab:
            merges.append(pair)
            vocab[''.join(pair)] = len(vocab)
            likely.append(''.join(pair))
    return vocab, merges
