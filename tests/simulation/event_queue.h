#ifndef QUIRE_TESTS_SIMULATION_EVENT_QUEUE_H_
#define QUIRE_TESTS_SIMULATION_EVENT_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

namespace quire {

// The random numbers of a simulation: SplitMix64 (Steele, Lea and Flood, 2014). The standard
// library's distributions differ between implementations; these do not.
class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Of [low, high].
  int64_t Range(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Next() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int percent) { return Range(1, 100) <= percent; }

 private:
  uint64_t state_;
};

// What a run did, as a number: two runs with the same hash took the same steps. Printed as well if
// asked for.
class SimTrace {
 public:
  explicit SimTrace(bool prints) : prints_(prints) {}

  void Note(int64_t now, const char* what, std::initializer_list<int64_t> values) {
    Mix(static_cast<uint64_t>(now));
    for (const char* c = what; *c != '\0'; ++c) Mix(static_cast<uint64_t>(*c));
    for (const int64_t value : values) Mix(static_cast<uint64_t>(value));
    if (!prints_) return;
    std::printf("%10.3f ms  %s", static_cast<double>(now) / 1e3, what);
    for (const int64_t value : values) std::printf(" %lld", static_cast<long long>(value));
    std::printf("\n");
  }
  uint64_t hash() const { return hash_; }

 private:
  void Mix(uint64_t value) {  // FNV-1a, by words
    hash_ = (hash_ ^ value) * 0x100000001b3u;
    hash_ ^= hash_ >> 29;
  }

  const bool prints_;
  uint64_t hash_ = 0xcbf29ce484222325u;
};

// Simulated time, and what is to happen in it: ordered by time, then as it was scheduled.
class EventQueue {
 public:
  int64_t now() const { return now_; }
  void At(int64_t at, std::function<void()> event) {
    heap_.push_back({std::max(at, now_), next_++, std::move(event)});
    std::push_heap(heap_.begin(), heap_.end(), Later);
  }
  // Runs the next event. REQUIRES: there is one.
  void RunNext() {
    std::pop_heap(heap_.begin(), heap_.end(), Later);
    const Event event = std::move(heap_.back());
    heap_.pop_back();
    now_ = event.at;
    event.run();
  }
  bool empty() const { return heap_.empty(); }
  int64_t next_at() const { return heap_.front().at; }

 private:
  struct Event {
    int64_t at = 0;
    uint64_t number = 0;
    std::function<void()> run;
  };
  static bool Later(const Event& a, const Event& b) {
    return std::pair(a.at, a.number) > std::pair(b.at, b.number);
  }

  int64_t now_ = 0;
  uint64_t next_ = 0;
  std::vector<Event> heap_;
};

// A process: what happens in it waits while it is stopped, and never happens once it was killed.
class SimProcess {
 public:
  explicit SimProcess(EventQueue* queue) : queue_(queue) {}

  // Nothing, where it is not alive.
  void At(int64_t at, std::function<void()> event) {
    if (!is_alive_) return;
    queue_->At(at, [this, life = life_, event = std::move(event)]() mutable {
      if (life != life_) return;
      if (is_stopped_) {
        waiting_.push_back(std::move(event));
      } else {
        event();
      }
    });
  }
  void Begin() { is_alive_ = true; }
  void Kill() {
    ++life_;
    is_alive_ = false;
    is_stopped_ = false;
    waiting_.clear();
  }
  void Stop() { is_stopped_ = true; }
  void Continue() {
    is_stopped_ = false;
    for (auto& event : std::exchange(waiting_, {})) At(queue_->now(), std::move(event));
  }
  bool is_stopped() const { return is_stopped_; }
  int64_t now() const { return queue_->now(); }

 private:
  EventQueue* const queue_;
  uint64_t life_ = 0;
  bool is_alive_ = false;
  bool is_stopped_ = false;
  std::deque<std::function<void()>> waiting_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_EVENT_QUEUE_H_
