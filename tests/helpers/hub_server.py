"""A small Hub on the loopback: what huggingface_hub asks of it to create, push, list and fetch models.

Commits are immutable and named by 40 hex digits; large files go by git-LFS (basic transfer, no Xet). A test
may break it: `answers` are statuses instead of what was asked for, `cuts` end downloads early, `swaps` send
other bytes than the ETag says.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

# token -> the namespaces it may write to
TOKENS = {"hf_writer": ("org", "ann", "ORG"), "hf_reader": ()}


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def is_lfs(path):
    return path.endswith((".safetensors", ".bin", ".pth"))


@dataclass
class Repository:
    private: bool = False
    commits: dict = field(default_factory=dict)  # sha -> {path: bytes}
    head: str = ""

    def commit(self, files):
        """A new revision with these files; its name depends on what it holds and on the ones before."""
        content = json.dumps(sorted((path, git_oid(data)) for path, data in files.items()))
        self.head = hashlib.sha1(f"{self.head} {content}".encode()).hexdigest()
        self.commits[self.head] = dict(files)
        return self.head


class Hub:
    """`with Hub() as hub: hub.url`; `hub.repositories["org/name"]`, `hub.asked` (a Counter of requests)."""

    announce = True  # False: answers lack the revision, as those of a server that is no Hub

    def __init__(self):
        self.repositories = {}
        self.objects = {}  # sha256 -> bytes, as LFS stores them
        self.asked = Counter()
        self.uploaded = []  # sha256 of what was sent, in order
        self.answers = {}  # "METHOD regular expression" -> status
        self.before_commit = None  # a function to call when a commit has been sent
        self.cuts = {}  # path -> [bytes to send before the connection ends, ...], one for each request
        self.stalls = {}  # path -> bytes to send before nothing comes any more
        self.stalled = threading.Event()
        self.swaps = {}  # path -> other bytes
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *about: None  # a client that was killed
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def put(self, name, files, private=False):
        """A repository with these files, as if somebody had pushed them; return the revision."""
        repository = self.repositories.setdefault(name, Repository(private))
        for content in files.values():
            self.objects[sha256(content)] = content
        return repository.commit(files)


class Refusal(Exception):
    """An error answer: status, what the Hub calls it, a message."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked[f"{self.command} {path}"] += 1
        body = self._body()
        try:
            for pattern, status in self.hub.answers.items():
                if re.match(pattern, f"{self.command} {path}"):
                    raise Refusal(status)
            for route, method in ROUTES:
                if match := re.fullmatch(route, f"{self.command} {path}"):
                    method(self, *match.groups(), *([body] if self.command in ("POST", "PUT") else []))
                    return
            raise Refusal(404)
        except Refusal as refusal:
            status, code, message = (*refusal.args, "", "")[:3]
            headers = {"X-Error-Code": code, "X-Error-Message": message}
            self._json({"error": message}, status, {key: value for key, value in headers.items() if value})

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value, status=200, headers=None):
        self._send(
            json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, content, status=200, headers=None, cut=None):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    # Who asks, and for what.

    def _namespaces(self):
        """Where the request may write; None without a token."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in TOKENS:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return TOKENS[token]

    def _repository(self, name, write=False):
        namespaces = self._namespaces()
        repository = self.hub.repositories.get(name)
        owned = name.partition("/")[0] in (namespaces or ())
        if repository is None or (repository.private and not owned):
            raise Refusal(401 if namespaces is None else 404, "RepoNotFound", "Repository not found")
        if write and not owned:
            raise Refusal(403, "", "You don't have the rights to write to this repository")
        return repository

    def _files(self, name, revision):
        repository = self._repository(name)
        sha = repository.head if revision == "main" else revision
        if sha not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    # Pushing.

    def create(self, body):
        asked = json.loads(body)
        namespace = asked.get("organization") or "ann"
        namespaces, name = self._namespaces(), f"{namespace}/{asked['name']}"
        if namespaces is None:
            raise Refusal(401, "", "Invalid username or password.")
        if namespace not in namespaces:
            raise Refusal(403, "", f'You don\'t have the rights to create a model under "{namespace}"')
        if name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
            return
        private = asked.get("private", False) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, body):
        import yaml

        head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
        data = yaml.safe_load(head.group(1)) if head else {}
        if not isinstance(data.get("license"), str) or "library_name" not in data:
            self._json({"errors": [{"message": '"license" must be one of ...'}], "warnings": []}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def preupload(self, name, revision, body):
        self._repository(name, write=True)
        there = self._files(name, revision)[1]
        found = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            mode, oid_of = ("lfs", sha256) if is_lfs(path) else ("regular", git_oid)
            oid = {"oid": oid_of(there[path])} if path in there else {}
            found.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        self._json({"files": found})

    def batch(self, name, body):
        self._repository(name, write=True)
        asked = json.loads(body)
        assert "basic" in asked["transfers"]
        objects = []
        for item in asked["objects"]:
            link = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            new = item["oid"] not in self.hub.objects
            objects.append({**item, **({"actions": link} if new else {})})
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid, body):
        if sha256(body) != oid:
            raise Refusal(400, "", "sha256 differs")
        self.hub.objects[oid] = body
        self.hub.uploaded.append(oid)
        self._send(b"")

    def commit(self, name, revision, body):
        repository = self._repository(name, write=True)
        if self.hub.before_commit:
            self.hub.before_commit()
        files = dict(self._files(name, revision)[1])
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", repository.head) != repository.head:
                raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    # Fetching.

    def info(self, name, revision="main"):
        sha, files = self._files(name, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        private = self.hub.repositories[name].private
        self._json({"_id": "0", "id": name, "sha": sha, "private": private, "siblings": siblings, "tags": []})

    def tree(self, name, revision):
        entries = []
        for path, content in sorted(self._files(name, revision)[1].items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if is_lfs(path):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def resolve(self, name, revision, path):
        sha, files = self._files(name, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        headers = {"Accept-Ranges": "bytes", **({"X-Repo-Commit": sha} if self.hub.announce else {})}
        if not is_lfs(path):
            self._send(files[path], headers={**headers, "ETag": f'"{git_oid(files[path])}"'})
            return
        oid = sha256(files[path])
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": len(files[path])}
        # another host, as the Hub's stores are: huggingface_hub follows redirects within the Hub itself
        place = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{oid}/{path}"
        self._send(b"", 302, {**headers, **linked, "Location": place})

    def cdn(self, oid, path):
        content = self.hub.swaps.get(path, self.hub.objects[oid])
        first = int((self.headers.get("Range") or "bytes=0-").partition("=")[2].partition("-")[0])
        cuts, stall = self.hub.cuts.get(path, []), self.hub.stalls.get(path)
        cut = stall or (cuts.pop(0) if cuts else None)
        ranged = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
        self._send(content[first:], 206 if first else 200, {"ETag": f'"{oid}"', **ranged}, cut)
        while path in self.hub.stalls:
            self.hub.stalled.set()
            time.sleep(0.05)


NAME = "([^/]+/[^/]+)"
ROUTES = (
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST /api/models/{NAME}/preupload/(.+)", _Handler.preupload),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /lfs/([0-9a-f]{64})", _Handler.upload),
    (f"POST /api/models/{NAME}/commit/(.+)", _Handler.commit),
    (f"GET /api/models/{NAME}/revision/(.+)", _Handler.info),
    (f"GET /api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    (f"GET /api/models/{NAME}", _Handler.info),
    (f"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("(?:GET|HEAD) /cdn/([0-9a-f]{64})/(.+)", _Handler.cdn),
)
