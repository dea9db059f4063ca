"""What the clients say to TLS files that they cannot use, before any call. tests/process has those that they can."""

import pathlib
import tempfile
import unittest

import grpc
from quire_client import AsyncClient, Client


class TlsTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = self.folder / "text.pem"
        self.text.write_text("no PEM at all\n")

    def assert_refused(self, error, *words, **arguments):
        for kind in (Client, AsyncClient):
            with self.assertRaises(error) as caught:
                kind("127.0.0.1:1", **arguments)
            for word in words:
                self.assertIn(str(word), str(caught.exception))

    def test_all_three_or_none(self):
        self.assert_refused(ValueError, "tls_cert is missing", tls_key=self.text, tls_ca=self.text)
        self.assert_refused(ValueError, "tls_key is missing", tls_cert=self.text, tls_ca=self.text)
        self.assert_refused(ValueError, "tls_ca is missing", tls_cert=self.text, tls_key=self.text)

    def test_not_with_other_credentials(self):
        files = {"tls_cert": self.text, "tls_key": self.text, "tls_ca": self.text}
        self.assert_refused(ValueError, "credentials", credentials=grpc.ssl_channel_credentials(), **files)

    def test_files_that_cannot_be_used(self):
        absent = self.folder / "absent.pem"
        self.assert_refused(OSError, absent, tls_cert=absent, tls_key=self.text, tls_ca=self.text)
        self.assert_refused(OSError, absent, tls_cert=self.text, tls_key=self.text, tls_ca=absent)
        self.assert_refused(ValueError, "tls_cert", self.text, tls_cert=self.text, tls_key=self.text, tls_ca=self.text)


if __name__ == "__main__":
    unittest.main()
