"""Local HTTP servers that speak what reward servers speak, written from the servers' own sources.

vLLM: ``entrypoints/pooling/classify`` and ``base/protocol.py``. SGLang: ``/classify`` and ``/model_info`` of
``srt/entrypoints/http_server.py``. OpenRLHF: ``cli/serve_rm.py``. Each can be told to fall into a trap or to fail.
"""

import contextlib
import json
import math
import random
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faults:
    """Shares of requests that are answered with 503, late, not at all, or in another order."""

    def __init__(self, unavailable=0.0, slow=0.0, dropped=0.0, shuffled=False, delay=0.05, seed=0):
        self.unavailable, self.slow, self.dropped, self.shuffled = unavailable, slow, dropped, shuffled
        self.delay = delay
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.counts = Counter()

    def draw(self):
        with self.lock:
            number = self.random.random()
        for name in ("unavailable", "dropped", "slow"):
            number -= getattr(self, name)
            if number < 0:
                self.counts[name] += 1
                return name
        return None


class RewardServer(ThreadingHTTPServer):
    """A reward server on the loopback interface, running until closed.

    `score` maps a text, or a list of token ids where `tokenizer` is given, to a number. `traps` names what it does
    wrong.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, protocol, score, tokenizer=None, *, model="org/tiny", root=None, port=0, traps=(), faults=None, key=None
    ):
        self.protocol, self.score, self.tokenizer, self.model, self.key = protocol, score, tokenizer, model, key
        self.root = root or model
        self.traps, self.faults = set(traps), faults or Faults()
        self.answered = Counter()  # texts that were answered with a score
        self.paths = Counter()
        self.connections = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        """Close it as if it had been killed: open connections break."""
        self.shutdown()
        self.server_close()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def handle_error(self, request, client_address):
        pass

    # --- what each protocol answers: (status, JSON) ---

    def get(self, path):
        if self.protocol == "vllm" and path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.model, "root": self.root, "owned_by": "vllm"}]}
        if self.protocol == "sglang" and path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.model, "root": self.root, "owned_by": "sglang"}]}
        if self.protocol == "sglang" and path == ("/get_model_info" if "old" in self.traps else "/model_info"):
            return 200, {"model_path": self.model, "is_generation": "generation" in self.traps}
        return 404, {"detail": "Not Found"}

    def post(self, path, body):
        handler = {
            ("vllm", "/classify"): self._vllm,
            ("sglang", "/classify"): self._sglang,
            ("openrlhf", "/get_reward"): self._openrlhf,
            ("own", "/"): self._own,
        }.get((self.protocol, path))
        return handler(body) if handler else (404, {"detail": "Not Found"})

    def _logits(self, texts, add_special_tokens):
        ids = [
            self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"] if isinstance(text, str) else text
            for text in texts
        ]
        if "truncate" in self.traps:
            ids = [row[:4] for row in ids]
        return [self.score(row) for row in ids], [len(row) for row in ids]

    def _vllm(self, body):
        if body.get("model") not in (None, self.model):
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if "input" not in body:
            return 400, {"error": {"message": "Field required: input"}}
        special = body.get("add_special_tokens", True) or "bos" in self.traps
        logits, lengths = self._logits(body["input"], special)
        switch = "activation" if "old" in self.traps else "use_activation"
        activated = True if body.get(switch) is None or "sigmoid" in self.traps else body[switch]
        data = [
            {
                "index": index,
                "label": "LABEL_0",
                "probs": [self._damage(1 / (1 + math.exp(-logit)) if activated else logit)] * self._labels,
                "num_classes": self._labels,
            }
            for index, logit in enumerate(logits)
        ]
        if self.faults.shuffled:
            random.Random(len(data)).shuffle(data)
        usage = {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
        return 200, {"object": "list", "model": self.model, "data": data[self._short :], "usage": usage}

    def _sglang(self, body):
        texts = body.get("text", body.get("input_ids"))
        if texts is None:
            return 400, {"error": {"message": "Either text, input_ids or input_embeds should be provided."}}
        logits, lengths = self._logits(texts, True)
        answer = [
            {
                "embedding": [self._damage(1.0 if "softmax" in self.traps else logit)] * self._labels,
                "meta_info": {"prompt_tokens": length},
            }
            for logit, length in zip(logits, lengths, strict=True)
        ]
        return 200, answer[self._short :]

    def _openrlhf(self, body):
        logits, _ = self._logits(body["query"], False)
        rewards = [self._damage(logit) for logit in logits][self._short :]
        return 200, {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    def _own(self, body):
        scores = [self.score(completion) for completion in body["completions"]]
        return 200, {"rewards": [self._damage(score) for score in scores][self._short :]}

    def _damage(self, score):
        return math.nan if "nan" in self.traps else score

    @property
    def _short(self):
        return 1 if "short" in self.traps else 0

    @property
    def _labels(self):
        return 2 if "labels" in self.traps else 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self):
        with self.server.lock:
            self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer(*self.server.get(self.path))

    def do_POST(self):
        server = self.server
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.paths[self.path] += 1
        if server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self._answer(401, {"error": "unauthorized"})
        fault = server.faults.draw()
        if fault == "dropped":
            self.close_connection = True
            self.connection.close()
            return None
        if fault == "unavailable":
            return self._answer(503, {"error": "overloaded"})
        if fault == "slow":
            time.sleep(server.faults.delay)
        body = json.loads(raw)
        status, answer = server.post(self.path, body)
        if status == 200:
            texts = body.get("input") or body.get("text") or body.get("query") or body.get("completions") or []
            with server.lock:
                server.answered.update(text for text in texts if isinstance(text, str))
        self._answer(status, answer)

    def _answer(self, status, answer):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
