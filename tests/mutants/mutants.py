"""Bugs that the tests must find: each a change of one place, of the kind that reviews let through."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str  # occurs once
    new: str
    tests: tuple  # programs that may catch it, the likeliest first


_STREAM = ("coordinator_test", "simulation_test")
_SESSION = ("worker_session_test", "simulation_test", "coordinator_test")
_ENGINE = ("worker_engine_test", "simulation_test")
_BATCH = ("scheduler_batch_test", "worker_engine_test", "simulation_test")
_KV = ("scheduler_kv_test", "scheduler_batch_test", "worker_engine_test", "simulation_test")

_REQUEST_STREAM = "coordinator/stream/request_stream.cc"
_PLACEMENT = "coordinator/stream/request_stream_placement.cc"
_LINK_HEALTH = "coordinator/worker_client/worker_link_health.cc"
_LINK_REQUESTS = "coordinator/worker_client/worker_link_requests.cc"
_SESSIONS = "worker/rpc/session_table.cc"
_SESSION_OUTPUT = "worker/rpc/session_output.cc"
_ENGINE_FILE = "worker/engine/request_engine.cc"
_SCHEDULER = "scheduler/batch/batch_scheduler.cc"

MUTANTS = (
    # Exactly-once tokens.
    Mutant("late tokens of an earlier attempt are taken (both checks off)", _REQUEST_STREAM,
           "if (output_.ended.has_value() || attempt != attempt_ || number >= output_.choices.size())",
           "if (output_.ended.has_value() || number >= output_.choices.size())", _STREAM),
    Mutant("an attempt is not counted when its worker is lost", _PLACEMENT,
           "  has_left_worker_ = true;\n  ++attempt_;", "  has_left_worker_ = true;", _STREAM),
    Mutant("off by one where known tokens are skipped", _REQUEST_STREAM,
           "choice.Append(ids.subspan(known));", "choice.Append(ids.subspan(known > 0 ? known - 1 : 0));", _STREAM),
    Mutant("a request goes on without what it emitted", _PLACEMENT,
           "    submit.add_emitted()->mutable_emitted_token_ids()->Add(choice.ids().begin(),\n"
           "                                                           choice.ids().end());",
           "    submit.add_emitted();", _STREAM),
    Mutant("choices that have ended run again", _PLACEMENT,
           "submit.add_choice_finished(choice.finished.has_value());", "submit.add_choice_finished(false);", _STREAM),
    Mutant("another seed for an attempt that goes on", _PLACEMENT,
           "  *submit.mutable_parameters() = request_.parameters;",
           "  *submit.mutable_parameters() = request_.parameters;\n"
           "  submit.mutable_parameters()->set_seed(request_.parameters.seed() + attempt_ - 1);",
           ("simulation_test", "coordinator_test")),
    Mutant("text that was held back is lost at the end", "coordinator/stream/choice_output.cc",
           "  text_ += update->text;\n  return stopped();", "  return stopped();", _STREAM),
    Mutant("tokens after the end of a choice", _REQUEST_STREAM,
           "    if (choice.finished.has_value() || choice.stopped()) return;\n    if (first_index",
           "    if (first_index", _STREAM),
    # A request's way to workers.
    Mutant("workers that refused are asked again", "coordinator/registry/placer.cc",
           "if (placement.refused.contains(view.number) || ", "if (", _STREAM),
    Mutant("any numerics will do", "coordinator/registry/placer.cc",
           "if (!placement.numerics_id.empty() && view.info.numerics_id() != placement.numerics_id) {",
           "if (false) {", _STREAM),
    Mutant("a worker that is kept for one request takes others", "coordinator/registry/placer.cc",
           "    if (kept == kept_.end() || kept->second == placement.alone) {", "    if (true) {", _STREAM),
    Mutant("a kept worker is not released", _REQUEST_STREAM,
           "effects->releases_worker |= std::exchange(runs_alone_, false);", "",
           _STREAM),
    Mutant("a request runs alone one death too early", _PLACEMENT,
           "losses_.size() < context_.quarantine_after)", "losses_.size() + 1 < context_.quarantine_after)", _STREAM),
    Mutant("a suspect that goes on stays one", _REQUEST_STREAM,
           "if (!losses_.empty()) ClearLosses(&effects);", "", _STREAM),
    Mutant("silence counts as a death", _PLACEMENT,
           "loss == WorkerLoss::kUnheard || loss", "loss",
           _STREAM),
    Mutant("a worker that gives a request up is asked again at once", _REQUEST_STREAM,
           "      if (link_ != nullptr) refused_.insert(link_->number());\n      CancelAtWorker", "      CancelAtWorker",
           _STREAM),
    Mutant("a worker that gives one choice up runs the others on", _REQUEST_STREAM,
           "      CancelAtWorker(std::nullopt, &effects);  // what it has of the other choices\n", "", _STREAM),
    Mutant("tokens may come without their log-probabilities", _REQUEST_STREAM,
           "    } else if (choice.LacksLogprobs(first_index + ids.size(), logprobs)) {", "    } else if (false) {", _STREAM),
    Mutant("log-probabilities come after the end of a choice", _REQUEST_STREAM,
           "  if (choice.finished.has_value()) return;  // nothing comes after the end that its client was told\n", "",
           ("fuzz_corpus_test",)),
    Mutant("what is taken away before it is sent runs on", _LINK_REQUESTS,
           "  if (is_gone) WriteCancel(key, sink.get());\n", "", _STREAM),
    Mutant("a resumed request may change its numerics", _PLACEMENT,
           "output_.accepted->numerics_id() : request_.numerics_id;", "output_.accepted->numerics_id() : std::string();",
           _STREAM),
    Mutant("a drained worker keeps the request", _PLACEMENT,
           "        CancelAtWorker(std::nullopt, &effects);\n        effects.cancels.back().set_moved(true);\n", "",
           _STREAM),
    Mutant("a loss during a placement is forgotten", _PLACEMENT,
           "    if (link_ == nullptr && !output_.ended.has_value()) return Placed::kTryMore;  // lost by now\n", "",
           _STREAM),
    Mutant("a cancel does not reach the worker", _REQUEST_STREAM,
           "    for (const worker::v1::Cancel& cancel : effects.cancels) effects.link->Cancel(cancel);\n",
           "", _STREAM),
    Mutant("deadlines are not armed", _REQUEST_STREAM,
           "    if (deadline.has_value() && !output_.ended.has_value()) {", "    if (false) {", _STREAM),
    Mutant("choices change places", _LINK_REQUESTS,
           "      entries[i]->OnTokens(output.attempt(i), choice, output.first_index(i),",
           "      entries[i]->OnTokens(output.attempt(i), choice == 1 ? 2 : choice == 2 ? 1 : choice, "
           "output.first_index(i),", ("simulation_test", "coordinator_test")),
    Mutant("a silent worker is not told to forget", _LINK_HEALTH,
           "    if (sink != nullptr) WriteCancel(key, sink.get());\n", "", _STREAM),
    Mutant("silence is not noticed", _LINK_HEALTH, "  if (now - heard_at_ > context_.silence_micros) {", "  if (false) {", _STREAM),
    Mutant("a second process takes the name of one that answers", "coordinator/registry/worker_registry.cc",
           "      if (view.answers) return NameIsTaken(view);\n      replaced", "      replaced", ("coordinator_test",)),
    # Sessions.
    Mutant("a request that a session drops runs on", _SESSIONS,
           "  inbox_->PostCancel({session.number, request->key}, std::nullopt, std::nullopt);\n"
           "  request->orphaned_at.reset();", "  request->orphaned_at.reset();", _SESSION),
    Mutant("a reclaimed request is replayed from one token late", _SESSION_OUTPUT,
           "choice.tokens.begin() + (next_index[i] - choice.first_index);",
           "choice.tokens.begin() + std::min<size_t>(choice.tokens.size() - 1, next_index[i] + 1 - "
           "choice.first_index);", _SESSION),
    Mutant("orphans live for ever", _SESSIONS,
           "      return request.orphaned_at.has_value() && now - *request.orphaned_at >= options_.orphan_grace;",
           "      return false;", _SESSION),
    Mutant("output of a request's earlier placement counts", _SESSIONS,
           "  if (found == session->second->requests.end() || found->second->placement != placement)\n",
           "  if (found == session->second->requests.end())\n", _SESSION),
    Mutant("a worker ends before coordinators have read all", _SESSIONS,
           "  while (absl::c_any_of(sessions_, is_connected)) {", "  while (false) {", _SESSION),
    Mutant("an outbox has no bound", "common/grpc_stream.h",
           "      if (queue_.size() >= limits_.max_messages || bytes > limits_.max_bytes - queued_bytes_) {",
           "      if (false) {", ("common_rpc_test",)),
    # The engine and its scheduler.
    Mutant("the engine's mailbox has no bound", "worker/engine/engine_loop.cc",
           "    if (num_submits_ >= max_mailbox_) {", "    if (false) {", _ENGINE),
    Mutant("all choices draw the same numbers", _ENGINE_FILE, "    params->choice = choice;\n", "",
           _ENGINE),
    Mutant("a queue without an end", _SCHEDULER,
           "      waiting_.size() >= options_.max_queue + free_slots_.size()) {", "      false) {", _BATCH),
    Mutant("priorities are ignored", _SCHEDULER,
           "  return now - spec.priority * options_.priority_aging;", "  return now;", _BATCH),
    Mutant("strict priorities are ignored", _SCHEDULER,
           "if (options_.priority_aging == 0) return -Micros{spec.priority};",
           "if (options_.priority_aging == 0) return Micros{0};", _BATCH),
    Mutant("a preempted sequence loses a token", _SCHEDULER,
           "  victim->state = ScheduledSequence::State::kWaiting;",
           "  victim->state = ScheduledSequence::State::kWaiting;\n"
           "  if (victim->num_output_tokens() > 0) victim->spec.tokens.pop_back();", _BATCH),
    Mutant("a lease that shares a block is forgotten", "scheduler/kv/block_pool.cc",
           "  if (pool_ != nullptr) pool_->Release(block_);\n}\n\nBlockLease BlockLease::Share",
           "  if (pool_ != nullptr && pool_->num_leases(block_) == 1) pool_->Release(block_);\n}\n\n"
           "BlockLease BlockLease::Share", _KV),
    Mutant("a slot is given back twice", _SCHEDULER,
           "  free_slots_.push_back(sequence->slot);",
           "  free_slots_.push_back(sequence->slot);\n"
           "  if (sequence->num_in_flight > 0) free_slots_.push_back(sequence->slot);", _BATCH),
    Mutant("a sequence that ended emits what was in flight", _SCHEDULER,
           "  if (sequence->state == ScheduledSequence::State::kFinished) {\n"
           "    if (sequence->num_in_flight > 0) return;",
           "  if (sequence->state == ScheduledSequence::State::kFinished) {\n"
           "    if (run.samples) events->tokens.push_back({sequence->spec.tag, sequence->num_output_tokens(), 0});\n"
           "    if (sequence->num_in_flight > 0) return;", _BATCH),
    Mutant("queue timeouts are not looked at", _SCHEDULER, "  ExpireWaiting(now, events);\n", "", _BATCH),
    Mutant("blocks are findable before they are computed", _SCHEDULER,
           "      kv_.Commit(sequence->tokens(), sequence->num_computed, &sequence->table);",
           "      kv_.Commit(sequence->tokens(), std::min(sequence->num_tokens(), sequence->num_computed + 1),\n"
           "                 &sequence->table);", _BATCH),
    Mutant("a block is found by its hash alone", "scheduler/kv/prefix_cache.cc",
           "!std::equal(tokens.begin(), tokens.end(), held)", "held == nullptr", _KV),
    Mutant("one token too many in a block", "scheduler/kv/kv_manager.h",
           "return num_tokens == 0 ? 0 : (num_tokens - 1) / options_.block_size + 1;",
           "return num_tokens / options_.block_size + (num_tokens % options_.block_size > 1 ? 1 : 0);", _KV),
)
