"""simgpu - daemons with simulated devices, and clients of them that speak the wire themselves."""
import os

from trimstest import Skip, simulated_only

UUIDS = ['GPU-513c0d00-513c-4da0-913c-000000000000', 'GPU-513c0d01-513c-4da0-913c-000000000001']
NOBODY = 65534


def gpu_daemon(t, *sizes, faults='', topology='', counts='', **options):
    """A daemon with a device of each size that takes no time, or what the topology says, and nobody else's."""
    simulated_only('wire.py has no driver, it finds simulated memory by its descriptors')
    path, shared = t.dir / 'topology', t.dir / 'devices'
    path.write_text(topology or 'set speed=unlimited\n' + ''.join(f'device bytes={size}\n' for size in sizes or ('128M',)))
    shared.mkdir(exist_ok=True)
    environment = {'SIMCUDA_DIR': str(shared), **({'SIMCUDA_FAULTS': faults} if faults else {}),
                   **({'SIMCUDA_COUNT': str(counts)} if counts else {})}
    return t.daemon(environment=environment, gpu=f'sim:{path}', **options)


def attached(daemon, *uuids, **keywords):
    return daemon.client().attach(*(uuids or UUIDS[:1]), **keywords)


def as_user(daemon, uid, *uuids):
    """A connection of another user; the kernel notes who connects."""
    if os.getuid() != 0:
        raise Skip('needs root, to become somebody else')
    os.seteuid(uid)
    try:
        return attached(daemon, *uuids)
    finally:
        os.seteuid(0)
