"""What a stranger finds: reflection, health, models, and a stream for whoever has nothing but the .proto."""

import os
import subprocess
import sys
import unittest

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from harness import HANG_S, ROOT, Stage, main, wait_until
from quire.v1 import inference_pb2 as pb
from service import Service, request

PROTO_ONLY_CLIENT = """
import sys
import grpc
from quire.v1 import inference_pb2, inference_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
stub = inference_pb2_grpc.InferenceStub(channel)
request = inference_pb2.GenerateRequest(token_ids={"ids": [5, 6, 7]}, max_new_tokens=8, stop={"ignore_eos": True},
                                        sampling={"temperature": 0})
for event in stub.Generate(request):
    print(*event.delta.token_ids, end=" ")
"""


class InterfaceTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.stage = Stage.of_class(cls)
        cls.coordinator = cls.stage.coordinator()
        cls.worker = cls.stage.fake_worker(cls.stage.model("ghost", context=512), "--join", cls.coordinator.address,
                                           "--worker-name", "w0")
        cls.service = Service(cls.stage, cls.coordinator.address)
        cls.service.wait_ready()
        cls.expected = cls.service.run(request(new=8)).tokens[0]

    def health(self, address, name):
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=HANG_S).status

    def test_reflection_lists_the_services(self):
        of_coordinator = set(ProtoReflectionDescriptorDatabase(self.service.channel).get_services())
        self.assertLessEqual({"quire.v1.Inference", "quire.worker.v1.Registry", "grpc.health.v1.Health",
                              "grpc.reflection.v1alpha.ServerReflection"}, of_coordinator)
        with grpc.insecure_channel(self.worker.address) as channel:
            of_worker = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        self.assertLessEqual({"quire.worker.v1.Worker", "grpc.health.v1.Health"}, of_worker)

    def test_a_client_made_from_reflection_alone_streams_tokens(self):
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.service.channel))
        method = pool.FindServiceByName("quire.v1.Inference").FindMethodByName("Generate")
        request_class = message_factory.GetMessageClass(method.input_type)
        event_class = message_factory.GetMessageClass(method.output_type)
        call = self.service.channel.unary_stream(f"/{method.containing_service.full_name}/{method.name}",
                                                 request_serializer=request_class.SerializeToString,
                                                 response_deserializer=event_class.FromString)
        message = request_class(max_new_tokens=8)
        message.token_ids.ids.extend([5, 6, 7])
        message.stop.ignore_eos = True
        message.sampling.temperature = 0
        tokens = [token for event in call(message, timeout=HANG_S) for token in event.delta.token_ids]
        self.assertEqual(tokens, self.expected)

    def test_a_client_made_from_the_proto_alone_streams_tokens(self):
        stubs = self.stage.folder / "stubs"
        subprocess.run([sys.executable, ROOT / "tools" / "generate_python_stubs.py", stubs], check=True,
                       timeout=HANG_S)
        client = subprocess.run([sys.executable, "-c", PROTO_ONLY_CLIENT, self.coordinator.address], check=True,
                                env={"PYTHONPATH": os.pathsep.join([str(stubs), os.environ.get("PYTHONPATH", "")])},
                                capture_output=True, text=True, timeout=HANG_S)
        self.assertEqual([int(token) for token in client.stdout.split()], self.expected)

    def test_health_knows_the_service_and_each_model(self):
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        self.assertEqual(self.health(self.coordinator.address, ""), serving)
        self.assertEqual(self.health(self.worker.address, ""), serving)
        self.assertEqual(self.health(self.worker.address, "ghost"), serving)
        wait_until(lambda: self.model_health() == serving, "the model SERVING")
        with self.assertRaises(grpc.RpcError) as unknown:
            self.health(self.coordinator.address, "no such model")
        self.assertEqual(unknown.exception.code(), grpc.StatusCode.NOT_FOUND)

        stage = Stage.of_test(self)
        other = stage.fake_worker(stage.model("passing"), "--join", self.coordinator.address)
        wait_until(lambda: self.model_health("passing") == serving, "the second model SERVING")
        other.kill()
        wait_until(lambda: self.model_health("passing") == not_serving, "the second model NOT_SERVING")

    def model_health(self, name="ghost"):
        try:
            return self.health(self.coordinator.address, name)
        except grpc.RpcError:
            return None

    def test_models_and_server_info(self):
        model = self.service.call("GetModel", pb.GetModelRequest(model="ghost"))
        self.assertEqual((model.id, model.context_length, model.vocabulary_size), ("ghost", 512, 8192))
        self.assertEqual(list(model.engines), [pb.PAGED])
        self.assertFalse(model.has_tokenizer or model.has_chat_template)
        self.assertEqual(self.service.call("GetModel", pb.GetModelRequest()), model)  # the only one
        self.assertIn(model, self.service.call("ListModels", pb.ListModelsRequest()).models)
        info = self.service.call("GetServerInfo", pb.GetServerInfoRequest())
        self.assertRegex(info.version, r"^\d+\.\d+\.\d+")
        self.assertGreater(info.uptime_s, 0)

    def test_load_names_the_worker_and_what_it_has(self):
        (worker,) = [w for w in self.service.load() if w.name == "w0"]
        self.assertEqual((worker.model, worker.engine, worker.state), ("ghost", pb.PAGED, pb.WorkerLoad.READY))
        self.assertEqual(worker.address, self.worker.address)
        self.assertGreater(worker.blocks_total, 0)

    def test_accepted_says_what_every_value_became(self):
        accepted = self.service.run(request(new=8, request_id="echo", cache_salt="s", priority=3)).accepted
        self.assertEqual((accepted.request_id, accepted.prompt_token_count, accepted.worker), ("echo", 3, "w0"))
        parameters = accepted.parameters
        self.assertEqual((parameters.max_new_tokens, parameters.n, parameters.priority, parameters.temperature),
                         (8, 1, 3, 0))
        again = self.service.run(request(new=8, request_id="another", sampling=pb.Sampling())).accepted.parameters
        self.assertEqual((again.temperature, again.top_k, again.top_p, again.min_p), (1, 0, 1, 0))
        self.assertNotEqual(again.seed, parameters.seed)


if __name__ == "__main__":
    main()
