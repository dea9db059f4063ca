#include "clients/cli/cancel_command.h"

#include <iostream>

#include "clients/cli/proto_json.h"

namespace quire {

void CancelCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_option("--request-id,request_id", request_id_, "Id of the request")->required();
  app.add_option("--tenant", tenant_, "The request's tenant, if it names one");
  app.add_flag("--json", json_, "Print one JSON object");
}

absl::Status CancelCommand::Run() {
  const auto found =
      connection_.MakeClient()->Cancel(request_id_, tenant_, connection_.call_options());
  if (!found.ok()) return found.status();
  if (json_) {
    v1::CancelResponse response;
    response.set_found(*found);
    std::cout << Print(ToJson(response)) << "\n";
  } else {
    std::cout << (*found ? "cancelled " : "no living request ") << request_id_ << "\n";
  }
  return absl::OkStatus();
}

}  // namespace quire
