"""One model, several clients: what is opened is what is in the files, and it is the same memory."""
import ctypes
import mmap
import os
import random

import models
import wire
from trimstest import main, test

EVERY_KIND = {'dir': {}, 'sharded': {'shards': 3}, 'deep/er/one': {}, 'single.safetensors': {}, 'quant.gguf': {}}


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


@test
def every_format_comes_out_as_it_went_in(t):
    for name, keywords in EVERY_KIND.items():
        (t.models_dir / name).parent.mkdir(parents=True, exist_ok=True)
    made = {name: t.model(name, 3 << 20, **keywords) for name, keywords in EVERY_KIND.items()}
    client = t.daemon().client()
    for name, tensors in made.items():
        same(t, client.open(name), tensors)


@test
def a_model_of_several_extents_and_many_chunks(t):
    tensors = t.model('big', 40 << 20, count=40)
    same(t, t.daemon().client().open('big'), tensors)


@test
def the_tools_read_the_same_bytes_as_the_wire(t):
    tensors = t.model('a', 2 << 20)
    daemon = t.daemon()
    for name, (_, _, data) in tensors.items():
        got = daemon.ctl('cat', 'a', name)
        assert got.rc == 0 and got.raw == data, (name, got.rc, got.err)


@test
def all_clients_get_the_same_copy_and_later_ones_a_hit(t):
    t.model('a')
    daemon = t.daemon()
    first, second = daemon.client().open('a'), daemon.client().open('a')
    t.equal([first.opened['hit'], second.opened['hit']], [0, 1])
    t.equal(first.opened['copy'], second.opened['copy'])
    t.equal([os.fstat(fd).st_ino for fd in first.fds], [os.fstat(fd).st_ino for fd in second.fds])
    t.equal(daemon.metric('trims_leases'), 2)


@test
def nothing_that_is_handed_out_can_be_written(t):
    t.model('a')
    lease = t.daemon().client().open('a')
    for fd in lease.fds:
        size = os.fstat(fd).st_size
        for act in (lambda fd=fd: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
                    lambda fd=fd: os.pwrite(fd, b'x', 0), lambda fd=fd: os.ftruncate(fd, 0),
                    lambda fd=fd: os.pwrite(os.open(f'/proc/self/fd/{fd}', os.O_RDWR), b'x', 0)):
            try:
                act()
            except (PermissionError, OSError):
                continue
            raise AssertionError('a client can write to what it was given')
    wire.LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    t.equal(wire.LIBC.mprotect(lease.page, 4096, mmap.PROT_READ | mmap.PROT_WRITE), -1, 'mprotect')


@test
def small_files_travel_with_the_model(t):
    t.model('a', files={'tokenizer.json': b'{"x": 1}', 'empty.txt': b''})
    daemon = t.daemon()
    client = daemon.client()
    lease = client.open('a')
    for path, data in (('tokenizer.json', b'{"x": 1}'), ('config.json', b'{"model_type": "test"}')):
        got = client.call('file', lease=lease.opened['lease'], path=path)
        t.equal(os.pread(got['fd_list'][0], got['bytes'] + 1, 0), data)
        os.close(got['fd_list'][0])
    for path in ('no-such-file', '../a/config.json', '/etc/passwd', ''):
        try:
            client.call('file', lease=lease.opened['lease'], path=path)
        except wire.Fault as fault:
            assert fault.code in ('NO_FILE', 'BAD_REQUEST', 'BAD_NAME'), fault
        else:
            raise AssertionError(f'{path} was handed out')
    t.equal(daemon.ctl('file', 'a', 'tokenizer.json').raw, b'{"x": 1}')


@test
def names_that_are_not_there_or_not_allowed_are_refused(t):
    t.model('a')
    client = t.daemon().client()
    for name, codes in {'b': ['NOT_FOUND'], '../models/a': ['BAD_NAME'], '/a': ['BAD_NAME'], '': ['BAD_NAME'],
                        'a//b': ['BAD_NAME'], '.': ['BAD_NAME'], 'a' * 255: ['NOT_FOUND']}.items():
        try:
            client.open(name)
        except wire.Fault as fault:
            assert fault.code in codes, f'{name!r}: {fault}'
            assert len(fault.text) > 10, fault.text
        else:
            raise AssertionError(f'{name!r} was opened')
    client.open('a')


@test
def malformed_models_are_refused_with_a_sentence_that_names_the_file(t):
    good = models.safetensors(models.random_tensors(t.random, 10000))
    bad = {'cut': good[:len(good) // 2], 'long': good + b'x', 'huge': b'\xff' * 8 + good[8:], 'tiny': b'abc',
           'empty': b'', 'noise': random.Random(1).randbytes(5000)}
    for name, data in bad.items():
        (t.models_dir / f'{name}.safetensors').write_bytes(data)
    (t.models_dir / 'bad.gguf').write_bytes(b'GGUF' + b'\x03\0\0\0' + b'\xff' * 100)
    client = t.daemon().client()
    for name in [*(f'{n}.safetensors' for n in bad), 'bad.gguf']:
        try:
            client.open(name)
        except wire.Fault as fault:
            t.equal(fault.code, 'BAD_MODEL', name)
            assert name in fault.text, fault.text
        else:
            raise AssertionError(f'{name} was opened')


@test
def a_lease_outlives_the_daemon_and_a_new_daemon_serves_again(t):
    tensors = t.model('a', 3 << 20)
    daemon = t.daemon()
    client = daemon.client()
    lease = client.open('a')
    daemon.kill()
    assert client.gone()
    same(t, lease, tensors)
    daemon.start()
    again = daemon.client().open('a')
    same(t, again, tensors)
    same(t, lease, tensors)


@test
def closing_and_disconnecting_give_everything_back(t):
    for name in 'abc':
        t.model(name)
    daemon = t.daemon()
    warm = daemon.client()
    for name in 'abc':
        warm.open(name)
    warm.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the leases are back')
    before = daemon.fds()
    for i in range(30):
        client = daemon.client()
        leases = [client.open(name) for name in 'abcabc']
        if i % 2:
            for lease in leases:
                lease.close()
        client.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0 and daemon.metric('trims_clients') <= 1, 'all is back')
    t.eventually(lambda: len(daemon.fds()) <= len(before), 'no descriptor is left')


main()
