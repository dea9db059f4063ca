#ifndef QUIRE_COORDINATOR_RPC_GENERATE_SERVER_H_
#define QUIRE_COORDINATOR_RPC_GENERATE_SERVER_H_

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include "common/mutex.h"

namespace quire {

class ClientWriter;
class InferenceService;

// The writers of one completion queue that have something to do, maybe. Its thread is woken once
// for all that are pushed before it looks. Counts the queue's calls. Thread safe.
class ReadyWriters {
 public:
  // The queue hands back `tag` when there are some.
  ReadyWriters(grpc::CompletionQueue* queue, void* tag) : queue_(queue), tag_(tag) {}

  void Push(std::shared_ptr<ClientWriter> writer);
  std::vector<std::shared_ptr<ClientWriter>> TakeAll();

  void AddCall();
  void RemoveCall();
  // Waits until no call is left. What is pushed from then on is dropped, and the queue may shut
  // down.
  void Close();

 private:
  grpc::CompletionQueue* const queue_;
  void* const tag_;
  Mutex mutex_;
  std::vector<std::shared_ptr<ClientWriter>> writers_ QUIRE_GUARDED_BY(mutex_);
  grpc::Alarm wake_ QUIRE_GUARDED_BY(mutex_);
  bool is_woken_ QUIRE_GUARDED_BY(mutex_) = false;
  uint32_t num_calls_ QUIRE_GUARDED_BY(mutex_) = 0;
  CondVar no_call_;
  bool closed_ QUIRE_GUARDED_BY(mutex_) = false;
};

// Takes the calls of quire.v1.Inference.Generate by completion queues: of each pair one thread
// takes the calls that come, and the other does all of their writes.
// docs/adr/0009-one-thread-writes.md says why not by callbacks, and why one pair is best.
class GenerateServer {
 public:
  // Before the builder builds. REQUIRES: num_threads > 0; the service outlives this.
  GenerateServer(InferenceService* service, grpc::ServerBuilder* builder, uint32_t num_threads);
  // After the server's Shutdown: waits until every call is over.
  ~GenerateServer();
  GenerateServer(const GenerateServer&) = delete;
  GenerateServer& operator=(const GenerateServer&) = delete;

  // After the builder has built.
  void Start();

 private:
  struct Queue {
    std::unique_ptr<grpc::ServerCompletionQueue> arrivals;
    std::unique_ptr<grpc::ServerCompletionQueue> completions;
    std::shared_ptr<ReadyWriters> ready;
    std::thread taker;
    std::thread writer;
  };
  static void Serve(Queue* queue);
  // Ends a queue that nothing is waited for in.
  static void Drain(grpc::ServerCompletionQueue* queue, std::thread* thread);
  static void TakeArrivals(grpc::ServerCompletionQueue* arrivals);

  InferenceService* const service_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_GENERATE_SERVER_H_
