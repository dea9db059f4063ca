import asyncio
import threading
import unittest

import grpc
from fakes import FakeGenerator
from hf_reference import session_table
from hf_reference.engine import Engine
from hf_reference.sequence import TokenLogprobs
from hf_reference.session_table import Connection, SessionTable
from quire.v1 import inference_pb2 as api
from quire.worker.v1 import worker_pb2 as pb

CONTEXT, VOCABULARY = 64, 1000


def submit(key, max_new_tokens=3, attempt=1, request_id="", emitted=(), queue_timeout_ms=0, **parameters):
    resolved = api.ResolvedParameters(**{"n": 1, "top_p": 1, "repetition_penalty": 1,
                                         "max_new_tokens": max_new_tokens, **parameters})
    return pb.SessionRequest(submit=pb.Submit(
        key=key, attempt=attempt, request_id=request_id, prompt_token_ids=[1, 2], parameters=resolved,
        emitted=[api.Resume.Choice(emitted_token_ids=ids) for ids in emitted], queue_timeout_ms=queue_timeout_ms))


class Coordinator:
    """One connection, from the coordinator's side."""

    def __init__(self, table, coordinator_id="c"):
        self._table = table
        self.connection = Connection()
        self.tokens, self.finishes, self.rejected, self.loads = {}, {}, {}, []
        self.send(pb.SessionRequest(open=pb.Open(coordinator_id=coordinator_id, protocol=1)))

    def send(self, request):
        self._table.handle(self.connection, request)

    def leave(self):
        self._table.lost(self.connection)

    async def receive(self):
        """The next event; None when the worker has ended the connection."""
        event = await asyncio.wait_for(self.connection.next_event(), 20)
        if event is None:
            return None
        if event.HasField("load"):
            self.loads.append(event.load)
        if event.HasField("rejected"):
            self.rejected[event.rejected.key] = event.rejected
        output = event.step_output
        offset = 0
        for i, key in enumerate(output.key):
            count = output.num_tokens[i] if output.num_tokens else 1
            known = self.tokens.setdefault(key, [])
            assert output.first_index[i] == len(known), (output.first_index[i], known)
            known.extend(output.token_ids[offset:offset + count])
            offset += count
        for finish in output.finishes:
            self.finishes[finish.key, finish.choice] = finish
        return event

    async def until(self, condition):
        while not condition():
            await self.receive()


class SessionTableTest(unittest.IsolatedAsyncioTestCase):
    async def start(self, gate=None, max_queue=8, prompt_logprobs=(), **options):
        info = pb.WorkerInfo(name="w", context_length=CONTEXT, vocabulary_size=VOCABULARY)
        self.ended = []
        self.table = SessionTable(info, "incarnation", on_request_end=lambda s, r: self.ended.append(r.key), **options)
        self.engine = Engine(FakeGenerator(gate, prompt_logprobs=prompt_logprobs), self.table, max_queue=max_queue)
        self.table.set_engine(self.engine)
        self.engine.start()

        async def stop():
            if gate is not None:
                gate.release(1000)
            await asyncio.to_thread(self.engine.stop)

        self.addAsyncCleanup(stop)

    async def test_a_session_opens_with_who_it_is_and_its_load(self):
        await self.start()
        coordinator = Coordinator(self.table)
        opened = (await coordinator.receive()).opened
        self.assertEqual((opened.incarnation, opened.worker.name), ("incarnation", "w"))
        self.assertTrue((await coordinator.receive()).HasField("load"))
        coordinator.send(pb.SessionRequest(ping=pb.Ping(nonce=9)))
        self.assertEqual((await coordinator.receive()).pong.nonce, 9)
        coordinator.send(pb.SessionRequest())  # of a newer version

    async def test_a_session_must_open_first_and_speak_protocol_1(self):
        await self.start()
        for first in (pb.SessionRequest(ping=pb.Ping()), pb.SessionRequest(open=pb.Open(coordinator_id="c", protocol=2)),
                      pb.SessionRequest(open=pb.Open(protocol=1))):
            connection = Connection()
            self.table.handle(connection, first)
            self.assertIsNone(await connection.next_event())
            self.assertIs(connection.error[0], grpc.StatusCode.FAILED_PRECONDITION)

    async def test_tokens_and_end_of_a_request(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        await coordinator.until(lambda: any(load.running for load in coordinator.loads))
        gate.release(3)
        await coordinator.until(lambda: coordinator.finishes)
        self.assertEqual(coordinator.tokens, {1: [10, 11, 12]})
        finish = coordinator.finishes[1, 0]
        self.assertEqual((finish.reason, finish.attempt), (api.Finished.LENGTH, 1))
        self.assertEqual((finish.usage.prompt_tokens, finish.usage.output_tokens), (2, 3))
        self.assertEqual(self.ended, [1])
        await coordinator.until(lambda: coordinator.loads[-1].running == 0)

    async def test_prompt_logprobs_come_before_the_first_token_in_messages_of_bounded_size(self):
        count = 2 * session_table._MAX_LOGPROBS_PER_MESSAGE + 1
        await self.start(prompt_logprobs=[TokenLogprobs(-float(i), ((i, -float(i)),)) for i in range(count)])
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1, prompt_logprobs=1))
        found = []
        while not coordinator.tokens:
            event = await coordinator.receive()
            found += [entry for entry in event.step_output.logprobs if entry.prompt]
        self.assertEqual([(entry.key, entry.choice, entry.first_prompt_position, len(entry.prompt)) for entry in found],
                         [(1, 0, 1, 4096), (1, 0, 4097, 4096), (1, 0, 8193, 1)])
        self.assertEqual([logprob.logprob for entry in found for logprob in entry.prompt],
                         [-float(i) for i in range(count)])
        await coordinator.until(lambda: coordinator.finishes)
        self.assertEqual(coordinator.tokens[1], [10, 11, 12])

    async def test_choices_and_what_is_emitted_already(self):
        await self.start()
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1, n=3, emitted=[[5, 6, 7], [5], []]))
        coordinator.tokens[1] = [5]  # of choice 1, which runs first; choice 0 is complete
        await coordinator.until(lambda: (1, 1) in coordinator.finishes)
        self.assertEqual(coordinator.tokens[1], [5, 11, 12])
        coordinator.tokens[1] = []
        await coordinator.until(lambda: len(coordinator.finishes) == 3)
        self.assertEqual(coordinator.tokens[1], [10, 11, 12])
        self.assertEqual(coordinator.finishes[1, 0].usage.output_tokens, 3)

    async def test_refuses_what_cannot_run(self):
        await self.start()
        coordinator = Coordinator(self.table)
        cases = {
            2: (submit(2, max_new_tokens=CONTEXT), "exceed the context of 64"),
            3: (submit(3, temperature=float("nan")), "parameters.temperature is nan"),
            4: (submit(4, n=9), "parameters.n is 9; allowed: 1 to 8"),
            5: (submit(5, emitted=[[VOCABULARY]]), "emitted[0] is 1000; the vocabulary has 1000 tokens"),
            6: (submit(6, emitted=[[1], [1]]), "emitted has 2 choices"),
            7: (submit(7, logit_bias_token_ids=[1]), "logit_bias_values"),
        }
        for key, (request, words) in cases.items():
            coordinator.send(request)
            await coordinator.until(lambda: key in coordinator.rejected)
            rejected = coordinator.rejected[key]
            self.assertEqual(rejected.status_code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
            self.assertIn(words, rejected.status_message)
        coordinator.send(submit(8, temperature=1.0, emitted=[[1]]))
        await coordinator.until(lambda: 8 in coordinator.rejected)
        self.assertEqual(coordinator.rejected[8].status_code, grpc.StatusCode.FAILED_PRECONDITION.value[0])

    async def test_a_full_queue_says_when_to_come_again(self):
        gate = threading.Semaphore(0)
        await self.start(gate, max_queue=1)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        await coordinator.until(lambda: coordinator.loads and coordinator.loads[-1].running == 1)
        self.assertEqual(coordinator.loads[-1].own_sequences, 1)
        coordinator.send(submit(2))
        coordinator.send(submit(3))
        await coordinator.until(lambda: coordinator.rejected)
        self.assertEqual(coordinator.rejected[3].status_code, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        self.assertGreater(coordinator.rejected[3].retry_after_ms, 0)
        self.assertIn("1 sequences wait", coordinator.rejected[3].status_message)

    async def test_queue_timeout_and_cancel(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        await coordinator.until(lambda: coordinator.loads and coordinator.loads[-1].running == 1)
        coordinator.send(submit(2, queue_timeout_ms=1))
        await coordinator.until(lambda: (2, 0) in coordinator.finishes)
        self.assertEqual(coordinator.finishes[2, 0].status_code, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
        self.assertEqual(coordinator.finishes[2, 0].reason, api.Finished.ABORTED)
        gate.release()
        await coordinator.until(lambda: coordinator.tokens.get(1))
        coordinator.send(pb.SessionRequest(cancel=pb.Cancel(key=1, choice=0, stop_index=1)))
        gate.release()
        await coordinator.until(lambda: (1, 0) in coordinator.finishes)
        self.assertEqual(coordinator.finishes[1, 0].status_code, grpc.StatusCode.CANCELLED.value[0])
        self.assertEqual(coordinator.finishes[1, 0].usage.output_tokens, 1)

    async def test_a_lost_request_is_reclaimed_from_where_it_broke(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        first = Coordinator(self.table)
        first.send(submit(1))
        gate.release()
        await first.until(lambda: first.tokens.get(1))
        first.leave()
        self.table.tick()
        gate.release(2)
        again = Coordinator(self.table)
        again.tokens[1] = [10]
        again.send(pb.SessionRequest(reclaim=pb.Reclaim(key=1, attempt=1, next_index=[1])))
        again.send(pb.SessionRequest(reclaim=pb.Reclaim(key=2, attempt=1)))
        await again.until(lambda: again.finishes and again.rejected)
        self.assertEqual(again.tokens[1], [10, 11, 12])
        self.assertEqual(again.rejected[2].status_code, grpc.StatusCode.NOT_FOUND.value[0])

    async def test_an_orphan_ends_after_the_grace(self):
        gate = threading.Semaphore(0)
        await self.start(gate, orphan_grace_s=0)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        await coordinator.until(lambda: coordinator.loads and coordinator.loads[-1].running == 1)
        coordinator.leave()
        self.table.tick()
        self.assertEqual(self.ended, [1])
        gate.release()
        self.assertTrue(await self.table.wait_until_idle(20))

    async def test_a_session_goes_when_nothing_carries_it_and_no_request_lives_in_it(self):
        gate = threading.Semaphore(0)
        await self.start(gate, orphan_grace_s=0)
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        idle, busy = Coordinator(self.table, "a"), Coordinator(self.table, "b")
        busy.send(submit(1))
        await busy.until(lambda: busy.loads and busy.loads[-1].running == 1)
        self.table.tick()
        idle.leave()
        busy.leave()
        again = Coordinator(self.table, "b")
        self.assertIs(again.connection.session, busy.connection.session)
        again.leave()
        self.table.tick()  # ends the orphan too
        self.assertEqual(len(self.table._sessions), 0)
        again = Coordinator(self.table, "b")
        self.assertNotEqual(again.connection.session.number, busy.connection.session.number)
        again.send(submit(1))
        gate.release(100)  # a late step of the first comes as well
        await again.until(lambda: again.finishes)
        self.assertEqual(again.tokens[1], [10, 11, 12])
        self.table.tick()
        self.assertEqual(len(self.table._sessions), 1)
        self.assertEqual(failures, [])

    async def test_another_coordinators_submit_replaces_the_orphan(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        first, second = Coordinator(self.table, "a"), Coordinator(self.table, "b")
        first.send(submit(1, request_id="r"))
        await first.until(lambda: first.loads and first.loads[-1].running == 1)
        second.send(submit(7, request_id="r"))  # not an orphan yet: both live
        first.leave()
        self.assertEqual(self.ended, [])
        second.send(submit(8, request_id="r"))
        self.assertEqual(self.ended, [1])
        gate.release(100)
        await second.until(lambda: len(second.finishes) == 2)
        self.assertEqual(second.tokens[8], [80, 81, 82])

    async def test_a_newer_attempt_replaces_an_older_one(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1, max_new_tokens=9))
        await coordinator.until(lambda: coordinator.loads and coordinator.loads[-1].running == 1)
        coordinator.send(submit(1, attempt=2))
        coordinator.send(submit(1, attempt=1))  # late
        gate.release(100)
        await coordinator.until(lambda: coordinator.finishes)
        self.assertEqual(coordinator.finishes[1, 0].attempt, 2)
        self.assertEqual(coordinator.tokens[1], [10, 11, 12])

    async def test_a_second_connection_takes_the_session_over(self):
        await self.start()
        first = Coordinator(self.table)
        Coordinator(self.table)
        while await first.receive() is not None:
            pass
        self.assertIs(first.connection.error[0], grpc.StatusCode.ABORTED)

    async def test_a_coordinator_that_does_not_read_is_lost(self):
        await self.start()
        coordinator = Coordinator(self.table)
        for _ in range(session_table._MAX_OUTBOX):
            self.table.tick()
        self.assertTrue(coordinator.connection.overflowed.is_set())
        self.assertIs(coordinator.connection.error[0], grpc.StatusCode.RESOURCE_EXHAUSTED)

    async def test_draining_refuses_and_finishes(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        self.table.start_draining()
        coordinator.send(submit(2))
        await coordinator.until(lambda: coordinator.rejected)
        self.assertEqual(coordinator.rejected[2].status_code, grpc.StatusCode.UNAVAILABLE.value[0])
        self.assertTrue(coordinator.loads[-1].draining)
        self.assertFalse(await self.table.wait_until_idle(0.01))
        gate.release(100)
        self.assertTrue(await self.table.wait_until_idle(20))
        await coordinator.until(lambda: coordinator.finishes)
        self.assertEqual(coordinator.finishes[1, 0].reason, api.Finished.LENGTH)

    async def test_end_all_says_unavailable(self):
        gate = threading.Semaphore(0)
        await self.start(gate)
        coordinator = Coordinator(self.table)
        coordinator.send(submit(1))
        coordinator.send(submit(2))
        self.table.end_all()
        gate.release(1)
        await coordinator.until(lambda: len(coordinator.finishes) == 2)
        for finish in coordinator.finishes.values():
            self.assertEqual(finish.status_code, grpc.StatusCode.UNAVAILABLE.value[0])


if __name__ == "__main__":
    unittest.main()
