import unittest

import grpc
from quire_client import errors


class FailedCall(grpc.RpcError):
    def __init__(self, metadata):
        self._metadata = metadata

    def code(self):
        return grpc.StatusCode.INTERNAL

    def details(self):
        return "words"

    def trailing_metadata(self):
        return self._metadata


class ErrorsTest(unittest.TestCase):
    def test_details_that_cannot_be_read_leave_code_and_words(self):
        for metadata in (None, (), (("other", "x"),), (("grpc-status-details-bin", b"\xff\xff"),)):
            error = errors.from_rpc_error(FailedCall(metadata))
            self.assertIs(error.code, grpc.StatusCode.INTERNAL)
            self.assertEqual(error.message, "words")
            self.assertIsNone(error.field)
            self.assertIsNone(error.retry_delay)
            self.assertEqual(str(error), "INTERNAL: words")


if __name__ == "__main__":
    unittest.main()
