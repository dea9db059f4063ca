#include "common/drain.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/signals.h"

namespace quire {
namespace {

constexpr int64_t kFlushMicros = 250'000;  // of an end that is to come at once

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> StartAdminServer(
    const std::string& address, const std::shared_ptr<grpc::ServerCredentials>& credentials) {
  if (address.empty()) return nullptr;
  const auto listen = ParseAddress(address);
  if (!listen.ok()) return listen.status();
  auto admin = AdminServer::Start(*listen, credentials, RequestTermination);
  if (admin.ok()) LogInfo(absl::StrCat("admin calls are taken on ", (*admin)->address()));
  return admin;
}

Drain::Drain(AdminServer* admin, double timeout_s, const std::function<void()>& on_signal)
    : admin_(admin) {
  const bool is_by_call = WaitForTerminationSignal();
  if (on_signal != nullptr) on_signal();
  began_ = SteadyMicros();
  deadline_ = began_ + static_cast<int64_t>(timeout_s * 1e6);
  if (admin_ != nullptr) {
    if (const auto asked = admin_->DrainBegun(); asked.has_value()) {
      deadline_ = std::min(deadline_, began_ + *asked);
    }
  }
  std::thread([on_signal, num_signals = is_by_call ? 0 : 1]() mutable {
    while (num_signals < 2) {
      num_signals += WaitForTerminationSignal() ? 0 : 1;
      if (on_signal != nullptr) on_signal();
    }
    FlushLog(kFlushMicros);
    std::_Exit(1);
  }).detach();
}

void Drain::Begin(size_t num_running) {
  report_.set_running(static_cast<uint32_t>(num_running));
  LogInfo(absl::StrFormat("draining %d requests for at most %.1f s", report_.running(),
                          (deadline_ - began_) / 1e6));
}

void Drain::SetDrained() { LogInfo("drained: no request is left"); }

void Drain::SetCut(size_t num_cut) {
  report_.set_cut(static_cast<uint32_t>(num_cut));
  LogWarning(absl::StrCat("drain timeout: ended ", report_.cut(), " requests"));
}

void Drain::Finish(size_t num_moved) {
  const uint32_t num_left = report_.running() - report_.cut();
  report_.set_moved(std::min(static_cast<uint32_t>(num_moved), num_left));
  report_.set_finished(num_left - report_.moved());
  report_.set_duration_ms(static_cast<uint32_t>((SteadyMicros() - began_) / 1000));
  if (admin_ != nullptr) admin_->Finish(report_);
}

}  // namespace quire
