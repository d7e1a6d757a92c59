"""Profiles of models: measured by trims-run, stored beside the model, taken by trims-ctl plan, and by the daemon itself."""
import json
import os
import pathlib
import shutil
import signal
import sys

import wire
from simgpu import UUIDS, gpu_daemon
from trimstest import BUILD, GPU_DRIVER, MRM, SIMULATOR, SOURCE, main, simulated_only, test
from trimstest import run as run_program

sys.path[:0] = [str(SOURCE / 'tests/run')]
import reference  # noqa: E402  pylint: disable=wrong-import-position

MACHINE = SOURCE / 'tools/profiles/v100-pcie3.json'


def small_bert(t, name='a'):
    reference.Bert(t.random, dtype='F16').write(t.models_dir / name)


def stored(daemon, name='a'):
    return daemon.json('profile', name, '--show')['profiles']


def files(daemon):
    return sorted((daemon.cache_dir / 'profiles').glob('*.profile'))


@test
def a_profile_is_measured_and_stored_and_planned_with(t):
    small_bert(t)
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.equal(stored(daemon), [])
    missing = daemon.ctl('plan', 'a', '--machine', MACHINE)
    t.equal(missing.rc, 1, missing)
    assert 'trims-ctl profile' in missing.err, missing
    told = daemon.json('profile', 'a', '--batches', '1,2')
    rows = stored(daemon)
    t.equal(len(rows), 1)
    t.equal(rows[0]['profile'], told)
    t.equal(rows[0]['devices'], ['cpu'])
    assert rows[0]['device_class'].startswith('cpu: ') and rows[0]['executor'].startswith('trims-run '), rows[0]
    t.equal([row['device_class'] for row in daemon.json('show', 'a')['profiles']], [rows[0]['device_class']])
    assert rows[0]['device_class'] in daemon.ctl('show', 'a').out
    for batch in 1, 2:
        plan = daemon.json('plan', 'a', '--machine', MACHINE, '--batch', batch)
        t.equal([layer['name'] for layer in plan['layers']], [layer['name'] for layer in told['layers']])
        t.equal(plan['profile']['device_class'], rows[0]['device_class'])
    t.equal(daemon.ctl('plan', 'a', '--machine', MACHINE, '--batch', 7).rc, 1)
    assert rows[0]['executor'] in daemon.ctl('plan', 'a', '--machine', MACHINE, '--batch', 2).out
    t.equal(daemon.ctl('profile', 'a', '--show', '--device', 'cpu').rc, 2)
    t.equal(daemon.ctl('profile', 'a', '--device', 'abacus').rc, 1)
    t.equal(daemon.ctl('profile', 'none').rc, 1)


@test
def profiles_outlive_the_daemon_and_replace_their_like(t):
    small_bert(t)
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    for batches in '1', '1,2':
        told = daemon.json('profile', 'a', '--batches', batches)
        t.equal([row['profile'] for row in stored(daemon)], [told])
    daemon.stop()
    daemon.start()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.equal([row['profile'] for row in stored(daemon)], [told])
    t.equal(len(files(daemon)), 1)


@test
def a_damaged_profile_is_dropped(t):
    small_bert(t)
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    for running in True, False:
        t.equal(daemon.ctl('profile', 'a').rc, 0)
        path, = files(daemon)
        whole = path.read_bytes()
        at = t.random.randrange(len(whole)) if not running else len(whole) - 1 - t.random.randrange(len(whole) // 2)
        if not running:
            daemon.stop()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << t.random.randrange(8)]) + whole[at + 1:])
        if not running:
            daemon.start()
            t.equal(daemon.ctl('pull', 'a').rc, 0)
        t.equal(stored(daemon), [])
        t.equal(files(daemon), [])
        t.equal(stored(daemon), [])
        assert 'damaged, removed' in daemon.log()


@test
def what_is_no_profile_is_refused(t):
    small_bert(t)
    daemon = t.daemon()
    client = daemon.client()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    good = {'format': 'trims-profile-1', 'device_class': 'cpu: any', 'driver': '', 'executor': 'none', 'layers': [{}]}

    def put(fd, model='a'):
        request = client.send('profile', fds=[fd], model=model, profile=1)
        os.close(fd)
        try:
            return client.answer(request)['text']
        except wire.Fault as e:
            return e.code

    def text(value):
        return wire.sealed(json.dumps(value).encode())

    for fd in (text(good | {'format': 'trims-profile-0'}), text(good | {'layers': []}), text(good | {'device_class': ''}),
               text(good | {'driver': 'x' * 64}), text(good | {'executor': None}), text([good]), wire.sealed(b''),
               wire.sealed(b'{' * 5000), wire.sealed(b' ' * ((4 << 20) + 1)), wire.sealed(json.dumps(good).encode(), seals=0),
               os.open('/dev/zero', os.O_RDONLY), os.pipe()[0]):
        t.equal(put(fd), 'BAD_REQUEST')
    t.equal(stored(daemon), [])
    t.equal(put(text(good)), 'stored')
    t.equal(len(stored(daemon)), 1)
    t.equal(put(text(good), 'none'), 'NOT_FOUND')


@test
def a_profile_whose_file_was_removed_is_none(t):
    small_bert(t)
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.equal(daemon.ctl('profile', 'a').rc, 0)
    path, = files(daemon)
    path.unlink()
    t.equal(stored(daemon), [])
    t.equal(daemon.json('show', 'a')['profiles'], [])


@test
def the_oldest_give_way(t):
    for name in 'abc':
        small_bert(t, name)
    daemon = t.daemon(max_profiles=2)
    for name in 'abc':
        t.equal(daemon.ctl('pull', name).rc, 0)
        t.equal(daemon.ctl('profile', name).rc, 0)
    t.equal([len(stored(daemon, name)) for name in 'abc'], [0, 1, 1])
    t.eventually(lambda: len(files(daemon)) == 2, 'the oldest file goes')


def seen(daemon, event):
    return daemon.metric('trims_profiles_total', event=event)


@test
def the_daemon_measures_by_itself_what_is_used(t):
    small_bert(t)
    t.model('b')  # which trims-run cannot run
    daemon = t.daemon(profiler='auto', profiler_idle=0)
    for name in 'ab':
        t.equal(daemon.ctl('pull', name).rc, 0)
    t.eventually(lambda: stored(daemon), 'a profile is stored')
    t.eventually(lambda: seen(daemon, 'failed') == 1, 'the other cannot be measured')
    rows = stored(daemon)
    t.equal(rows[0]['devices'], ['cpu'])
    assert rows[0]['profile']['layers'], rows
    t.equal(stored(daemon, 'b'), [])
    assert 'b: not measured' in daemon.log()
    daemon.stop()
    daemon.start()
    before = seen(daemon, 'measured')
    for name in 'ab':
        t.equal(daemon.ctl('open', name).rc, 0)
    t.eventually(lambda: seen(daemon, 'failed') == 1, 'what has been asked for was looked at')
    t.equal(seen(daemon, 'measured'), before, 'there is one already')
    t.equal(len(stored(daemon)), 1)


@test
def a_load_ends_the_measuring_for_a_while(t):
    """A program that takes for ever, until it may not."""
    small_bert(t)
    t.model('b')
    run, gate = t.dir / 'slow', t.dir / 'gate'
    run.write_text(f'#!/bin/sh\n[ -e {gate} ] || exec tail -f /dev/null\nexec {BUILD}/tools/trims-run "$@"\n')
    run.chmod(0o755)
    daemon = t.daemon(profiler=run, profiler_idle=0)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(lambda: 'a: measuring it' in daemon.log(), 'it begins')
    t.equal(daemon.ctl('pull', 'b').rc, 0)
    t.eventually(lambda: seen(daemon, 'broken-off') >= 1, 'it is broken off')
    gate.touch()
    t.equal(daemon.ctl('open', 'a').rc, 0)  # which breaks a second try off, if that was before the gate
    t.eventually(lambda: stored(daemon), 'it is tried again')
    t.equal(seen(daemon, 'measured'), 1)


@test
def a_daemon_that_stops_takes_its_child_along(t):
    small_bert(t)
    run = t.dir / 'slow'
    run.write_text('#!/bin/sh\nexec tail -f /dev/null\n')
    run.chmod(0o755)
    daemon = t.daemon(profiler=run, profiler_idle=0)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(lambda: 'a: measuring it' in daemon.log(), 'it begins')
    daemon.stop()  # asserts that no process is left


@test
def what_a_child_may_write_is_bounded(t):
    """A program that would fill the memory; in time, before it is broken off."""
    small_bert(t)
    for target in '', ' >&2':
        run = t.dir / 'loud'
        run.write_text(f'#!/bin/sh\nexec cat /dev/zero{target}\n')
        run.chmod(0o755)
        daemon = t.daemon(profiler=run, profiler_idle=0)
        t.equal(daemon.ctl('pull', 'a').rc, 0)
        t.eventually(lambda d=daemon: seen(d, 'failed') == 1, 'it is ended')
        assert f'wait status {signal.SIGXFSZ:#x}' in daemon.log(), daemon.log()
        daemon.stop()


def is_gone(pid):
    try:
        return (pathlib.Path('/proc') / pid / 'stat').read_text().rpartition(')')[2].split()[0] in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return True


@test
def a_killed_daemon_takes_its_child_along(t):
    small_bert(t)
    run, told = t.dir / 'long', t.dir / 'pid'
    run.write_text(f'#!/bin/bash\necho $$ >{told}.new; mv {told}.new {told}\n'
                   f'exec {BUILD}/tools/trims-run profile --repeat 1000000 "${{@:2}}"\n')
    run.chmod(0o755)
    daemon = t.daemon(profiler=run, profiler_idle=0)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(told.exists, 'it runs')
    pid = told.read_text().strip()
    t.eventually(lambda: 'trims-run' in (pathlib.Path('/proc') / pid / 'cmdline').read_text(), 'it is trims-run')
    daemon.kill()
    t.eventually(lambda: is_gone(pid), 'it is gone')


@test
def a_child_that_comes_too_late_does_nothing(t):
    """The daemon ends between starting it and its first step."""
    small_bert(t)
    run, told, gate, said = t.dir / 'late', t.dir / 'pid', t.dir / 'gate', t.dir / 'said'
    os.mkfifo(gate)
    run.write_text(f'#!/bin/sh\necho $$ >{told}.new; mv {told}.new {told}\nread -r line <{gate}\n'
                   f'exec {BUILD}/tools/trims-run "$@" >{said} 2>&1\n')
    run.chmod(0o755)
    daemon = t.daemon(profiler=run, profiler_idle=0)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(told.exists, 'it runs')
    pid = told.read_text().strip()
    daemon.kill()
    gate.write_text('go on\n')
    t.eventually(lambda: is_gone(pid), 'it is gone')
    t.equal(said.read_text(), '')


@test
def where_there_is_no_program_that_is_said(t):
    small_bert(t)
    alone = t.dir / 'bin' / 'mrm'
    alone.parent.mkdir()
    shutil.copy(MRM, alone)
    daemon = t.daemon(program=alone, profiler='auto', profiler_idle=0)
    t.equal(daemon.metric('trims_fallback_total', reason='no-profiler'), 1)
    rows = {row['name']: row['state'] for row in daemon.json('doctor')['checks']}
    t.equal((rows['no-profiler'], rows['profiler']), ('degraded', 'off'))
    daemon.stop()
    got = run_program(MRM, '--socket', t.dir / 'x.sock', '--cache-dir', t.dir / 'x', '--profiler', t.dir / 'nowhere')
    t.equal(got.rc, 1, got)
    assert 'profiler: ' in got.err, got


@test
def a_model_on_a_device_is_measured_there(t):
    simulated_only('the CPU cannot compute from the memory of a real one')
    small_bert(t)
    topology = t.dir / 'topology'
    topology.write_text('set speed=unlimited\n' + 2 * 'device bytes=64M context=1M\n')
    environment = {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(t.dir / 'devices')}
    daemon = t.daemon(environment=environment, cuda_driver=SIMULATOR, gpu='auto', profiler='auto', profiler_idle=0)
    got = daemon.ctl('pull', 'a', '--tier', 'gpu', '--device', UUIDS[1], TRIMS_CUDA_DRIVER=GPU_DRIVER, **environment)
    t.equal(got.rc, 0, got)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(lambda: len(stored(daemon)) == 2, 'one of the device, one of the CPU')
    t.equal(sorted(len(row['devices']) for row in stored(daemon)), [1, 2])
    ways = {batch.get('dha_ns') is not None for row in stored(daemon) for layer in row['profile']['layers']
            for batch in layer['batches'] if row['driver']}
    assert True in ways, 'from the device and from the host'


@test
def a_prediction_is_printed_beside_the_measurement(t):
    small_bert(t)
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    told = daemon.json('profile', 'a')
    ran = run_program(BUILD / 'tools/trims-run', 'infer', 'a', '--socket', daemon.socket, '--json', '--layers', '--mode', 'pipeline',
                      '--repeat', '3')
    t.equal(ran.rc, 0, ran)
    layers = ran.json['layers']
    t.equal([layer['name'] for layer in layers], [layer['name'] for layer in told['layers']])
    edges = [edge for layer in layers for edge in (layer['begin_ns'], layer['end_ns'])]
    t.equal(edges, sorted(edges), 'one after the other')
    assert 0 < edges[0] and edges[-1] <= ran.json['times']['total_ns'], edges
    path = t.dir / 'ran.json'
    path.write_bytes(ran.raw)
    got = daemon.json('plan', 'a', '--machine', MACHINE, '--measured', path)
    rows = got['measured']['layers']
    for row, layer, planned in zip(rows, layers, got['layers'], strict=True):
        t.equal((row['begin_ns'], row['end_ns']), (layer['begin_ns'], layer['end_ns']))
        t.equal((row['predicted_begin_ns'], row['predicted_end_ns']), (planned['exec_begin_ns'], planned['exec_end_ns']))
        t.equal(row['error_ns'], row['end_ns'] - row['predicted_end_ns'])
    t.equal(got['measured']['error_ns'], edges[-1] - got['predicted']['total_ns'])
    text = daemon.ctl('plan', 'a', '--machine', MACHINE, '--measured', path).out
    assert 'MEASURED' in text and f'measured {edges[-1] / 1e6:.3f} ms' in text, text
    for spoil in {'layers': layers[1:]}, {'layers': layers[::-1]}, {'batch': 2}, {'layers': None}:
        path.write_text(json.dumps(ran.json | spoil))
        refused = daemon.ctl('plan', 'a', '--machine', MACHINE, '--measured', path)
        t.equal(refused.rc, 1, refused)
        assert str(path) in refused.err, refused
    bare = run_program(BUILD / 'tools/trims-run', 'infer', 'a', '--socket', daemon.socket, '--json')
    assert 'layers' not in bare.json


@test
def profiles_of_devices_are_for_their_like(t):
    small_bert(t)
    topology = 'set speed=unlimited\n' + 2 * 'device bytes=64M context=1M\n'
    daemon = gpu_daemon(t, topology=topology)
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    told = daemon.ctl('profile', 'a', '--device', 'cuda:1', '--json', TRIMS_CUDA_DRIVER=GPU_DRIVER,
                      SIMCUDA=str(t.dir / 'topology'), SIMCUDA_DIR=str(t.dir / 'devices'))
    t.equal(told.rc, 0, told)
    rows = stored(daemon)
    t.equal(rows[0]['devices'], UUIDS[:2], 'two devices of one class')
    assert rows[0]['device_class'].startswith('simulated: ') and rows[0]['driver'], rows[0]
    for uuid in UUIDS:
        plan = daemon.json('plan', 'a', '--device', uuid)
        t.equal(plan['profile']['device_class'], rows[0]['device_class'])
    t.equal(daemon.ctl('profile', 'a').rc, 0)
    t.equal(daemon.json('plan', 'a', '--device', UUIDS[0])['profile']['devices'], UUIDS[:2], 'the older one, which fits')


main()
