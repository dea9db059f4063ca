#include "clients/cli/drain_command.h"

#include <grpcpp/grpcpp.h>
#include <quire/admin/v1/admin.grpc.pb.h>

#include <cstdint>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/connection_flags.h"
#include "clients/cli/proto_json.h"
#include "common/channel.h"
#include "common/credentials.h"
#include "common/keepalive.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

constexpr double kMaxTimeoutSeconds = 86'400;

}  // namespace

void DrainCommand::Declare(CLI::App& app) {
  DeclareTargets(app, "Servers' --admin-address, HOST:PORT[,HOST:PORT...]; one after the other",
                 &targets_);
  DeclareTlsFlags(app, &tls_);
  app.add_option("--timeout", timeout_s_,
                 "Seconds that running requests get, if the server's --drain-timeout is not less")
      ->check(CLI::Range(0.0, kMaxTimeoutSeconds));
  app.add_flag("--json", json_, "Print one JSON object a server");
}

absl::Status DrainCommand::Run() {
  grpc::ChannelArguments arguments;
  SetKeepalive(&arguments);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  admin::v1::DrainRequest request;
  if (timeout_s_.has_value()) request.set_timeout_ms(static_cast<uint32_t>(*timeout_s_ * 1000));
  const Credentials credentials(tls_);
  for (const Address& target : targets_) {
    const std::string name = target.ToString();
    const auto stub = admin::v1::Admin::NewStub(NewChannel(name, credentials.channel(), arguments));
    grpc::ClientContext context;
    admin::v1::DrainReport report;
    const absl::Status status = FromGrpc(stub->Drain(&context, request, &report));
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
    }
    if (json_) {
      nlohmann::ordered_json json = {{"target", name}};
      json.update(ToJson(report));
      std::cout << Print(json) << std::endl;
    } else {
      std::cout << absl::StrFormat(
                       "%s drained in %.1f s: of %d requests %d moved, %d finished, %d were cut",
                       name, report.duration_ms() / 1e3, report.running(), report.moved(),
                       report.finished(), report.cut())
                << std::endl;
    }
  }
  return absl::OkStatus();
}

}  // namespace quire
