"""gpuclient - programs that use libtrims and a driver (gpu_client.c), and the machine that they and a daemon share: simulated, or
with TRIMS_GPU_DRIVER a real one."""
import fcntl
import os
import re
import zlib

from trimstest import BUILD, CTL, GPU_DRIVER as DRIVER, GPU_IS_SIMULATED, PATIENCE, program_environment, run

MIB = 1 << 20
CLIENT = str(BUILD / 'tests/sys/gpu_client')
EXPORTS = ('vmm-fd', 'cuda-ipc')


class Unknown(int):
    """What only a real device's driver knows, and would not tell about other processes: compares as one would wish."""
    __eq__ = __ge__ = __gt__ = __le__ = __lt__ = lambda self, other: True
    __add__ = __radd__ = lambda self, other: self
    __hash__ = int.__hash__


class Machine:
    """Devices, and a daemon that uses them."""

    def __init__(self, t, devices=1, device='bytes=64M context=1M', faults='', **options):
        self.t, self.state = t, t.dir / 'devices'
        topology = t.dir / 'topology'
        topology.write_text(f'device {device}\n' * devices)
        self.environment = {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(self.state)} if GPU_IS_SIMULATED else {}
        self.daemon = t.daemon(environment={**self.environment, **faulty(faults)}, cuda_driver=DRIVER, **{'gpu': 'auto', **options})

    def ctl(self, *arguments):
        return run(CTL, '--socket', self.daemon.socket, *arguments, TRIMS_CUDA_DRIVER=DRIVER, **self.environment)

    def client(self, faults=''):
        return Client(self.t, [CLIENT, self.daemon.socket],
                      program_environment(TRIMS_CUDA_DRIVER=DRIVER, **self.environment, **faulty(faults)))

    def held(self):
        """Bytes of device memory that somebody holds: of files that the simulated driver's users have locked."""
        if not GPU_IS_SIMULATED:
            return Unknown()
        total = 0
        for name in os.listdir(self.state):
            row = name.split('.')
            if len(row) == 5 and row[0] in 'mv' and is_locked(self.state / name):
                total += int(row[4], 16)
        return total

    def uuids(self):
        return re.findall(r'(GPU-[0-9a-f-]{36}): simulated', self.daemon.log())


def faulty(script):
    return {'SIMCUDA_FAULTS': script} if script else {}


def is_locked(path):
    try:
        with open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


class Client:
    """gpu_client.c, asked line by line."""

    def __init__(self, t, command, environment=None):
        self.process = t.spawn(*command, env=environment, text=True, bufsize=1, stderr=None)
        self.answer()

    def say(self, line):
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline().strip()
        assert line, f'the client has ended: {self.process.poll()}'
        return line

    def ask(self, line):
        self.say(line)
        return self.answer()

    def ok(self, line):
        answer = self.ask(line)
        assert answer.split()[0] == 'ok', f'{line}: {answer}'
        return answer[3:]

    def each(self, command):
        return dict(pair.rsplit('=', 1) for pair in self.ok(command).split())

    def sums(self):
        return self.each('sums')

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)


def sums_of(tensors):
    return {name: str(zlib.crc32(data)) for name, (_, _, data) in tensors.items()}
