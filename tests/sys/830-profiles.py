"""Profiles of models: measured by trims-run, stored beside the model, taken by trims-ctl plan, and by the daemon itself."""
import sys

from trimstest import SOURCE, main, test

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
def the_oldest_give_way(t):
    for name in 'abc':
        small_bert(t, name)
    daemon = t.daemon(max_profiles=2)
    for name in 'abc':
        t.equal(daemon.ctl('pull', name).rc, 0)
        t.equal(daemon.ctl('profile', name).rc, 0)
    t.equal([len(stored(daemon, name)) for name in 'abc'], [0, 1, 1])
    t.eventually(lambda: len(files(daemon)) == 2, 'the oldest file goes')


main()
