"""wire - the daemon's socket, spoken by an implementation of its own that knows shared/*.def and shared/table.h but
none of the C code.  Says what it is told to, wrong things included."""
import array
import ctypes
import fcntl
import mmap
import os
import pathlib
import re
import select
import socket
import struct
import time

SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared'
HEADER = struct.Struct('<HHIQ')
VERSION = int(re.search(r'define MSG_VERSION (\d+)', (SHARED / 'msg.h').read_text())[1])
TIERS = {'best': 0, 'disk': 1, 'host': 2, 'gpu': 3}
MAX_FDS = 253


def read_messages():
    """{name: (type, [(kind, field)])} from messages.def."""
    messages, fields = {}, None
    text = (SHARED / 'messages.def').read_text().split('*/', 1)[1]
    for row in re.finditer(r'MSG\((\w+), (\w+), (\d+), \w+,|F_(U32|U64|STR|FDS)\((\w+)', text):
        if row[1]:
            fields = []
            messages[row[2]] = (int(row[3]), fields)
        elif fields is not None:  # before the first row stand the macros' own definitions
            fields.append((row[4], row[5]))
    return messages


def read_rows(file, macro):
    text = (SHARED / file).read_text().split('*/', 1)[1]
    return {int(number): name for number, name in re.findall(macro + r'\((\d+),\s*(\w+)', text)}


MESSAGES = read_messages()
BY_TYPE = {number: name for name, (number, _) in MESSAGES.items()}
ERRORS = read_rows('errors.def', 'ERR')
DTYPES = read_rows('dtypes.def', 'DTYPE')
REPORTS = {name.lower(): number for number, name in read_rows('reports.def', 'REPORT_ROW').items()}


class Fault(Exception):
    def __init__(self, code, text):
        super().__init__(f'{code}: {text}')
        self.code, self.text = code, text


class Gone(Exception):
    """The daemon ended the connection."""


def encode(name, request, fields, version=VERSION):
    number, rows = MESSAGES[name]
    body = b''
    for kind, field in rows:
        value = fields.get(field, b'' if kind == 'STR' else 0)
        if kind == 'STR':
            value = value.encode() if isinstance(value, str) else value
            body += struct.pack('<I', len(value)) + value
        else:
            body += struct.pack('<Q' if kind == 'U64' else '<I', value)
    return HEADER.pack(version, number, len(body), request) + body


def decode(data):
    """(name, request, fields); raises where the daemon breaks its own rules."""
    version, number, length, request = HEADER.unpack_from(data)
    assert version == VERSION and length == len(data) - HEADER.size, (version, number, length, len(data))
    name, fields, at = BY_TYPE[number], {}, HEADER.size
    for kind, field in MESSAGES[name][1]:
        if kind == 'STR':
            (size,) = struct.unpack_from('<I', data, at)
            fields[field] = data[at + 4:at + 4 + size].decode()
            at += 4 + size
        else:
            code = '<Q' if kind == 'U64' else '<I'
            (fields[field],) = struct.unpack_from(code, data, at)
            at += struct.calcsize(code)
    assert at == len(data), f'{name}: {len(data) - at} bytes too many'
    return name, request, fields


class Client:
    """One connection.  hello=False: connected, nothing said yet."""

    def __init__(self, path, patience=60, hello=True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(patience)
        self.patience = patience
        self.socket.connect(path)
        self.request, self.welcome, self.leases = 0, None, []
        self.session = self.session_page = None
        if hello:
            self.welcome = self.call('hello', version_min=VERSION, version_max=VERSION, program='wire.py')

    def close(self):
        for lease in self.leases:
            lease.unmap()
        self.socket.close()

    def send_raw(self, data, fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        try:
            self.socket.sendmsg([data], control)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Gone from e

    def send(self, name, fds=(), **fields):
        self.request += 1
        self.send_raw(encode(name, self.request, fields), fds)
        return self.request

    def receive(self):
        """(name, request, fields, fds)"""
        try:
            data, control, _, _ = self.socket.recvmsg(1 << 17, socket.CMSG_SPACE(4 * MAX_FDS))
        except ConnectionResetError:
            # The daemon closed with something of ours unread; what it said before that is behind the error.
            data, control, _, _ = self.socket.recvmsg(1 << 17, socket.CMSG_SPACE(4 * MAX_FDS))
        fds = array.array('i')
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
        if not data:
            raise Gone
        return (*decode(data), list(fds))

    def answer(self, request):
        while True:
            name, got, fields, fds = self.receive()
            if name == 'fault' and got in (0, request):
                raise Fault(ERRORS[fields['code']], fields['text'])
            if got == request:
                fields['fd_list'] = fds
                return fields
            for fd in fds:
                os.close(fd)

    def call(self, name, **fields):
        try:
            request = self.send(name, **fields)
        except Gone:
            request = 0  # the daemon has hung up; it may have said why
        return self.answer(request)

    def attach(self, *uuids, exports=1, believe=True, **fields):
        """Attaches to devices as a client of a simulated driver would.  believe: a canary is looked at when its memory can be
        (a descriptor of a simulated device is a memory file), and called good."""
        request = self.send('attach', devices=','.join(uuids), driver=12080, exports=exports, pid=os.getpid(), simulated=1,
                            **fields)
        while True:
            got = self.answer(request)
            fds = got['fd_list']
            if 'slots' in got:
                self.session_page = mmap.mmap(fds[0], got['slots'] * 8)
                self.session = {'export': got['export'], 'slots': got['slots']}
                os.close(fds[0])
                return self
            good = believe and (len(fds) < 2 or canary_is_good(fds[1], got['seed'], got['bytes']))
            for fd in fds:
                os.close(fd)
            self.send_raw(encode('verdict', request, {'good': int(good), 'text': '' if good else 'not what it should be'}))

    def slot(self, lease, extent=0):
        return struct.unpack_from('<q', self.session_page, 8 * (lease.opened['slot'] + extent))[0]

    def send_planned(self, name, plan=None, **fields):
        """plan: its bytes."""
        if plan is None:
            return self.send(name, **fields)
        fd = sealed(plan)
        try:
            return self.send(name, fds=[fd], plan=1, **fields)
        finally:
            os.close(fd)

    def open_send(self, model, tier='best', **fields):
        return self.send_planned('open', model=model, tier=TIERS[tier], **fields)

    def open_answer(self, request, wait=True):
        lease = Lease(self, self.answer(request))
        self.leases.append(lease)
        if wait:
            lease.wait()
        return lease

    def open(self, model, tier='best', wait=True, **fields):
        return self.open_answer(self.open_send(model, tier, **fields), wait)

    def report(self, report, model=''):
        """All pages' texts, unparsed."""
        pages, cursor = [], 0
        while True:
            got = self.call('query', report=REPORTS[report], model=model, cursor=cursor)
            (fd,) = got['fd_list']
            pages.append(os.pread(fd, got['bytes'], 0).decode())
            os.close(fd)
            cursor = got['next']
            if not cursor:
                return pages

    def hung_up(self):
        """True when the daemon has ended this connection, whatever it said before; does not wait."""
        poll = select.poll()
        poll.register(self.socket, 0)
        return bool(poll.poll(0))

    def gone(self):
        """True when the daemon has ended this connection; waits for it."""
        try:
            while True:
                _, _, _, fds = self.receive()
                for fd in fds:
                    os.close(fd)
        except Gone:
            return True


def sealed(data, seals=fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW):
    fd = os.memfd_create('plan', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def plan(*entries, keep=0, dha=0, helpers=()):
    """The bytes of shared/plan_wire.h; an entry is (tensor, on the host, link)."""
    head = struct.pack('<8sIIQQII', b'TRIMSPLN', 1, len(entries), keep, dha, len(helpers), 0)
    names = b''.join(name.encode().ljust(48, b'\0') for name in helpers).ljust(8 * 48, b'\0')
    return head + names + b''.join(struct.pack('<IBBH', *entry, *(0,) * (4 - len(entry))) for entry in entries)


def splitmix64(x):
    mask = (1 << 64) - 1
    x = (x + 0x9e3779b97f4a7c15) & mask
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & mask
    x = (x ^ x >> 27) * 0x94d049bb133111eb & mask
    return x ^ x >> 31


def canary_is_good(fd, seed, size):
    """Looks at its first page and its last word."""
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as m:
        words = [*range(512), size // 8 - 1]
        return all(struct.unpack_from('<Q', m, 8 * i)[0] == splitmix64(seed + i & (1 << 64) - 1) for i in words)


NO_SLOT = (1 << 32) - 1
HANDLE = struct.Struct('<IIQQQQ64s')  # shared/gpu_handle.h
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
SYS_FUTEX, FUTEX_WAIT = {'x86_64': 202, 'aarch64': 98}[os.uname().machine], 0
LOADING, READY, POISONED = range(3)


class Timespec(ctypes.Structure):
    _fields_ = [('seconds', ctypes.c_long), ('nanoseconds', ctypes.c_long)]


class Lease:
    """A lease that was granted, its memory mapped read-only; valid until unmap(), also after the daemon died."""

    def __init__(self, client, opened):
        self.client, self.opened, self.fds = client, opened, opened['fd_list']
        self.maps = []
        self.page = None
        table_fd, page_fd, *extent_fds = self.fds
        self.records = []
        if opened['tier'] == TIERS['gpu']:
            records_fd, *extent_fds = extent_fds
            records = self.map(records_fd)
            self.records = [HANDLE.unpack_from(records, at) for at in range(0, len(records), HANDLE.size)]
        self.page = LIBC.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, page_fd, 0)
        self.table = self.map(table_fd)
        self.extents = [self.map(fd) for fd in extent_fds]
        if self.records:  # pieces: (extent, offset, bytes of it, memory)
            self.pieces = [(r[1], r[4], r[5], memory) for r, memory in zip(self.records, self.extents)]
        else:
            self.pieces = [(i, 0, len(memory), memory) for i, memory in enumerate(self.extents)]

    def map(self, fd):
        size = os.fstat(fd).st_size
        found = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) if size else b''
        if size:
            self.maps.append(found)
        return found

    def progress(self):
        """(wake, state, error, landed, error_text)"""
        head = ctypes.string_at(self.page, 1600)
        _, _, wake, state, error, _, _, _, landed = struct.unpack_from('<6I3Q', head)
        return wake, state, ERRORS[error], landed, head[1088:1600].split(b'\0')[0].decode()

    def chunk_has_landed(self, chunk):
        """Below the watermark or not; tier host."""
        word, = struct.unpack('<Q', ctypes.string_at(self.page + 1608 + chunk // 64 * 8, 8))
        return bool(word >> chunk % 64 & 1)

    def helper_bytes(self):
        """How many came over other devices' links."""
        return struct.unpack('<Q', ctypes.string_at(self.page + 1600, 8))[0]

    def wait(self):
        """Until all bytes are there; raises Fault or Gone when they never will be."""
        began = time.monotonic()
        while time.monotonic() < began + self.client.patience:
            wake, state, error, _, text = self.progress()
            if state == READY:
                return self
            if state == POISONED:
                raise Fault(error, text)
            if self.client.hung_up():
                raise Gone
            limit = Timespec(0, 200000000)  # a dead daemon wakes nobody: look at the connection now and then
            LIBC.syscall(SYS_FUTEX, ctypes.c_void_p(self.page + 8), FUTEX_WAIT, wake, ctypes.byref(limit), 0, 0)
        raise TimeoutError(f'the model does not come: {self.progress()}')

    def bytes_of(self, extent, offset, size):
        """From its pieces; None when they do not have all of it."""
        found = b''
        while len(found) < size:
            at = offset + len(found)
            piece = next((p for p in self.pieces if p[0] == extent and p[1] <= at < p[1] + p[2]), None)
            if not piece:
                return None
            found += piece[3][at - piece[1]:min(piece[2], offset + size - piece[1])]
        return found

    def tensors(self, partial=False):
        """{name: (dtype, shape, bytes)}, as models.py has them.  partial: without those that are not all there."""
        magic, version, _, _, n_extents, n, extents, tensors, _, names, _ = struct.unpack_from('<IIQQII5Q', self.table)
        assert (magic, version) == (0x4c425454, 1), (magic, version)
        assert partial or {p[0] for p in self.pieces} == set(range(n_extents)), (n_extents, self.records)
        found = {}
        for i in range(n):
            name_off, length, dtype, rank, extent, offset, size, *shape = struct.unpack_from(
                '<QIIIIQQ8Q', self.table, tensors + 104 * i)
            name = self.table[names + name_off:names + name_off + length].decode()
            data = self.bytes_of(extent, offset, size) if size else b''
            assert partial or data is not None, f'{name} is not all there'
            if data is not None:
                found[name] = (DTYPES[dtype], tuple(shape[:rank]), data)
        return found

    def scribble(self, extent=0, offset=0, data=b'\xff' * 64):
        """What no client of good will does: its descriptor can be mapped writable.  Of simulated devices only."""
        with mmap.mmap(self.fds[3 + extent], self.records[extent][2]) as m:
            m[offset:offset + len(data)] = bytes(a ^ b for a, b in zip(m[offset:offset + len(data)], data))

    def close(self):
        self.client.send('close', lease=self.opened['lease'])
        self.unmap()

    def unmap(self):
        for m in self.maps:
            m.close()
        if self.page:
            LIBC.munmap(ctypes.c_void_p(self.page), 4096)
        for fd in self.fds:
            os.close(fd)
        self.maps, self.page, self.fds = [], None, []
