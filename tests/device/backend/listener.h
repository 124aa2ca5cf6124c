// Tells a Python function of operators, copies and waits.
#pragma once

#include "common.h"

namespace {

py::object* listener = nullptr;
std::atomic<bool> listening{false};

void tell(const char* kind, const std::string& what, int64_t size) {
  if (!listening.load()) {
    return;
  }
  py::gil_scoped_acquire gil;
  if (listener != nullptr) {
    (*listener)(kind, what, size);
  }
}

}  // namespace
