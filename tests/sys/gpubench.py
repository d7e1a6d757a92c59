"""gpubench - a simulated machine with a GPU for one test: topology, shared state, models, a daemon, and clients that do what
they are told (gpu_puppet.c).  What is held on the devices is looked up in simcuda's directory, not asked of the daemon."""
import contextlib
import fcntl
import re
import select
import struct
import threading
import zlib

from trimstest import BUILD, CTL, PATIENCE, SIMULATOR as DRIVER, program_environment, run, simulated_only

MIB = 1 << 20
CANARY_BYTES = 2 * MIB


class Refused(Exception):
    def __init__(self, line):
        super().__init__(line)
        self.code, _, self.text = line.partition(' ')


class Puppet:
    """A gpu_puppet.c.  client('open', 'a') returns the words after "ok", or raises Refused."""

    def __init__(self, bench, socket, environment):
        self.process = bench.t.spawn(BUILD / 'tests/sys/gpu_puppet', socket, env=program_environment(
            TRIMS_CUDA_DRIVER=DRIVER, **bench.environment, **environment))
        self.log = []

    def send(self, *words):
        self.process.stdin.write(' '.join(map(str, words)).encode() + b'\n')
        self.process.stdin.flush()
        self.log.append(words)

    def answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, f'the client hangs at {self.log[-1]}'
        line = self.process.stdout.readline().decode()
        assert line, f'the client died at {self.log[-1]}: {self.process.wait(PATIENCE)}'
        words = line.split()
        if not re.fullmatch('ok|[A-Z_]+', words[0] if words else ''):  # a sanitizer's report, say: all of it
            self.process.stdin.close()
            raise AssertionError(f'the client broke at {self.log[-1]}:\n{line}{self.process.stdout.read().decode()}')
        if words[0] != 'ok':
            raise Refused(line.strip())
        return words[1:]

    def __call__(self, *words):
        self.send(*words)
        return self.answer()

    def end(self):
        self.process.stdin.close()
        said = self.process.stdout.read().decode()
        rc = self.process.wait(PATIENCE)
        assert rc == 0 and not said, f'the client ended with {rc}: {said}'


class Bench:
    def __init__(self, t, topology='device bytes=64M gbps=50 context=1M', models=(('a', 2 * MIB), ('b', 9 * MIB)),
                 **options):
        simulated_only('a real driver takes no fault script')
        self.t, self.dir = t, t.dir / 'devices'
        (t.dir / 'topology').write_text(f'set speed=unlimited\n{topology}\n')
        self.environment = {'SIMCUDA': str(t.dir / 'topology'), 'SIMCUDA_DIR': str(self.dir)}
        self.crc = {name: {tensor: f'{zlib.crc32(data):08x}' for tensor, (_, _, data) in t.model(name, size).items()}
                    for name, size in models}
        self.served, self.stood = None, 0
        self.staging = 0  # bytes that the daemon keeps on all devices for what goes on to another one
        self.over = ()  # UUIDs of the device that models are opened on, and of the one over whose link they come
        self.options = {'cuda_driver': DRIVER, 'self_check': 'yes', 'host_bytes': '128M', **options}

    def daemon(self, **environment):
        self.served = self.t.daemon(environment={**self.environment, **environment}, **self.options)
        return self.served

    def puppet(self, daemon, **environment):
        return Puppet(self, daemon.socket, environment)

    def ctl(self, daemon, *arguments, **environment):
        return run(CTL, '--socket', daemon.socket, *arguments, timeout=PATIENCE, TRIMS_CUDA_DRIVER=DRIVER,
                   **self.environment, **environment)

    def right(self, name, words):
        """What `read` has said of the model."""
        self.t.equal(dict(w.rsplit('=', 1) for w in words), self.crc[name], f'bytes of {name} on the device')

    def held(self, kinds='mv'):
        """{file: bytes} of what somebody holds on the devices: v by descriptors, m the classic way, c contexts."""
        found = {}
        for file in self.dir.iterdir():
            if file.name[0] not in kinds or file.name[1:2] != '.':
                continue
            with contextlib.suppress(FileNotFoundError), open(file, 'rb') as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found[file.name] = int(file.name.split('.')[-1], 16)
        return found

    def until_empty(self, daemon, canaries=1):
        """What is left on the devices are the daemon's trial allocations, and staging."""
        self.t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='gpu') == 0, 'the device is empty')
        self.t.eventually(lambda: sum(self.held().values()) <= canaries * CANARY_BYTES + self.staging,
                          f'the device is empty: {self.held()}')
        self.t.eventually(lambda: not self.held('h'), 'nor does anybody hold host memory of the driver')

    def uuids(self, daemon):
        """Of the devices, in the driver's order."""
        return re.findall(r'(GPU-[0-9a-f-]{36}): simulated', daemon.log())

    def simcuda(self, daemon, *words):
        """What only a process that has the simulator loaded can do: lose, mend."""
        client = self.puppet(daemon)
        client(*words)
        client.end()


def calls(folder):
    """{symbol: how often} of every process that left its counts there."""
    found = {}
    for file in folder.glob('*.calls'):
        data = file.read_bytes()
        for at in range(0, len(data) - 63, 64):
            name, n = data[at:at + 56].split(b'\0')[0].decode(), struct.unpack_from('<Q', data, at + 56)[0]
            if name and n:
                found[name] = max(found.get(name, 0), n)
    return found


class Stalled(threading.Thread):
    """Looks out for a call that stands still, does something meanwhile, then lets it go."""

    def __init__(self, bench, meanwhile):
        super().__init__(daemon=True)
        self.bench, self.meanwhile = bench, meanwhile
        self.over, self.seen, self.trouble = threading.Event(), False, None

    def release(self):
        return self.bench.dir / 'release'

    def run(self):
        while not self.over.wait(0.002):  # a look at a directory, not a wait for time to pass
            if not any(self.bench.dir.glob('stalled.*')):
                continue
            self.seen = True
            try:
                self.meanwhile()
            except Exception as e:  # pylint: disable=broad-except
                self.trouble = e
            self.release().touch()
            return

    def __enter__(self):
        self.bench.dir.mkdir(exist_ok=True)
        self.bench.dir.chmod(0o1777)
        self.release().unlink(missing_ok=True)
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join(PATIENCE)
        self.release().unlink(missing_ok=True)
        if self.trouble:
            raise self.trouble
