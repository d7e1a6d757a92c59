"""Everything at once, at random: clients that open, read, evict, pin, verify, vanish or are killed, sources that stumble,
a daemon that is told to stop or dies.  Whatever was served must be right, and nothing may be left behind.
TRIMS_STORM is how many seconds one storm lasts."""
import os
import random
import signal
import subprocess
import sys
import threading
import time

import models
import remote
import wire
from trimstest import CTL, PATIENCE, SOURCE, main, program_environment, test

sys.path.insert(0, str(SOURCE / 'tests/source'))
import servers  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
SECONDS = float(os.environ.get('TRIMS_STORM', 3 if os.environ.get('TRIMS_SANITIZE', 'none') == 'none' else 2))
# What a client may hear in such weather; everything else is a mistake.
EXPECTED = {'NO_ROOM', 'TOO_LARGE', 'BUSY', 'NOT_FOUND', 'CANCELLED', 'TIMED_OUT', 'UNREACHABLE', 'STOPPING', 'LIMIT',
            'CHANGED', 'NO_TIER', 'DISCONNECTED', 'UNSUPPORTED', 'NO_FILE', 'DENIED', 'NO_LEASE'}


class Storm:
    def __init__(self, t, daemon, made, admin=True):
        self.t, self.daemon, self.made, self.admin = t, daemon, made, admin
        self.expected = set(EXPECTED)
        self.over, self.trouble, self.served = threading.Event(), [], 0

    def say(self, rng, client):
        """One thing a client may do."""
        name = rng.choice(list(self.made))
        what = rng.choice(['open', 'open', 'open', 'disk', 'prefetch', 'evict', 'evict', 'verify', 'pin', 'unpin', 'ls', 'show',
                           'trace', 'file', 'cancel', 'drop', 'resident'])
        if what in ('open', 'disk', 'resident', 'file'):
            lease = client.open(name, 'disk' if what == 'disk' else 'best', wait=what != 'cancel',
                                flags=int(what == 'resident'), **{'class': rng.randrange(2)})
            if what == 'file':
                for fd in client.call('file', lease=lease.opened['lease'], path='config.json')['fd_list']:
                    os.close(fd)
            elif what != 'disk':
                got = models.digests(lease.tensors())
                assert got == self.made[name], f'wrong bytes of {name}'
                self.served += 1
            client.leases.remove(lease)
            lease.close()
        elif what == 'cancel':
            client.send('cancel', target=client.open_send(name))
        elif what == 'drop':
            client.open_send(name)
            raise wire.Gone
        elif what in ('ls', 'show', 'trace'):
            client.report(what, name)
        else:
            for fd in client.call(what, model=name, **({} if what == 'verify' else {'tier': rng.randrange(3)})).get('fd_list', []):
                os.close(fd)

    def client(self, seed):
        rng = random.Random(seed)
        while not self.over.is_set():
            try:
                client = wire.Client(self.daemon.socket, PATIENCE)
                try:
                    for _ in range(rng.randrange(1, 12)):
                        try:
                            self.say(rng, client)
                        except wire.Fault as e:
                            if e.code not in self.expected:
                                raise
                finally:
                    client.close()
            except (wire.Gone, ConnectionRefusedError, FileNotFoundError):
                self.over.wait(0.01)  # the daemon is away, or the client was told to go
            except Exception as e:  # pylint: disable=broad-except
                if getattr(e, 'code', '') != 'STOPPING':
                    self.trouble.append(repr(e))
                    return

    def killed(self, seed):
        """Clients of the real library that die without a word."""
        rng = random.Random(seed)
        while not self.over.is_set():
            command = [CTL, '--socket', self.daemon.socket, 'open', rng.choice(list(self.made)), '--hold']
            p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=program_environment())
            self.over.wait(rng.random() * 0.3)
            p.send_signal(signal.SIGKILL)
            p.wait()

    def blow(self, seconds, clients=6):
        threads = [threading.Thread(target=self.client, args=(self.t.random.random(),)) for _ in range(clients)]
        threads += [threading.Thread(target=self.killed, args=(self.t.random.random(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            self.command(time.monotonic() + seconds)
        finally:
            self.over.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not self.trouble, self.trouble
        assert not any(thread.is_alive() for thread in threads), 'a client hangs'

    def command(self, until):
        """Not over before anything was served: on a busy machine the seconds may be too few."""
        patience = until + PATIENCE
        while time.monotonic() < (until if self.served else patience) and not self.trouble:
            self.over.wait(0.1)


class Restarts(Storm):
    """The daemon is stopped or killed every now and then."""

    def command(self, until):
        while time.monotonic() < until and not self.trouble:
            self.over.wait(self.t.random.random())
            self.t.random.choice([self.daemon.stop, self.daemon.kill])()
            self.daemon.start()


class Rot(Storm):
    """Bytes on the disk change."""

    def command(self, until):
        while time.monotonic() < until and not self.trouble:
            self.over.wait(0.05)
            files = [f for f in self.daemon.cache_dir.rglob('*') if f.is_file() and 'images' in str(f)]
            try:
                with open(self.t.random.choice(files), 'r+b') as f:
                    f.seek(self.t.random.randrange(os.fstat(f.fileno()).st_size))
                    f.write(self.t.random.randbytes(1))
            except (OSError, IndexError, ValueError):
                pass  # it is gone, or there is none


def calm(t, daemon, made):
    """Afterwards: nothing is held, nothing moves, and every model is served right."""
    try:
        t.eventually(lambda: daemon.metric('trims_leases') == 0 and daemon.metric('trims_transfers_active') == 0, 'calm')
    except AssertionError as e:
        raise AssertionError('\n'.join([daemon.ctl('ls').out, *(daemon.ctl('trace', name).out for name in made)])) from e
    for name, want in made.items():
        client = daemon.client()
        for tier in (0, 1, 2):
            try:
                client.call('unpin', model=name, tier=tier)
            except wire.Fault:
                pass
    for name, want in made.items():
        client = daemon.client()
        t.equal(models.digests(client.open(name).tensors()), want, name)
        client.close()


def models_of(t, names, **keywords):
    return {name: models.digests(t.model(name, size, **keywords)) for name, size in names.items()}


SIZES = {'a': 3 * MIB, 'b': 9 * MIB, 'c': 20 * MIB, 'd.gguf': 0, 'e.safetensors': 5 * MIB}


@test
def a_storm_over_a_web_server(t):
    made = models_of(t, SIZES)
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url], host_bytes='40M', disk_bytes='48M', revalidate=0)
    storm = Storm(t, daemon, made)
    storm.blow(SECONDS)
    calm(t, daemon, made)
    assert storm.served, 'nothing was served'


@test
def a_storm_over_a_local_directory(t):
    made = models_of(t, SIZES, shards=2)
    daemon = t.daemon(host_bytes='40M', disk_bytes='48M', revalidate='10ms')
    storm = Storm(t, daemon, made)
    storm.blow(SECONDS)
    calm(t, daemon, made)
    assert storm.served, 'nothing was served'


@test
def a_storm_in_which_the_daemon_stops_and_dies(t):
    made = models_of(t, SIZES)
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url], host_bytes='40M', disk_bytes='48M')
    storm = Restarts(t, daemon, made)
    storm.blow(SECONDS)
    calm(t, daemon, made)


@test
def a_storm_over_a_server_that_stumbles(t):
    made = models_of(t, SIZES)
    server = remote.Server(t, t.models_dir)

    def stumble(request):
        dice = t.random.random()
        if dice < 0.03:
            request.begin(503, {}, 0)
        elif dice < 0.06:
            request.reset()
        elif dice < 0.09:
            return remote.short(100)(request)
        else:
            return False
        return True
    server.fault = stumble
    daemon = t.daemon(sources=[server.url], host_bytes='40M', disk_bytes='48M', retries=8)
    storm = Storm(t, daemon, made)
    storm.blow(SECONDS)
    server.fault = None
    calm(t, daemon, made)


@test
def a_storm_in_which_the_disk_rots(t):
    made = models_of(t, SIZES)
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url], host_bytes='40M', disk_bytes='64M')
    storm = Rot(t, daemon, made)
    storm.expected |= {'MISMATCH', 'DISK_ERROR'}
    storm.blow(SECONDS)
    calm(t, daemon, made)


@test
def a_storm_over_a_hub_that_sends_wrong_bytes(t):
    (t.models_dir / 'org').mkdir()
    made = models_of(t, {f'org/{name}': size for name, size in SIZES.items() if '.' not in name}, shards=2)
    gguf = {f'blk.{i}.weight': ('Q4_0', (63, 32 * 101), t.random.randbytes(63 * 101 * 18)) for i in range(100)}
    (t.models_dir / 'org/a/d.gguf').write_bytes(models.gguf(gguf))
    made['org/a/d.gguf'] = models.digests(gguf)
    hub = servers.Hub(t, t.models_dir)

    def wrong(request):
        part = request.range(1 << 60)
        if not part or part[0] < MIB or t.random.random() > 0.05:
            return False
        body = bytearray(request.begin_file())
        if body:
            body[len(body) // 2] ^= 1
        request.wfile.write(body)
        return True
    hub.cdn.faults = [wrong]
    daemon = t.daemon(sources=['hf://'], environment={'HF_ENDPOINT': hub.url, 'HF_TOKEN': hub.token}, host_bytes='40M',
                      disk_bytes='48M')
    storm = Storm(t, daemon, made)
    storm.expected |= {'MISMATCH'}
    storm.blow(SECONDS)
    hub.cdn.faults = []
    calm(t, daemon, made)


main()
