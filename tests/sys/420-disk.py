"""A disk that is full, or broken."""
import os
import shutil

import models
import remote
from trimstest import Skip, faulty, main, run, test

MIB = 1 << 20


def serves(t, daemon, name, tensors):
    t.equal(models.digests(daemon.client().open(name).tensors()), models.digests(tensors), name)


def settled(t, daemon):
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'transfers end')


@test
def a_cache_directory_that_fails_at_any_step_never_stops_service(t):
    tensors = t.model('a', 10 * MIB)
    server = remote.Server(t, t.models_dir)
    count, cache = t.dir / 'count', t.memory_dir()
    daemon = t.daemon(sources=[server.url], cache_dir=cache, environment=faulty(cache, 'count', count=count))
    serves(t, daemon, 'a', tensors)
    settled(t, daemon)
    started = daemon.metric('trims_write_bytes_total')
    daemon.stop()
    steps = int(count.read_text())
    assert started > 0 and steps >= 10
    for what in ('EIO', 'ENOSPC'):
        for step in range(1, steps + 1, max(1, steps // 12)):
            shutil.rmtree(cache)
            cache.mkdir(mode=0o700)
            daemon.environment = faulty(cache, what, at=step, on=step % 2)
            try:
                daemon.start()
            except AssertionError:
                assert daemon.process.returncode not in (0, -11, -6), f'{what} at {step}: {daemon.log()[-3000:]}'
                daemon.process.returncode = 0  # it said why, and ended: a cache directory that cannot be opened
                assert str(cache) in daemon.log(), daemon.log()
            else:
                serves(t, daemon, 'a', tensors)
                settled(t, daemon)
                daemon.stop()
            daemon.environment = {}
            daemon.start()
            serves(t, daemon, 'a', tensors)
            settled(t, daemon)
            daemon.stop()


@test
def a_disk_that_is_really_full_costs_the_disk_tier_only(t):
    cache = t.dir / 'cache'
    cache.mkdir()
    unshare = ['unshare', '-m' if os.getuid() == 0 else '-rm']
    if run(*unshare, 'mount', '-t', 'tmpfs', 'tmpfs', cache).rc:
        raise Skip('needs to mount a tmpfs: neither root nor user namespaces')
    made = {name: t.model(name, 6 * MIB) for name in 'abc'}
    wrapper = [*unshare, 'sh', '-c', f'mount -t tmpfs -o size=10m tmpfs {cache} && exec "$@"', 'sh']
    daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url], wrapper=wrapper, disk_bytes='200M',
                      compress='never')
    for name, tensors in made.items():
        serves(t, daemon, name, tensors)
    settled(t, daemon)
    assert daemon.metric('trims_fallback_total', reason='disk-write-failed') >= 1
    for name, tensors in made.items():
        serves(t, daemon, name, tensors)


@test
def the_disk_tier_keeps_its_bound(t):
    made = {f'm{i}': t.model(f'm{i}', 5 * MIB) for i in range(6)}
    daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url], disk_bytes='14M', compress='never')
    for name, tensors in made.items():
        serves(t, daemon, name, tensors)
        settled(t, daemon)
        stored = sum(f.stat().st_blocks * 512 for f in daemon.cache_dir.rglob('*') if f.is_file())
        assert stored <= 14 * MIB, stored


@test
def an_image_whose_data_is_gone_takes_nothing_else_along(t):
    """Hashes of what is in memory are on record without it, so they go on to be checked and served."""
    tensors = t.model('a', 10 * MIB)
    daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url])
    serves(t, daemon, 'a', tensors)
    settled(t, daemon)
    (data,) = daemon.cache_dir.rglob('*.data')
    data.unlink()
    rows = {row['tier']: row['result'] for row in daemon.ctl('verify', 'a', '--json').json['copies']}
    t.equal(rows, {'disk': 'corrupt', 'host': 'ok'})
    t.equal({row['tier']: row['result'] for row in daemon.json('verify', 'a')['copies']}['host'], 'ok')
    serves(t, daemon, 'a', tensors)


@test
def a_cache_directory_that_cannot_be_used_is_refused_with_a_sentence(t):
    (t.dir / 'file').write_text('not a directory')
    for path in (t.dir / 'file', t.dir / 'none' / 'below'):
        got = run(*t.daemon_command(cache_dir=path))
        assert got.rc not in (0, -11, -6) and str(path) in got.err, got


main()
