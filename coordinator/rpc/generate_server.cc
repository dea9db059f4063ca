#include "coordinator/rpc/generate_server.h"

#include <utility>

#include "coordinator/rpc/generate_call.h"

namespace quire {
namespace {

// Of a queue, for clients to come: gRPC keeps those that find none.
constexpr int kWaitingCalls = 16;

void Tell(void* tag, bool ok) {
  const auto* of_call = static_cast<const GenerateCall::Tag*>(tag);
  of_call->call->On(of_call->event, ok);
}

}  // namespace

void ReadyWriters::Push(std::shared_ptr<ClientWriter> writer) {
  MutexLock lock(mutex_);
  if (closed_) return;
  writers_.push_back(std::move(writer));
  if (!std::exchange(is_woken_, true)) wake_.Set(queue_, gpr_inf_past(GPR_CLOCK_MONOTONIC), tag_);
}

std::vector<std::shared_ptr<ClientWriter>> ReadyWriters::TakeAll() {
  std::vector<std::shared_ptr<ClientWriter>> writers;
  MutexLock lock(mutex_);
  is_woken_ = false;
  writers.swap(writers_);
  return writers;
}

void ReadyWriters::AddCall() {
  MutexLock lock(mutex_);
  ++num_calls_;
}

void ReadyWriters::RemoveCall() {
  MutexLock lock(mutex_);
  if (--num_calls_ == 0) no_call_.NotifyAll();
}

void ReadyWriters::Close() {
  MutexLock lock(mutex_);
  while (num_calls_ > 0) no_call_.Wait(mutex_);
  closed_ = true;
}

GenerateServer::GenerateServer(InferenceService* service, grpc::ServerBuilder* builder,
                               uint32_t num_threads)
    : service_(service) {
  for (uint32_t i = 0; i < num_threads; ++i) {
    auto queue = std::make_unique<Queue>();
    queue->arrivals = builder->AddCompletionQueue();
    queue->completions = builder->AddCompletionQueue();
    queue->ready = std::make_shared<ReadyWriters>(queue->completions.get(), queue.get());
    queues_.push_back(std::move(queue));
  }
}

void GenerateServer::Start() {
  for (const auto& queue : queues_) {
    for (int i = 0; i < kWaitingCalls; ++i) {
      new GenerateCall(service_, queue->arrivals.get(), queue->completions.get(), queue->ready);
    }
    queue->writer = std::thread(Serve, queue.get());
    queue->taker = std::thread(TakeArrivals, queue->arrivals.get());
  }
}

GenerateServer::~GenerateServer() {
  // A server that did not start has no calls, and nothing waits in its queues.
  for (const auto& queue : queues_) queue->ready->Close();
  for (const auto& queue : queues_) {
    Drain(queue->arrivals.get(), &queue->taker);
    Drain(queue->completions.get(), &queue->writer);
  }
}

void GenerateServer::Drain(grpc::ServerCompletionQueue* queue, std::thread* thread) {
  queue->Shutdown();
  if (thread->joinable()) return thread->join();
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
  }
}

void GenerateServer::TakeArrivals(grpc::ServerCompletionQueue* arrivals) {
  void* tag = nullptr;
  for (bool ok = false; arrivals->Next(&tag, &ok);) Tell(tag, ok);
}

void GenerateServer::Serve(Queue* queue) {
  void* tag = nullptr;
  for (bool ok = false; queue->completions->Next(&tag, &ok);) {
    if (tag != queue) {
      Tell(tag, ok);
      continue;
    }
    for (const auto& writer : queue->ready->TakeAll()) writer->Advance();
  }
}

}  // namespace quire
