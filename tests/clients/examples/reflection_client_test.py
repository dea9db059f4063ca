import contextlib
import io
import json
import unittest

import reflection_client
from fake_inference import FakeInference, Script, Server
from grpc_reflection.v1alpha import reflection


class ReflectingServer(Server):
    def prepare(self, server):
        reflection.enable_server_reflection(["quire.v1.Inference", reflection.SERVICE_NAME], server)


class ReflectionClientTest(unittest.TestCase):
    def setUp(self):
        self.server = ReflectingServer(FakeInference([Script(tokens=2)]))
        self.addCleanup(self.server.stop)

    def run_client(self, *arguments):
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = reflection_client.main([self.server.address, *arguments])
        return code, out.getvalue().splitlines(), errors.getvalue().strip()

    def test_lists_services_and_methods(self):
        self.assertIn("quire.v1.Inference", self.run_client()[1])
        self.assertIn("Generate(quire.v1.GenerateRequest) returns (stream quire.v1.GenerateEvent)",
                      self.run_client("quire.v1.Inference")[1])

    def test_streams_tokens(self):
        code, lines, _ = self.run_client("quire.v1.Inference/Generate", '{"text": "hello", "max_new_tokens": 2}')
        events = [json.loads(line) for line in lines]
        self.assertEqual(code, 0)
        self.assertEqual([list(event)[0] for event in events], ["accepted", "delta", "delta", "finished"])
        self.assertEqual([event["delta"]["token_ids"] for event in events[1:3]], [[0], [1]])
        self.assertEqual(self.server.service.requests[0].max_new_tokens, 2)

    def test_unary_calls_and_the_servers_words(self):
        code, lines, _ = self.run_client("quire.v1.Inference/ListModels")
        self.assertEqual((code, json.loads(lines[0])["models"][0]["id"]), (0, "tiny"))
        code, _, words = self.run_client("quire.v1.Inference/GetModel", '{"model": "big"}')
        self.assertEqual((code, words), (1, "NOT_FOUND: no model big; there are: tiny"))

    def test_what_is_not_there(self):
        self.assertEqual(self.run_client("quire.v1.Other")[::2], (1, "the server has no quire.v1.Other"))
        self.assertEqual(self.run_client("quire.v1.Inference/Sing")[::2], (1, "the server has no quire.v1.Inference/Sing"))
        code, _, words = self.run_client("quire.v1.Inference/Generate", '{"txt": "hello"}')
        self.assertEqual(code, 1)
        self.assertIn("txt", words)


if __name__ == "__main__":
    unittest.main()
