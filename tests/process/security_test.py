"""Who may connect: mutual TLS on every hop, the join token, tenants that share no cache, templates that are not trusted."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import unittest

import grpc
from certificates import Authority, Identity
from grpc import StatusCode
from harness import BIN, HANG_S, TINY, Stage, clean_environment, main, wait_until
from quire.v1 import inference_pb2 as pb
from quire.worker.v1 import worker_pb2
from quire_client import Client, QuireError
from service import ENDLESS, Service, request

TOKEN = "a-token-of-this-test-alone"


def run(program, *flags):
    return subprocess.run([BIN / program, *map(str, flags)], env=clean_environment(), capture_output=True, text=True,
                          timeout=HANG_S)


def join(channel, metadata=(), **fields):
    """Calls Registry.Join as a worker does. The first reply; grpc.RpcError if the call is refused."""
    fields = {"address": "127.0.0.1:1", "incarnation": "i", "worker": {"name": "stranger"}} | fields
    call = channel.stream_stream("/quire.worker.v1.Registry/Join",
                                 request_serializer=worker_pb2.WorkerStatus.SerializeToString,
                                 response_deserializer=worker_pb2.JoinReply.FromString)
    return next(call(iter([worker_pb2.WorkerStatus(**fields)]), metadata=metadata, timeout=HANG_S))


def serial_of(address: str, identity: Identity) -> str:
    """The serial number of the certificate that a server shows to a new connection."""
    context = ssl.create_default_context(cafile=identity.ca)
    context.load_cert_chain(identity.cert, identity.key)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secured:
            return secured.getpeercert()["serialNumber"]


class SecurityTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)

    def token_file(self, token=TOKEN, name="token"):
        path = self.stage.folder / name
        path.write_text(token + "\n")
        return path

    def start_worker(self, *flags):
        return self.stage.fake_worker(self.stage.model("ghost"), *flags)

    def assert_refused(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        lines = [line for line in result.stderr.splitlines() if all(str(word) in line for word in words)]
        self.assertEqual(len(lines), 1, f"{words}: {result.stderr}")


class AnnouncementTest(SecurityTest):
    """Whoever reaches a coordinator can announce anything. That harms no worker, and forges no line of the log."""

    def setUp(self):
        super().setUp()
        self.coordinator = self.stage.coordinator()
        self.worker = self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join",
                                             self.coordinator.address, "--num-gpu-blocks-override", 8192, step_us=2000)
        self.service = Service(self.stage, self.coordinator.address)
        self.service.wait_ready()
        self.channel = self.stage.enter_context(grpc.insecure_channel(self.coordinator.address))

    def test_announcements_end_no_stream_and_eject_nobody(self):
        name = self.worker.address
        stream = self.service.start(request(new=500)).wait_for_tokens(5)
        for number in range(5):
            # Its name at an address where nobody is, and its address with another name and with its own.
            for fields in ({"worker": {"name": name}}, {"address": self.worker.address},
                           {"address": self.worker.address, "worker": {"name": name}}):
                self.assertIn("answers at " + self.worker.address,
                              join(self.channel, incarnation=f"evil {number}", **fields).refused)
            stream.wait_for_tokens(30 * (number + 1))
        self.assertEqual(len(stream.ok().notices), 0)
        self.assertEqual([(load.name, load.state) for load in self.service.load()], [(name, pb.WorkerLoad.READY)])
        # It goes on announcing itself, and is told of no refusal.
        self.assertNotIn("refuses", self.worker.log())

    def test_what_cannot_be_a_worker_is_refused_by_name_of_the_field(self):
        forged = "x\n2026-01-01T00:00:00.000000 W quire-coordinator forged"
        for fields, what in (({"worker": {"name": forged}}, "worker.name"),
                             ({"worker": {"name": (1 << 20) * "x"}}, "worker.name"),
                             ({"worker": {"name": "n", "model": forged}}, "worker.model"),
                             ({"incarnation": forged}, "incarnation"), ({"incarnation": ""}, "incarnation"),
                             ({"address": forged + ":1"}, "address"), ({"address": (1 << 20) * "x" + ":1"}, "address"),
                             ({"address": "127.0.0.1:0"}, "address")):
            with self.subTest(what, fields=str(fields)[:80]):
                with self.assertRaises(grpc.RpcError) as caught:
                    join(self.channel, **fields)
                self.assertEqual(caught.exception.code(), StatusCode.INVALID_ARGUMENT)
                self.assertIn("WorkerStatus." + what, caught.exception.details())
        self.assertEqual(len(self.service.load()), 1)
        self.assertNotIn("forged", self.coordinator.log())


class TlsTest(SecurityTest):

    def setUp(self):
        super().setUp()
        self.authority = Authority(self.stage.folder, "ours")
        self.client = self.authority.issue("client")

    def assert_unreachable(self, address, credentials):
        """No call gets through with these credentials; None: none at all."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with (grpc.secure_channel(address, credentials, options) if credentials else
              grpc.insecure_channel(address, options)) as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            with self.assertRaises(grpc.RpcError) as caught:
                call(b"", timeout=HANG_S)
            self.assertEqual(caught.exception.code(), StatusCode.UNAVAILABLE, caught.exception)

    def test_a_stream_over_both_hops(self):
        coordinator = self.stage.coordinator(*self.authority.issue("coordinator").flags)
        worker = self.start_worker("--join", coordinator.address, *self.authority.issue("worker").flags)
        service = Service(self.stage, coordinator.address, credentials=self.client.credentials())
        service.wait_ready()
        expected = service.run(request(new=40)).tokens[0]
        self.assertEqual(len(expected), 40)
        with self.subTest("Python"):
            with Client(coordinator.address, **self.client.arguments) as client:
                self.assertEqual([load.name for load in client.load()], [worker.address])
        with self.subTest("command line"):
            result = run("quire", "generate", "--target", coordinator.address, "--token-ids", "5,6,7",
                         "--max-new-tokens", 40, "--temperature", 0, "--ignore-eos", "--json", *self.client.flags)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(json.loads(result.stdout)["token_ids"], expected)
        # Nobody else gets through to either.
        stranger = Authority(self.stage.folder, "theirs").issue("client")
        stranger.ca = self.authority.ca
        anonymous = grpc.ssl_channel_credentials(self.authority.ca.read_bytes())
        for address in (coordinator.address, worker.address):
            for what, credentials in (("no TLS", None), ("no certificate", anonymous),
                                      ("another authority's", stranger.credentials())):
                with self.subTest(what, address=address):
                    self.assert_unreachable(address, credentials)
        result = run("quire", "load", "--target", coordinator.address, *stranger.flags)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("UNAVAILABLE", result.stderr)
        with Client(coordinator.address, max_attempts=1, **stranger.arguments) as client:
            with self.assertRaises(QuireError) as caught:
                client.load()
            self.assertEqual(caught.exception.code, StatusCode.UNAVAILABLE)
        service.run(request())

    def test_a_drain_takes_a_certificate(self):
        coordinator = self.stage.coordinator("--admin-address", "127.0.0.1:0",
                                             *self.authority.issue("coordinator").flags)
        admin = coordinator.admin_address
        stranger = Authority(self.stage.folder, "theirs").issue("client")
        stranger.ca = self.authority.ca
        for what, flags in (("no TLS", []), ("another authority's", stranger.flags)):
            with self.subTest(what):
                result = run("quire", "drain", "--target", admin, *flags)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertIn("UNAVAILABLE", result.stderr)
        self.assertTrue(coordinator.is_running)
        result = run("quire", "drain", "--target", admin, *self.client.flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        coordinator.expect_exit(0)

    def test_a_worker_of_a_static_list(self):
        worker = self.start_worker(*self.authority.issue("worker").flags)
        coordinator = self.stage.coordinator("--worker", worker.address, *self.authority.issue("coordinator").flags)
        service = Service(self.stage, coordinator.address, credentials=self.client.credentials())
        service.wait_ready()
        service.run(request())

    def test_a_certificate_that_names_another_host(self):
        """Neither side speaks to a server whose certificate does not name the address that it dialled."""
        coordinator = self.stage.coordinator(*self.authority.issue("coordinator").flags)
        self.start_worker("--join", coordinator.address, *self.authority.issue("worker", "DNS:elsewhere").flags)
        service = Service(self.stage, coordinator.address, credentials=self.client.credentials())
        (load,) = wait_until(lambda: [load for load in service.load() if "failed to connect" in load.why],
                             "the worker out of reach")
        self.assertNotEqual(load.state, pb.WorkerLoad.READY)
        elsewhere = self.stage.coordinator(*self.authority.issue("moved", "IP:127.0.0.2").flags)
        with Client(elsewhere.address, max_attempts=1, **self.client.arguments) as client:
            with self.assertRaises(QuireError) as caught:
                client.load()
            self.assertEqual(caught.exception.code, StatusCode.UNAVAILABLE)
        result = run("quire", "load", "--target", elsewhere.address, *self.client.flags)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("UNAVAILABLE", result.stderr)

    def test_a_worker_of_another_authority(self):
        coordinator = self.stage.coordinator(*self.authority.issue("coordinator").flags)
        stranger = self.start_worker("--join", coordinator.address,
                                     *Authority(self.stage.folder, "theirs").issue("worker").flags)
        wait_until(lambda: "cannot join coordinator" in stranger.log(), "the worker's warning")
        service = Service(self.stage, coordinator.address, credentials=self.client.credentials())
        self.assertEqual(service.load(), [])

    def test_replaced_certificates_hold_for_new_connections(self):
        """The certificate of coordinator and worker is replaced, then the authority, without a restart or a lost stream."""
        ours = self.stage.folder / "current"
        identity = Identity(ours / "cert.pem", ours / "key.pem", ours / "ca.pem")
        number = 0

        def install(issued, ca):
            # One rename replaces all three files: nobody reads a key with another's certificate.
            nonlocal number
            number += 1
            folder = self.stage.folder / f"version-{number}"
            folder.mkdir()
            for file, content in ((identity.cert, issued.cert), (identity.key, issued.key)):
                shutil.copy(content, folder / file.name)
            (folder / identity.ca.name).write_bytes(ca)
            link = self.stage.folder / "next"
            link.symlink_to(folder)
            os.rename(link, ours)

        install(self.authority.issue("first"), self.authority.ca.read_bytes())
        coordinator = self.stage.coordinator(*identity.flags)
        worker = self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join", coordinator.address,
                                        "--num-gpu-blocks-override", 8192, *identity.flags, step_us=2000)
        service = Service(self.stage, coordinator.address, credentials=self.client.credentials())
        service.wait_ready()
        stream = service.start(request(new=ENDLESS)).wait_for_tokens()
        first = serial_of(coordinator.address, self.client)
        self.assertEqual(serial_of(worker.address, self.client), first)

        # Another authority is trusted besides, and has issued the new certificates.
        other = Authority(self.stage.folder, "other")
        both = self.stage.folder / "both.pem"
        both.write_bytes(self.authority.ca.read_bytes() + other.ca.read_bytes())
        trusting = Identity(self.client.cert, self.client.key, both)
        install(other.issue("second"), both.read_bytes())
        for process in (coordinator, worker):
            wait_until(lambda process=process: serial_of(process.address, trusting) != first, "the new certificate")

        # The old one is trusted no longer. New connections need the new one, as those of the servers have it.
        install(other.issue("third"), other.ca.read_bytes())
        renewed = other.issue("client")
        refused = trusting.credentials()

        def is_refused():
            try:
                self.assert_unreachable(coordinator.address, refused)
                return True
            except AssertionError:
                return False

        wait_until(is_refused, "the old authority's client refused")
        later = Service(self.stage, coordinator.address, credentials=renewed.credentials())
        later.wait_ready()
        later.run(request())
        # What was open goes on.
        so_far = len(stream.tokens[0])
        stream.wait_for_tokens(so_far + 10).cancel()
        stream.end()
        # The worker's next session and Join use the new certificates, too.
        coordinator.kill()
        again = self.stage.again(coordinator)
        service = Service(self.stage, again.address, credentials=renewed.credentials())
        service.wait_ready()
        service.run(request())

    def test_files_that_cannot_be_used(self):
        identity = self.authority.issue("server")
        other = self.authority.issue("other")
        expired = self.authority.issue("expired", "IP:127.0.0.1", "-days", "-1")
        broken = self.stage.folder / "broken.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nnone\n")
        absent = self.stage.folder / "absent.pem"
        cases = [
            (["--tls-cert", identity.cert, "--tls-key", identity.key], ["--tls-ca is missing"]),
            (["--tls-ca", identity.ca], ["--tls-cert is missing"]),
            (["--tls-ca", identity.ca, "--tls-cert", identity.cert], ["--tls-key is missing"]),
            (Identity(absent, identity.key, identity.ca).flags, ["--tls-cert", absent, "No such file"]),
            (Identity(identity.cert, absent, identity.ca).flags, ["--tls-key", absent, "No such file"]),
            (Identity(identity.cert, identity.key, absent).flags, ["--tls-ca", absent, "No such file"]),
            (Identity(broken, identity.key, identity.ca).flags, ["--tls-cert", broken, "no certificate"]),
            (Identity(identity.cert, broken, identity.ca).flags, ["--tls-key", broken, "no private key"]),
            (Identity(identity.cert, identity.key, broken).flags, ["--tls-ca", broken, "no certificate"]),
            (Identity(identity.cert, other.key, identity.ca).flags, ["--tls-key", other.key, identity.cert]),
            (expired.flags, ["--tls-cert", expired.cert, "expired"]),
        ]
        for program, flags in (("quire-coordinator", ["--port", 0]),
                               ("quire-worker", ["--port", 0, "--model", TINY]),
                               ("quire", ["load", "--target", "127.0.0.1:1"])):
            for files, words in cases:
                with self.subTest(program, files=files):
                    self.assert_refused(run(program, *flags, *files), *words)

    def test_listening_beyond_loopback_needs_tls(self):
        host = ["--host", "0.0.0.0", "--port", 0]
        self.assert_refused(run("quire-coordinator", *host), "--tls-cert", "--insecure")
        identity = self.authority.issue("server")
        self.stage.coordinator("--host", "0.0.0.0", *identity.flags)
        # /metrics has no TLS.
        self.assert_refused(run("quire-coordinator", *host, "--metrics-port", 9, *identity.flags), "--metrics-port")


class JoinTokenTest(SecurityTest):

    def test_workers_with_the_token_alone_join(self):
        coordinator = self.stage.coordinator("--join-token-file", self.token_file())
        service = Service(self.stage, coordinator.address)
        model = self.stage.model("ghost")
        flags = ["--join", coordinator.address]
        none = self.stage.fake_worker(model, *flags)
        wrong = self.stage.fake_worker(model, *flags, "--join-token-file",
                                       self.token_file("the-token-of-someone-else", "other"))
        for worker, words in ((none, "sent no token"), (wrong, "another token")):
            wait_until(lambda worker=worker: "PERMISSION_DENIED" in worker.log(), "the worker's warning")
            self.assertRegex(worker.log(), f" W .*PERMISSION_DENIED.*--join-token-file.*{words}")
        coordinator.wait_logged("--join-token-file")
        right = self.stage.fake_worker(model, *flags, "--join-token-file", self.token_file(name="same"))
        (load,) = service.wait_ready()
        self.assertEqual(load.name, right.address)
        service.run(request())
        # They have gone on trying, and say it once.
        for worker in (none, wrong):
            self.assertEqual(worker.log().count("PERMISSION_DENIED"), 1, worker.log())
        for process in (coordinator, right, wrong):
            self.assertNotIn(TOKEN, process.log())

    def test_what_the_call_says(self):
        coordinator = self.stage.coordinator("--join-token-file", self.token_file())
        with grpc.insecure_channel(coordinator.address) as channel:
            for metadata in ((), (("quire-join-token", ""),), (("quire-join-token", TOKEN + "x"),),
                             (("quire-join-token", TOKEN[:-1]),)):
                with self.subTest(metadata=metadata), self.assertRaises(grpc.RpcError) as caught:
                    join(channel, metadata)
                self.assertEqual(caught.exception.code(), StatusCode.PERMISSION_DENIED)
                self.assertIn("--join-token-file", caught.exception.details())
            self.assertTrue(join(channel, (("quire-join-token", TOKEN),)).coordinator_id)

    def test_a_token_with_a_coordinator_that_asks_for_none(self):
        coordinator = self.stage.coordinator()
        self.start_worker("--join", coordinator.address, "--join-token-file", self.token_file())
        Service(self.stage, coordinator.address).wait_ready()

    def test_files_that_cannot_be_used(self):
        for token, words in (("short", ["holds 5 bytes"]), ("x" * 1025, ["holds 1025 bytes"]),
                             ("sixteen characters", ["printable"])):
            path = self.token_file(token, "bad")
            with self.subTest(token=token):
                self.assert_refused(run("quire-coordinator", "--port", 0, "--join-token-file", path),
                                    "--join-token-file", path, *words)
        absent = self.stage.folder / "absent"
        self.assert_refused(run("quire-worker", "--port", 0, "--model", TINY, "--join-token-file", absent),
                            "--join-token-file", absent, "No such file")
        # It would travel in the clear.
        self.assert_refused(run("quire-worker", "--port", 0, "--model", TINY, "--join", "192.0.2.1:1",
                                "--join-token-file", self.token_file()), "--join 192.0.2.1:1", "--insecure")


class TenantTest(SecurityTest):

    def cached(self, service, tenant, salt=""):
        """How many tokens of a prompt that all ask came from the cache."""
        prompt = [3 + i % 50 for i in range(256)]
        stream = service.run(request(prompt, new=2, tenant=tenant, cache_salt=salt))
        return stream.finished[0].usage.cached_tokens

    def start(self, *flags):
        coordinator = self.stage.coordinator(*flags)
        self.start_worker("--join", coordinator.address)
        service = Service(self.stage, coordinator.address)
        service.wait_ready()
        self.assertEqual(self.cached(service, "a"), 0)
        self.assertGreater(self.cached(service, "a"), 0)
        return service

    def test_tenants_share_blocks_by_default(self):
        service = self.start()
        self.assertGreater(self.cached(service, "b"), 0)
        self.assertEqual(self.cached(service, "a", salt="mine"), 0)

    def test_separate_tenants_share_none(self):
        service = self.start("--separate-tenants")
        for tenant, salt in (("b", ""), ("", ""), ("", "a"), ("a", "mine"), ("b", "mine"), ("am", "ine")):
            with self.subTest(tenant=tenant, salt=salt):
                self.assertEqual(self.cached(service, tenant, salt), 0)
                self.assertGreater(self.cached(service, tenant, salt), 0)


class HostileModelTest(SecurityTest):

    def test_a_template_without_end(self):
        """It ends the requests that use it, and nothing else."""
        model = self.stage.model("hostile", tokenizer=True)
        template = model / "chat_template.jinja"
        template.unlink()
        template.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a * b %}"
                            "{% endfor %}{% endfor %}")
        coordinator = self.stage.coordinator()
        self.stage.fake_worker(model, "--join", coordinator.address)
        service = Service(self.stage, coordinator.address)
        service.wait_ready()
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
        error = service.fail(request(None, chat=chat))
        self.assertEqual((error.code, error.field), (StatusCode.INVALID_ARGUMENT, "chat"), error)
        self.assertIn("steps", error.message)
        service.run(request("hello"))

    def test_a_template_that_reads_files(self):
        model = self.stage.model("curious", tokenizer=True)
        (model / "chat_template.jinja").unlink()
        (model / "chat_template.jinja").write_text("{% include 'config.json' %}{% include '/etc/hostname' %}")
        coordinator = self.stage.coordinator()
        self.stage.fake_worker(model, "--join", coordinator.address)
        service = Service(self.stage, coordinator.address)
        service.wait_ready()
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
        error = service.fail(request(None, chat=chat))
        self.assertIn(error.code, (StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION), error)

    def test_a_folder_of_pickles_and_code(self):
        """Weights are read from safetensors alone, and no code of the folder is looked at."""
        model = self.stage.folder / "pickled"
        model.mkdir()
        config = json.loads((TINY / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
        (model / "config.json").write_text(json.dumps(config))
        mark = self.stage.folder / "executed"
        (model / "modeling.py").write_text(f"open({str(mark)!r}, 'w')\n")
        # What pickle.load would run.
        (model / "pytorch_model.bin").write_bytes(f"cbuiltins\nopen\n(S{str(mark)!r}\nS'w'\ntR.".encode())
        self.assert_refused(run("quire-worker", "--port", 0, "--model", model, "--device", "cpu"), "safetensors")
        baseline = run("quire-worker", "--port", 0, "--model", model, "--device", "cpu", "--engine", "baseline")
        self.assertEqual(baseline.returncode, 2, baseline.stderr)
        self.assertFalse(mark.exists())


if __name__ == "__main__":
    main()
