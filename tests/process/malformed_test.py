"""Malformed requests by the thousand leave the service as it was."""

import collections
import math
import os
import random
import unittest

import grpc
from google.protobuf.descriptor import FieldDescriptor
from grpc import StatusCode
from harness import HANG_S, TINY, Stage, figure, main, scaled
from quire.v1 import inference_pb2 as pb
from service import Service, request

NUM_REQUESTS = scaled(1000)
SEED = int(os.environ.get("QUIRE_PROCESS_SEED", "20261125"))

INTEGERS = [0, 1, -1, 2, 7, 8, 9, 20, 21, 101, -101, 511, 512, 8191, 8192, 2**31 - 1, -2**31, 2**32 - 1, 2**63,
            2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, 2.0, 2.5, -1.0, 1e-30, 1e38, -1e38, math.inf, -math.inf, math.nan]
STRINGS = ["", "a", "\0", "\x7f", "\n", "\u20ac" * 50, "x" * 129, "{", "[1", "null", "{% for %}", "quire-tiny", "<|s|>"]


def nasty_value(random_, field):
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random_.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return random_.choice(STRINGS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random_.random() < 0.5
    bits = 64 if kind in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_INT64) else 32
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_ENUM)
    low, high = (-2**(bits - 1), 2**(bits - 1) - 1) if signed else (0, 2**bits - 1)
    return random_.choice([value for value in INTEGERS if low <= value <= high])


def mutate(random_, message):
    """Sets a random field, somewhere in the message, to a value that may be out of range."""
    field = random_.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for _ in range(random_.choice([1, 3, 1025])):
            value[random_.choice([0, 1, 8191, 8192, 2**32 - 1, random_.randrange(8192)])] = random_.choice(FLOATS)
    elif field.message_type is not None:
        mutate(random_, value.add() if field.is_repeated else value)
    elif field.is_repeated:
        value.extend(nasty_value(random_, field) for _ in range(random_.choice([1, 2, 17, 65, 600])))
    else:
        setattr(message, field.name, nasty_value(random_, field))


def malformed(random_):
    """The bytes of a request: fields at random, bytes flipped, cut or added, or nothing but random bytes."""
    kind = random_.choice(["fields", "fields", "fields", "flip", "cut", "bytes"])
    if kind == "bytes":
        return random_.randbytes(random_.choice([0, 1, 2, 10, 100, 5000]))
    message = random_.choice([request(new=4), request("Hello", new=4), pb.GenerateRequest()])
    for _ in range(random_.randrange(1, 5)):
        mutate(random_, message)
    data = bytearray(message.SerializeToString())
    if kind == "flip" and data:
        for _ in range(random_.randrange(1, 6)):
            data[random_.randrange(len(data))] = random_.randrange(256)
    elif kind == "cut":
        cut = random_.randrange(len(data) + 1)
        data[cut:] = random_.randbytes(random_.choice([0, 0, 3, 30]))
    return bytes(data)


class MalformedTest(unittest.TestCase):

    def test_random_requests_leave_the_service_healthy(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        worker = stage.worker(TINY, "--join", coordinator.address, "--max-model-len", 512)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        message = request("Once upon a time", new=32)
        expected = service.run(message).tokens[0]

        generate = service.channel.unary_stream("/quire.v1.Inference/Generate")
        random_ = random.Random(SEED)
        codes = collections.Counter()
        for number in range(NUM_REQUESTS):
            data = malformed(random_)
            code = self.outcome(generate(data, timeout=HANG_S))
            codes[code.name] += 1
            if code is StatusCode.UNAVAILABLE:  # tokens of numerics that no worker has now
                self.assertNotEqual(pb.GenerateRequest.FromString(data).resume.numerics_id, "")
                continue
            self.assertIn(code, (StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND,
                                 StatusCode.FAILED_PRECONDITION, StatusCode.DEADLINE_EXCEEDED,
                                 StatusCode.ALREADY_EXISTS), f"request {number} of seed {SEED}: {data[:200]!r}")
        for code, count in sorted(codes.items()):
            figure(f"malformed requests answered {code}", count, "requests")
        self.assertGreater(codes["INVALID_ARGUMENT"], NUM_REQUESTS / 4)

        service.wait_idle()
        self.assertTrue(coordinator.is_running and worker.is_running)
        self.assertEqual(service.run(message).tokens[0], expected)
        service.wait_idle()

    def test_json_of_any_depth_leaves_the_service_healthy(self):
        """A parser or a writer that calls itself a level would need more stack than there is."""
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        stage.worker(TINY, "--join", coordinator.address, "--max-model-len", 512)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        for unit, end in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
            deep = (1 << 20) // (len(unit) + len(end)) - 10
            for closes in (True, False):
                text = unit * deep + "1" + end * deep * closes
                for chat, field in (
                    (pb.Chat(messages=[pb.ChatMessage(role="user", tool_calls=text)]), "chat.messages[0].tool_calls"),
                    (pb.Chat(messages=[pb.ChatMessage(role="user")], tools=text), "chat.tools"),
                    (pb.Chat(messages=[pb.ChatMessage(role="user")], template_kwargs=text), "chat.template_kwargs"),
                ):
                    error = service.fail(request(None, chat=chat))
                    self.assertEqual((error.code, error.field), (StatusCode.INVALID_ARGUMENT, field))
        self.assertTrue(coordinator.is_running)
        service.run(request("Once upon a time"))

    def outcome(self, call):
        """How a call ends. One that the server takes is left after its first events."""
        try:
            for number, _ in enumerate(call):
                if number == 2:
                    call.cancel()
                    return StatusCode.OK
        except grpc.RpcError as error:
            return error.code()
        return StatusCode.OK


if __name__ == "__main__":
    main()
