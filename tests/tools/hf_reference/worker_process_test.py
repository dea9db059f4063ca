"""The worker as a process: joins, serves sessions over gRPC, reports its load, drains."""

import hashlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import unittest
from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from quire.v1 import inference_pb2 as api
from quire.worker.v1 import worker_pb2 as pb
from quire.worker.v1 import worker_pb2_grpc as pb_grpc

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "quire-tiny"
TIMEOUT_S = 120


class FakeRegistry(pb_grpc.RegistryServicer):
    def __init__(self):
        self.statuses = queue.Queue()

    def Join(self, statuses, context):
        for status in statuses:
            self.statuses.put(status)
            yield pb.JoinReply(coordinator_id="test")


class Session:
    """One session, its events sorted."""

    def __init__(self, stub):
        self._requests = queue.Queue()
        self.send(pb.SessionRequest(open=pb.Open(coordinator_id="test", protocol=1)))
        self._call = stub.Session(iter(self._requests.get, None), timeout=TIMEOUT_S)
        self.worker = None
        self.tokens, self.finishes, self.rejected, self.load = {}, {}, {}, None

    def send(self, request):
        self._requests.put(request)

    def submit(self, key, max_new_tokens, prompt, **parameters):
        resolved = api.ResolvedParameters(n=1, top_p=1, repetition_penalty=1, max_new_tokens=max_new_tokens,
                                          **parameters)
        self.send(pb.SessionRequest(submit=pb.Submit(key=key, attempt=1, prompt_token_ids=prompt,
                                                     parameters=resolved)))

    def until(self, condition):
        while not condition():
            event = next(self._call)
            if event.HasField("opened"):
                self.worker = event.opened.worker
            if event.HasField("load"):
                self.load = event.load
            if event.HasField("rejected"):
                self.rejected[event.rejected.key] = event.rejected
            for key, token in zip(event.step_output.key, event.step_output.token_ids):
                self.tokens.setdefault(key, []).append(token)
            for finish in event.step_output.finishes:
                self.finishes[finish.key] = finish

    def close(self):
        self._requests.put(None)
        self._call.cancel()


class WorkerProcessTest(unittest.TestCase):
    def start(self, *flags):
        self.process = subprocess.Popen([sys.executable, ROOT / "tools" / "hf_worker.py", "--model", MODEL, *flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.errors = []
        self.drainer = threading.Thread(target=lambda: self.errors.extend(self.process.stderr))
        self.drainer.start()
        line = self.process.stdout.readline()
        self.assertRegex(line, r"^hf_worker listening on 127\.0\.0\.1:\d+$")
        self.address = line.split()[-1]
        channel = grpc.insecure_channel(self.address)
        self.addCleanup(channel.close)
        return channel

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.drainer.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def open(self, channel):
        session = Session(pb_grpc.WorkerStub(channel))
        self.addCleanup(session.close)
        return session

    def serve_registry(self, port=0):
        registry = FakeRegistry()
        server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_RegistryServicer_to_server(registry, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        self.addCleanup(server.stop, None)
        return registry, server, port

    def test_life_of_a_worker(self):
        registry, server, port = self.serve_registry()
        channel = self.start("--dtype", "fp32", "--join", f"127.0.0.1:{port}", "--worker-name", "hf-fp32",
                             "--max-queue", "1", "--served-model-name", "tiny", "--drain-timeout", str(TIMEOUT_S))
        with self.subTest("it announces itself, then its load"):
            first = registry.statuses.get(timeout=TIMEOUT_S)
            self.assertEqual((first.address, first.worker.name), (self.address, "hf-fp32"))
            self.assertTrue(first.incarnation)
            self.assertFalse(registry.statuses.get(timeout=TIMEOUT_S).HasField("worker"))
        with self.subTest("it joins again when the coordinator is back"):
            server.stop(None).wait()
            registry, _, _ = self.serve_registry(port)
            self.assertEqual(registry.statuses.get(timeout=TIMEOUT_S).incarnation, first.incarnation)
        with self.subTest("health and reflection"):
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="tiny"))
            self.assertEqual(health.status, health_pb2.HealthCheckResponse.SERVING)
            self.assertIn("quire.worker.v1.Worker", ProtoReflectionDescriptorDatabase(channel).get_services())
        with self.subTest("it hands out the model's files"):
            files = {}
            for chunk in pb_grpc.WorkerStub(channel).GetModelFiles(pb.GetModelFilesRequest(model="tiny")):
                data, digest = files.get(chunk.name, (b"", chunk.sha256))
                files[chunk.name] = (data + chunk.data, digest)
            self.assertLessEqual({"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"},
                                 files.keys())
            for name, (data, digest) in files.items():
                self.assertEqual(data, (MODEL / name).read_bytes())
                self.assertEqual(digest, hashlib.sha256(data).digest())
            with self.assertRaises(grpc.RpcError) as caught:
                list(pb_grpc.WorkerStub(channel).GetModelFiles(pb.GetModelFilesRequest(model="big")))
            self.assertEqual(caught.exception.details(), "this worker serves tiny, not big")

        session = self.open(channel)
        with self.subTest("it says who it is and serves a request"):
            session.submit(1, 16, [10, 20, 30])
            session.until(lambda: 1 in session.finishes)
            info = session.worker
            self.assertEqual((info.name, info.model, info.engine), ("hf-fp32", "tiny", api.HF_REFERENCE))
            self.assertEqual((info.dtype, info.kv_cache, info.context_length), ("fp32", "dynamic", 2048))
            self.assertEqual(len(session.tokens[1]), 16)
            finish = session.finishes[1]
            self.assertEqual(finish.reason, api.Finished.LENGTH)
            self.assertEqual(finish.usage.kv.used_bytes, (3 + 15) * info.kv.bytes_per_token)
            self.assertEqual(finish.usage.kv.used_bytes, finish.usage.kv.reserved_bytes)
            self.assertGreater(finish.timings.decode_ms, 0)
        with self.subTest("a full queue, a cancel, and the load between"):
            session.submit(2, 1500, [10])
            session.until(lambda: session.tokens.get(2))
            session.submit(3, 4, [10])
            session.submit(4, 4, [10])
            session.until(lambda: 4 in session.rejected)
            self.assertEqual(session.rejected[4].status_code, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
            session.until(lambda: (session.load.running, session.load.waiting) == (1, 1)
                          and session.load.kv_used_bytes > 0)
            session.send(pb.SessionRequest(cancel=pb.Cancel(key=2)))
            session.until(lambda: 2 in session.finishes)
            self.assertEqual(session.finishes[2].status_code, grpc.StatusCode.CANCELLED.value[0])
            session.until(lambda: 3 in session.finishes)
            session.until(lambda: (session.load.running, session.load.waiting) == (0, 0))
        with self.subTest("SIGTERM finishes what runs and refuses the rest"):
            session.submit(5, 1000, [10, 20])
            session.until(lambda: session.tokens.get(5))
            self.process.send_signal(signal.SIGTERM)
            session.until(lambda: session.load.draining)
            session.submit(6, 4, [10])
            session.until(lambda: 6 in session.rejected)
            self.assertEqual(session.rejected[6].status_code, grpc.StatusCode.UNAVAILABLE.value[0])
            session.until(lambda: 5 in session.finishes)
            self.assertEqual(len(session.tokens[5]), 1000)
            self.assertEqual(self.process.wait(TIMEOUT_S), 0)
            self.drainer.join()
            self.assertTrue(any("status=CANCELLED" in line for line in self.errors))
            self.assertFalse([line for line in self.errors if "Traceback" in line])

    def test_a_static_batch(self):
        channel = self.start("--dtype", "bf16", "--batch-size", "4", "--batch-wait-ms", "60000", "--baseline-cache",
                             "static", "--max-model-len", "64")
        session = self.open(channel)
        for key in range(4):
            session.submit(key, 4 + key, [10 + key])
        session.until(lambda: len(session.finishes) == 4)
        self.assertEqual([len(session.tokens[key]) for key in range(4)], [4, 5, 6, 7])
        usage = session.finishes[3].usage.kv
        self.assertEqual(usage.reserved_bytes, 64 * session.worker.kv.bytes_per_token)
        self.assertEqual(usage.max_unused_tokens, 63)

    def test_a_wrong_setting_stops_the_start(self):
        for flags, environment, words in (
                (["--model", MODEL, "--dtype", "fp8"], {}, "fp8"),
                (["--model", MODEL, "--port", "1"], {"QUIRE_PORT": "0", "QUIRE_HOST": "0.0.0.0"}, "--insecure"),
                ([], {"QUIRE_MODEL": str(ROOT / "missing")}, "no config.json"),
                ([], {}, "--model")):
            result = subprocess.run([sys.executable, ROOT / "tools" / "hf_worker.py", *flags], capture_output=True,
                                    text=True, timeout=TIMEOUT_S, env={**os.environ, **environment})
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(words, result.stderr)


if __name__ == "__main__":
    unittest.main()
