#!/usr/bin/python3
"""formats.py HEADER_DUMP [SEED] - the parsers against an independent reading of the specifications.

Writes safetensors and GGUF files with nothing but the standard library, damages many of them, and compares what
header_dump says with what this file's own reader and its own computation of the layout say.  TAP on stdout."""
import copy
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

ALIGN, PAGE, HUGE_PAGE, EXTENT, CHUNK = 256, 4096, 2 << 20, 1 << 30, 4 << 20
RANK_MAX, NAME_MAX, TENSORS_MAX, GAPS_MAX = 8, 1024, 1 << 20, 64 << 20

ST_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
           "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
           "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
GGML = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18)}
VALUE = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Refused(Exception):
    pass


def demand(condition, why):
    if not condition:
        raise Refused(why)


def up(n, a):
    return (n + a - 1) // a * a


# ---- reading, as the specifications say ----

def no_twins(pairs):
    demand(len({k for k, _ in pairs}) == len(pairs), "duplicate key")
    return dict(pairs)


def size(value):
    demand(type(value) is int and 0 <= value < 1 << 63, "not a size")
    return value


def elements(dims):
    demand(math.prod(d for d in dims if d) < 1 << 64, "overflow")
    return math.prod(dims)


def read_safetensors(raw, file_bytes):
    demand(len(raw) >= 8, "short")
    length = struct.unpack("<Q", raw[:8])[0]
    demand(length <= 100_000_000 and 8 + length <= file_bytes, "header length")
    text = raw[8:8 + length]
    demand(text[:1] == b"{", "first byte")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_twins)
    except ValueError as e:
        raise Refused(str(e)) from e
    demand(isinstance(header, dict), "no object")
    start, tensors = 8 + length, []
    for name, t in header.items():
        demand(isinstance(t, dict), "no object")
        if name == "__metadata__":
            demand(all(isinstance(v, str) for v in t.values()), "metadata")
            continue
        demand(set(t) == {"dtype", "shape", "data_offsets"}, "members")
        demand(isinstance(t["dtype"], str) and t["dtype"] in ST_BITS, "dtype")
        demand(isinstance(t["shape"], list) and len(t["shape"]) <= RANK_MAX, "rank")
        demand(isinstance(t["data_offsets"], list) and len(t["data_offsets"]) == 2, "offsets")
        begin, end = map(size, t["data_offsets"])
        bits = elements([size(d) for d in t["shape"]]) * ST_BITS[t["dtype"]]
        demand(bits % 8 == 0 and begin <= end and end - begin == bits // 8, "size")
        demand(0 < len(name.encode()) <= NAME_MAX, "name")
        tensors.append({"name": name, "dtype": t["dtype"], "shape": t["shape"], "file_off": start + begin,
                        "bytes": end - begin})
    at = start
    for t in sorted(tensors, key=lambda t: (t["file_off"], t["bytes"])):
        demand(t["file_off"] == at, "hole or overlap")
        at += t["bytes"]
    demand(at == file_bytes, "length")
    return start, tensors


class Gguf:
    def __init__(self, raw, file_bytes):
        self.raw, self.at, self.file_bytes = raw, 0, file_bytes

    def take(self, n):
        demand(self.at + n <= len(self.raw), "short")
        self.at += n
        return self.raw[self.at - n:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self):
        return self.take(self.number("<Q"))

    def value(self, kind, depth=0):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, n = self.number("<I"), self.number("<Q")
            demand(depth < 8 and (inner in VALUE or inner in (8, 9)), "array")
            if inner in VALUE:
                raw = self.take(n * struct.calcsize(VALUE[inner]))
                demand(inner != 7 or not raw.strip(b"\0\1"), "bool")
            else:
                for _ in range(n):
                    self.value(inner, depth + 1)
            return None
        demand(kind in VALUE, "type")
        if kind == 7:
            raw = self.take(1)
            demand(raw in (b"\0", b"\1"), "bool")
            return raw == b"\1"
        return self.number(VALUE[kind])

    def text(self, most):
        raw = self.string()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as e:
            raise Refused(str(e)) from e
        demand(0 < len(raw) <= most and "\0" not in text, "name")
        return text

    def read(self):
        demand(self.take(4) == b"GGUF" and self.number("<I") in (2, 3), "magic")
        n_tensors, n_keys = self.number("<Q"), self.number("<Q")
        demand(n_tensors <= TENSORS_MAX and n_keys <= 65536, "counts")
        keys, tensors = {}, []
        for _ in range(n_keys):
            key, kind = self.text(65535), self.number("<I")
            demand(key not in keys, "duplicate key")
            keys[key] = self.value(kind)
            if key in ("general.alignment", "split.no", "split.count", "split.tensors.count"):
                demand(kind in (0, 1, 2, 3, 4, 5, 10, 11) and keys[key] >= 0, "integer")
        alignment = keys.get("general.alignment", 32)
        demand(8 <= alignment <= 1 << 20 and alignment & (alignment - 1) == 0, "alignment")
        for _ in range(n_tensors):
            tensors.append(self.tensor())
        start = up(self.at, alignment) if n_tensors else min(up(self.at, alignment), self.file_bytes)
        demand(start <= self.file_bytes, "short")
        demand(keys.get("split.count", 0) <= 1, "part")
        for t in tensors:
            demand(t["file_off"] % alignment == 0 and t["file_off"] + start + t["bytes"] <= self.file_bytes, "place")
            t["file_off"] += start
        return start, tensors

    def tensor(self):
        name, rank = self.text(NAME_MAX), self.number("<I")
        demand(rank <= 4, "rank")
        dims = [size(self.number("<Q")) for _ in range(rank)]
        kind, off = self.number("<I"), self.number("<Q")
        demand(kind in GGML, "type")
        dtype, elems, block = GGML[kind]
        demand((dims[0] if dims else 1) % elems == 0, "block")
        n = elements(dims) // elems * block
        demand(n < 1 << 64, "overflow")
        return {"name": name, "dtype": dtype, "shape": dims[::-1], "file_off": off, "bytes": n}


def read_model(path):
    file_bytes = os.path.getsize(path)
    with open(path, "rb") as f:
        raw = f.read(1 << 22)
    reader = read_safetensors if path.endswith(".safetensors") else lambda r, n: Gguf(r, n).read()
    return reader(raw, file_bytes)


# ---- the layout, computed once more ----

def layout(parts, sizes):
    """parts: (data_start, tensors) of each file."""
    tensors, names, gaps = [], set(), 0
    for i, (start, part) in enumerate(parts):
        end = start
        for t in sorted(part, key=lambda t: (t["file_off"], t["bytes"] > 0, t["name"].encode())):
            demand(t["file_off"] >= end and t["name"] not in names, "overlap or duplicate")
            names.add(t["name"])
            gaps += t["file_off"] - end if t["bytes"] else 0
            end = t["file_off"] + t["bytes"] if t["bytes"] else end
            tensors.append(dict(t, file=i))
        gaps += sizes[i] - end
    demand(gaps <= GAPS_MAX, "gaps")
    extents, used = [], 0
    for t in tensors:
        at = up(used, ALIGN)
        if t["bytes"] and used and at + t["bytes"] > EXTENT:
            extents.append(up(used, HUGE_PAGE))
            at = 0
        t["extent"], t["offset"] = len(extents), at
        used = at + t["bytes"]
    extents.append(max(up(used, PAGE), PAGE))
    table = 72 + 16 * len(extents) + 108 * len(tensors) + sum(len(t["name"].encode()) + 1 for t in tensors)
    return {"tensors": tensors, "extents": extents, "data_start": [start for start, _ in parts],
            "chunks": sum(up(e, CHUNK) // CHUNK for e in extents), "gap_bytes": gaps, "table_bytes": up(table, 8)}


def expected(paths):
    try:
        return layout([read_model(p) for p in paths], [os.path.getsize(p) for p in paths])
    except Refused:
        return None


# ---- writing ----

def write(path, head, data_bytes, rng=None):
    with open(path, "wb") as f:
        f.write(head)
        if rng:
            f.write(rng.randbytes(data_bytes))
        else:
            f.truncate(len(head) + data_bytes)


def safetensors_head(header, rng=None):
    text = json.dumps(header, ensure_ascii=bool(rng and rng.random() < 0.5)).encode()
    text += b" " * (rng.randrange(9) if rng else 0)
    return struct.pack("<Q", len(text)) + text


def random_safetensors(rng, prefix=""):
    header, at = {}, 0
    for i in range(rng.randrange(20)):
        dtype = rng.choice(list(ST_BITS))
        shape = [rng.choice([0, 1, 2, 3, 5, 8]) for _ in range(rng.randrange(5))] + [rng.choice([4, 8, 400])]
        n = elements(shape) * ST_BITS[dtype] // 8
        name = prefix + rng.choice(["a", "\u00e9", "\u6a21", "\U0001f600", "l.0\\w", 'q"', "x/y"]) + str(i)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    items = list(header.items())
    rng.shuffle(items)
    if rng.random() < 0.5:
        items.insert(0, ("__metadata__", {"format": "pt", "k": "{[\"}"}))
    return dict(items), at


def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_head(tensors, alignment, keys=(), version=3):
    """tensors: (name, type, dims innermost first, offset).  keys: (name, type, raw value)."""
    keys = list(keys) + ([("general.alignment", 4, struct.pack("<I", alignment))] if alignment != 32 else [])
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, raw in keys:
        head += gguf_string(name) + struct.pack("<I", kind) + raw
    for name, kind, dims, off in tensors:
        head += gguf_string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", kind, off)
    return head + b"\0" * (up(len(head), alignment) - len(head))


def random_gguf(rng, prefix="", keys=()):
    alignment, at, tensors = rng.choice([8, 32, 32, 64, 256]), 0, []
    for i in range(rng.randrange(20)):
        kind = rng.choice(list(GGML))
        dims = [GGML[kind][1] * rng.randrange(1, 4)] + [rng.choice([0, 1, 2, 3]) for _ in range(rng.randrange(4))]
        tensors.append((f"{prefix}blk.{i}", kind, dims, at))
        at = up(at + elements(dims) // GGML[kind][1] * GGML[kind][2], alignment)
    rng.shuffle(tensors)
    extra = [("general.name", 8, gguf_string("m\u00f6del")), ("flag", 7, b"\1"), ("f", 12, struct.pack("<d", 1.5)),
             ("tokens", 9, struct.pack("<IQ", 8, 3) + gguf_string("a") * 3),
             ("nested", 9, struct.pack("<IQ", 9, 2) + struct.pack("<IQhh", 3, 2, -1, 5) * 2)]
    return gguf_head(tensors, alignment, list(keys) + extra[:rng.randrange(6)], rng.choice([2, 3])), at


# ---- damaging ----

def damage_safetensors(rng, header, data_bytes):
    """One change of the header's meaning; often, but not always, a wrong one."""
    header = copy.deepcopy(header)
    names = [n for n in header if n != "__metadata__"]
    if not names:
        return header, data_bytes + rng.choice([0, 1])
    t = header[rng.choice(names)]
    where = rng.randrange(8)
    if where == 0:
        t["data_offsets"][rng.randrange(2)] += rng.choice([-1, 1, 4, 1 << 62])
    elif where == 1:
        t["shape"].insert(rng.randrange(len(t["shape"]) + 1), rng.choice([1, 1, 0, -1, 2, 1.0, "1", None, 1 << 32]))
    elif where == 2:
        t["dtype"] = rng.choice(list(ST_BITS) + ["F31", "", 7, None])
    elif where == 3:
        t.pop(rng.choice(list(t)))
    elif where == 4:
        t["more"] = 1
    elif where == 5:
        header.pop(rng.choice(names))
    elif where == 6:
        data_bytes = max(0, data_bytes + rng.choice([-1, 1, 4096]))
    else:
        other = header[rng.choice(names)]
        t["data_offsets"], other["data_offsets"] = other["data_offsets"], t["data_offsets"]
    return header, data_bytes


def damage_bytes(rng, head):
    head = bytearray(head)
    for _ in range(rng.randrange(1, 4)):
        head[rng.randrange(len(head))] = rng.choice([0, 1, 2, 7, 8, 9, 32, 255, rng.randrange(256)])
    return bytes(head)


# ---- comparing ----

class Run:
    def __init__(self, tool, seed, folder):
        self.tool, self.rng, self.folder, self.n, self.failed = tool, random.Random(seed), folder, 0, 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def tell(self, ok, what):
        self.n += 1
        self.failed += not ok
        print(f"{'ok' if ok else 'not ok'} {self.n} - {what}", flush=True)

    def dump(self, args):
        done = subprocess.run([self.tool, *args], stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"Bail out! {self.tool} ended with {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def same(self, said, paths):
        """The tool said the same as this file thinks."""
        wanted = expected(paths)
        if wanted is None:
            ok = any(said.get("fault", "").startswith(os.path.basename(p) + ": ") for p in paths)
        else:
            ok = said == wanted
        if not ok:
            print(f"# {paths}\n# said   {json.dumps(said)[:800]}\n# wanted {json.dumps(wanted)[:800]}")
        return ok, wanted is not None

    def each(self, what, paths):
        """Every file alone; both verdicts must occur."""
        said = self.dump(["--each", *paths])
        verdicts = [self.same(s, [p]) for s, p in zip(said, paths)]
        accepted = sum(v for _, v in verdicts)
        self.tell(len(said) == len(paths) and all(ok for ok, _ in verdicts),
                  f"{what}: {len(paths)} files, {accepted} of them valid")
        return accepted

    def whole(self, what, paths):
        self.tell(self.same(self.dump(paths)[0], paths)[0], what)


def random_files(run):
    paths = []
    for i in range(60):
        path = run.path(f"r{i}." + ("gguf" if i % 2 else "safetensors"))
        if i % 2:
            write(path, *random_gguf(run.rng), run.rng)
        else:
            header, n = random_safetensors(run.rng)
            write(path, safetensors_head(header, run.rng), n, run.rng)
        paths.append(path)
    run.tell(run.each("random files", paths) == len(paths), "all of them are valid")


def damaged_files(run):
    paths = []
    for i in range(300):
        path = run.path(f"d{i}.safetensors")
        header, n = damage_safetensors(run.rng, *random_safetensors(run.rng))
        write(path, safetensors_head(header), n)
        paths.append(path)
    run.each("safetensors with a changed header", paths)
    paths = []
    for i in range(600):
        path = run.path(f"d{i}.gguf")
        head, n = random_gguf(run.rng)
        write(path, damage_bytes(run.rng, head), n)
        paths.append(path)
    run.each("GGUF with changed bytes", paths)


def shards(run):
    for kind in ("safetensors", "gguf"):
        paths = []
        for i in range(4):
            path = run.path(f"m-{i + 1:05}-of-00004.{kind}")
            if kind == "gguf":
                write(path, *random_gguf(run.rng, f"{i}."), run.rng)
            else:
                header, n = random_safetensors(run.rng, f"{i}.")
                write(path, safetensors_head(header, run.rng), n)
            paths.append(path)
        run.whole(f"four {kind} files make one model", paths)
        run.whole(f"twice the same {kind} file does not", [paths[0], paths[1], paths[1]] if
                  read_model(paths[1])[1] else [paths[0], paths[0], paths[0]])


def large(run):
    """Sparse files of many GiB, to cut extents."""
    header, at = {}, 0
    for i, n in enumerate([EXTENT - 256, 256, 1, 3 * EXTENT + 1, 0, 5, EXTENT // 2, EXTENT // 2, EXTENT // 2, 77]):
        header[f"t{i}"] = {"dtype": "U8", "shape": [n], "data_offsets": [at, at + n]}
        at += n
    path = run.path("large.safetensors")
    write(path, safetensors_head(header), at)
    run.whole("a model of 6 GiB is cut into extents", [path])
    tensors, at = [], 0
    for i, rows in enumerate([70000, 65536, 1, 0, 300000]):
        tensors.append((f"t{i}", 14, [4096, rows], at))
        at = up(at + rows * 16 * 210, 32)
    path = run.path("large.gguf")
    write(path, gguf_head(tensors, 32), at)
    run.whole("a GGUF model of 1.4 GiB is cut into extents", [path])


def main():
    seed = int(sys.argv[2] if len(sys.argv) > 2 else os.environ.get("TRIMS_SEED") or random.getrandbits(32))
    print(f"# TRIMS_SEED={seed}")
    with tempfile.TemporaryDirectory(prefix="trims-formats-") as folder:
        run = Run(sys.argv[1], seed, folder)
        for part in (random_files, damaged_files, shards, large):
            part(run)
    print(f"1..{run.n}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
