// Which operators CUDA has, and which of them check devices.
#pragma once

#include "common.h"

namespace {

enum : int { HAS_CUDA = 1, CHECKED = 2 };
const std::unordered_map<std::string, int>& known_ops() {
  static const std::unordered_map<std::string, int> ops = {
#include "ops.inc"
  };
  return ops;
}

}  // namespace
