#ifndef QUIRE_TESTS_WORKER_DEVICE_FILTER_SETTINGS_H_
#define QUIRE_TESTS_WORKER_DEVICE_FILTER_SETTINGS_H_

#include <vector>

#include "scheduler/sampling_params.h"

namespace quire {

// Every filter of the sampler alone, then all of them together: 9 settings, for every device.
inline std::vector<SamplingParams> FilterSettings() {
  std::vector<SamplingParams> settings(9);
  settings[0].temperature = 0.8f;
  settings[1].top_k = 7;
  settings[2].top_p = 0.8f;
  settings[3].min_p = 0.1f;
  settings[4].repetition_penalty = 1.5f;
  settings[5].presence_penalty = 1.0f;
  settings[5].frequency_penalty = -0.5f;
  settings[6].logit_bias = {{0, 2.0f}, {5, -3.0f}};
  settings[7].min_new_tokens = 10;
  settings[7].eos_token_ids = {2, 4};
  settings[8].temperature = 1.7f;
  settings[8].top_k = 12;
  settings[8].top_p = 0.9f;
  settings[8].min_p = 0.05f;
  settings[8].repetition_penalty = 0.7f;
  settings[8].presence_penalty = 0.3f;
  settings[8].logit_bias = {{3, 1.0f}};
  return settings;
}

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_FILTER_SETTINGS_H_
