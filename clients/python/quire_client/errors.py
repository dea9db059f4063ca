"""The one error of the library."""

from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class QuireError(Exception):
    """What the server, or the way to it, answered instead of a result.

    code: the gRPC status. message: the server's own words. field: path of the request field that was wrong, if one
    was. retry_delay: seconds after which another try makes sense, if one does.
    """

    def __init__(self, code: grpc.StatusCode, message: str, field: str | None = None,
                 retry_delay: float | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.retry_delay = retry_delay


def from_rpc_error(error: grpc.RpcError) -> QuireError:
    """Reads status and google.rpc details of a failed call, sync or asyncio."""
    code, message_text = error.code(), error.details() or ""
    field, retry_delay = None, None
    for detail in _details(error):
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            if bad_request.field_violations:
                field = bad_request.field_violations[0].field
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return QuireError(code, message_text, field, retry_delay)


def of_call(error: grpc.RpcError) -> QuireError:
    """As from_rpc_error, of a call that this side has not cancelled.

    CANCELLED is then the server's word if it has details. Without them gRPC says it of a call that came while its
    server was shutting down, which is UNAVAILABLE.
    """
    failure = from_rpc_error(error)
    if failure.code is grpc.StatusCode.CANCELLED and not _has_details(error):
        return QuireError(grpc.StatusCode.UNAVAILABLE, "the server shut down as the call came")
    return failure


def _has_details(error: grpc.RpcError) -> bool:
    return any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def _details(error: grpc.RpcError) -> Sequence[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        status = status_pb2.Status()
        try:
            status.ParseFromString(value)
        except message.DecodeError:
            return ()
        return status.details
    return ()
