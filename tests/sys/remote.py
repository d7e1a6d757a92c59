"""remote - a web server on an ephemeral loopback port that misbehaves as told, and a real nginx.

    server = remote.Server(t, t.models_dir)
    server.fault = remote.status(503, times=2)        # or any function(request) -> True when it has answered
    t.daemon(sources=[server.url])
Every request is kept in server.log as (method, path, (first, last) or None)."""
import hashlib
import http.server
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import threading


class Request(http.server.BaseHTTPRequestHandler):
    """Files with ETag, HEAD and single ranges; keeps connections."""
    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'remote.py', ''

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass

    def find(self):
        """(bytes, etag) of the file asked for, or None."""
        path = self.server.owner.root / self.path.split('?')[0].lstrip('/')
        if not path.is_file():
            return None
        stat = path.stat()
        key = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        cache = self.server.owner.cache
        if key not in cache:
            data = path.read_bytes()
            cache[key] = data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        return cache[key]

    def range(self, size):
        m = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        return (int(m[1]), min(int(m[2] or size - 1), size - 1)) if m and self.command == 'GET' else None

    def begin(self, status, headers, length):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(length))
        self.end_headers()

    def begin_file(self, status=None, length=None, whole=False):
        """Sends the head of a good answer; returns the bytes that should follow."""
        data, etag = self.find()
        part = None if whole else self.range(len(data))
        if self.headers.get('If-Match', etag) != etag:
            self.begin(412, {}, 0)
            return b''
        if self.headers.get('If-Range', etag) != etag:
            part = None
        headers = {'ETag': etag} if whole else {'ETag': etag, 'Accept-Ranges': 'bytes'}
        body = data if not part else data[part[0]:part[1] + 1]
        if part:
            headers['Content-Range'] = f'bytes {part[0]}-{part[1]}/{len(data)}'
        self.begin(status or (206 if part else 200), headers, len(body) if length is None else length)
        return b'' if self.command == 'HEAD' else body

    def do_GET(self):
        found = self.find()
        owner = self.server.owner
        with owner.lock:
            owner.log.append((self.command, self.path, self.range(len(found[0])) if found else None))
            fault = owner.fault
        try:
            if fault and fault(self):
                return
            if not found:
                self.begin(404, {}, 0)
            else:
                self.wfile.write(self.begin_file())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET

    def reset(self):
        """Ends the connection with RST."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.close_connection = True

    @property
    def is_weights(self):
        return self.command == 'GET' and '.safetensors' in self.path and 'json' not in self.path


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Clients that vanish are what the tests are about."""


class Server:
    def __init__(self, t, root):
        self.root, self.log, self.fault, self.lock = pathlib.Path(root), [], None, threading.Lock()
        self.cache = {}  # what a file holds does not change without its time doing so
        self.released = threading.Event()  # what a stalled answer waits for, for ever; close() sets it
        self.reached = threading.Event()   # set when a fault of ours is at work
        self.httpd = Quiet(('127.0.0.1', 0), Request)
        self.httpd.owner = self
        self.url = f'http://127.0.0.1:{self.httpd.server_port}'
        threading.Thread(target=self.httpd.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        t.at_end(self.close)

    def close(self):
        self.released.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def asked(self, suffix):
        """Ranges asked of the files whose path ends so, by GET."""
        with self.lock:
            return [part for method, path, part in self.log if method == 'GET' and path.endswith(suffix)]


# ---- ways to misbehave: each returns a function for server.fault; `times` of them, then all is well

def limited(times, act, beyond=0):
    left = [times]

    def fault(request):
        with request.server.owner.lock:
            first = (request.range(1 << 60) or (0, 0))[0]
            if left[0] <= 0 or not request.is_weights or first < beyond:
                return False
            left[0] -= 1
        request.server.owner.reached.set()
        act(request)
        return True
    return fault


def status(code, times=1 << 30, headers=None):
    return limited(times, lambda request: request.begin(code, headers or {}, 0))


def stall(after=1000, times=1 << 30, beyond=0):
    """Sends some bytes, then nothing until server.released is set (or the client has gone).  beyond=1: not when the
    head of a file is asked for, which is how a model is looked up."""
    def act(request):
        body = request.begin_file()
        request.wfile.write(body[:after])
        request.wfile.flush()
        request.server.owner.released.wait()
        request.wfile.write(body[after:])
    return limited(times, act, beyond)


def reset(after=100000, times=1):
    def act(request):
        request.wfile.write(request.begin_file()[:after])
        request.reset()
    return limited(times, act)


def short(missing=1, times=1):
    """Promises the right length, closes before it is reached."""
    def act(request):
        body = request.begin_file()
        request.wfile.write(body[:max(0, len(body) - missing)])
        request.close_connection = True
    return limited(times, act)


def lie(delta, times=1 << 30):
    """States a length that is wrong, and sends that many."""
    def act(request):
        data, _ = request.find()
        part = request.range(len(data)) or (0, len(data) - 1)
        length = max(0, part[1] - part[0] + 1 + delta)
        body = request.begin_file(length=length)
        request.wfile.write((body + bytes(max(0, delta)))[:length])
        request.close_connection = True
    return limited(times, act)


def no_ranges(request):
    """A server that has never heard of them."""
    if not request.find():
        return False
    body = request.begin_file(whole=True)
    request.wfile.write(body)
    return True


class Nginx:
    """The real thing, serving `root`; plain files, ranges, ETags."""

    def __init__(self, t, root):
        program = shutil.which('nginx', path='/usr/sbin:/usr/bin:/sbin:/bin')
        assert program, 'nginx is not installed: tools/setup'
        self.dir = t.dir / 'nginx'
        self.dir.mkdir()
        # It cannot tell which ephemeral port it got, so one is held for it until it has joined.
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(('127.0.0.1', 0))
        port = holder.getsockname()[1]
        (self.dir / 'conf').write_text(f'''
            daemon off; master_process off; pid {self.dir}/pid; error_log {self.dir}/error.log; worker_processes 1;
            {"user root;" if os.getuid() == 0 else ""}
            events {{ worker_connections 256; }}
            http {{ access_log off; sendfile on; types {{ }} default_type application/octet-stream;
                client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
                uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
                server {{ listen 127.0.0.1:{port} reuseport; root {root}; }} }}''')
        process = t.spawn(program, '-p', self.dir, '-c', self.dir / 'conf', '-e', self.dir / 'error.log',
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f'http://127.0.0.1:{port}'

        def serves():
            assert process.poll() is None, (self.dir / 'error.log').read_text()
            return (self.dir / 'pid').exists()  # written when it listens
        t.eventually(serves, 'nginx serves')
        holder.close()
