"""servers - loopback servers for the source tests: files, an S3 store that checks signatures, a hub with its CDN.

A server's `faults` are functions(request) -> True when they have answered; the first that does ends the matter.
Every request is kept in `log` as an Entry.  `connections` counts accepted connections."""
import collections
import hashlib
import hmac
import http.server
import json
import pathlib
import ssl
import sys
import threading
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'sys'))
import remote  # noqa: E402  pylint: disable=wrong-import-position

Entry = collections.namedtuple('Entry', 'method path first last headers')


class Request(remote.Request):
    def setup(self):
        super().setup()
        self.server.owner.connections += 1

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass

    def find(self):
        path = self.server.owner.root / urllib.parse.unquote(self.path.split('?')[0]).lstrip('/')
        if not path.is_file():
            return None
        data = path.read_bytes()
        return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'

    def answer(self):
        if self.find():
            self.wfile.write(self.begin_file())
        else:
            self.begin(404, {}, 0)

    def text(self, status, body, headers=None):
        self.begin(status, headers or {}, len(body))
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_GET(self):
        owner = self.server.owner
        part = remote.re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers.get('Range', ''))
        with owner.lock:
            owner.log.append(Entry(self.command, self.path, int(part[1]) if part else None,
                                   int(part[2]) if part else None, dict(self.headers)))
            faults = list(owner.faults)
        if not any(fault(self) for fault in faults):
            self.answer()

    do_HEAD = do_GET


class Server:
    request = Request

    def __init__(self, t, root, certificate=None):
        self.root, self.log, self.faults, self.connections = pathlib.Path(root), [], [], 0
        self.lock, self.released, self.reached = threading.Lock(), threading.Event(), threading.Event()
        self.httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), self.request)
        self.httpd.daemon_threads = True
        self.httpd.owner = self
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True)
        self.host = f'127.0.0.1:{self.httpd.server_port}'
        self.url = f"{'https' if certificate else 'http'}://{self.host}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        t.at_end(self.close)

    def close(self):
        self.released.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def asked(self, part=''):
        with self.lock:
            return [e for e in self.log if part in e.path]

    def forget(self):
        with self.lock:
            self.log.clear()


class S3Request(Request):
    """Signature Version 4 worked out by itself from what came in; what is not there is 403, as without ListBucket."""

    def expected(self, credential, signed):
        owner = self.server.owner
        headers = ''.join(f'{n}:{self.headers[n].strip()}\n' for n in signed.split(';'))
        path, _, query = self.path.partition('?')
        canonical = '\n'.join((self.command, path, query, headers, signed, self.headers['x-amz-content-sha256']))
        date, region, service, _ = credential
        scope = '/'.join(credential)
        text = '\n'.join(('AWS4-HMAC-SHA256', self.headers['x-amz-date'], scope,
                          hashlib.sha256(canonical.encode()).hexdigest()))
        key = b'AWS4' + owner.secret.encode()
        for part in (date, region, service, 'aws4_request'):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def refusal(self):
        """None, or the S3 code of what is wrong."""
        owner = self.server.owner
        m = remote.re.fullmatch(r'AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+), SignedHeaders=([^,]+), Signature=(\w+)',
                                self.headers.get('Authorization', ''))
        if not m:
            return 'AccessDenied' if owner.secret else None
        credential = m[2].split('/')
        must = {'host', 'x-amz-content-sha256', 'x-amz-date'} | ({'x-amz-security-token'} if owner.token else set())
        if m[1] != owner.key_id:
            return 'InvalidAccessKeyId'
        if credential[1:] != [owner.region, 's3', 'aws4_request'] or not must <= set(m[3].split(';')):
            return 'AuthorizationHeaderMalformed'
        if owner.token and self.headers.get('x-amz-security-token') != owner.token:
            return 'InvalidToken'
        return None if hmac.compare_digest(m[4], self.expected(credential, m[3])) else 'SignatureDoesNotMatch'

    def answer(self):
        code = self.refusal() or (None if self.find() else 'AccessDenied')
        if code:
            self.text(403, f'<Error><Code>{code}</Code><Message>no &lt;tag&gt;</Message></Error>'.encode())
        else:
            self.wfile.write(self.begin_file())


class S3(Server):
    request = S3Request
    key_id, secret, token, region = 'AKTEST', 'se/cret+key', None, 'eu-test-1'


class CdnRequest(Request):
    def answer(self):
        if 'Authorization' in self.headers:
            self.server.owner.leaks += 1
            self.begin(400, {}, 0)
        elif 'sig=' + self.server.owner.signature not in self.path:
            self.begin(403, {}, 0)
        elif self.command == 'HEAD':
            self.begin(403, {}, 0)  # the link is signed for GET
        else:
            super().answer()


class Cdn(Server):
    request = CdnRequest
    leaks, signature = 0, '1'


class HubRequest(Request):
    """TREE/ID/files, one tree per commit; `refs` say which commits branches and tags lead to.  Files over 1000 bytes are
    large: SHA-256, and a redirect to the CDN."""

    def answer(self):
        owner = self.server.owner
        path = urllib.parse.unquote(self.path.split('?')[0]).strip('/')
        if owner.token and self.headers.get('Authorization') != f'Bearer {owner.token}':
            self.begin(401, {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'Access is restricted'}, 0)
        elif path.startswith('api/models/'):
            name, _, revision = path[len('api/models/'):].partition('/revision/')
            self.info(name, revision)
        else:
            name, _, rest = path.partition('/resolve/')
            self.file(name, *rest.split('/', 1))

    def info(self, name, revision):
        owner = self.server.owner
        commit = owner.refs.get(revision, revision)
        if not any((tree / name).is_dir() for tree in owner.trees.values()):
            self.begin(401, {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Repository not found'}, 0)
        elif commit not in owner.trees:
            self.begin(404, {'X-Error-Code': 'RevisionNotFound'}, 0)
        else:
            root = owner.trees[commit] / name
            siblings = [self.sibling(root, p) for p in sorted(root.rglob('*')) if p.is_file()]
            self.text(200, json.dumps({'id': name, 'sha': commit, 'siblings': siblings}).encode())

    def sibling(self, root, path):
        out, data = {'rfilename': str(path.relative_to(root))}, path.read_bytes()
        if self.server.owner.blobs and 'blobs=true' in self.path:
            out.update(size=len(data), blobId=hashlib.sha1(data).hexdigest())
            if len(data) > 1000:
                out['lfs'] = {'sha256': hashlib.sha256(data).hexdigest(), 'size': len(data), 'pointerSize': 130}
        return out

    def file(self, name, revision, path):
        owner = self.server.owner
        file = owner.trees.get(revision, owner.root / 'no such commit') / name / path
        if not file.is_file():
            self.begin(404, {'X-Error-Code': 'EntryNotFound'}, 0)
            return
        data = file.read_bytes()
        self.path = '/' + str(file.relative_to(owner.root))
        if len(data) <= 1000:
            self.wfile.write(self.begin_file())
            return
        self.begin(302, {'Location': f'{owner.cdn.url}{self.path}?sig={owner.cdn.signature}',
                         'X-Repo-Commit': revision, 'X-Linked-Size': str(len(data)),
                         'X-Linked-ETag': f'"{hashlib.sha256(data).hexdigest()}"'}, 0)


class Hub(Server):
    request = HubRequest
    token, blobs, commit = 'hf_secret', True, 'c0ffee' + '0' * 34

    def __init__(self, t, root):
        super().__init__(t, root)
        self.cdn = Cdn(t, root)
        self.trees = {self.commit: self.root}  # commit -> where its repositories lie, below root
        self.refs = {'main': self.commit, 'refs/pr/1': self.commit}


# ---- faults

def limited(act, times=1 << 30, where='.safetensors', method='GET', skip=0):
    """`act` on some requests whose path contains `where`, after `skip` of them were answered well."""
    state = [skip, times]

    def fault(request):
        if where not in request.path or 'json' in request.path or request.command != method:
            return False
        with request.server.owner.lock:
            if state[0] > 0:
                state[0] -= 1
                return False
            if state[1] <= 0:
                return False
            state[1] -= 1
        act(request)
        request.server.owner.reached.set()
        return True
    return fault


def status(code, headers=None, body=b''):
    return lambda request: request.text(code, body, headers)


def reset(after):
    def act(request):
        request.wfile.write(request.begin_file()[:after])
        request.reset()
    return act


def short(missing):
    def act(request):
        body = request.begin_file()
        request.wfile.write(body[:-missing])
        request.close_connection = True
    return act


def stall(after):
    def act(request):
        request.wfile.write(request.begin_file()[:after])
        request.wfile.flush()
        request.server.owner.reached.set()
        request.server.owner.released.wait()
        request.close_connection = True
    return act


def whole(request, headers=None):
    """As a server that has never heard of ranges."""
    data, etag = request.find()
    request.text(200, data, {'ETag': etag, **(headers or {})})


def answer(code=206, version=True, length=None, content_range=None, extra=None, tail=b''):
    """A part whose headers say what they are told to; {first}, {last}, {total} may stand in content_range."""
    def act(request):
        data, etag = request.find()
        first, last = request.range(len(data)) or (0, len(data) - 1)
        body = data[first:last + 1] + tail
        headers = {'ETag': etag} if version else {}
        text = content_range or 'bytes {first}-{last}/{total}'
        headers['Content-Range'] = text.format(first=first, last=last, total=len(data))
        headers.update(extra or {})
        request.begin(code, headers, len(body) if length is None else length(len(body)))
        if request.command != 'HEAD':
            request.wfile.write(body)
        request.close_connection = bool(tail or length)
    return act
