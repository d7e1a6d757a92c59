"""What links promise: caps of users, what devices share, what is said when a promise does not hold; judged by the scheduler's own
books, whatever the time on the wall."""
import os
import re
import signal

from simgpu import NOBODY, UUIDS, as_user, attached, gpu_daemon
from trimstest import main, run, test

MB = 1 << 20
ONE = 'set speed=1\ndevice bytes=128M gbps=4\n'
TWO = 'set speed=1\nswitch s gbps=4\n' + 2 * 'device bytes=128M gbps=4 switch=s numa=1\n'
SLOW = 1 * MB  # bytes per second: what a test brings up is then a matter of minutes


def links(daemon):
    return daemon.json('links')


def user(daemon, uid):
    (row,) = [row for row in links(daemon)['users'] if row['user'] == uid]
    return row


def node(daemon, name):
    (row,) = [row for row in links(daemon)['nodes'] if row['name'].startswith(name) and not row['name'].endswith('d2h')]
    return row


def moved(daemon):
    return sum(c['bytes'] for row in links(daemon)['links'] if row['direction'] == 'h2d' for c in row['classes'])


def keeps_cap(row, rate):
    assert row['bytes'] <= row['burst_max'] + rate * row['age_ns'] / 1e9, row


def capped(t, rate, **options):
    """A daemon whose settings are in a file, so that they can be changed."""
    t.dir.chmod(0o755)
    (t.dir / 'mrm.conf').write_text(f'user-link-rate = {rate}\n')
    return gpu_daemon(t, topology=ONE, config=t.dir / 'mrm.conf', socket_mode='0666', **options)


def lift(t, daemon):
    (t.dir / 'mrm.conf').write_text('user-link-rate = 0\n')
    daemon.signal(signal.SIGHUP)


@test
def a_users_cap_holds_until_it_is_lifted(t):
    t.model('big', 24 * MB)
    daemon = capped(t, SLOW)
    client = attached(daemon)
    lease = client.open('big', 'gpu', wait=False)
    t.eventually(lambda: any(row['capped_ns'] for row in links(daemon)['transfers']), 'the cap is reached')
    for _ in range(20):
        row = user(daemon, os.geteuid())
        keeps_cap(row, SLOW)
        assert 0 < row['bytes'] < 24 * MB, row
    (transfer,) = links(daemon)['transfers']
    t.equal((transfer['user'], transfer['class'], transfer['model']), (os.geteuid(), 'demand', 'big'))
    text = daemon.ctl('links').out
    assert re.search(rf'(?m)^{os.geteuid()} +1\.0M/s ', text) and 'own cap' in text, text
    lift(t, daemon)
    lease.wait()
    t.equal(links(daemon)['user_bytes_per_s'], 0)
    (load,) = [row for row in daemon.json('trace', 'big')['loads'] if row['to'] == 'gpu']
    assert load['link']['capped_ns'] > 0, load
    assert 'own cap' in daemon.ctl('trace', 'big').out


@test
def one_users_cap_is_not_anothers(t):
    t.model('big', 24 * MB)
    t.model('small', 200 << 10)
    daemon = capped(t, SLOW)
    lease = attached(daemon).open('big', 'gpu', wait=False)
    other = as_user(daemon, NOBODY)
    t.eventually(lambda: any(row['capped_ns'] for row in links(daemon)['transfers']), 'the cap is reached')
    other.open('small', 'gpu')
    assert user(daemon, 0)['bytes'] < 24 * MB, 'the first one had no cap'
    (load,) = [row for row in daemon.json('trace', 'small')['loads'] if row['to'] == 'gpu']
    t.equal(load['link']['capped_ns'], 0)
    for uid in (0, NOBODY):
        keeps_cap(user(daemon, uid), SLOW)
    lift(t, daemon)
    lease.wait()


@test
def whoever_leads_a_load_is_charged(t):
    t.model('big', 24 * MB)
    daemon = capped(t, SLOW)
    first, other = attached(daemon), as_user(daemon, NOBODY)
    first.call('prefetch', model='big', tier=3)
    t.eventually(lambda: any(row['capped_ns'] for row in links(daemon)['transfers']), 'the cap is reached')
    t.equal(links(daemon)['transfers'][0]['user'], 0)
    lease = other.open('big', 'gpu', wait=False)
    t.eventually(lambda: user(daemon, NOBODY)['bytes'] > 0, 'the load goes on at the charge of who waits for it')
    t.equal([(row['user'], row['class']) for row in links(daemon)['transfers']], [(NOBODY, 'demand')])
    lease.close()
    t.eventually(lambda: links(daemon)['transfers'][0]['user'] == 0, 'the prefetch is its own again')
    lift(t, daemon)
    t.eventually(lambda: not links(daemon)['transfers'], 'all of it arrives')


@test
def two_devices_behind_one_switch_stay_within_its_uplink(t):
    rate = 40 * MB
    for name in 'ab':
        t.model(name, 12 * MB)
    daemon = gpu_daemon(t, topology=TWO, node_rate=f'switch={rate}')
    client = attached(daemon, *UUIDS)
    before = node(daemon, 'switch')
    t.equal((before['assumed'], before['devices'], before['bytes']), (False, UUIDS, 0))
    leases = [client.open(name, 'gpu', device=uuid, wait=False) for name, uuid in zip('ab', UUIDS)]
    while True:
        after = node(daemon, 'switch')
        passed = (after['age_ns'] - before['age_ns']) / 1e9
        assert after['bytes'] <= after['burst_max'] + after['given_bytes_per_s'] * passed, (before, after)
        if not links(daemon)['transfers'] and after['bytes'] >= 24 * MB:
            break
    for lease in leases:
        lease.wait()
    t.equal(node(daemon, 'switch')['bytes'], moved(daemon))
    assert re.search(r'(?m)^switch \S+ h2d \(simulated\) +40M/s +36M/s ', daemon.ctl('links').out)


@test
def an_uplink_that_nobody_knows_is_assumed_and_said_to_be(t):
    daemon = gpu_daemon(t, topology=TWO.replace('speed=1', 'speed=unlimited'))  # where nothing takes time nothing is measured
    row = node(daemon, 'switch')
    fastest = max(row['calibrated_bytes_per_s'] for row in links(daemon)['links'] if row['direction'] == 'h2d')
    t.equal((row['assumed'], row['bytes_per_s'], row['given_bytes_per_s']), (True, fastest, fastest))
    rows = [row['detail'] for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-shared']
    t.equal(len(rows), 2, 'each way')
    assert all('assumed' in text and 'simulated' in text for text in rows), rows
    assert ' (assumed)' in daemon.ctl('links').out and 'assumed' in daemon.log()
    daemon.stop()
    t.equal(links(gpu_daemon(t, topology=ONE))['nodes'], [], 'one device shares nothing')


@test
def an_uplink_is_measured_once_when_its_devices_are_idle(t):
    daemon = gpu_daemon(t, topology='set speed=1\nswitch s gbps=0.3\n' + 2 * 'device bytes=64M gbps=0.2 switch=s\n')

    def measured():
        rows = [row for row in links(daemon)['nodes'] if row['name'].startswith('switch')]
        return rows if rows and all(row['measured'] for row in rows) else None
    t.eventually(measured, 'both ways are measured')
    fastest = max(row['calibrated_bytes_per_s'] for row in links(daemon)['links'])
    for row in measured():
        assert not row['assumed'] and fastest / 2 < row['bytes_per_s'] < 2 * fastest, (row, fastest)
    rows = [row['detail'] for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-shared']
    assert all('measured' in text and 'simulated' in text for text in rows) and len(rows) == 2, rows
    assert '(assumed)' not in daemon.ctl('links').out
    t.model('a', 3 * MB)
    attached(daemon).open('a', 'gpu')


@test
def memory_and_disk_count_when_their_rates_are_given(t):
    t.model('a', 9 * MB)
    daemon = gpu_daemon(t, '64M', arguments=['--node-rate', 'numa=90G', '--node-rate', 'disk=90G', '--node-rate', 'net=90G'])
    attached(daemon).open('a', 'gpu')
    rows = {row['name']: row for row in links(daemon)['nodes']}
    t.equal(set(rows), {'numa 0', 'disk', 'net'})
    t.equal((rows['numa 0']['bytes'], rows['net']['bytes']), (moved(daemon), 0))
    assert rows['disk']['bytes'] <= moved(daemon), rows


@test
def pieces_that_went_through_a_buffer_are_counted_and_so_are_slow_ones(t):
    t.model('a', 9 * MB)
    daemon = gpu_daemon(t, faults='cuMemHostRegister:*=801')
    (row,) = [row for row in links(daemon)['links'] if row['direction'] == 'h2d']
    t.equal((row['bound_holds'], row['buffered'], row['slow_calls']), (True, 0, 0))
    assert 'buffer' not in daemon.ctl('links').out and row['copy_bytes_per_s'] > 0, row
    attached(daemon).open('a', 'gpu')
    (row,) = [row for row in links(daemon)['links'] if row['direction'] == 'h2d']
    t.equal((row['bound_holds'], row['buffered']), (row['slow_copies'] + row['slow_calls'] == 0, row['copies']))
    assert row['slow_copies'] <= row['buffered'], row
    words = f'{row["buffered"]} pieces went through a buffer, {row["slow_copies"]} slower than the bound allows'
    assert f'{UUIDS[0]} h2d (simulated): {words}' in daemon.ctl('links').out
    rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-link' and 'h2d' in row['detail']]
    assert rows[0]['state'] == 'degraded' and words in rows[0]['detail'], rows


@test
def buffers_that_cannot_be_had_at_start_are_a_named_path(t):
    t.model('a', 3 * MB)
    daemon = gpu_daemon(t, faults='cuMemHostAlloc:*=2')
    attached(daemon).open('a', 'gpu')
    (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'no-copy-ring']
    assert row['state'] == 'degraded' and 'cuMemHostAlloc' in row['detail'], row
    t.equal(daemon.metric('trims_fallback_total', reason='no-copy-ring'), 2, 'each way')


@test
def what_was_measured_on_a_busy_link_is_measured_again(t):
    """A second of its life stands still in each of the first copies, as beside somebody else's; then it goes as it can."""
    t.model('a', 6 * MB)
    daemon = gpu_daemon(t, topology='set speed=1\ndevice bytes=64M gbps=0.02\n', faults='~cuMemcpyHtoDAsync:1-10=stall:200')
    (before,) = [row for row in links(daemon)['links'] if row['direction'] == 'h2d']
    attached(daemon).open('a', 'gpu')

    def again():
        (row,) = [row for row in links(daemon)['links'] if row['direction'] == 'h2d']
        return row if row['probes'] else None
    t.eventually(again, 'the device is measured again')
    row = again()
    assert row['calibrated_bytes_per_s'] > before['calibrated_bytes_per_s'] and not row['doubtful'], (before, row)
    (doubt,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'calibration-doubtful']
    assert doubt['state'] == 'degraded' and 'simulated' in doubt['detail'], doubt
    assert daemon.metric('trims_fallback_total', reason='calibration-doubtful') >= 1


@test
def devices_below_one_switch_are_measured_again_one_after_the_other(t):
    """Both are in doubt, and together they would find half of what each can do."""
    daemon = gpu_daemon(t, topology='set speed=1\nswitch s gbps=0.2\n' + 2 * 'device bytes=64M gbps=0.2 switch=s\n',
                        faults='cuMemcpyDtoHAsync_v2:1-2=2')
    t.equal(daemon.metric('trims_fallback_total', reason='calibration-doubtful'), 2)
    t.eventually(lambda: all(row['probes'] for row in links(daemon)['links']), 'both are measured again')
    for row in links(daemon)['links']:
        assert 0.15e9 < row['calibrated_bytes_per_s'] < 0.3e9, row


@test
def settings_that_make_no_sense_are_refused_and_others_printed(t):
    command = t.daemon_command(t.dir / 'cache')
    for option, value in (('node-rate', 'tape=1G'), ('node-rate', 'numa=12'), ('user-link-rate', '8T'), ('user-link-share', '1001')):
        result = run(*command, f'--{option}', value, '--check')
        assert result.rc != 0 and option in result.err, result
    result = run(*command, '--node-rate', 'numa=40G', '--node-rate', 'disk=6G', '--user-link-rate', '2G', '--user-link-share',
                 '500', '--print-config')
    for line in ('node-rate = numa=40G', 'node-rate = disk=6G', f'user-link-rate = {2 << 30}', 'user-link-share = 500'):
        assert line in result.out.splitlines(), result.out


main()
