#include "clients/cli/machine_info.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace quire {
namespace {

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

}  // namespace

nlohmann::ordered_json MachineInfo() {
  nlohmann::ordered_json json;
  json["cpu"] = CpuModel();
  json["cores"] = sysconf(_SC_NPROCESSORS_ONLN);
  json["memory_bytes"] = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  double load[3] = {0, 0, 0};
  getloadavg(load, 3);
  json["load_average"] = {load[0], load[1], load[2]};
  return json;
}

}  // namespace quire
