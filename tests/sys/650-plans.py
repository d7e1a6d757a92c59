"""Provisioning plans on simulated devices: what lies there and what stays on the host, in which order it comes, what gives way
under pressure, what grows in idle time; and what a plan must not be."""
import json
import os

import models
import remote
import wire
from keeper import leave_no_helper, until_kept
from simgpu import NOBODY, UUIDS, as_user, attached, gpu_daemon
from trimstest import main, test

MIB = 1 << 20
EMBEDDING = 'layer.0.weight'


def code_of(call):
    try:
        call()
    except wire.Fault as e:
        return e.code
    return None


def embedding_on_host(*more, order=range(1, 9), **keywords):
    """Of a model of models.py (an empty tensor, then eight): the first one stays on the host."""
    return wire.plan(*((i, int(i == 1)) for i in order), *more, **keywords)


def without_embedding(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != EMBEDDING}


def same(t, found, tensors):
    t.equal(models.digests(found), models.digests(tensors))


def used(daemon):
    return daemon.metric('trims_tier_used_bytes', tier='gpu')


def changed(daemon, how):
    return daemon.metric('trims_device_copies_changed_total', how=how)


def settled(t, daemon):
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'transfers end')


@test
def what_a_plan_leaves_on_the_host_takes_no_device_memory(t):
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', plan=embedding_on_host())
    same(t, lease.tensors(partial=True), without_embedding(tensors))
    host = client.open('a', 'host')
    same(t, host.tensors(), tensors)
    t.equal(host.opened['model'], lease.opened['model'], 'the same bytes')
    t.equal(sum(r[2] for r in lease.records), used(daemon))
    assert used(daemon) < host.opened['image_bytes'] - 3 * MIB, 'all but a chunk of the embedding was left out'
    t.equal(lease.opened['image_bytes'], host.opened['image_bytes'])


@test
def who_comes_later_gets_the_copy_as_it_is(t):
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', plan=embedding_on_host())
    again = client.open('a', 'gpu')
    t.equal((again.opened['hit'], again.opened['copy']), (1, lease.opened['copy']))
    same(t, again.tensors(partial=True), without_embedding(tensors))


@test
def pieces_stand_in_the_order_of_execution(t):
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', plan=wire.plan(*((i, 0) for i in range(8, 0, -1))))
    same(t, lease.tensors(), tensors)
    offsets = [r[4] for r in lease.records]
    t.equal(offsets, sorted(offsets, reverse=True))
    assert len(offsets) > 4, offsets


@test
def a_load_under_way_tells_each_piece(t):
    t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', wait=False, plan=embedding_on_host(order=range(8, 0, -1)))
    assert lease.opened['slot'] != wire.NO_SLOT
    lease.wait()
    for i, record in enumerate(lease.records):
        t.eventually(lambda i=i, record=record: client.slot(lease, i) >= record[5], 'the slot has the watermark')


@test
def a_part_that_is_complete_before_the_host_copy_says_nothing_about_the_rest(t):
    """Once what was not known of it yet went on record as if it were."""
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    client.open('a', 'gpu', plan=wire.plan((8, 0), *((i, 1) for i in range(1, 8)))).close()
    settled(t, daemon)
    for tier in ('host', 'gpu'):
        client.call('evict', model='a', tier=wire.TIERS[tier])
        same(t, client.open('a', tier).tensors(), tensors)


@test
def prefetch_and_pin_take_plans(t):
    for name in ('a', 'b', 'c'):
        t.model(name, 32 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    client.answer(client.send_planned('prefetch', plan=embedding_on_host(), model='c', tier=3))
    client.call('pin', model='c', tier=3)  # which has no plan of its own: what is there stays as it is
    assert EMBEDDING not in client.open('c', 'gpu').tensors(partial=True)
    for request, name in (('prefetch', 'a'), ('pin', 'b')):
        client.answer(client.send_planned(request, plan=embedding_on_host(), model=name, tier=3))
        lease = client.open(name, 'gpu')
        assert EMBEDDING not in lease.tensors(partial=True), request


@test
def a_part_of_a_copy_is_verified_like_a_whole_one(t):
    t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', plan=embedding_on_host())
    settled(t, daemon)
    got = client.call('verify', model='a')
    row = next(c for c in json.loads(os.pread(got['fd_list'][0], got['bytes'], 0))['copies'] if c['tier'] == 'gpu')
    t.equal((row['result'], row['bytes']), ('ok', sum(r[5] for r in lease.records)))
    lease.scribble(offset=5 * MIB)
    got = client.call('verify', model='a')
    row = next(c for c in json.loads(os.pread(got['fd_list'][0], got['bytes'], 0))['copies'] if c['tier'] == 'gpu')
    t.equal(row['result'], 'corrupt')


@test
def under_pressure_a_tail_goes_and_comes_back_behind_what_was_kept(t):
    tensors, other = t.model('a', 64 * MIB), t.model('b', 72 * MIB)
    daemon = gpu_daemon(t, '160M', min_residency='0', gpu_bytes='112M')
    client = attached(daemon)
    first = client.open('a', 'gpu', plan=wire.plan(*((i, 0) for i in range(1, 9)), keep=24 * MIB))
    same(t, first.tensors(), tensors)
    first.close()
    settled(t, daemon)
    whole = used(daemon)
    pressing = client.open('b', 'gpu')
    same(t, pressing.tensors(), other)
    t.equal(changed(daemon, 'trimmed'), 1)
    t.eventually(lambda: used(daemon) < whole + 72 * MIB, 'the tail is given back')
    moved = daemon.metric('trims_promotion_bytes_total', to='gpu')
    pressing.close()
    again = client.open('a', 'gpu')
    same(t, again.tensors(), tensors)
    assert again.opened['copy'] != first.opened['copy'], 'other memory has another number'
    settled(t, daemon)
    t.eventually(lambda: 30 * MIB < daemon.metric('trims_promotion_bytes_total', to='gpu') - moved < 48 * MIB,
                 'what was kept was not moved again')


def trimmed_after(t, daemon, name, other, spoilt=False):
    """A client has had the model by a plan, its tail made room for another model, and that is not in use any more."""
    client = attached(daemon)
    lease = client.open(name, 'gpu', plan=wire.plan(*((i, 0) for i in range(1, 9)), keep=24 * MIB))
    if spoilt:
        lease.scribble(offset=5 * MIB)
    lease.close()
    settled(t, daemon)
    lease = client.open(other, 'gpu')
    lease.close()
    t.equal(changed(daemon, 'trimmed'), 1)


@test
def what_was_kept_goes_on_to_another_user_once_it_was_looked_at(t):
    tensors, _ = t.model('a', 64 * MIB), t.model('b', 72 * MIB)
    t.dir.chmod(0o755)
    daemon = gpu_daemon(t, '160M', min_residency='0', gpu_bytes='112M', socket_mode='0666')
    trimmed_after(t, daemon, 'a', 'b')
    stranger = as_user(daemon, NOBODY)
    same(t, stranger.open('a', 'gpu').tensors(), tensors)
    t.equal(daemon.metric('trims_integrity_checks_total', result='good'), 1)


@test
def what_was_kept_and_changed_meanwhile_is_loaded_again(t):
    tensors, _ = t.model('a', 64 * MIB), t.model('b', 72 * MIB)
    t.dir.chmod(0o755)
    daemon = gpu_daemon(t, '160M', min_residency='0', gpu_bytes='112M', socket_mode='0666')
    trimmed_after(t, daemon, 'a', 'b', spoilt=True)
    stranger = as_user(daemon, NOBODY)
    same(t, stranger.open('a', 'gpu').tensors(), tensors)
    t.equal(daemon.metric('trims_integrity_checks_total', result='bad'), 1)


@test
def what_stays_hot_grows_in_idle_time(t):
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    client = attached(daemon)
    lease = client.open('a', 'gpu', plan=embedding_on_host())
    client.open('a', 'host')
    part = lease.tensors(partial=True)
    t.eventually(lambda: client.open('a', 'gpu').close() or changed(daemon, 'grown') == 1, 'it grows')
    grown = client.open('a', 'gpu')
    assert grown.opened['copy'] != lease.opened['copy'], 'more of it has another number'
    same(t, grown.tensors(), tensors)
    t.equal(grown.opened['hit'], 1)
    same(t, lease.tensors(partial=True), part)
    t.equal(daemon.metric('trims_device_copies_changed_bytes_total', how='grown'),
            sum(r[5] for r in grown.records) - sum(r[5] for r in lease.records))


def reserved(daemon):
    return [(r['holder'], r['bytes_per_s']) for r in json.loads(daemon.client().report('links')[0])['reserved']]


@test
def what_is_read_from_the_host_has_its_share_of_the_link(t):
    for name in ('a', 'b', 'c'):
        t.model(name, 32 * MIB)
    daemon = gpu_daemon(t, topology='device bytes=256M gbps=4\n')
    client, rate = attached(daemon), 10 ** 8
    leases = [client.open('a', 'gpu', plan=embedding_on_host(dha=rate)) for _ in range(3)]
    t.equal(reserved(daemon), [('a', rate)], 'once for the copy')
    client.open('b', 'gpu', plan=wire.plan((1, 0), dha=rate))
    t.equal(len(reserved(daemon)), 1, 'all of it is on the device')
    settled(t, daemon)
    refused = client.open('c', 'gpu', plan=embedding_on_host(dha=10 ** 12))
    assert refused.tensors(partial=True), 'it is used without'
    t.equal(daemon.metric('trims_fallback_total', reason='dha-not-reserved'), 1)
    for lease in leases:
        t.equal(len(reserved(daemon)), 1)
        lease.close()
    t.eventually(lambda: not reserved(daemon), 'the last one has gone')
    attached(daemon).open('a', 'gpu', plan=embedding_on_host(dha=rate)).client.close()
    t.eventually(lambda: not reserved(daemon), 'a client that has gone holds nothing')


@test
def reports_say_how_much_of_a_copy_is_there(t):
    t.model('a', 64 * MIB)
    daemon = gpu_daemon(t)
    attached(daemon).open('a', 'gpu', plan=embedding_on_host())
    row = daemon.json('show', 'a')['tiers']['gpu']
    t.equal((row['part']['reach'], row['part']['plan_bytes'], row['bytes']), ('plan', used(daemon), used(daemon)))
    assert row['part']['all_bytes'] > row['bytes']
    assert b'part=' in daemon.ctl('ls').raw
    loads = daemon.json('trace', 'a')['loads']
    t.equal({load.get('plan') for load in loads}, {row['part']['plan']}, 'both legs follow it')


def direct(lease, way=1, flags=0, wait=True):
    """What goes with that lease to read on the host, as a client would ask for it that cannot register the host's copy."""
    got = wire.Lease(lease.client, lease.client.call('direct', lease=lease.opened['lease'], way=way, flags=flags))
    t = (got.opened['lease'], got.opened['model'])
    assert t == (0, lease.opened['model']), t
    return got.wait() if wait else got


def checks(daemon, result):
    return daemon.metric('trims_integrity_checks_total', result=result)


@test
def what_devices_read_on_the_host_is_checked_before_another_user_gets_it(t):
    tensors = t.model('a', 64 * MIB)
    embedding = {EMBEDDING: tensors[EMBEDDING]}
    t.dir.chmod(0o755)
    daemon = gpu_daemon(t, socket_mode='0666', gpu_bytes='63M')  # it cannot grow
    keeper = attached(daemon)
    keeper.open('a', 'host')
    kept = keeper.open('a', 'gpu', plan=embedding_on_host())
    t.equal(code_of(lambda: direct(kept, flags=1)), 'BUSY', 'nothing is there yet')
    first = attached(daemon)
    part = direct(first.open('a', 'gpu'))
    same(t, {EMBEDDING: part.tensors(partial=True)[EMBEDDING]}, embedding)
    part.scribble()
    number = part.opened['copy']
    first.close()
    t.eventually(lambda: not daemon.json('show', 'a')['direct'][0]['users'], 'the first one has gone')
    same_user = direct(kept, flags=1)
    t.equal(same_user.opened['copy'], number, 'users trust themselves')
    same_user.unmap()
    keeper.close()
    second = as_user(daemon, NOBODY)
    second.open('a', 'host')
    lease = second.open('a', 'gpu')
    t.equal(code_of(lambda: direct(lease)), 'BUSY', 'it is dropped')
    part = direct(lease)
    assert part.opened['copy'] != number, 'the same memory again'
    same(t, {EMBEDDING: part.tensors(partial=True)[EMBEDDING]}, embedding)
    t.equal(checks(daemon, 'bad'), 1)
    assert any(row['name'] == 'device-memory-changed' for row in daemon.json('doctor')['checks'])
    second.close()
    third = attached(daemon)
    t.equal(direct(third.open('a', 'gpu')).opened['copy'], part.opened['copy'], 'unchanged, it goes on to the next user')
    t.equal(checks(daemon, 'bad'), 1)
    assert checks(daemon, 'good') >= 1
    rows = daemon.json('verify', 'a')['copies']
    t.equal([row['result'] for row in rows if row['tier'] == 'dha-host-numa'], ['ok'])


@test
def what_devices_read_on_the_host_holds_up_nobody(t):
    """It was a user of the model, and who wants to work on one alone waited for it; and a client that does not listen was answered
    after it had been ended for that."""
    t.model('a', 64 * MIB)
    server = remote.Server(t, t.models_dir)
    daemon = gpu_daemon(t, sources=[server.url], gpu_bytes='63M')
    client = attached(daemon)
    client.open('a', 'host')
    direct(client.open('a', 'gpu', plan=embedding_on_host()))
    settled(t, daemon)
    t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='disk') > 0, 'it is on disk')
    client.close()
    t.eventually(lambda: not daemon.json('show', 'a')['direct'][0]['users'], 'nobody has it')
    client = attached(daemon)
    client.call('evict', model='a', tier=wire.TIERS['disk'])
    t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='disk') == 0, 'the disk has its room back')
    deaf = attached(daemon)
    lease = deaf.open('a', 'gpu').opened['lease']
    try:
        for _ in range(400):
            deaf.send('direct', lease=lease, way=1, flags=0)
    except wire.Gone:
        pass  # it was told to go
    deaf.close()
    t.eventually(lambda: all(not row['users'] for row in daemon.json('show', 'a')['direct']), 'it has gone')
    direct(attached(daemon).open('a', 'gpu'))


@test
def memory_that_may_be_written_is_one_user_s_alone(t):
    tensors = t.model('a', 64 * MIB)
    t.dir.chmod(0o755)
    daemon = gpu_daemon(t, socket_mode='0666', direct_trusted=f'self,{NOBODY}')
    first, second, third = attached(daemon), as_user(daemon, NOBODY), as_user(daemon, NOBODY - 1)
    leases = [client.open('a', 'gpu', plan=embedding_on_host()) for client in (first, second, third)]
    host = first.open('a', 'host')
    mine = direct(leases[0], way=2)
    mine.scribble()
    t.equal(direct(leases[0], way=2, flags=1).opened['copy'], mine.opened['copy'])
    other = direct(leases[1], way=2)
    assert other.opened['copy'] != mine.opened['copy']
    same(t, {EMBEDDING: other.tensors(partial=True)[EMBEDDING]}, {EMBEDDING: tensors[EMBEDDING]})
    same(t, host.tensors(), tensors)
    t.equal(code_of(lambda: direct(leases[2], way=2)), 'DENIED')
    t.equal(code_of(lambda: direct(leases[2], way=3)), 'UNSUPPORTED')
    t.equal(code_of(lambda: direct(host)), 'NO_LEASE', 'not on a device')
    whole = t.model('b', 8 * MIB) and first.open('b', 'gpu')
    t.equal(code_of(lambda: direct(whole)), 'BAD_REQUEST', 'nothing of it is on the host')
    t.equal(sorted((row['user'], row['users']) for row in daemon.json('show', 'a')['direct']), [(os.getuid(), 1), (NOBODY, 1)], "a lease counts once")


@test
def a_part_outlives_the_daemon_with_its_plan(t):
    tensors = t.model('a', 64 * MIB)
    daemon = gpu_daemon(t, keep_fds='helper')
    leave_no_helper(t, daemon)
    first = attached(daemon)
    lease = first.open('a', 'gpu', plan=embedding_on_host())
    first.open('a', 'host')
    until_kept(t, daemon, 2)
    daemon.kill()
    daemon.start()
    client = attached(daemon)
    t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), 2)
    claimed = client.call('claim', model='a', copy=lease.opened['copy'], tier=3, device=UUIDS[0])
    t.equal(claimed['copy'], lease.opened['copy'])
    again = client.open('a', 'gpu')
    t.equal(again.opened['copy'], lease.opened['copy'])
    same(t, again.tensors(partial=True), without_embedding(tensors))
    t.equal([r[:2] + r[4:6] for r in again.records], [r[:2] + r[4:6] for r in lease.records])
    client.open('a', 'host')
    t.eventually(lambda: client.open('a', 'gpu').close() or changed(daemon, 'grown') == 1, 'it grows by the plan it was made by')
    same(t, client.open('a', 'gpu').tensors(), tensors)


@test
def memory_of_ipc_handles_is_cut_only_where_it_must_be(t):
    t.model('a', 64 * MIB)
    daemon = gpu_daemon(t, gpu_export='cuda-ipc')
    client = attached(daemon, exports=3)
    entries = [(i, int(i == 4)) for i in (8, 1, 7, 2, 6, 3, 5, 4)]
    got = client.answer(client.send_planned('open', plan=wire.plan(*entries), model='a', tier=3))
    size = os.fstat(got['fd_list'][2]).st_size
    t.equal(size // wire.HANDLE.size, 2, 'what is before the tensor that stays on the host, and what is behind it')


@test
def plans_that_make_no_sense_are_refused(t):
    t.model('a', 8 * MIB)
    daemon = gpu_daemon(t, plan_memory='64K')
    client = attached(daemon)
    good = embedding_on_host()
    client.open('a', 'gpu', plan=good).close()
    for bad in (b'', b'TRIMSPLN', good[:-1], good + bytes(8), wire.plan((1,), (1,)), wire.plan((9,)), wire.plan((1, 2)),
                wire.plan((1, 0, 1)), wire.plan((1, 1, 1), helpers=UUIDS[:1])):
        t.equal(code_of(lambda bad=bad: client.open('a', 'gpu', plan=bad)), 'BAD_REQUEST', bad[:16])
    t.equal(code_of(lambda: client.open('a', 'gpu', plan=wire.plan(*((i,) for i in range(9000))))), 'LIMIT')
    for fd in (wire.sealed(good, seals=0), os.pipe()[0], os.open('/dev/zero', os.O_RDONLY)):
        request = client.send('open', fds=[fd], plan=1, model='a', tier=3)
        os.close(fd)
        t.equal(code_of(lambda request=request: client.answer(request)), 'BAD_REQUEST')
    client.open('a', 'gpu', plan=good)


@test
def plans_that_nobody_refers_to_make_room(t):
    t.model('a', 8 * MIB)
    daemon = gpu_daemon(t, plan_memory='64K')
    client = attached(daemon)
    for i in range(200):  # each of them some 500 bytes, and another
        client.open('a', 'gpu', plan=embedding_on_host(keep=i + 1)).close()


@test
def a_plan_for_another_model_is_none(t):
    """It is not known yet how many tensors the model has."""
    tensors = t.model('a', 8 * MIB)
    daemon = gpu_daemon(t)
    lease = attached(daemon).open('a', 'gpu', plan=wire.plan((700, 1)))
    same(t, lease.tensors(), tensors)
    t.equal(daemon.metric('trims_fallback_total', reason='plan-not-fitting'), 1)


main()
