"""Models on devices, with a simulated driver that takes no time: what arrives, what stays, what fails and what is noticed."""
import ctypes
import json
import os
import re

import models
import wire
from gpubench import calls
from simgpu import NOBODY, UUIDS, as_user, attached, gpu_daemon
from trimstest import main, run, test


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


def has_driver():
    try:
        ctypes.CDLL('libcuda.so.1')
        return True
    except OSError:
        return False


def gpu_tiers(daemon):
    return [row for row in json.loads(daemon.client().report('tiers')[0])['tiers'] if row['tier'] == 'gpu']


def used(daemon):
    return daemon.metric('trims_tier_used_bytes', tier='gpu')


def settled(t, daemon):
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'transfers end')


def code_of(call):
    try:
        call()
    except wire.Fault as e:
        return e.code
    return None


def emptied(t, daemon, *names):
    """Nothing is left on any device; nor in host memory, from where what is in use comes back by itself."""
    client = daemon.client()
    for name in names:
        code_of(lambda name=name: client.call('evict', model=name))
    t.eventually(lambda: used(daemon) == 0, 'device memory is given back')


@test
def a_model_arrives_in_device_memory_byte_for_byte(t):
    tensors = {name: t.model(name, 9 << 20, **keywords) for name, keywords in
               {'a': {}, 'b': {'shards': 3}, 'c.gguf': {}}.items()}
    daemon = gpu_daemon(t)
    client = attached(daemon)
    for name, made in tensors.items():
        lease = client.open(name, 'gpu')
        same(t, lease, made)
        t.equal((lease.opened['device'], lease.opened['export'], lease.opened['tier']), (UUIDS[0], 1, 3))
        t.equal([record[0] for record in lease.records], [1] * len(lease.records), 'kinds')
        t.equal({record[3] for record in lease.records}, {lease.opened['copy']}, 'generations')
    t.equal(daemon.metric('trims_tier_copies', tier='gpu'), 3)
    t.equal(daemon.metric('trims_promotion_bytes_total', to='gpu') > 0, True)


@test
def streams_are_told_how_far_a_load_is(t):
    t.model('a', 9 << 20)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', wait=False)
    assert lease.opened['slot'] != wire.NO_SLOT, 'a load under way has no slot'
    lease.wait()
    (size,) = daemon.json('show', 'a')['extents']
    assert lease.records[0][2] == size + -size % (2 << 20), (lease.records, size)
    t.eventually(lambda: client.slot(lease) >= size, 'the slot has the watermark')
    again = client.open('a', 'gpu')
    t.equal((again.opened['hit'], again.opened['slot'], again.opened['copy']), (1, wire.NO_SLOT, lease.opened['copy']))


@test
def a_copy_on_a_device_needs_no_copy_on_host_to_stay(t):
    tensors = t.model('a', 9 << 20)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    client.open('a', 'gpu').close()
    settled(t, daemon)
    client.call('evict', model='a', tier=2)
    t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='host') == 0, 'host memory is free')
    lease = client.open('a', 'gpu')
    t.equal(lease.opened['hit'], 1)
    same(t, lease, tensors)


@test
def an_unknown_error_of_one_call_is_no_lost_device(t):
    tensors = t.model('a', 9 << 20)
    daemon = gpu_daemon(t, faults='cuMemHostRegister_v2:1=999')
    client = attached(daemon)
    same(t, client.open('a', 'gpu'), tensors)
    t.equal(daemon.metric('trims_fallback_total', reason='gpu-lost'), 0)


@test
def an_unknown_error_of_every_call_is_one(t):
    t.model('a', 9 << 20)
    daemon = gpu_daemon(t, faults='cuMemHostRegister_v2:1=lose:999@0')
    client = attached(daemon)
    t.equal(code_of(lambda: client.open('a', 'gpu')), 'NO_TIER')
    t.equal(daemon.metric('trims_fallback_total', reason='gpu-lost'), 1)


@test
def devices_evict_as_other_tiers_do(t):
    made = {name: t.model(name, 20 << 20) for name in 'abcdef'}
    daemon = gpu_daemon(t, '64M', gpu_bytes='50M')
    client = attached(daemon)
    for _ in range(2):
        for name, tensors in made.items():
            lease = client.open(name, 'gpu')
            same(t, lease, tensors)
            lease.close()
            assert used(daemon) <= 50 << 20
    assert daemon.metric('trims_evictions_total', tier='gpu', reason='room') >= 8
    emptied(t, daemon, *made)


@test
def a_slice_of_a_device_may_be_named_as_nvidia_smi_does(t):
    t.model('a', 3 << 20)
    daemon = gpu_daemon(t)
    lease = attached(daemon).open('a', 'gpu', device='MIG-' + UUIDS[0][4:].upper())
    t.equal(lease.opened['device'], UUIDS[0])


@test
def a_bound_above_what_is_there_ends_in_evictions(t):
    made = {name: t.model(name, 20 << 20) for name in 'abcd'}
    daemon = gpu_daemon(t, '64M', gpu_bytes='200M')
    client = attached(daemon)
    for name, tensors in made.items():
        lease = client.open(name, 'gpu')
        same(t, lease, tensors)
        lease.close()
    assert daemon.metric('trims_evictions_total', tier='gpu', reason='room') >= 1


@test
def a_device_that_is_full_of_leases_says_so(t):
    for name in 'abc':
        t.model(name, 20 << 20)
    daemon = gpu_daemon(t, '64M', gpu_bytes='50M')
    client = attached(daemon)
    held = [client.open(name, 'gpu') for name in 'ab']
    try:
        client.open('c', 'gpu')
        raise AssertionError('there was room')
    except wire.Fault as e:
        t.equal(e.code, 'NO_ROOM', e)
    held.pop().close()
    client.open('c', 'gpu')


@test
def a_model_may_be_on_several_devices(t):
    tensors = t.model('a', 20 << 20)
    t.model('b', 20 << 20)
    daemon = gpu_daemon(t, '64M', '64M')
    client = attached(daemon, *UUIDS)
    leases = [client.open('a', 'gpu', device=uuid) for uuid in UUIDS]
    t.equal([lease.opened['device'] for lease in leases], UUIDS)
    assert leases[0].opened['copy'] != leases[1].opened['copy']
    for lease in leases:
        same(t, lease, tensors)
    t.equal([row['copies'] for row in gpu_tiers(daemon)], [1, 1])
    one = attached(daemon, UUIDS[1])
    t.equal(one.open('b', 'gpu').opened['device'], UUIDS[1], 'the only device that this client sees')
    t.equal(code_of(lambda: one.open('a', 'gpu', device=UUIDS[0])), 'NO_TIER')
    t.equal(code_of(lambda: daemon.client().open('a', 'gpu')), 'BAD_REQUEST', 'without attaching')


@test
def what_a_driver_refuses_once_at_start_costs_no_way_of_sharing(t):
    for call in ('cuCtxSetCurrent', 'cuMemExportToShareableHandle', 'cuStreamSynchronize'):
        daemon = gpu_daemon(t, faults=f'{call}:1=1')
        t.equal([row['export'] for row in gpu_tiers(daemon)], ['vmm-fd'], call)
        t.equal(daemon.metric('trims_fallback_total', reason='no-vmm-fd'), 0, call)
        daemon.stop()


@test
def memory_shared_by_ipc_handles_has_no_descriptors(t):
    t.model('a', 9 << 20)
    daemon = gpu_daemon(t, gpu_export='cuda-ipc')
    client = attached(daemon, exports=3)
    t.equal(client.session['export'], 2)
    lease = client.call('open', model='a', tier=3)
    t.equal((lease['export'], len(lease['fd_list'])), (2, 3), 'table, page and records')
    handles = os.pread(lease['fd_list'][2], wire.HANDLE.size, 0)
    assert any(wire.HANDLE.unpack(handles)[-1]), 'an empty handle'
    t.equal(code_of(lambda: attached(daemon, exports=1)), 'UNSUPPORTED')


def checked_by(daemon):
    """Chunks that the kernel and that read-back compared, and how often the first gave way to the second."""
    return tuple(daemon.metric('trims_device_chunks_checked_total', by=by) for by in ('kernel', 'read-back')) + (
        daemon.metric('trims_fallback_total', reason='no-hash-kernel'),)


def verify_drops_what_is_damaged(t, faults=''):
    tensors = t.model('a', 21 << 20)
    daemon = gpu_daemon(t, faults=faults)
    client = attached(daemon)
    lease = client.open('a', 'gpu')
    rows = {row['tier']: row for row in daemon.json('verify', 'a')['copies']}
    t.equal((rows['gpu']['result'], rows['gpu']['chunks']), ('ok', daemon.json('show', 'a')['chunks']))
    lease.scribble(offset=9 << 20)
    result = daemon.ctl('verify', 'a', '--json')
    assert result.rc != 0, result
    rows = {row['tier']: row for row in result.json['copies']}
    t.equal((rows['gpu']['result'], rows['gpu']['bad'], rows['host']['result']), ('corrupt', [2], 'ok'))
    t.equal(daemon.metric('trims_verify_failures_total', tier='gpu'), 1)
    lease.close()
    same(t, client.open('a', 'gpu'), tensors)
    return daemon, 2 * rows['gpu']['chunks']


@test
def the_kernel_finds_damage_where_the_copy_is(t):
    daemon, chunks = verify_drops_what_is_damaged(t)
    t.equal(checked_by(daemon), (chunks, 0, 0))


@test
def without_the_kernel_copies_are_read_back(t):
    daemon, chunks = verify_drops_what_is_damaged(t, 'cuModuleLoadData:*=801')
    t.equal(checked_by(daemon), (0, chunks, 3), 'at start, and for each check')
    (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'no-hash-kernel']
    assert row['state'] == 'degraded' and 'cuModuleLoadData' in row['detail'], row


@test
def a_kernel_that_fails_once_costs_one_check_the_long_way(t):
    for fault, ways, failures in (('cuLaunchKernel:2=2', 2, 1), ('cuModuleGetFunction:1-2=500', 2, 2), ('cuLaunchKernel:1=2', 1, 1)):
        daemon, chunks = verify_drops_what_is_damaged(t, fault)
        t.equal(checked_by(daemon), (chunks // ways, chunks - chunks // ways, failures), fault)
        daemon.stop()


@test
def the_kernel_is_there_before_anybody_copies(t):
    """Loading it, and its first launch, would hold them up."""
    folder = t.dir / 'counts'
    folder.mkdir()
    daemon = gpu_daemon(t, counts=folder)
    t.equal([calls(folder).get(name) for name in ('cuModuleLoadData', 'cuLaunchKernel')], [1, 1])
    t.model('a', 9 << 20)
    attached(daemon).open('a', 'gpu')
    t.equal(daemon.ctl('verify', 'a').rc, 0)
    t.equal([calls(folder).get(name) for name in ('cuModuleLoadData', 'cuLaunchKernel')], [1, 2])


def shared_daemon(t, **options):
    t.dir.chmod(0o755)
    return gpu_daemon(t, socket_mode='0666', **options)


def let_go(lease):
    """CLOSE is not answered: what is said on another connection may be heard before it."""
    lease.close()
    lease.client.report('tiers')


@test
def what_one_user_changed_no_other_one_gets(t):
    tensors = t.model('a', 9 << 20)
    daemon = shared_daemon(t)
    first = attached(daemon)
    lease = first.open('a', 'gpu')
    lease.scribble()
    copy = lease.opened['copy']
    let_go(lease)
    second = as_user(daemon, NOBODY)
    lease = second.open('a', 'gpu')
    same(t, lease, tensors)
    assert lease.opened['copy'] != copy, 'the same memory again'
    t.equal(daemon.metric('trims_integrity_checks_total', result='bad'), 1)
    assert re.search(rf'held by wire.py \(user 0, pid {os.getpid()}\)', daemon.log()), daemon.log()
    assert any(row['name'] == 'device-memory-changed' for row in daemon.json('doctor')['checks'])


@test
def a_copy_that_nobody_changed_goes_on_to_the_next_user(t):
    tensors = t.model('a', 9 << 20)
    daemon = shared_daemon(t)
    first = attached(daemon)
    lease = first.open('a', 'gpu')
    copy = lease.opened['copy']
    again = first.open('a', 'gpu')
    lease.close()
    t.equal(daemon.metric('trims_integrity_checks_total'), 0, 'checked though the first user still holds it')
    let_go(again)
    let_go(first.open('a', 'gpu'))
    t.equal(daemon.metric('trims_integrity_checks_total'), 0, 'checked for the same user')
    second = as_user(daemon, NOBODY)
    requests = [second.open_send('a', 'gpu') for _ in range(5)]
    for request in requests:
        lease = second.open_answer(request)
        t.equal(lease.opened['copy'], copy)
        same(t, lease, tensors)
    t.equal(daemon.metric('trims_integrity_checks_total', result='good'), 1)


@test
def a_load_somebody_had_in_hands_begins_anew_for_others(t):
    tensors = t.model('a', 60 << 20)
    daemon = shared_daemon(t)
    first = attached(daemon)
    second = as_user(daemon, NOBODY)
    for _ in range(5):
        lease = first.open('a', 'gpu', wait=False)
        lease.scribble(offset=1 << 20)
        let_go(lease)
        got = []  # the lease, once the first one's load has ended
        t.eventually(lambda got=got: code_of(lambda: got.append(second.open('a', 'gpu'))) != 'BUSY', 'the load is ended')
        (other,) = got
        same(t, other, tensors)
        other.close()
        emptied(t, daemon, 'a')


@test
def host_memory_that_cannot_be_registered_is_copied_through_buffers(t):
    tensors = t.model('a', 21 << 20)
    daemon = gpu_daemon(t, faults='cuMemHostRegister:*=801')
    same(t, attached(daemon).open('a', 'gpu'), tensors)
    rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'host-not-registered']
    assert rows and 'cuMemHostRegister' in rows[0]['detail'], rows
    assert daemon.metric('trims_fallback_total', reason='host-not-registered') >= 1
    (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'host-memory']
    assert row['detail'].startswith('sealed memfds; a copy that outlives its daemon'), 'what sealing costs is said'


@test
def a_device_that_is_lost_is_said_to_be_and_others_go_on(t):
    tensors = t.model('a', 21 << 20)
    t.model('b', 21 << 20)
    daemon = gpu_daemon(t, '64M', '64M', faults='cuEventQuery:30=lose:719@0')
    client = attached(daemon, *UUIDS)
    for i in range(100):
        try:
            client.open('a', 'gpu', device=UUIDS[0]).close()
            emptied(t, daemon, 'a')
        except wire.Fault as e:
            break
    else:
        raise AssertionError('the device was never lost')
    t.eventually(lambda: code_of(lambda: client.open('b', 'gpu', device=UUIDS[0])) == 'NO_TIER', 'the device is out of use')
    same(t, client.open('a', 'gpu', device=UUIDS[1]), tensors)
    rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-lost']
    assert rows and UUIDS[0] in rows[0]['detail'], rows
    t.equal(daemon.metric('trims_fallback_total', reason='gpu-lost'), 1)
    same(t, daemon.client().open('a'), tensors)


@test
def without_a_gpu_everything_else_works_and_doctor_says_why(t):
    tensors = t.model('a')
    cases = [({'gpu': 'off'}, 'switched off'), ({}, 'libcuda.so.1')]
    for options, reason in cases[:1] if has_driver() else cases:
        daemon = t.daemon(**options)
        same(t, daemon.client().open('a'), tensors)
        (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu']
        assert row['state'] == 'off' and (reason in row['detail'] or not options), row
        t.equal(code_of(lambda daemon=daemon: daemon.client().call('prefetch', model='a', tier=3)), 'NO_TIER')
        daemon.stop()


@test
def a_device_that_clients_could_not_use_beside_the_daemon_is_left_out(t):
    tensors = t.model('a', 3 << 20)
    for mode, word in ((3, 'EXCLUSIVE_PROCESS'), (2, 'PROHIBITED')):
        daemon = gpu_daemon(t, '64M', '64M', faults=f'attr:COMPUTE_MODE={mode}@0')
        (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-left-out']
        assert row['state'] == 'degraded' and word in row['detail'] and UUIDS[0] in row['detail'], row
        t.equal(daemon.metric('trims_fallback_total', reason='gpu-left-out'), 1)
        client = attached(daemon, *UUIDS)
        t.equal(code_of(lambda client=client: client.open('a', 'gpu', device=UUIDS[0])), 'NO_TIER')
        same(t, client.open('a', 'gpu'), tensors)
        daemon.stop()
        daemon = gpu_daemon(t, faults=f'attr:COMPUTE_MODE={mode}')
        (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu']
        assert row['state'] == 'off' and word in row['detail'], row
        t.equal(code_of(lambda daemon=daemon: attached(daemon)), 'NO_TIER')
        daemon.stop()
    try:
        gpu_daemon(t, faults='attr:COMPUTE_MODE=3', gpu_export='vmm-fd')
        raise AssertionError('what was asked for by name cannot be had, and it starts')
    except AssertionError as e:
        assert 'EXCLUSIVE_PROCESS' in str(e), e


@test
def what_was_asked_for_by_name_has_to_be_there(t):
    for options, words in (({'cuda_driver': '/nonexistent/libcuda.so'}, 'nonexistent'), ({'gpu': 'maybe'}, 'none of'),
                           ({'gpu': f'sim:{t.dir}/nothing'}, 'cannot start')):
        settings = [part for name, value in options.items() for part in ('--' + name.replace('_', '-'), value)]
        result = run(*t.daemon_command(t.dir / 'cache'), *settings)
        assert result.rc != 0 and words in result.err, result


def gpu_daemon_again(daemon):
    daemon.start()
    return daemon


@test
def stopping_in_the_middle_of_loads_leaves_nothing_behind(t):
    for name in 'abcd':
        t.model(name, 24 << 20)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    for name in 'abcd':
        client.open_send(name, 'gpu')
    daemon.stop()
    before = gpu_tiers(gpu_daemon_again(daemon))
    t.equal([(row['used'], row['capacity'] > 100 << 20) for row in before], [(0, True)])


main()
