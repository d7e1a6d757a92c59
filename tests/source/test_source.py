#!/usr/bin/python3
"""The model sources (mrm/source) against servers that behave and servers that do not.  Reports TAP."""
import email.utils
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import servers
from servers import limited, reset, short, stall, status, whole  # also puts tests/sys on the path
import models  # pylint: disable=wrong-import-order
import remote
import trimstest
from trimstest import Skip, main, test

PROBE = os.environ.get('SOURCE_PROBE') or str(trimstest.BUILD / 'tests/source/source_probe')
MS = 1000000
MODEL = {'where': 'model.safetensors'}


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Probe:
    """source_probe on one source; methods are its commands."""

    def __init__(self, t, url, *flags, env=None, **options):
        self.t = t
        defaults = {'max_attempts': 4, 'backoff_base_ns': 1000, 'stall_s': 1}
        arguments = [f'--{k}={v}' for k, v in {**defaults, **options}.items()]
        environment = trimstest.program_environment(HOME=str(t.dir), **(env or {}))
        for name in ('CURL_CA_BUNDLE', 'SSL_CERT_FILE', 'XDG_CACHE_HOME'):
            if name not in (env or {}):
                environment.pop(name, None)
        self.process = subprocess.Popen([PROBE, *arguments, *flags, url], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=environment, text=True)
        t.at_end(self.close)
        hello = self.process.stdout.readline()
        if not hello and self.process.wait() == 77:
            raise Skip('seccomp filters are not to be had here')
        self.hello = json.loads(hello)

    def close(self):
        if not self.process.stdin.closed:
            self.process.stdin.close()
            rest = self.process.stdout.read()
            self.process.stdout.close()
            rc = self.process.wait(60)
            assert rc == (0 if self.hello['ok'] else 1), f'the probe ended with {rc}: {rest}'

    def say(self, *words):
        self.process.stdin.write(' '.join(str(w) for w in words) + '\n')
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        assert line, f'the probe ended with {self.process.wait()}'
        return json.loads(line)

    def ask(self, *words):
        self.say(*words)
        return self.hear()

    def resolve(self, *words):
        return self.ask('resolve', *words)

    def found(self, *words):
        out = self.resolve(*words)
        assert out['ok'], out
        return out

    def read(self, *words):
        return self.ask('read', *words)

    def report(self):
        return self.ask('report')

    @property
    def counters(self):
        return self.report()['counters']

    def refuses(self, out, code, *words):
        """`out` is a refusal with that code, and its sentence names what it is about."""
        self.t.equal(out.get('code'), code, out.get('text'))
        for word in words:
            assert word in out['text'], f"{out['text']!r} does not say {word!r}"


def probe_on(t, *faults, name='m', size=300000, **options):
    """A server with one single-file model, resolved; then the faults."""
    t.model(name, size)
    server = servers.Server(t, t.models_dir)
    probe = Probe(t, server.url, **options)
    probe.found(name)
    server.forget()
    server.faults += faults
    return server, probe, (t.models_dir / name / 'model.safetensors').read_bytes()


def good(t, probe, data, off=0, size=None):
    size = len(data) - off if size is None else size
    out = probe.read(0, off, size)
    assert out['ok'], out
    t.equal(out['sha256'], sha(data[off:off + size]), 'bytes read')


# ---- what a model is

@test
def every_kind_of_model_is_found(t):
    t.model('org/single', 50000)
    t.model('sharded', 50000, shards=3)
    tensors = t.model('x.gguf', 50000)
    t.model('alone.safetensors', 9999)
    for i in (1, 2):
        shutil.copy(t.models_dir / 'x.gguf', t.models_dir / f'split-0000{i}-of-00002.gguf')
    for url in (f'dir:{t.models_dir}', servers.Server(t, t.models_dir).url):
        p = Probe(t, url)
        t.equal([f['path'] for f in p.found('org/single')['weights']], ['model.safetensors'])
        out = p.found('sharded')
        t.equal([f['path'] for f in out['weights']], [f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)])
        t.equal([f['path'] for f in out['side']], ['model.safetensors.index.json', 'config.json'])
        t.equal(out['index'], 3)
        out = p.ask('describe')
        assert out['ok'], out
        t.equal(out['side']['config.json'], sha((t.models_dir / 'sharded/config.json').read_bytes()))
        t.equal(len(p.found('x.gguf')['weights']), 1)
        t.equal(p.ask('describe')['tensors'], len(tensors))
        t.equal([f['path'] for f in p.found('split-00002-of-00002.gguf')['weights']],
                ['split-00001-of-00002.gguf', 'split-00002-of-00002.gguf'])
        t.equal([f['bytes'] for f in p.found('alone.safetensors')['weights']],
                [(t.models_dir / 'alone.safetensors').stat().st_size])


@test
def heads_are_the_bytes_before_the_data(t):
    tensors = {f'a.very.long.tensor.name.{i}': ('U8', (1,), b'x') for i in range(8000)}
    (t.models_dir / 'long.safetensors').write_bytes(models.safetensors(tensors))
    data = (t.models_dir / 'long.safetensors').read_bytes()
    head = data[:8 + int.from_bytes(data[:8], 'little')]
    assert len(head) > 300000
    for server_faults in ([], [limited(whole)]):
        server = servers.Server(t, t.models_dir)
        server.faults += server_faults
        p = Probe(t, server.url)
        t.equal(p.found('long.safetensors')['no_ranges'], bool(server_faults))
        out = p.ask('describe')
        t.equal((out['heads'], out['tensors']), ([sha(head)], len(tensors)))
    p.refuses(Probe_with_head_bound(t, server.url), 'BAD_MODEL', 'headers')


def Probe_with_head_bound(t, url):
    p = Probe(t, url, max_head_total_bytes=300000)
    p.found('long.safetensors')
    return p.ask('describe')


@test
def names_are_encoded_and_what_is_not_there_is_not_found(t):
    t.model('a+b/c.d-e_f', 5000)
    server = servers.Server(t, t.models_dir)
    p = Probe(t, server.url + '//')
    p.found('a+b/c.d-e_f')
    assert server.asked('/a%2Bb/c.d-e_f/model.safetensors'), server.log
    for q in (p, Probe(t, f'dir:{t.models_dir}')):
        q.refuses(q.resolve('absent'), 'NOT_FOUND', 'absent')
        q.refuses(q.resolve('a+b/c.d-e_f', 'v2'), 'NOT_FOUND', 'v2')
        q.refuses(q.resolve('absent.gguf'), 'NOT_FOUND', 'absent.gguf')
    t.equal(p.counters['retries'], 0)


@test
def the_fingerprint_stands_for_the_files(t):
    t.model('m', 5000)
    t.model('n', 5000)
    config = t.models_dir / 'm/config.json'
    for url in (f'dir:{t.models_dir}', servers.Server(t, t.models_dir).url):
        p = Probe(t, url)
        first = p.found('m')['fingerprint']
        t.equal(Probe(t, url).found('m')['fingerprint'], first)
        assert p.found('n')['fingerprint'] != first
        config.write_text(config.read_text() + ' ')
        second = p.found('m')['fingerprint']
        assert second != first
        weights = t.models_dir / 'm/model.safetensors'
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([255 - data[-1]]))
        assert p.found('m')['fingerprint'] not in (first, second)


@test
def an_index_that_lies_makes_the_model_bad(t):
    t.model('m', 5000, shards=2)
    shard = t.models_dir / 'm/model-00002-of-00002.safetensors'
    index = t.models_dir / 'm/model.safetensors.index.json'
    gone = shard.read_bytes()
    for url in (f'dir:{t.models_dir}', servers.Server(t, t.models_dir).url):
        p = Probe(t, url)
        shard.unlink()
        p.refuses(p.resolve('m'), 'BAD_MODEL', shard.name)
        shard.write_bytes(gone)
        text = index.read_text()
        index.write_text(text.replace(shard.name, '../m/' + shard.name))
        p.refuses(p.resolve('m'), 'BAD_MODEL')
        index.write_text(text.replace('layer.1.weight', 'layer.nine'))
        p.found('m')
        p.refuses(p.ask('describe'), 'BAD_MODEL', 'layer.nine')
        index.write_text(text)


# ---- reading from a server that behaves

@test
def ranges_are_exact_and_the_connection_is_kept(t):
    server, p, data = probe_on(t)
    connections = server.connections
    for _ in range(50):
        off = t.random.randrange(len(data))
        good(t, p, data, off, t.random.randrange(len(data) - off + 1))
    good(t, p, data)
    out = p.ask('stream', 0, 1000, 0, 1 << 40)
    t.equal((out['ok'], out['sha256']), (True, sha(data[1000:])))
    t.equal(server.connections, connections)
    t.equal(p.read(0, len(data), 0)['ok'], True)


@test
def a_sink_that_has_enough_ends_the_stream(t):
    _, p, data = probe_on(t, size=3000000)
    out = p.ask('stream', 0, 0, 0, 1)
    assert out['ok'] and 1 <= out['bytes'] < len(data), out
    t.equal(out['sha256'], sha(data[:out['bytes']]))
    good(t, p, data, 7, 70000)


@test
def a_failure_of_the_sink_is_final(t):
    server, p, _ = probe_on(t)
    t.equal(p.ask('stream', 0, 0, 0, 0)['r'], -11)
    t.equal((len(server.log), p.counters['retries']), (1, 0))


@test
def a_real_web_server_is_read(t):
    t.model('m', 3000000, shards=2)
    nginx = remote.Nginx(t, t.models_dir)
    p = Probe(t, nginx.url)
    out = p.found('m')
    assert all(f['version'].startswith('etag:"') for f in out['weights'] + out['side']), out
    file = t.models_dir / 'm' / out['weights'][0]['path']
    good(t, p, file.read_bytes(), 12345, 1000000)
    t.equal(p.ask('together', 4, 0, 100000)['sha256'], sha(file.read_bytes()))
    t.equal(p.ask('describe')['ok'], True)
    file.write_bytes(file.read_bytes() + b'!')
    p.refuses(p.read(0, 0, 1000), 'CHANGED', '412')
    p.refuses(p.resolve('absent'), 'NOT_FOUND', 'absent')
    counters = p.counters
    t.equal([k for k in counters if k.startswith('degraded') and counters[k]], [])


@test
def many_threads_read_one_file_of_a_flaky_server(t):
    server, p, data = probe_on(t, size=4000000, max_attempts=20)
    server.faults += [limited(reset(5000), 7), limited(short(1), 5), limited(status(503), 5)]
    out = p.ask('together', 8, 0, 60000)
    t.equal((out['text'], out['sha256']), ('', sha(data)))
    t.equal(p.counters['retries'], 17)


# ---- trouble that passes

@test
def errors_that_may_pass_are_tried_again_with_growing_waits(t):
    server, p, data = probe_on(t, limited(status(503), 3), backoff_base_ns=1000 * MS, backoff_cap_ns=3000 * MS)
    good(t, p, data)
    waits = p.report()['waits']
    t.equal(len(waits), 3)
    assert all(0 <= wait <= bound * MS for wait, bound in zip(waits, (1000, 2000, 3000))), waits
    assert len(set(waits)) > 1, 'no jitter'
    t.equal(len(server.log), 4)
    t.equal({k: p.counters[k] for k in ('retries', 'throttled', 'resumes')}, {'retries': 3, 'throttled': 0, 'resumes': 0})


@test
def attempts_are_bounded(t):
    for code in (500, 502, 503, 504, 429, 408):
        server, p, _ = probe_on(t, limited(status(code)))
        p.refuses(p.read(0, 0, 1000), 'UNREACHABLE', str(code), '4 attempts')
        t.equal(len(server.log), 4)
    t.equal(p.counters['unreachable'], 1)
    server.close()
    p.refuses(p.read(0, 0, 1000), 'UNREACHABLE', '4 attempts')
    p.refuses(p.resolve('m'), 'UNREACHABLE', '4 attempts')


@test
def retry_after_is_obeyed_up_to_a_bound(t):
    server, p, data = probe_on(t, limited(status(429, {'Retry-After': '7'}), 1), retry_after_cap_ns=20000 * MS)
    good(t, p, data)
    server.faults[:] = [limited(status(503, {'Retry-After': '99999999999999999999'}), 1),
                        limited(status(503, {'Retry-After': '3600'}), 1),
                        limited(status(429, {'Retry-After': email.utils.formatdate(time.time() + 15, usegmt=True)}), 1)]
    good(t, p, data)
    waits = [w // (1000 * MS) for w in p.report()['waits']]
    assert waits[0] == 7 and waits[1] == 0 and waits[2] == 20 and 10 <= waits[3] <= 15, waits
    t.equal(p.counters['throttled'], 3)


@test
def a_broken_transfer_goes_on_at_the_byte_it_reached(t):
    for act, bad in ((reset(100000), None), (short(5), -5), (stall(100000), 100000)):
        server, p, data = probe_on(t, limited(act, 1))
        good(t, p, data, 10, len(data) - 20)
        first, second = [(e.first, e.last) for e in server.log]
        t.equal((first, second[1]), ((10, len(data) - 11), len(data) - 11))
        if act.__qualname__.startswith('reset'):
            assert 10 <= second[0] <= 10 + 100000, second  # a reset may throw away what was on its way
        else:
            t.equal(second[0], 10 + bad if bad > 0 else len(data) - 10 + bad)
            t.equal(p.counters['resumes'], 1)
        t.equal(p.counters['retries'], 1)
        t.equal(p.counters['stalls'], int(act.__qualname__.startswith('stall')))


@test
def a_server_that_breaks_again_and_again_is_given_up_unless_it_makes_progress(t):
    server, p, data = probe_on(t, limited(short(1)))  # one byte short each time: never finished
    p.refuses(p.read(0, 0, 200000), 'UNREACHABLE', 'attempts')
    t.equal(len(server.log), 4)

    def part(request):
        request.wfile.write(request.begin_file()[:1100000])
        request.close_connection = True
    server, p, data = probe_on(t, limited(part), size=8000000, name='large')
    good(t, p, data)
    assert len(server.log) > 7, len(server.log)


@test
def cancelling_ends_a_stalled_read_and_a_wait_at_once(t):
    server, p, data = probe_on(t, limited(stall(1000), 1), stall_s=600)
    p.say('read', 0, 0, 100000)
    assert server.reached.wait(60)
    p.say('cancel')
    p.refuses(p.hear(), 'CANCELLED')
    p.refuses(p.read(0, 0, 10), 'CANCELLED')
    p.refuses(p.resolve('m'), 'CANCELLED')
    t.equal(p.ask('uncancel')['ok'], True)
    server.released.set()
    p.found('m')
    good(t, p, data)

    server, p, data = probe_on(t, limited(status(503, {'Retry-After': '3600'})), name='waits',
                               retry_after_cap_ns=10 ** 15)
    q = Probe(t, server.url, '--real-wait', retry_after_cap_ns=10 ** 15)
    server.reached.clear()
    q.say('resolve', 'waits')
    assert server.reached.wait(60)
    q.say('cancel')
    q.refuses(q.hear(), 'CANCELLED')


# ---- trouble that does not pass

@test
def a_refusal_is_not_tried_again(t):
    for code, name in ((401, 'REFUSED'), (403, 'REFUSED'), (404, 'NOT_FOUND'), (410, 'NOT_FOUND'), (412, 'CHANGED'),
                       (416, 'CHANGED'), (418, 'BAD_SOURCE'), (204, 'BAD_SOURCE'), (501, 'BAD_SOURCE')):
        server, p, data = probe_on(t, limited(status(code), 1))
        p.refuses(p.read(0, 0, 1000), name, str(code))
        t.equal(len(server.log), 1, code)
        good(t, p, data)
    server, p, _ = probe_on(t)
    server.faults += [lambda request: request.begin(403, {}, 0) or True]
    p.refuses(p.resolve('m'), 'REFUSED', '403')


@test
def answers_that_contradict_themselves_are_refused(t):
    lies = {
        'another range': servers.answer(content_range='bytes 0-{last}/{total}'),
        'a range of the right length elsewhere': servers.answer(content_range='bytes 20-1019/{total}'),
        'a range in front': servers.answer(content_range='bytes 5-9/{total}'),
        'no Content-Range': servers.answer(content_range='items 3'),
        'unknown total': servers.answer(content_range='bytes {first}-{last}/*'),
        'end behind the file': servers.answer(content_range='bytes {first}-{last}/7'),
        'overflow': servers.answer(content_range='bytes {first}-99999999999999999999/{total}'),
        'length against range': servers.answer(length=lambda n: n + 5, tail=b'12345'),
        'a coding': servers.answer(extra={'Content-Encoding': 'gzip'}),
        'no version': servers.answer(version=False),
        'bad length': servers.answer(extra={'Content-Length': '10x'}),
    }
    for what, act in lies.items():
        server, p, data = probe_on(t, limited(act, 1))
        out = p.read(0, 10, 1000)
        t.equal(out['code'], 'BAD_SOURCE', f"{what}: {out['text']}")
        t.equal(len(server.log), 1, what)
        t.equal(p.counters['malformed'], 1, what)
        good(t, p, data)


@test
def a_chunked_answer_longer_than_its_range_is_refused(t):
    def act(request):
        data, etag = request.find()
        first, last = request.range(len(data))
        request.send_response(206)
        for name, value in (('ETag', etag), ('Content-Range', f'bytes {first}-{last}/{len(data)}'),
                            ('Transfer-Encoding', 'chunked')):
            request.send_header(name, value)
        request.end_headers()
        body = data[first:last + 1] + b'surplus'
        request.wfile.write(b'%x\r\n%b\r\n0\r\n\r\n' % (len(body), body))
    _, p, _ = probe_on(t, limited(act, 1))
    p.refuses(p.read(0, 0, 1000), 'BAD_SOURCE', 'more bytes')


@test
def a_file_that_changes_is_never_mixed(t):
    def change(path):
        path.write_bytes(bytes(255 - b for b in path.read_bytes()))
    server, p, data = probe_on(t)
    file = t.models_dir / 'm/model.safetensors'
    change(file)
    p.refuses(p.read(0, 0, 1000), 'CHANGED', '412')
    t.equal(server.log[-1].headers['If-Match'], f'"{sha(data)[:32]}"')
    t.equal(p.counters['changed'], 1)

    def change_half_way(request):
        request.wfile.write(request.begin_file()[:50000])
        change(file)
        request.reset()
    p.found('m')
    server.faults += [limited(change_half_way, 1)]
    p.refuses(p.read(0, 0, 200000), 'CHANGED')

    # Servers that do not evaluate conditions: the answer itself shows it.
    p.found('m')
    change(file)
    server.faults[:] = [limited(servers.answer())]
    p.refuses(p.read(0, 0, 1000), 'CHANGED', 'ETag')
    for old, new in (('Sat, 01 Jan 2022 00:00:00 GMT', 'Sun, 02 Jan 2022 00:00:00 GMT'),):
        server.faults[:] = [limited(servers.answer(version=False, extra={'Last-Modified': old}))]
        t.equal(p.found('m')['weights'][0]['version'], 'date:' + old)
        good(t, p, file.read_bytes())
        t.equal(server.log[-1].headers['If-Unmodified-Since'], old)
        server.faults[:] = [limited(servers.answer(version=False, extra={'Last-Modified': new}))]
        p.refuses(p.read(0, 0, 1000), 'CHANGED', 'Last-Modified')
    server.faults[:] = [limited(servers.answer(version=False))]
    t.equal(p.found('m')['weights'][0]['version'], 'size')
    t.equal(p.counters['degraded_no_versions'], 1)
    file.write_bytes(file.read_bytes() + b'!')
    p.refuses(p.read(0, 0, 1000), 'CHANGED', 'size')


@test
def a_weak_etag_is_no_version(t):
    server, p, data = probe_on(t)
    date = 'Sat, 01 Jan 2022 00:00:00 GMT'
    server.faults += [limited(servers.answer(extra={'ETag': 'W/"1"', 'Last-Modified': date}, version=False))]
    t.equal(p.found('m')['weights'][0]['version'], 'date:' + date)
    good(t, p, data)


@test
def a_server_without_ranges_is_streamed(t):
    server, p, data = probe_on(t, limited(whole))
    out = p.found('m')
    t.equal((out['no_ranges'], out['weights'][0]['bytes']), (True, len(data)))
    p.refuses(p.read(0, 5, 10), 'UNSUPPORTED', 'ranges')
    good(t, p, data, 0, 5000)
    good(t, p, data)

    def break_off(request):
        found, etag = request.find()
        request.begin(200, {'ETag': etag}, len(found))
        request.wfile.write(found[:123456])
        request.close_connection = True
    server.faults.insert(0, limited(break_off, 1))
    out = p.ask('stream', 0, 0, 0, 1 << 40)
    t.equal((out['text'], out['bytes'], out['sha256']), ('', len(data), sha(data)))
    report = p.report()
    t.equal(report['counters']['resumes'], 1)
    assert report['counters']['degraded_no_ranges'] >= 4
    t.equal(len([line for line in report['log'] if 'degraded no-ranges' in line]), 1)
    t.equal(p.ask('describe')['ok'], True)


@test
def a_server_that_loses_its_ranges_later_says_so(t):
    _, p, data = probe_on(t, limited(whole))
    p.refuses(p.read(0, 5, 10), 'UNSUPPORTED', 'ranges')
    good(t, p, data, 0, 100)


@test
def redirects_are_followed_with_a_bound_and_to_the_web_only(t):
    server, p, data = probe_on(t)
    there = server.url + '/m/model.safetensors?there'
    away = lambda to: limited(lambda r: '?there' not in r.path and r.begin(302, {'Location': to}, 0), 1)
    server.faults[:] = [away(there)]
    good(t, p, data)
    server.faults[:] = [away('../m/./model.safetensors?there')]
    good(t, p, data)
    for to in ('file:///etc/passwd', 'ftp://127.0.0.1/x', '', 'http://', 'gopher://x/'):
        server.faults[:] = [away(to)]
        p.refuses(p.read(0, 0, 10), 'BAD_SOURCE', 'redirect')
    server.forget()
    server.faults[:] = [limited(status(307, {'Location': '/m/model.safetensors'}))]
    p.refuses(p.read(0, 0, 10), 'BAD_SOURCE', '5 redirects')
    t.equal(len(server.log), 6)


@test
def what_a_server_sends_is_bounded(t):
    def endless(request, line):
        try:
            request.wfile.write(b'' if line.startswith(b'HTTP') else b'HTTP/1.1 200 OK\r\n')
            while True:
                request.wfile.write(line)
        except OSError:
            request.close_connection = True
    server, p, _ = probe_on(t)
    for line in (b'X-More: and more\r\n', b'x' * 4096):
        server.faults[:] = [limited(lambda r, line=line: endless(r, line), 1)]
        p.refuses(p.read(0, 0, 10), 'BAD_SOURCE')
    server.faults[:] = [limited(lambda r: endless(r, b'HTTP/1.1 103 Early\r\n\r\n'), 1)]
    p.refuses(p.read(0, 0, 10), 'BAD_SOURCE', 'headers')

    def endless_error(request):
        try:
            request.begin(404, {}, 1 << 60)
            while True:
                request.wfile.write(b'<p>no</p>' * 1000)
        except OSError:
            request.close_connection = True
    server.faults[:] = [limited(endless_error, 1)]
    p.refuses(p.read(0, 0, 10), 'NOT_FOUND', '404')
    server.faults[:] = [limited(lambda r: r.wfile.write(b'SSH-2.0-OpenSSH\r\n') and r.reset(), 9)]
    p.refuses(p.read(0, 0, 10), 'BAD_SOURCE')
    t.equal(p.counters['malformed'], 4)


@test
def head_may_be_refused(t):
    server, p, _ = probe_on(t)
    server.faults += [lambda r: r.command == 'HEAD' and (r.begin(405, {}, 0) or True)]
    out = p.found('m')
    t.equal([f['path'] for f in out['side']], ['config.json'])
    assert p.counters['degraded_no_head'] > 0


@test
def empty_side_files_are_files(t):
    t.model('m', 5000, files={'merges.txt': b''})
    for faults in ([], [lambda r: r.command == 'HEAD' and (r.begin(405, {}, 0) or True)]):
        server = servers.Server(t, t.models_dir)

        def unsatisfiable(r):
            return 'merges' in r.path and 'Range' in r.headers and (
                r.begin(416, {'Content-Range': 'bytes */0', 'ETag': '"e"'}, 0) or True)
        server.faults += faults + [unsatisfiable]
        p = Probe(t, server.url)
        t.equal([(f['path'], f['bytes']) for f in p.found('m')['side'] if f['path'] == 'merges.txt'], [('merges.txt', 0)])


# ---- TLS

def certificate(t):
    key, cert = str(t.dir / 'key.pem'), str(t.dir / 'cert.pem')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
                    '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=test', '-addext',
                    'subjectAltName=IP:127.0.0.1'], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cert, key


@test
def tls_is_verified(t):
    pair = certificate(t)
    t.model('m', 50000)
    data = (t.models_dir / 'm/model.safetensors').read_bytes()
    server = servers.Server(t, t.models_dir, pair)
    for keywords in ({'ca_file': pair[0]}, {'env': {'CURL_CA_BUNDLE': pair[0]}}, {'env': {'SSL_CERT_FILE': pair[0]}}):
        p = Probe(t, server.url, **keywords)
        p.found('m')
        good(t, p, data)
    for url in (server.url, server.url.replace('127.0.0.1', 'localhost')):
        p = Probe(t, url, **({} if url == server.url else {'ca_file': pair[0]}))
        p.refuses(p.resolve('m'), 'UNREACHABLE', 'SSL')
        t.equal(p.counters['retries'], 0)
    plain = servers.Server(t, t.models_dir)
    p = Probe(t, server.url, ca_file=pair[0])
    p.found('m')
    server.faults += [limited(status(302, {'Location': plain.url + '/m/model.safetensors'}), 1)]
    p.refuses(p.read(0, 0, 10), 'BAD_SOURCE', 'redirect')
    t.equal(plain.log, [])


# ---- S3

def s3_environment(store, **more):
    out = {'AWS_ENDPOINT_URL': store.url + '/', 'AWS_REGION': store.region, 'AWS_ACCESS_KEY_ID': store.key_id,
           'AWS_SECRET_ACCESS_KEY': store.secret}
    if store.token:
        out['AWS_SESSION_TOKEN'] = store.token
    return {**out, **more}


@test
def requests_to_s3_are_signed(t):
    for token in (None, 'FwoG/token=='):
        store = servers.S3(t, t.models_dir)
        store.token = token
        t.model('buck.test/pre fix/a+b', 50000)
        data = (t.models_dir / 'buck.test/pre fix/a+b/model.safetensors').read_bytes()
        p = Probe(t, 's3://buck.test/pre fix/', env=s3_environment(store))
        out = p.found('a+b')
        t.equal([f['path'] for f in out['side']], ['config.json'])
        good(t, p, data, 100, 1000)
        t.equal(p.ask('describe')['ok'], True)
        t.equal(p.counters['degraded_clear_token'], int(bool(token)))
        store.faults += [limited(status(503), 2)]
        good(t, p, data)
        p.refuses(p.resolve('absent'), 'REFUSED', 'absent, or not permitted: the credentials may lack s3:ListBucket')


@test
def s3_says_why_it_refuses(t):
    store = servers.S3(t, t.models_dir)
    t.model('bucket/m', 5000)
    for more, word in (({'AWS_SECRET_ACCESS_KEY': 'wrong'}, 'SignatureDoesNotMatch'),
                       ({'AWS_ACCESS_KEY_ID': 'other'}, 'InvalidAccessKeyId'),
                       ({'AWS_REGION': 'us-east-9'}, 'AuthorizationHeaderMalformed')):
        p = Probe(t, 's3://bucket', env=s3_environment(store, **more))
        why = p.resolve('m.safetensors')
        p.refuses(why, 'REFUSED', word)
        assert 'ListBucket' not in json.dumps(why), why
    store.secret = None
    p = Probe(t, 's3://bucket', env={'AWS_ENDPOINT_URL_S3': store.url, 'AWS_ENDPOINT_URL': 'http://127.0.0.1:1'})
    p.found('m')
    assert not any('Authorization' in e.headers for e in store.log[-3:])


# ---- the hub

def hub_on(t, url='hf://', **more):
    hub = servers.Hub(t, t.models_dir)
    t.model('org/name', 300000, files={'tokenizer.json': b'{}', '.gitattributes': b'', 'README.md': b'#',
                                       'pytorch_model.bin': b'0', 'sub': b''})
    (t.models_dir / 'org/name/sub').unlink()
    t.model('org/name/sub', 5000)
    shutil.copytree(t.models_dir / 'org/name/sub', t.models_dir / 'legacy')
    (t.models_dir / 'org/name/q.gguf').write_bytes(models.gguf(models.random_gguf_tensors(t.random)))
    return hub, Probe(t, url, env={'HF_ENDPOINT': hub.url, 'HF_TOKEN': hub.token, **more})


@test
def the_hub_is_read_through_its_cdn_without_leaking_the_token(t):
    hub, p = hub_on(t)
    data = (t.models_dir / 'org/name/model.safetensors').read_bytes()
    out = p.found('org/name')
    t.equal(out['revision'], hub.commit)
    t.equal(out['weights'][0]['sha256'], sha(data))
    t.equal([f['path'] for f in out['side']], ['config.json', 'tokenizer.json', 'README.md'])
    hub.forget()
    for i in range(10):
        good(t, p, data, i * 1000, 1000)
    t.equal(hub.cdn.leaks, 0)
    t.equal(len(hub.asked('resolve')), 1, 'requests to the hub for ten ranges')
    hub.cdn.signature = '2'  # the link expires
    good(t, p, data)
    t.equal((len(hub.asked('resolve')), p.counters['retries']), (2, 0))
    t.equal(p.ask('describe')['ok'], True)
    assert all(e.headers['Authorization'] == f'Bearer {hub.token}' for e in hub.log)
    assert not any('sig=' in line for line in p.report()['log'])


@test
def names_on_the_hub_reach_into_repositories(t):
    hub, p = hub_on(t)
    main_print = p.found('org/name', 'main')['fingerprint']
    t.equal(p.found('org/name', hub.commit)['fingerprint'], main_print)
    t.equal(p.found('org/name', 'refs/pr/1')['fingerprint'], main_print)
    t.equal([f['locator'].split('/resolve/')[1] for f in p.found('org/name/q.gguf')['weights']],
            [hub.commit + '/q.gguf'])
    t.equal(p.found('org/name/sub')['weights'][0]['locator'].split(hub.commit)[1], '/sub/model.safetensors')
    t.equal(p.found('legacy')['weights'][0]['path'], 'model.safetensors')
    p.found('legacy/model.safetensors')
    for words in (('org/absent',), ('org/name', 'v9'), ('org/name/absent.gguf',), ('org/name/nothing',)):
        p.refuses(p.resolve(*words), 'NOT_FOUND')
    q = Probe(t, 'hf://org/', env={'HF_ENDPOINT': hub.url + '/', 'HF_TOKEN': hub.token})
    t.equal(q.found('name')['fingerprint'], main_print)


@test
def a_hub_that_leaves_sizes_out_is_asked_for_each_file(t):
    hub, p = hub_on(t)
    full = p.found('org/name')
    hub.blobs = False
    out = p.found('org/name')
    t.equal([(f['path'], f['bytes'], f.get('sha256')) for f in out['weights']],
            [(f['path'], f['bytes'], f.get('sha256')) for f in full['weights']])
    t.equal(hub.cdn.asked(), [], 'the signed link was asked by HEAD')
    good(t, p, (t.models_dir / 'org/name/model.safetensors').read_bytes())


@test
def tokens_come_from_where_the_hub_keeps_them(t):
    (t.dir / 'token').write_text('  hf_secret\n')
    (t.dir / '.cache/huggingface').mkdir(parents=True)
    shutil.copy(t.dir / 'token', t.dir / '.cache/huggingface/token')
    hub, _ = hub_on(t)
    for env in ({'HF_TOKEN_PATH': str(t.dir / 'token')}, {'HF_HOME': str(t.dir)}, {}):
        Probe(t, 'hf://', env={'HF_ENDPOINT': hub.url, **env}).found('org/name')
    p = Probe(t, 'hf://', env={'HF_ENDPOINT': hub.url, 'HF_TOKEN': 'stale'})
    p.refuses(p.resolve('org/name'), 'REFUSED', 'Access is restricted')


@test
def nonsense_from_a_hub_is_refused(t):
    hub, p = hub_on(t)
    bodies = {b'': 'empty', b'<html>': 'JSON', b'[]': 'commit', b'{"sha": "../../x", "siblings": []}': 'commit',
              b'{"sha": "%s"}' % hub.commit.encode(): 'list', b'[' * 100000: 'JSON'}
    for body, word in bodies.items():
        hub.faults[:] = [lambda r, body=body: r.text(200, body) or True]
        p.refuses(p.resolve('org/name'), 'BAD_SOURCE', word)

    def endless(request):
        try:
            request.begin(200, {}, 1 << 60)
            while True:
                request.wfile.write(b'[1,' * 10000)
        except OSError:
            request.close_connection = True
        return True
    hub.faults[:] = [endless]
    p.refuses(p.resolve('org/name'), 'BAD_SOURCE', 'more than')
    siblings = [{'rfilename': 'model.safetensors', 'size': -5}]
    hub.faults[:] = [lambda r: 'api' in r.path and (
        r.text(200, json.dumps({'sha': hub.commit, 'siblings': siblings}).encode()) or True)]
    t.equal(p.found('org/name')['weights'][0]['bytes'], (t.models_dir / 'org/name/model.safetensors').stat().st_size)


@test
def json_cut_off_and_sent_again_is_read_once(t):
    hub, p = hub_on(t)

    def cut(request):
        state = getattr(hub, 'cuts', 0)
        hub.cuts = state + 1
        if state:
            return False
        request.begin(200, {}, 5000)
        request.wfile.write(b'{"sha": "')
        request.close_connection = True
        return True
    hub.faults[:] = [cut]
    p.found('org/name')
    t.equal(p.counters['retries'], 1)


# ---- directories

@test
def nothing_outside_the_directory_is_read(t):
    t.model('m', 5000)
    outside = t.dir / 'outside'
    shutil.copytree(t.models_dir / 'm', outside)
    (t.models_dir / 'escape').symlink_to(outside)
    (t.models_dir / 'inside').symlink_to('m')
    (t.models_dir / 'up.safetensors').symlink_to('../outside/model.safetensors')
    (t.models_dir / 'm/secret.json').symlink_to(outside / 'config.json')
    os.mkfifo(t.models_dir / 'pipe.safetensors')
    for flags in ([], ['--no-openat2']):
        p = Probe(t, f'dir:{t.models_dir}/', *flags)
        p.refuses(p.resolve('escape'), 'REFUSED', 'outside')
        p.refuses(p.resolve('up.safetensors'), 'REFUSED', 'outside')
        p.refuses(p.resolve('pipe.safetensors'), 'NOT_FOUND')
        p.found('inside')
        t.equal([f['path'] for f in p.found('m')['side']], ['config.json'])
        t.equal(p.ask('local', 0)['sha256'], sha((t.models_dir / 'm/model.safetensors').read_bytes()))
        t.equal(bool(p.counters['degraded_no_openat2']), bool(flags))


@test
def a_directory_is_read_in_place_and_changes_are_seen(t):
    t.model('m', 500000)
    file = t.models_dir / 'm/model.safetensors'
    data = file.read_bytes()
    p = Probe(t, f'dir:{t.models_dir}')
    t.equal(p.found('m')['in_place'], True)
    good(t, p, data, 12345, 100000)
    t.equal(p.ask('local', 0)['ok'], True)
    os.utime(file, ns=(1, 1))
    p.refuses(p.read(0, 0, 10), 'CHANGED', 'm/model.safetensors')
    p.refuses(p.ask('local', 0), 'CHANGED')
    p.found('m')
    file.unlink()
    p.refuses(p.read(0, 0, 10), 'CHANGED', 'gone')
    p.refuses(p.ask('local', 0), 'CHANGED', 'gone')
    t.equal(p.counters['changed'], 4)


@test
def a_disk_that_fails_is_named_with_the_file(t):
    t.model('m', 5000)
    p = Probe(t, f'dir:{t.models_dir}', '--no-pread')
    p.found('m')
    p.refuses(p.read(0, 0, 10), 'DISK_ERROR', f'{t.models_dir}/m/model.safetensors: Input/output error')


@test
def side_files_are_bounded_the_known_ones_first(t):
    t.model('m', 5000, files={f'a{i:02}.txt': b'x' * 100 for i in range(20)} |
            {'tokenizer.json': b'{}', '.hidden': b'', 'other.bin': b'', 'huge.txt': b'y' * 5000})
    p = Probe(t, f'dir:{t.models_dir}', max_side_files=5, max_side_file_bytes=4000)
    t.equal([f['path'] for f in p.found('m')['side']], ['config.json', 'tokenizer.json', 'a00.txt', 'a01.txt', 'a02.txt'])
    report = p.report()
    assert report['counters']['degraded_side_cut'] > 0 and any('side-cut' in line for line in report['log'])
    p = Probe(t, f'dir:{t.models_dir}', max_side_total_bytes=250, max_side_file_bytes=4000)
    t.equal([f['path'] for f in p.found('m')['side']], ['config.json', 'tokenizer.json', 'a00.txt', 'a01.txt'])


@test
def side_files_that_are_left_out_are_named(t):
    t.model('m', 5000, files={'huge.txt': b'y' * 5000, 'fine.txt': b'x', '.hidden': b''})
    folder = t.models_dir / 'm'
    (folder / 'nowhere.json').symlink_to('gone')
    (folder / 'outside.json').symlink_to('/etc/passwd')
    (folder / 'directory').mkdir()
    (folder / 'link').symlink_to('directory')
    os.mkfifo(folder / 'pipe.txt')
    (folder / 'pipe.json').symlink_to('pipe.txt')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / 'socket.txt'))
    p = Probe(t, f'dir:{t.models_dir}', max_side_file_bytes=4000)
    out = p.found('m')
    t.equal([f['path'] for f in out['side']], ['config.json', 'fine.txt'])
    t.equal(sorted(out['left_out']), ['huge.txt', 'nowhere.json', 'outside.json', 'pipe.json', 'pipe.txt', 'socket.txt'])
    t.equal(out['n_left_out'], 6)
    for name, words in {'huge.txt': '5000 bytes are more than the 4000', 'nowhere.json': 'leads nowhere',
                        'outside.json': 'outside', 'pipe.json': 'no regular file', 'pipe.txt': 'no regular file',
                        'socket.txt': 'no regular file'}.items():
        assert words in out['left_out'][name], (name, out['left_out'][name])
    report = p.report()
    t.equal(report['counters']['degraded_side_cut'], 6)
    t.equal(len([line for line in report['log'] if 'side-cut' in line]), 1, 'lines')
    t.equal(p.ask('local', 0)['sha256'], sha((folder / 'model.safetensors').read_bytes()))
    for i in range(100):
        os.mkfifo(folder / f'{i}.pipe')
    out = p.found('m')
    t.equal((len(out['left_out']), out['n_left_out']), (16, 106))


@test
def a_hub_cache_is_a_directory_of_models(t):
    t.model('plain', 5000)
    data = (t.models_dir / 'plain/model.safetensors').read_bytes()
    repository = t.models_dir / 'models--org--name'
    for folder in ('refs', 'blobs', 'snapshots/aa11', 'snapshots/bb22'):
        (repository / folder).mkdir(parents=True)
    (repository / 'blobs' / sha(data)).write_bytes(data)
    (repository / 'blobs/e69de29b').write_bytes(b'{}')
    for commit in ('aa11', 'bb22'):
        (repository / f'snapshots/{commit}/model.safetensors').symlink_to(f'../../blobs/{sha(data)}')
        (repository / f'snapshots/{commit}/config.json').symlink_to('../../blobs/e69de29b')
    (repository / 'refs/main').write_text('aa11\n')
    p = Probe(t, f'dir:{t.models_dir}')
    out = p.found('org/name')
    t.equal((out['revision'], out['weights'][0]['sha256'], out['in_place']), ('aa11', sha(data), True))
    t.equal(out['side'][0]['path'], 'config.json')
    good(t, p, data)
    t.equal(p.found('org/name', 'bb22')['revision'], 'bb22')
    p.found('org/name/model.safetensors')
    p.refuses(p.resolve('org/name', 'cc33'), 'NOT_FOUND', 'org/name@cc33')
    (repository / 'refs/main').write_text('../../../outside')
    p.refuses(p.resolve('org/name'), 'NOT_FOUND')


# ---- configuration

@test
def urls_that_make_no_sense_are_refused_at_once(t):
    for url, word in (('ftp://x/', 'dir:'), ('dir:relative', 'absolute'), (f'dir:{t.dir}/absent', 'no such directory'),
                      ('http://', 'URL'), ('http://user:secret@127.0.0.1/', 'credentials'),
                      ('https://127.0.0.1/x?y=1', 'query'), ('s3://', 'bucket'), ('s3://a b/', 'bucket'),
                      ('hf:///x', 'hf://'), ('hf://a b', 'hf://')):
        p = Probe(t, url)
        p.refuses(p.hello, 'BAD_REQUEST', word)
        assert 'secret' not in p.hello['text'], p.hello
    p = Probe(t, 's3://bucket', env={'AWS_ACCESS_KEY_ID': 'half'})
    p.refuses(p.hello, 'BAD_REQUEST', 'AWS_SECRET_ACCESS_KEY')
    p = Probe(t, 's3://bucket', env={'AWS_REGION': 'evil.example.com/'})
    p.refuses(p.hello, 'BAD_REQUEST', 'AWS_REGION')


if __name__ == '__main__':
    main()
