"""A client process to be killed: opens COUNT endless streams and says "streaming" when each has a token.

    streaming_client.py HOST:PORT COUNT
"""

import sys
import threading

import grpc
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc as pb_grpc


def read(stub: pb_grpc.InferenceStub, number: int, has_token: threading.Barrier) -> None:
    message = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[number + 1, 2, 3]), max_new_tokens=60000,
                                 stop=pb.Stop(ignore_eos=True))
    waits = True
    for event in stub.Generate(message):
        if waits and event.HasField("delta"):
            waits = False
            has_token.wait()


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    stub = pb_grpc.InferenceStub(grpc.insecure_channel(address))
    has_token = threading.Barrier(count + 1)
    for number in range(count):
        threading.Thread(target=read, args=(stub, number, has_token)).start()
    has_token.wait()
    print("streaming", flush=True)


if __name__ == "__main__":
    main()
