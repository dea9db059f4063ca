"""Both clients against a fake coordinator: each test body runs on Client and on AsyncClient."""

import asyncio
import threading
import unittest
from unittest import mock

import grpc
from fake_inference import Failure, FakeInference, Script, Server
from quire.v1 import inference_pb2_grpc as pb_grpc
from quire_client import Accepted, AsyncClient, Client, Delta, FinishReason, Finished, Notice, QuireError

GONE = Failure(grpc.StatusCode.UNAVAILABLE, "the worker is gone")


class SyncDriver:
    """Calls a Client."""

    def __init__(self, targets, **options):
        self._client = Client(targets, **options)

    def collect(self, prompt, until=None, **options):
        """Events up to the first for which `until` holds, and the error that ended the stream."""
        events = []
        try:
            for event in self._client.generate(prompt, **options):
                events.append(event)
                if until is not None and until(event):
                    break
        except QuireError as error:
            return events, error
        return events, None

    def call(self, method, *args, **options):
        return getattr(self._client, method)(*args, **options)

    def close_under_load(self, streams):
        """What ends calls, if the client is closed when `streams` streams and as many unary callers have begun."""
        begun = threading.Semaphore(0)
        errors = []

        def keep(work):
            try:
                for _ in work:
                    begun.release()
            except BaseException as error:
                errors.append(error)

        def ask():
            while True:
                yield self._client.load()

        threads = [threading.Thread(target=keep, args=[work]) for _ in range(streams)
                   for work in (self._client.generate("hello"), ask())]
        for thread in threads:
            thread.start()
        for _ in range(10 * len(threads)):
            begun.acquire()
        self._client.close()
        for thread in threads:
            thread.join()
        return errors

    def close(self):
        self._client.close()


class AsyncDriver:
    """Calls an AsyncClient on an event loop of its own."""

    def __init__(self, targets, **options):
        self._runner = asyncio.Runner()

        async def make():
            return AsyncClient(targets, **options)

        self._client = self._runner.run(make())

    def collect(self, prompt, until=None, **options):
        async def run():
            events = []
            stream = self._client.generate(prompt, **options)
            try:
                async for event in stream:
                    events.append(event)
                    if until is not None and until(event):
                        break
            except QuireError as error:
                return events, error
            finally:
                await stream.aclose()
            return events, None

        return self._runner.run(run())

    def call(self, method, *args, **options):
        async def run():
            return await getattr(self._client, method)(*args, **options)

        return self._runner.run(run())

    def close_under_load(self, streams):
        """As SyncDriver's."""
        async def run():
            begun = asyncio.Semaphore(0)

            async def keep(work):
                async for _ in work:
                    begun.release()

            async def ask():
                while True:
                    yield await self._client.load()

            tasks = [asyncio.create_task(keep(work)) for _ in range(streams)
                     for work in (self._client.generate("hello"), ask())]
            for _ in range(10 * len(tasks)):
                await begun.acquire()
            await self._client.close()
            return await asyncio.gather(*tasks, return_exceptions=True)

        return self._runner.run(run())

    def cancel_stream(self, closes=False):
        """What a task gets that is cancelled when its stream has begun. closes: the client is closed right after."""
        async def run():
            begun = asyncio.Event()

            async def read():
                async for _ in self._client.generate("hello"):
                    begun.set()

            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            if closes:
                await self._client.close()
            return (await asyncio.gather(task, return_exceptions=True))[0]

        return self._runner.run(run())

    def close(self):
        self._runner.run(self._client.close())
        self._runner.close()


class ClientTests:
    driver_class = None

    def serve(self, *scripts, **options):
        server = Server(FakeInference(list(scripts), **options))
        self.addCleanup(server.stop)
        return server

    def connect(self, *servers, **options):
        driver = self.driver_class([server.address for server in servers], **options)
        self.addCleanup(driver.close)
        return driver

    def tokens(self, events, choice=0):
        return [t for e in events if isinstance(e, Delta) and e.choice == choice for t in e.token_ids]

    def test_a_stream_has_its_events_in_order(self):
        server = self.serve(Script(tokens=3))
        events, error = self.connect(server).collect("hello", max_new_tokens=3, temperature=0)
        self.assertIsNone(error)
        self.assertEqual([type(e) for e in events], [Accepted, Delta, Delta, Delta, Finished])
        self.assertEqual(events[0].request_id, server.service.requests[0].request_id)
        self.assertEqual(self.tokens(events), [0, 1, 2])
        self.assertIs(events[-1].reason, FinishReason.LENGTH)
        self.assertEqual(events[-1].usage.kv.reserved_bytes, 64)
        self.assertIsNone(events[-1].stop_token_id)
        self.assertEqual(events[-1].seed, 7)

    def test_generate_text_joins_deltas_and_tail_of_the_first_choice(self):
        server = self.serve(Script(tokens=3))
        self.assertEqual(self.connect(server).call("generate_text", "hello", n=2), "abc.")

    def test_a_broken_stream_goes_on_at_the_next_target(self):
        first, second = self.serve(Script(tokens=2, failure=GONE)), self.serve(Script(tokens=5))
        events, error = self.connect(first, second).collect("hello")
        self.assertIsNone(error)
        self.assertEqual(self.tokens(events), [0, 1, 2, 3, 4])
        self.assertEqual(sum(isinstance(e, Accepted) for e in events), 1)
        again = second.service.requests[0]
        self.assertEqual(list(again.resume.choices[0].emitted_token_ids), [0, 1])
        self.assertEqual(again.request_id, first.service.requests[0].request_id)

    def test_a_broken_stream_goes_on_at_the_same_target(self):
        server = self.serve(Script(tokens=2, failure=GONE, aborts=True), Script(tokens=0, failure=GONE), Script(tokens=4))
        events, error = self.connect(server).collect("hello")
        self.assertIsNone(error)
        self.assertEqual(self.tokens(events), [0, 1, 2, 3])
        self.assertEqual([e.reason for e in events if isinstance(e, Finished)], [FinishReason.LENGTH])

    def test_a_server_that_accepts_and_fails_is_given_up(self):
        server = self.serve(*[Script(tokens=1, failure=GONE)] * 9)
        events, error = self.connect(server, max_attempts=3).collect("hello")
        self.assertEqual(self.tokens(events), [0])
        self.assertIs(error.code, grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(len(server.service.requests), 3)

    def test_other_numerics_end_the_stream(self):
        server = self.serve(Script(tokens=1, failure=GONE), Script(tokens=2, numerics_id="m"))
        events, error = self.connect(server).collect("hello")
        self.assertEqual(self.tokens(events), [0])
        self.assertIs(error.code, grpc.StatusCode.DATA_LOSS)

    def test_a_stream_of_another_engine_does_not_move_once_a_token_came(self):
        for engine in ("baseline", "hf_reference"):
            with self.subTest(engine):
                server = self.serve(Script(tokens=0, failure=GONE), Script(tokens=1, failure=GONE, aborts=True))
                events, error = self.connect(server).collect("hello", engine=engine)
                self.assertEqual(self.tokens(events), [0])
                self.assertIs(events[-1].reason, FinishReason.ABORTED)
                self.assertEqual(error.message, "the worker is gone")

    def test_all_choices_are_resumed(self):
        server = self.serve(Script(tokens=2, failure=GONE), Script(tokens=3))
        events, error = self.connect(server).collect("hello", n=2)
        self.assertIsNone(error)
        self.assertEqual(self.tokens(events, 0), [0, 1, 2])
        self.assertEqual(self.tokens(events, 1), [100, 101, 102])

    def test_a_dead_target_is_passed_over(self):
        dead, alive = self.serve(), self.serve(Script(tokens=1), Script(tokens=1))
        dead.stop()
        driver = self.connect(dead, alive)
        self.assertEqual(driver.call("load")[0].state, "READY")
        events, error = driver.collect("hello")
        self.assertIsNone(error)
        self.assertEqual(self.tokens(events), [0])

    def test_gives_up_with_the_servers_words(self):
        server = self.serve(*[Script(tokens=0, failure=GONE)] * 2)
        events, error = self.connect(server, max_attempts=2).collect("hello")
        self.assertEqual(events, [])
        self.assertIs(error.code, grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(error.message, "the worker is gone")

    def test_an_error_names_field_and_delay_and_is_not_tried_again(self):
        failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", field="sampling.top_p", retry_after_ms=1500)
        server = self.serve(Script(tokens=0, failure=failure))
        _, error = self.connect(server).collect("hello")
        self.assertIs(error.code, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual((error.message, error.field, error.retry_delay), ("full", "sampling.top_p", 1.5))
        self.assertEqual(len(server.service.requests), 1)

    def test_an_aborted_end_comes_before_its_error(self):
        failure = Failure(grpc.StatusCode.CANCELLED, "cancelled")
        server = self.serve(Script(tokens=1, failure=failure, aborts=True))
        events, error = self.connect(server).collect("hello")
        self.assertIs(events[-1].reason, FinishReason.ABORTED)
        self.assertIs(error.code, grpc.StatusCode.CANCELLED)

    def test_a_call_that_came_as_its_server_shut_down_goes_elsewhere(self):
        failure = Failure(grpc.StatusCode.CANCELLED, "CANCELLED", is_bare=True)
        for tokens in (0, 2):
            server, other = self.serve(Script(tokens=tokens, failure=failure)), self.serve(Script(tokens=4))
            events, error = self.connect(server, other).collect("hello", max_new_tokens=4)
            self.assertIsNone(error)
            self.assertEqual(self.tokens(events), [0, 1, 2, 3])

    def test_a_gap_is_an_error(self):
        server = self.serve(Script(tokens=3, skip=1))
        _, error = self.connect(server).collect("hello")
        self.assertIs(error.code, grpc.StatusCode.DATA_LOSS)

    def test_leaving_early_cancels_the_request(self):
        server = self.serve(Script(tokens=1, hang=True))
        events, error = self.connect(server).collect("hello", until=lambda e: isinstance(e, Notice))
        self.assertIsNone(error)
        self.assertEqual(events[-1].why, "a test")
        self.assertTrue(server.service.client_left.wait(10))

    def test_the_timeout_covers_the_stream(self):
        server = self.serve(Script(tokens=1, hang=True))
        _, error = self.connect(server).collect("hello", timeout=0.2)
        self.assertIs(error.code, grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_a_stream_that_stops_before_its_end_is_an_error(self):
        server = self.serve(Script(tokens=1, finishes=False))
        events, error = self.connect(server).collect("hello")
        self.assertEqual(self.tokens(events), [0])
        self.assertIs(error.code, grpc.StatusCode.DATA_LOSS)

    def test_what_comes_after_the_last_end_does_not_matter(self):
        server = self.serve(Script(tokens=1, failure=Failure(grpc.StatusCode.INTERNAL, "late"), finishes=True))
        events, error = self.connect(server).collect("hello")
        self.assertIsNone(error)
        self.assertIs(events[-1].reason, FinishReason.LENGTH)

    def test_closing_ends_what_runs(self):
        server = self.serve(*[Script(tokens=50_000), Script(tokens=50_000), Script(tokens=9, hang=True)])
        errors = self.connect(server).close_under_load(streams=3)
        self.assertEqual([type(error) for error in errors], [QuireError] * 6)
        self.assertEqual({error.code for error in errors}, {grpc.StatusCode.CANCELLED})

    def test_a_closed_client_says_so(self):
        driver = self.connect(self.serve())
        driver.call("close")
        with self.assertRaises(QuireError) as caught:
            driver.call("load")
        self.assertIs(caught.exception.code, grpc.StatusCode.CANCELLED)
        _, error = driver.collect("hello")
        self.assertIs(error.code, grpc.StatusCode.CANCELLED)

    def test_unary_calls(self):
        driver = self.connect(self.serve())
        self.assertEqual(driver.call("tokenize", "ab").token_ids, (1, 97, 98))
        self.assertEqual(driver.call("tokenize", "ab", add_special_tokens=False).tokens, ("a", "b"))
        self.assertEqual(driver.call("detokenize", [97, 98]), "ab")
        self.assertEqual(driver.call("models")[0].engines, ("paged", "hf_reference"))
        self.assertEqual(driver.call("load")[0].blocks_total, 9)
        self.assertEqual(driver.call("server_info").version, "1.2.3")
        self.assertTrue(driver.call("cancel", "alive"))
        self.assertFalse(driver.call("cancel", "gone"))
        self.assertFalse(driver.call("cancel", "owned"))
        self.assertTrue(driver.call("cancel", "owned", tenant="acme"))

    def test_cancel_asks_every_target(self):
        dead, empty, alive = self.serve(), self.serve(living={}), self.serve()
        dead.stop()
        driver = self.connect(dead, empty, alive)
        self.assertTrue(driver.call("cancel", "alive"))
        self.assertFalse(driver.call("cancel", "gone"))
        with self.assertRaises(QuireError) as caught:
            self.connect(dead).call("cancel", "alive")
        self.assertIs(caught.exception.code, grpc.StatusCode.UNAVAILABLE)

    def test_unary_errors(self):
        driver = self.connect(self.serve(unary_failure=GONE), max_attempts=2)
        with self.assertRaises(QuireError) as caught:
            driver.call("tokenize", "ab")
        self.assertIs(caught.exception.code, grpc.StatusCode.UNAVAILABLE)
        with self.assertRaises(QuireError) as caught:
            driver.call("model", "big")
        self.assertEqual(caught.exception.message, "no model big; there are: tiny")


class SyncClientTest(ClientTests, unittest.TestCase):
    driver_class = SyncDriver

    def test_a_close_that_comes_just_before_a_call(self):
        real = pb_grpc.InferenceStub

        class ClosingStub:
            """Does what another thread may do between the client's own check and gRPC's."""

            def __init__(self, channel):
                self._stub = real(channel)

            def __getattr__(self, method):
                client.close()
                return getattr(self._stub, method)

        server = self.serve()
        for call in (Client.load, lambda client: list(client.generate("hello"))):
            with mock.patch.object(pb_grpc, "InferenceStub", ClosingStub):
                client = Client(server.address)
            with self.assertRaises(QuireError) as caught:
                call(client)
            self.assertIs(caught.exception.code, grpc.StatusCode.CANCELLED)


class AsyncClientTest(ClientTests, unittest.TestCase):
    driver_class = AsyncDriver

    def test_a_cancelled_task_ends_as_such(self):
        for closes in (False, True):
            with self.subTest(closes=closes):
                driver = self.connect(self.serve(Script(tokens=1, hang=True)))
                self.assertIsInstance(driver.cancel_stream(closes), asyncio.CancelledError)


if __name__ == "__main__":
    unittest.main()
