#!/usr/bin/env python3
"""Calls a gRPC server that it knows nothing of: services, methods and messages come from server reflection.

    reflection_client.py HOST:PORT                          the services
    reflection_client.py HOST:PORT SERVICE                  the methods of one, with their types
    reflection_client.py HOST:PORT SERVICE/METHOD [JSON]    calls it; each answer is printed as a line of JSON
"""

import sys

import grpc
from google.protobuf import descriptor, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def describe(method: descriptor.MethodDescriptor) -> str:
    sent = ("stream " if method.client_streaming else "") + method.input_type.full_name
    answered = ("stream " if method.server_streaming else "") + method.output_type.full_name
    return f"{method.name}({sent}) returns ({answered})"


def call(channel: grpc.Channel, method: descriptor.MethodDescriptor, request_json: str):
    """The answers, one for a method that does not stream. ParseError: the JSON does not fit the request."""
    if method.client_streaming:
        raise ValueError(f"{method.full_name} takes a stream of requests; this example sends one")
    request_class = message_factory.GetMessageClass(method.input_type)
    answer_class = message_factory.GetMessageClass(method.output_type)
    invoke = channel.unary_stream if method.server_streaming else channel.unary_unary
    path = f"/{method.containing_service.full_name}/{method.name}"
    answers = invoke(path, request_serializer=request_class.SerializeToString,
                     response_deserializer=answer_class.FromString)(json_format.Parse(request_json, request_class()))
    return answers if method.server_streaming else [answers]


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    target, what, request_json = (arguments + ["", "{}"][len(arguments) - 1:])[:3]
    service_name, _, method_name = what.partition("/")
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        try:
            if not service_name:
                print("\n".join(database.get_services()))
                return 0
            service = descriptor_pool.DescriptorPool(database).FindServiceByName(service_name)
            if not method_name:
                print("\n".join(describe(method) for method in service.methods))
                return 0
            for answer in call(channel, service.methods_by_name[method_name], request_json):
                print(json_format.MessageToJson(answer, indent=None, preserving_proto_field_name=True), flush=True)
            return 0
        except KeyError:
            print(f"the server has no {what}", file=sys.stderr)
        except (json_format.ParseError, ValueError) as error:
            print(error, file=sys.stderr)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
